"""A process that is bound to its parent dies with it, even if it is stopped."""

import os
import signal
import subprocess
import sys

import psutil

from tests.harness import wait_until

CHILD = (
    "import os, signal, search.workers.preload; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
)
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_stopped_child_dies_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: child.status() == psutil.STATUS_STOPPED)

        os.kill(parent.pid, signal.SIGKILL)

        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
