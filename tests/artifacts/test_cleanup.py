"""`clean`, and the start of a run, remove files that no study needs, and nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.artifacts import cleanup, study_dir
from search.process import this_process
from search.spec import study_spec
from search.storage import claims
from search.storage.rdb import Storage
from search.study import stored_study
from tests.harness import Harness

DATA = {"fingerprint": "used", "classes": ["cat", "dog"]}


@pytest.fixture
def two_sets(tmp_path: Path) -> Path:
    """A cache with the images of one study and images that no study uses."""
    for fingerprint in ("used", "unused"):
        folder = tmp_path / "cache" / "sets" / fingerprint
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(json.dumps({"fingerprint": fingerprint}))
        (folder / "train.npy").write_bytes(b"0" * 1000)
    return tmp_path / "cache"


def add(url: str, name: str) -> Storage:
    """A study with the files of a trial, one of them half-written."""
    storage = Storage(url, create=True, token="me")
    spec = study_spec.build({"budget": {"trials": 2, "epochs": 1}, "space": {"width": [8, 16]}})
    stored = stored_study.open_or_create(storage, spec, name=name, data=DATA)
    stored_study.set_trials(storage, stored, 2)
    with study_dir.of(url).running(name):
        folder = study_dir.of(url).trial(name, 0)
        folder.mkdir()
    write(folder)
    return storage


def write(folder: Path) -> None:
    """A complete and a half-written checkpoint, and a log."""
    folder.mkdir(exist_ok=True)
    (folder / "step.ckpt").write_bytes(b"1234")
    (folder / "next.ckpt.part").write_bytes(b"12345")
    (folder / "log.txt").write_bytes(b"")


def fill(storage: Storage, name: str, trials: Sequence[tuple[str, float | None]]) -> None:
    """Add a trial for each state and value, with all files that a kill can leave."""
    stored = optuna.load_study(study_name=name, storage=storage)
    dirs = study_dir.of(str(storage.engine.url))
    for number, (state, value) in enumerate(trials):
        stored.add_trial(optuna.trial.create_trial(state=TrialState[state], value=value))
        write(dirs.trial(name, number))


def clean(url: str, cache: Path, *, data: bool = False) -> tuple[int, list[str]]:
    messages: list[str] = []
    return cleanup.clean(url, cache, data=data, say=messages.append), messages


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_clean_removes_deleted_studies_and_half_written_files_of_others(url: str, two_sets: Path) -> None:
    add(url, "kept")
    storage = add(url, "gone")
    storage.delete_study(storage.get_study_id_from_name("gone"))
    root = study_dir.of(url).root
    (root / "photos").mkdir()
    (root / "photos" / "trial-00000").write_text("mine")

    freed, messages = clean(url, two_sets)

    assert files(root) == {
        *("studies.db", "photos/trial-00000"),
        *("kept/convsearch.lock", "kept/trial-00000/step.ckpt", "kept/trial-00000/log.txt"),
    }
    assert freed == (4 + 5 + len(f"{os.getpid()}\nstudies.db\n")) + 5
    assert messages == [
        f"removed the files in {root / 'gone'}: there is no such study",
        f"removed 1 files in {root / 'kept'}: 1 half-written",
    ]


def test_files_of_another_database_in_the_same_folder_are_kept(url: str, two_sets: Path) -> None:
    add(url, "ours")
    add(url.replace("studies.db", "other.db"), "theirs")
    before = files(study_dir.of(url).root / "theirs")

    clean(url, two_sets)

    assert files(study_dir.of(url).root / "theirs") == before


def test_half_written_files_of_a_running_study_are_kept(url: str, two_sets: Path) -> None:
    storage = add(url, "s")
    claims.claim(storage, storage.get_study_id_from_name("s"), this_process("me"))

    freed, messages = clean(url, two_sets)

    assert (freed, messages) == (0, [])
    assert (study_dir.of(url).trial("s", 0) / "next.ckpt.part").exists()


def test_unused_images_are_removed_only_on_request(url: str, two_sets: Path) -> None:
    add(url, "s")
    clean(url, two_sets)
    before = files(two_sets)

    freed, messages = clean(url, two_sets, data=True)

    assert len(before) == 4
    assert files(two_sets) == {"sets/used/meta.json", "sets/used/train.npy"}
    assert freed > 1000
    assert messages[0].endswith("unused: images that no study uses")


def test_a_second_clean_removes_nothing(url: str, two_sets: Path) -> None:
    add(url, "s")
    clean(url, two_sets, data=True)

    assert clean(url, two_sets, data=True) == (0, [])


TRIALS = (
    *(("COMPLETE", 0.5), ("COMPLETE", 0.9), ("COMPLETE", 0.8), ("COMPLETE", 0.9), ("COMPLETE", 0.1)),
    *(("PRUNED", None), ("FAIL", None), ("WAITING", None), ("RUNNING", None)),
)
"""Trials in every state; the best three are 1, 2 and 3, and trial 0 is the baseline."""
LEFT = {
    *(f"trial-0000{number}/log.txt" for number in range(9)),
    *(f"trial-0000{number}/step.ckpt" for number in (0, 1, 2, 3, 6, 7, 8)),
    *("trial-00008/next.ckpt.part", "convsearch.lock"),
}
"""Files that remain: the best, the baseline, those of resumable trials, and files being written."""


def test_a_starting_run_removes_half_written_files_and_surplus_checkpoints(
    url: str,
) -> None:
    storage = add(url, "s")
    fill(storage, "s", TRIALS)
    dirs = study_dir.of(url)

    freed = cleanup.remove_leftovers(dirs, storage.engine, "s")

    assert files(dirs.study("s")) == LEFT
    assert freed == 2 * 4 + 8 * 5
    assert cleanup.remove_leftovers(dirs, storage.engine, "s") == 0


def test_clean_removes_leftovers_of_every_study_and_reports_the_freed_bytes(url: str, two_sets: Path) -> None:
    fill(add(url, "s"), "s", TRIALS)
    fill(add(url, "t"), "t", TRIALS[:1])
    root = study_dir.of(url).root

    reclaimable = cleanup.reclaimable_bytes(url)
    freed, messages = clean(url, two_sets)

    assert reclaimable == freed == 2 * 4 + 9 * 5
    assert files(root / "s") == LEFT
    assert messages == [
        f"removed 10 files in {root / 's'}: 8 half-written, 2 of finished trials that are not among the best 3",
        f"removed 1 files in {root / 't'}: 1 half-written",
    ]
    assert cleanup.reclaimable_bytes(url) == 0


def test_checkpoints_of_a_trial_that_is_not_in_the_database_are_kept(url: str) -> None:
    storage = add(url, "s")  # no trial has started, but files of trial 0 exist
    dirs = study_dir.of(url)

    cleanup.remove_leftovers(dirs, storage.engine, "s")

    assert (dirs.trial("s", 0) / "step.ckpt").exists()


def test_the_next_run_removes_only_the_files_that_a_kill_left(harness: Harness) -> None:
    harness.run("run", harness.write(budget={"trials": 1, "epochs": 1}), "--workers", "1")
    before = files(harness.dirs.trial("s", 0))
    partial = harness.dirs.trial("s", 0) / "step-00000003-000000000030.ckpt.part"
    partial.write_bytes(b"1")

    answer = harness.run("resume", "s", "--trials", "2", "--workers", "1")

    assert answer.code == 0
    assert files(harness.dirs.trial("s", 0)) == before
    assert any(name.endswith(".ckpt") for name in before)
