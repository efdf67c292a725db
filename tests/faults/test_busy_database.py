"""A database that another process holds for seconds, or that may only be read: nobody dies of it, nothing is lost."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.storage.read_only import sqlite_path
from search.storage.timeouts import BUSY_S
from tests.faults.invariants import check, finished
from tests.lab import Lab, paint, without_root

#: Takes the one lock of a SQLite file that shuts out readers too, as a backup by copying does.
HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60.0, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


@contextmanager
def locked(lab: Lab, seconds: float) -> Iterator[None]:
    """Another process holds the database for so long; at the end of the block it has let go."""
    command = [sys.executable, "-c", HOLD, str(sqlite_path(lab.url)), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
        assert process.wait() == 0


def test_a_database_that_is_locked_for_seconds_stops_nobody(lab: Lab) -> None:
    budget = {"trials": 4, "epochs": 20, "steps_per_epoch": 3}
    lab.create(budget=budget)
    file = lab.write(budget=budget)

    with locked(lab, 3.0):
        launcher = lab.start("run", file, "--workers", "2")
    try:
        launcher.until(lambda: lab.steps() >= 2)
        with locked(lab, BUSY_S + 1.5):  # longer than SQLite's driver waits by itself
            pass
        launcher.until(lambda: lab.counts().finished >= 1)
        with locked(lab, 3.0):
            pass
        answer = launcher.end()
    finally:
        launcher.sweep()

    assert answer.code == 0, answer.err
    check(lab, over=True)
    assert [(trial.state, trial.attempts, trial.crashes) for trial in lab.trials()] == [("COMPLETE", 1, ())] * 4


@pytest.fixture
def open_lab() -> Iterator[Lab]:
    """A lab with images of its own in a folder that everybody may enter; pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield Lab(folder, paint(folder / "images"), folder / "cache")


def test_a_database_that_may_only_be_read_is_refused_and_still_answers(open_lab: Lab) -> None:
    lab = open_lab
    file = lab.write(budget={"trials": 1, "epochs": 1})
    assert lab.run("run", file, "--workers", "1").code == 0
    before = finished(lab.url)
    home = Path(lab.dirs.root)
    for path in (home / "studies.db", home):
        path.chmod(0o555)

    with without_root():
        refused = lab.run("resume", "s", "--trials", "2", "--workers", "1")
        answer = lab.run("best", "s")
    home.chmod(0o755)
    (home / "studies.db").chmod(0o644)
    check(lab, before=before, over=True)
    again = lab.run("run", file, "--trials", "2", "--workers", "1")

    assert (refused.code, answer.code, again.code) == (74, 0, 0), refused.err
    assert str(home / "studies.db") in refused.err
    assert "Traceback" not in refused.err
    check(lab, before=before, over=True)
