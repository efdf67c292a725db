"""Chooses the number of threads of a training by the clock.

Two threads of a network wait for each other after every layer, and OpenMP waits actively. On a machine with other work
a training on all cores can therefore take several times as long as on one (studies/LOG.md, 2026-11-30); on a free
machine it takes little more than half as long. The choice changes the last bits of the weights.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import torch

#: Batches with each number of threads in a comparison; the first one after a change is not timed.
BATCHES: Final = 4
#: Seconds until the next comparison.
PERIOD_S: Final = 20.0


@dataclass(kw_only=True, slots=True)
class ThreadTuner:
    """Compares all threads with one, and trains on with the faster number. It is called before each batch."""

    threads: int
    on_batch: Callable[[], None]
    """Called before each batch as well."""
    now: Callable[[], float] = time.monotonic
    set_threads: Callable[[int], None] = torch.set_num_threads
    _durations: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of the last batches by the number of threads, while they are compared."""
    _current: int = 0
    _began: float = 0.0
    _compares_at: float = 0.0

    def __call__(self) -> None:
        self.on_batch()
        now = self.now()
        if self._durations:
            self._note(now)
        elif now >= self._compares_at:
            self._durations = {self.threads: [], 1: []}
            self._use(self.threads)
        self._began = self.now()

    def _note(self, now: float) -> None:
        """Note the duration of the last batch; after enough batches go on with the next or the faster number."""
        durations = self._durations[self._current]
        durations.append(now - self._began)
        if len(durations) < BATCHES:
            return
        if self._current != 1:
            self._use(1)
            return
        self._use(min(self._durations, key=lambda threads: median(self._durations[threads][1:])))
        self._durations = {}
        self._compares_at = now + PERIOD_S

    def _use(self, threads: int) -> None:
        self._current = threads
        self.set_threads(threads)
