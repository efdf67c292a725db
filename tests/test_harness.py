"""The harness itself: copies of trained studies are as good as new ones, and waits miss nothing."""

from dataclasses import replace
from pathlib import Path

from search.storage.records import TrialRecord
from tests.harness import Harness, Tables, equal


def test_a_copied_study_equals_one_that_is_trained_here(harness: Harness, tmp_path: Path) -> None:
    first = Harness(tmp_path / "first", harness.images, harness.cache)
    first.folder.mkdir()
    tables: Tables = {"budget": {"trials": 3, "epochs": 2}, "final": {"epochs": 1}}
    answers = [first.train(**tables), harness.train(**tables)]  # two copies of one original

    fresh = Harness(tmp_path / "fresh", harness.images, harness.cache)
    fresh.folder.mkdir()
    answer = fresh.run("run", fresh.write(**tables), "--workers", "1")

    assert answers[0] == answers[1]
    assert (answers[0].code, answer.code) == (0, 0)
    for name in ("s", "s.final"):
        copied, trained = harness.trials(name), fresh.trials(name)
        assert [comparable(trial) for trial in copied] == [comparable(trial) for trial in trained]
        assert equal(harness.trained(name=name)["model"], fresh.trained(name=name)["model"])
        assert files(harness, name) == files(fresh, name)
    assert harness.run("best", "s").code == 0


def test_a_wait_for_a_launcher_ends_with_a_condition_that_holds_for_a_moment(harness: Harness) -> None:
    answers = iter([False, True, False])
    with harness.start("run", harness.write(budget={"trials": 1, "epochs": 1}), "--workers", "1") as launcher:
        launcher.until(lambda: next(answers))

    assert list(answers) == [False]


def comparable(trial: TrialRecord) -> TrialRecord:
    """A trial without times and speeds."""
    test = None if trial.test is None else {**trial.test, "time": ""}
    return replace(trial, seconds=0.0, images_per_second=None, latency_ms=None, started=None, completed=None, test=test)


def files(harness: Harness, name: str) -> list[str]:
    """The files of a study, relative to its folder."""
    folder = harness.dirs.study(name)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
