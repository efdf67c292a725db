"""A self-verifying file: a SHA-256, a header, and the output of torch.save. Written atomically; the last two are kept.

    convsearch checkpoint 1\\n
    <SHA-256 of the rest of the file, 64 hexadecimal digits>\\n
    {"study": ..., "trial": ..., "step": ..., "curve": [[step, value], ...], ...}\\n
    <torch.save of the state of a training>

torch.load does not detect a flipped bit (CRC checking is off, pytorch/pytorch#28858); the hash does.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.atomic import replacing
from search.artifacts import study_dir
from search.errors import DiskError

MAGIC = b"convsearch checkpoint 1\n"
#: Offset of the header in bytes, after the magic line and the hash.
BODY = len(MAGIC) + 65
#: Number of checkpoints kept per trial.
KEEP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Identity and progress of a checkpoint. A checkpoint of another study (by its uid) or trial is never loaded."""

    study: str
    trial: int
    step: int
    """Reported steps done."""
    batch: int
    """Batches done in total."""
    seconds: float
    """Seconds of training and evaluation so far, over all attempts."""
    curve: tuple[tuple[int, float], ...]
    """(step, value) of every step done."""


class CorruptCheckpoint(Exception):
    """A file is not a checkpoint, or is incomplete or changed."""


def save(folder: Path, header: Header, state: dict[str, Any]) -> Path:
    """Write a checkpoint durably, and remove all others except the one before it.

    Checkpoints of later steps are corrupt or belong to another study; otherwise the trial would have resumed from them.

    Args:
        folder: folder of the trial; created if missing.
        header: identity and progress of the trial.
        state: state of the training, as torch.save accepts it.

    Returns:
        The path of the checkpoint.

    Raises:
        DiskError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = json.dumps(asdict(header)).encode() + b"\n" + buffer.getvalue()
    path = folder / study_dir.checkpoint_name(step=header.step, batch=header.batch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as temporary:
            temporary.write_bytes(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        files = study_dir.list_checkpoints(folder)
        last = files.index(path) + 1
        for other in (*files[: max(0, last - KEEP)], *files[last:]):
            other.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error
    return path


def load(path: Path) -> tuple[Header, dict[str, Any]]:
    """Read a checkpoint after a check of its hash. Loads tensors only (`weights_only`), no code.

    Args:
        path: the checkpoint.

    Returns:
        The header and the state of the training, on the CPU.

    Raises:
        CorruptCheckpoint: the file is invalid; with its name and the defect.
        DiskError: the file cannot be read now, but may be valid.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise CorruptCheckpoint(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise DiskError(
            f"cannot read the checkpoint {path}: {error.strerror or error}; delete it to do without"
        ) from error
    magic, digest, rest = content[: len(MAGIC)], content[len(MAGIC) : BODY], content[BODY:]
    if magic != MAGIC:
        raise CorruptCheckpoint(f"{path} is no checkpoint")
    if digest != hashlib.sha256(rest).hexdigest().encode() + b"\n":
        raise CorruptCheckpoint(f"{path} was changed or cut since it was written")
    head, _, payload = rest.partition(b"\n")
    try:
        fields = json.loads(head)
        header = Header(**fields | {"curve": tuple((step, value) for step, value in fields["curve"])})
        return header, torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # complete, but not written by us: torch raises arbitrary exceptions
        raise CorruptCheckpoint(f"{path} has invalid content ({type(error).__name__})") from error


def latest(
    folder: Path, *, study: str, trial: int, say: Callable[[str], None] = lambda _: None
) -> tuple[Header, dict[str, Any]] | None:
    """Load the newest valid checkpoint of a trial.

    Args:
        folder: folder of the trial.
        study: uid of the study.
        trial: number of the trial.
        say: receives a message for each skipped file, with the reason.

    Returns:
        The header and the state of the training, or None if there is no valid checkpoint.

    Raises:
        DiskError: the folder or a checkpoint cannot be read now.
    """
    try:
        files = study_dir.list_checkpoints(folder)
    except OSError as error:
        raise DiskError(f"cannot read {folder}: {error.strerror or error}") from error
    for path in reversed(files):
        try:
            header, state = load(path)
        except CorruptCheckpoint as error:
            say(f"passed over a checkpoint: {error}")
            continue
        if (header.study, header.trial) == (study, trial):
            return header, state
        say(f"passed over a checkpoint: {path} is of trial {header.trial} of study {header.study}")
    return None
