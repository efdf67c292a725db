"""Recorded trainings: one JSON line per family, configuration and seed."""

import base64
import fcntl
import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One training with its rungs."""

    images: str
    """Name of the image set."""
    number: int
    """Number of the configuration; 0 is the recipe."""
    seed: int
    changes: Mapping[str, Any]
    """Changes to the recipe, as a study file writes them; for a random configuration empty."""
    config: Mapping[str, Any]
    macs: int = 0
    """Multiply-accumulates per image."""
    parameters: int = 0
    epochs: float = 0.0
    """Passes over the training images."""
    seconds: Sequence[float] = ()
    """CPU seconds until each rung; empty if the training diverged."""
    validation: Sequence[str] = ()
    """Correct validation images at each rung: base64 of packed bits."""
    test: Sequence[str] = ()
    """The same of images that stand for test images."""
    failure: str = ""
    """Why the training has no result; empty if it has one."""

    @property
    def key(self) -> tuple[str, int, int]:
        return self.images, self.number, self.seed


def packed(right: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def bits(text: str, count: int) -> NDArray[np.bool_]:
    """(count,) whether each image is right."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def read(files: Iterable[Path]) -> list[Recording]:
    """All recordings of files of JSON lines."""
    lines = (line for file in files for line in _text(file).splitlines())
    return [Recording(**json.loads(line)) for line in lines if line.strip()]


def add(file: Path, recording: Recording) -> None:
    """Append a recording; several processes may write to one file."""
    with file.open("a") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        lines.write(json.dumps(asdict(recording)) + "\n")


def _text(file: Path) -> str:
    """The text of a file, which may be compressed by xz."""
    return lzma.decompress(file.read_bytes()).decode() if file.suffix == ".xz" else file.read_text()
