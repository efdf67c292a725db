"""One self-verifying file: a SHA-256, a header, then what torch saved. Written aside, renamed, the last two kept.

    convsearch checkpoint 1\\n
    <SHA-256 of all that follows, 64 hexadecimal digits>\\n
    {"study": ..., "trial": ..., "step": ..., "curve": [[step, value], ...], ...}\\n
    <torch.save of the state of a training>

torch.load does not notice a flipped bit (CRC checking is off, pytorch/pytorch#28858); the hash does.
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
#: Where the header begins, behind the magic line and the hash.
BODY = len(MAGIC) + 65
KEEP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a checkpoint is of. A checkpoint of another study (by its uid) or trial is never loaded."""

    study: str
    trial: int
    step: int
    """Steps done, reported ones."""
    batch: int
    """Batches done, in all."""
    seconds: float
    """Seconds of training and evaluation until here, over all attempts."""
    curve: tuple[tuple[int, float], ...]
    """(step, value) of every step done."""


class CorruptCheckpoint(Exception):
    """A file is no checkpoint, or not a whole and unchanged one."""


def save(folder: Path, header: Header, state: dict[str, Any]) -> Path:
    """Write a checkpoint into `folder`, durably, and remove all but it and the one before.

    What lies there of a later step is broken, or another study's: else the trial had gone on from it.

    Raises:
        DiskError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = json.dumps(asdict(header)).encode() + b"\n" + buffer.getvalue()
    path = folder / study_dir.checkpoint_name(step=header.step, batch=header.batch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as aside:
            aside.write_bytes(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        files = study_dir.list_checkpoints(folder)
        last = files.index(path) + 1
        for other in (*files[: max(0, last - KEEP)], *files[last:]):
            other.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"cannot write the checkpoint {path}: {error.strerror or error}") from error
    return path


def load(path: Path) -> tuple[Header, dict[str, Any]]:
    """Read a checkpoint back, after its hash was checked; tensors only (`weights_only`), no code.

    Raises:
        Corrupt: with the file's name and what is wrong.
        DiskError: it cannot be read now; it may be a good one.
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
    except Exception as error:  # whole, but not written by us: torch raises what it meets
        raise CorruptCheckpoint(f"{path} holds what no checkpoint holds ({type(error).__name__})") from error


def latest(
    folder: Path, *, study: str, trial: int, say: Callable[[str], None] = lambda _: None
) -> tuple[Header, dict[str, Any]] | None:
    """The newest whole checkpoint of this trial of this study in `folder`; None if there is none.

    `say` is told which files were passed over, and why.

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
