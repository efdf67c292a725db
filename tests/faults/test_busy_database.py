"""A database that another process locks for seconds, or that is read-only: no process dies, nothing is lost."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.storage.retry import BUSY_S
from tests.faults.invariants import check, finished
from tests.harness import Harness, locked, paint, without_root


def test_a_database_that_is_locked_for_seconds_stops_no_worker(harness: Harness) -> None:
    budget = {"trials": 4, "epochs": 20, "steps_per_epoch": 3}
    harness.create(budget=budget)
    file = harness.write(budget=budget)

    # The lock also blocks readers, as a backup by copying does.
    with locked(harness.url, "EXCLUSIVE"):
        launcher = harness.start("run", file, "--workers", "2")
        time.sleep(3.0)
    with launcher:
        launcher.until(lambda: harness.steps() >= 2)
        with locked(harness.url, "EXCLUSIVE"):
            time.sleep(BUSY_S + 1.5)  # longer than SQLite's driver waits by itself
        launcher.until(lambda: harness.counts().finished >= 1)
        with locked(harness.url, "EXCLUSIVE"):
            time.sleep(3.0)
        answer = launcher.end()

    assert answer.code == 0, answer.err
    check(harness, over=True)
    assert [(trial.state, trial.attempts, trial.crashes) for trial in harness.trials()] == [("COMPLETE", 1, ())] * 4


@pytest.fixture
def shared_harness() -> Iterator[Harness]:
    """A harness with separate images in a folder that every user can enter; pytest closes its folders to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield Harness(folder, paint(folder / "images"), folder / "cache")


def test_a_read_only_database_is_refused_for_a_run_and_still_answers_queries(shared_harness: Harness) -> None:
    harness = shared_harness
    file = harness.write(budget={"trials": 1, "epochs": 1})
    assert harness.run("run", file, "--workers", "1").code == 0
    before = finished(harness.url)
    folder = Path(harness.dirs.root)
    for path in (folder / "studies.db", folder):
        path.chmod(0o555)

    with without_root():
        refused = harness.run("resume", "s", "--trials", "2", "--workers", "1")
        answer = harness.run("best", "s")
    folder.chmod(0o755)
    (folder / "studies.db").chmod(0o644)
    check(harness, before=before, over=True)
    again = harness.run("run", file, "--trials", "2", "--workers", "1")

    assert (refused.code, answer.code, again.code) == (74, 0, 0), refused.err
    assert str(folder / "studies.db") in refused.err
    assert "Traceback" not in refused.err
    check(harness, before=before, over=True)
