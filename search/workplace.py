"""What all trials of a worker share, and how one can end."""

from dataclasses import dataclass
from pathlib import Path

import torch
from optuna.storages import _CachedStorage

from data.parts import SearchData
from search.home import Home
from search.sampler import Excerpt
from search.storage import Storage
from search.study import StoredStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a trial ended: with a value, or pruned for a reason."""

    value: float | None = None
    """The objective on the validation images after the last step; None if the trial was pruned."""
    costs: tuple[float, ...] = ()
    """Values of the other objectives, if there are any."""
    reason: str | None = None
    violation: float = 0.0
    """Above 0: the configuration cannot be trained at all, and the sampler shall rank it below every other."""
    exhausted: bool = False
    """The process ran out of memory; what is left of it is in pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What all trials of a worker share: the study, its images, where to write."""

    storage: Storage
    cached: _CachedStorage
    excerpt: Excerpt
    """What the sampler learns from, kept from trial to trial."""
    study: StoredStudy
    home: Home
    data: SearchData
    device: torch.device
    cache: Path
    """Folder of the decoded images."""
    workers: int = 1
    """That work at the same time on this machine, this one included."""


class Stopped(Exception):
    """The trial was asked to stop; its checkpoint is written and it can go back to the queue."""


class Paused(Exception):  # nothing went wrong
    """The trial waits after a step until something is the case; its checkpoint is written."""

    def __init__(self, step: int, *, until: str) -> None:
        super().__init__(step)
        self.step, self.until = step, until
