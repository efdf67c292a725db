"""A process is identified by its pid and its start time; one that is bound to its parent dies with it."""

import os
import signal
import subprocess
import sys

import psutil

from search.process import is_dead, this_process
from tests.harness import wait_until

CHILD = (
    "import os, signal; from search.process import die_with_parent; die_with_parent(); "
    "print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_process_is_dead_if_its_pid_is_free_or_reused() -> None:
    assert not is_dead(os.getpid(), this_process("me").started)
    assert is_dead(os.getpid(), this_process("me").started - 3600)
    assert is_dead(2**22 + 1, 0.0)  # larger than any pid


def test_a_stopped_child_dies_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: child.status() == psutil.STATUS_STOPPED)

        os.kill(parent.pid, signal.SIGKILL)

        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
