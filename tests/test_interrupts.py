"""A request to stop that comes twice at once is one; two requests are two."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import time
from search.interrupts import Interrupts
interrupts = Interrupts(at_once=lambda: print("at once", flush=True))
with interrupts.heard():
    print("ready", flush=True)
    deadline = time.monotonic() + 30
    while interrupts.first is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(WAIT_S)
print("ended by", interrupts.first, flush=True)
"""


def interrupted(number: signal.Signals, *, pause_s: float, wait_s: float) -> tuple[int, str]:
    """How a process ends, and what it says, that gets a signal twice with a pause between."""
    program = PROGRAM.replace("WAIT_S", str(wait_s))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        time.sleep(pause_s)
        os.kill(process.pid, number)
        said = process.stdout.read()
    return process.returncode, said


def test_a_sigterm_that_make_hands_on_as_well_is_one_request() -> None:
    code, said = interrupted(signal.SIGTERM, pause_s=0.05, wait_s=1.0)

    assert (code, said) == (0, "ended by 15\n")


@pytest.mark.parametrize(
    ("number", "pause_s"), [(signal.SIGINT, 0.05), (signal.SIGTERM, 1.5)], ids=["ctrl-c", "sigterm"]
)
def test_a_second_request_ends_the_process_at_once(number: signal.Signals, pause_s: float) -> None:
    code, said = interrupted(number, pause_s=pause_s, wait_s=60.0)

    assert code == 128 + number
    assert said == "at once\n"
