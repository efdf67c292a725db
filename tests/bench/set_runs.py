"""Recorded runs of `python -m tests.bench sets`, one JSON line each, in a file that survives a killed benchmark."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.atomic import replacing
from search.analysis.test_results import unpack
from tests.bench.set_arms import Arm

Key = tuple[str, str, Arm, int, float]
"""Set, its digest, arm, seed and minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetRun:
    """One run of an arm on an image set, from the start of its process to a tested network."""

    set: str
    digest: str
    """Hash of the image set."""
    arm: Arm
    seed: int
    minutes: float
    """Time allowed."""
    seconds: float
    """Time taken."""
    failure: str = ""
    """Why there is no tested network; empty if there is one."""
    test: float | None = None
    """Accuracy on the test images: right / images."""
    right: int | None = None
    images: int | None = None
    bits: str = ""
    """The test images that are right, ordered by class and path: base64 of packed bits."""
    epochs: float | None = None
    """Epochs of the last training."""
    trials: int | None = None
    parameters: int | None = None
    configuration: Mapping[str, object] = field(default_factory=dict)
    busy: float = 0.0
    """Share of the cores that other processes used in the second before the run."""
    code: str
    """Hash of the code that ran; a run is repeated after a change of it."""
    commit: str
    machine: str
    versions: Mapping[str, str]
    date: str

    @property
    def key(self) -> Key:
        """The run that this line is a result of."""
        return self.set, self.digest, self.arm, self.seed, self.minutes

    @property
    def is_late(self) -> bool:
        """Whether it took more than a twentieth longer than allowed."""
        return self.seconds > 1.05 * 60 * self.minutes

    def wrong(self) -> NDArray[np.float64] | None:
        """(images,) 1 for a wrong test image, otherwise 0; None if only their number is known."""
        if not self.bits or self.images is None:
            return None
        return (~unpack({"bits": self.bits, "images": self.images})).astype(np.float64)


def read(file: Path) -> list[SetRun]:
    """All recorded runs, in the order in which they ended. Keys that this version does not know are left out."""
    if not file.exists():
        return []
    known = {entry.name for entry in fields(SetRun)}
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return [SetRun(**{key: value for key, value in line.items() if key in known}) for line in lines]


def add(file: Path, run: SetRun) -> None:
    """Add a run; the file is replaced atomically and has all runs or one less."""
    before = file.read_text() if file.exists() else ""
    with replacing(file, durable=True) as temporary:
        temporary.write_text(before + json.dumps(asdict(run)) + "\n")


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Keep other benchmarks off this file; they would share the cores, too.

    Raises:
        BlockingIOError: One runs already.
    """
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
