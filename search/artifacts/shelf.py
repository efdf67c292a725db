"""The checkpoints in the folder of a trial, by their names; no torch is needed to see or to remove them."""

import re
from pathlib import Path

NAME = re.compile(r"step-(\d{8})-(\d{12})\.ckpt")


def name(*, step: int, batch: int) -> str:
    """The name of a checkpoint after so many steps and batches; names sort by how far the training had come."""
    return f"step-{step:08d}-{batch:012d}.ckpt"


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))


def forget(folder: Path) -> None:
    """Remove the checkpoints of a trial that is over; its other files stay.

    Raises OSError where one cannot be removed.
    """
    for path in files(folder):
        path.unlink(missing_ok=True)
