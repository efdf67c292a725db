"""Remote checkpoints: another machine resumes from them, and an unreachable store stops no trial."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.artifacts import remote_checkpoints
from search.artifacts.remote_checkpoints import RemoteCheckpoints
from search.artifacts.remote_store import RemoteStoreClient, RemoteStoreError
from search.artifacts.study_dir import StudyDirs
from search.errors import SpecError
from search.process import this_process
from search.storage import claims
from search.storage.rdb import Storage
from search.study import stored_study, strategy
from search.trial import runner
from search.trial.context import TrainingContext
from search.trial.outcome import TrialStopped
from tests.harness import Harness, equal, run_claimed, work

STUDY: dict[str, Any] = {"budget": {"trials": 1, "epochs": 6}, "space": {"dropout_conv": 0.2, "ema": 0.9}}


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ckpt"))


def write(folder: Path, *steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        (folder / f"step-{step:08d}-{step:012d}.ckpt").write_text(str(step))


def test_an_upload_mirrors_the_folder_and_a_download_fetches_the_newest(tmp_path: Path) -> None:
    store, local, fetched = (
        RemoteCheckpoints(RemoteStoreClient(url=f"file://{tmp_path / 'store'}"), "uid"),
        tmp_path / "here",
        tmp_path / "there",
    )
    write(local, 1, 2)
    store.upload(local, 7)
    write(local, 3)
    (local / "step-00000001-000000000001.ckpt").unlink()

    store.upload(local, 7)
    store.download(fetched, 7)

    assert checkpoints(tmp_path / "store" / "uid" / "trial-00007") == checkpoints(local)
    assert checkpoints(fetched) == checkpoints(local)[-1:]
    assert not list(tmp_path.rglob("*.part"))


def test_a_machine_that_is_behind_removes_no_newer_checkpoint(tmp_path: Path) -> None:
    store = RemoteCheckpoints(RemoteStoreClient(url=str(tmp_path / "store")), "uid")
    write(tmp_path / "ahead", 4, 5)
    write(tmp_path / "behind", 2, 3)
    store.upload(tmp_path / "ahead", 0)

    store.upload(tmp_path / "behind", 0)
    store.download(tmp_path / "behind", 0)

    assert max(checkpoints(tmp_path / "behind")) == max(checkpoints(tmp_path / "ahead"))


def test_a_store_that_is_not_a_folder_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    write(tmp_path / "here", 1)

    with pytest.raises(RemoteStoreError, match="NotADirectoryError"):
        RemoteCheckpoints(RemoteStoreClient(url=str(tmp_path / "store")), "uid").upload(tmp_path / "here", 0)


def test_a_silent_store_times_out_once_and_is_not_called_again(
    tmp_path: Path,
) -> None:
    write(tmp_path / "here", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ftp://127.0.0.1:{silent.getsockname()[1]}/folder"
        store = RemoteCheckpoints(RemoteStoreClient(url=url, answer_s=0.2), "uid")

        with pytest.raises(RemoteStoreError, match=r"no answer within 0\.2 s"):
            store.upload(tmp_path / "here", 0)
        with pytest.raises(RemoteStoreError, match="still busy with an earlier operation"):
            store.upload(tmp_path / "here", 1)


@pytest.mark.parametrize("url", ["s3://bucket/folder", "nonsense://bucket"])
def test_a_protocol_without_its_package_is_refused_before_any_training(harness: Harness, url: str) -> None:
    answer = harness.run("run", harness.write(**STUDY), "--set", f"checkpoints={url}")

    assert answer.code == 78
    assert f"checkpoints = '{url}' cannot be used from this machine" in answer.err
    assert not harness.dirs.study("s").exists()


@pytest.mark.parametrize("location", ["here/there", "7", "s3://key:secret@bucket"])
def test_a_relative_path_or_a_url_with_a_secret_is_refused(harness: Harness, location: str) -> None:
    answer = harness.run("run", harness.write(**STUDY), "--set", f"checkpoints={location}")

    assert answer.code == 78
    assert "checkpoints must" in answer.err
    assert "secret" not in answer.err


def test_a_trial_resumes_bit_for_bit_from_its_checkpoint_on_another_machine(harness: Harness) -> None:
    work(runner.open_training_context(harness.create("whole", **STUDY)))
    elsewhere = move(harness, harness.folder / "store")

    moved = work(elsewhere)

    (uninterrupted,) = harness.trials("whole")
    assert (moved.curve, moved.retrained_attempts) == (uninterrupted.curve, ())
    assert equal(harness.trained(name="whole"), harness.trained(dirs=elsewhere.dirs))


def test_a_trial_without_a_checkpoint_restarts_under_its_number_and_reports_it(harness: Harness) -> None:
    elsewhere = move(harness, None)

    moved = work(elsewhere)

    assert (moved.number, moved.state, moved.retrained_attempts) == (0, "COMPLETE", (1,))
    assert "attempt 1 found no checkpoint and started again" in harness.run("show", "s", "0").out


def test_an_unreachable_store_stops_no_trial_and_is_logged(harness: Harness) -> None:
    (harness.folder / "store").write_text("in the way")
    context = replace(
        runner.open_training_context(harness.create(**STUDY)),
        remote=RemoteCheckpoints(RemoteStoreClient(url=str(harness.folder / "store")), "uid"),
    )

    trial = work(context)

    assert trial.state == "COMPLETE"
    assert "this checkpoint is on this machine only" in context.dirs.log("s", 0).read_text()


def test_remote_checkpoints_of_weak_trials_and_of_deleted_studies_are_removed(harness: Harness) -> None:
    file = harness.write(budget={"trials": 5, "epochs": 1})
    run = harness.run("run", file, "--workers", "1", "--set", f"checkpoints={harness.folder / 'store'}")
    kept = checkpoints(harness.folder / "store")

    deleted = harness.run("delete", "s", "--yes")

    assert (run.code, deleted.code) == (0, 0)
    assert len(kept) == 3
    assert checkpoints(harness.folder / "store") == []


def test_export_downloads_the_model_from_the_store(harness: Harness) -> None:
    harness.run("run", harness.write(**STUDY), "--workers", "1", "--set", f"checkpoints={harness.folder / 'store'}")
    shutil.rmtree(harness.dirs.trial("s", 0))

    answer = harness.run("export", "s", "--to", str(harness.folder / "out"))

    assert answer.code == 0, answer.err


def test_without_a_url_there_is_no_remote_store() -> None:
    remote_checkpoints.check(None)

    assert remote_checkpoints.of(None, "uid") is None


def move(harness: Harness, store: Path | None) -> TrainingContext:
    """Stop a trial midway; returns the context of another machine, which has none of its files."""
    worker_config = harness.create(**STUDY)
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    url = None if store is None else str(store)
    stored_study.open_or_create(storage, replace(stored.spec, checkpoints=url), name="s", data=stored.data)
    pulses = iter(range(1000))

    def pulse() -> None:
        if next(pulses) == 60:
            raise TrialStopped

    context = runner.open_training_context(worker_config)
    claim = claims.claim(context.storage, stored.id, this_process(worker_config.token), strategy.queue(context.study))
    assert claim is not None
    run_claimed(context, claim, pulse)
    assert 0 < harness.steps() < 6
    return replace(runner.open_training_context(harness.worker_config()), dirs=StudyDirs(harness.folder / "elsewhere"))


def test_the_error_of_an_unreachable_store_names_its_cause(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")

    with pytest.raises(SpecError, match="cannot be used from this machine: NotADirectoryError"):
        remote_checkpoints.check(str(tmp_path / "store" / "below"))
