"""Who asks to stop is answered at once, even while somebody else has locked the database."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import LONG, Lab, equal


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """The database, locked against readers and writers."""
    connection = sqlite3.connect(lab.url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_run_stops_while_the_database_is_locked_and_goes_on_as_if_nothing_had_happened(
    lab: Lab, undisturbed: Lab, number: signal.Signals, code: int
) -> None:
    file = lab.write(**LONG)
    launcher = lab.start("run", file, "--workers", "1")
    try:
        launcher.until(lambda: lab.home.study("s").exists() and lab.steps() >= 3)
        with locked(lab):
            launcher.signal(number)
            stopped = launcher.end()
    finally:
        launcher.sweep()
    again = lab.run("run", file, "--workers", "1")

    assert stopped.code == code
    assert "stopping: trials go back to the queue" in stopped.err
    assert "Traceback" not in stopped.err
    assert again.code == 0
    assert lab.trials()[0].curve == undisturbed.trials()[0].curve
    assert equal(lab.trained(), undisturbed.trained())


def test_a_second_ctrl_c_ends_a_run_that_waits_for_the_database(lab: Lab) -> None:
    launcher = lab.start("run", lab.write(**LONG), "--workers", "1")
    try:
        launcher.until(lambda: lab.home.study("s").exists() and lab.steps() >= 3)
        with locked(lab):
            launcher.signal(signal.SIGINT)
            launcher.until(lambda: "stopping" in launcher.said)
            launcher.signal(signal.SIGINT)
            stopped = launcher.end()
    finally:
        launcher.sweep()

    assert stopped.code == 130
    assert "stopped at once; the same command goes on" in stopped.err
