"""Checkpoints verify themselves: a changed or truncated file is never loaded."""

import hashlib
import os
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search.artifacts import checkpoint, study_dir
from search.artifacts.checkpoint import CorruptCheckpoint, Header
from search.errors import DiskError
from tests.harness import without_root


def header(*, step: int, study: str = "u1", trial: int = 0) -> Header:
    curve = tuple((done, done / 10) for done in range(1, step + 1))
    return Header(study=study, trial=trial, step=step, batch=step * 7, seconds=1.5, curve=curve)


STATE: dict[str, Any] = {"weights": torch.arange(12.0).reshape(3, 4), "batch": 7}


def test_a_saved_checkpoint_is_loaded_unchanged(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, header(step=2), STATE)

    head, state = checkpoint.load(path)

    assert head == header(step=2)
    assert torch.equal(state["weights"], STATE["weights"])


def test_every_flipped_bit_and_every_truncation_is_detected(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, header(step=2), STATE)
    content = path.read_bytes()
    rng = random.Random(0)

    for _ in range(300):
        damaged = bytearray(content)
        position = rng.randrange(len(content))
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged if rng.random() < 0.5 else content[:position])

        with pytest.raises(CorruptCheckpoint, match=path.name):
            checkpoint.load(path)


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(1, 5):
        checkpoint.save(tmp_path, header(step=step), STATE)

    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, header(step=1), STATE)
    newest = checkpoint.save(tmp_path, header(step=2), STATE)
    newest.write_bytes(newest.read_bytes()[:-1])

    loaded = checkpoint.latest(tmp_path, study="u1", trial=0)

    assert loaded is not None
    assert loaded[0].step == 1


def test_a_damaged_file_of_a_later_step_does_not_count_among_the_last_two(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, header(step=step), STATE)
    damaged = max(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])

    checkpoint.save(tmp_path, replace(header(step=2), batch=99), STATE)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002-000000000014.ckpt",
        "step-00000002-000000000099.ckpt",
    ]


@pytest.mark.parametrize(("study", "trial"), [("u2", 0), ("u1", 1)], ids=["another study", "another trial"])
def test_a_checkpoint_of_another_study_or_trial_is_ignored(tmp_path: Path, study: str, trial: int) -> None:
    checkpoint.save(tmp_path, header(step=1), STATE)

    assert checkpoint.latest(tmp_path, study=study, trial=trial) is None


def test_an_unwritable_folder_raises_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(DiskError, match="cannot write the checkpoint"):
        checkpoint.save(tmp_path / "file", header(step=1), STATE)


def test_a_partial_file_is_neither_loaded_nor_deleted(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, header(step=1), STATE)
    partial = tmp_path / f"step-00000002-000000000014.ckpt.{os.getpid()}.part"
    partial.write_bytes(b"half")

    loaded = checkpoint.latest(tmp_path, study="u1", trial=0)
    study_dir.delete_checkpoints(tmp_path)

    assert loaded is not None
    assert loaded[0].step == 1
    assert list(tmp_path.iterdir()) == [partial]


def test_an_unreadable_checkpoint_is_not_treated_as_damaged(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, header(step=1), STATE)
    path.unlink()
    path.symlink_to(path.name)  # opening it fails, but not because it is missing

    with pytest.raises(DiskError, match="cannot read the checkpoint"):
        checkpoint.latest(tmp_path, study="u1", trial=0)
    assert path.is_symlink()


def test_an_unreadable_folder_is_not_treated_as_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with without_root(), pytest.raises(DiskError, match="cannot read"):
            checkpoint.latest(tmp_path, study="u1", trial=0)
    finally:
        tmp_path.chmod(0o700)


def test_an_intact_checkpoint_with_pickled_code_is_skipped_with_a_reason(tmp_path: Path) -> None:
    content = b"{}\n" + pickle.dumps(Path)
    digest = hashlib.sha256(content).hexdigest().encode()
    (tmp_path / "step-00000001-000000000007.ckpt").write_bytes(checkpoint.MAGIC + digest + b"\n" + content)
    messages: list[str] = []

    assert checkpoint.latest(tmp_path, study="u1", trial=0, say=messages.append) is None
    assert "has invalid content" in messages[0]
