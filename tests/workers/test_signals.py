"""A stop signal that arrives twice at once is one request; two separate signals are two requests."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from search.workers.signals import STOPPING

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
from functools import partial
from search.workers.signals import SignalListener

tell = partial(print, file=sys.stderr, flush=True)
interrupts = SignalListener(at_once=lambda: print("at once", flush=True), tell=tell, end_s=END_S)
with interrupts.listening():
    print("ready", flush=True)
    deadline = time.monotonic() + 3
    while interrupts.first is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(WAIT_S)
print("ended by", interrupts.first, flush=True)
"""


def interrupted(
    number: signal.Signals,
    *,
    wait_s: float,
    pause_s: float | None = None,
    end_s: float = 60.0,
    nohup: bool = False,
    stderr: int = subprocess.DEVNULL,
) -> tuple[int, str]:
    """Exit code and output of a process that gets a signal, or two signals with a pause between them."""
    program = PROGRAM.replace("WAIT_S", str(wait_s)).replace("END_S", str(end_s))
    command = [*(["nohup"] if nohup else []), sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        if pause_s is not None:
            time.sleep(pause_s)
            os.kill(process.pid, number)
        output = process.stdout.read()
    return process.returncode, output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["sigterm", "closed terminal"])
def test_a_signal_that_make_or_a_shell_forwards_again_is_one_request(number: signal.Signals) -> None:
    code, output = interrupted(number, pause_s=0.05, wait_s=1.0)

    assert (code, output) == (0, f"ended by {number}\n")


@pytest.mark.parametrize("number", STOPPING)
def test_a_hanging_process_ends_in_time_after_a_signal(number: signal.Signals) -> None:
    code, output = interrupted(number, wait_s=60.0, end_s=0.5)

    assert (code, output) == (128 + number, "at once\n")


def test_a_process_under_nohup_ignores_sighup() -> None:
    code, output = interrupted(signal.SIGHUP, nohup=True, pause_s=0.5, wait_s=0.0, end_s=0.1)

    assert (code, output) == (0, "ended by None\n")


@pytest.mark.parametrize(
    ("number", "pause_s"), [(signal.SIGINT, 0.05), (signal.SIGTERM, 1.5)], ids=["ctrl-c", "sigterm"]
)
def test_a_second_request_ends_the_process_at_once(number: signal.Signals, pause_s: float) -> None:
    code, output = interrupted(number, pause_s=pause_s, wait_s=60.0)

    assert code == 128 + number
    assert output == "at once\n"


def test_a_process_ends_in_time_although_its_stderr_is_full() -> None:
    reader, pipe = os.pipe()
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)

    try:
        code, output = interrupted(signal.SIGTERM, wait_s=60.0, end_s=0.5, stderr=pipe)
    finally:
        os.close(reader)
        os.close(pipe)

    assert (code, output) == (128 + signal.SIGTERM, "at once\n")
