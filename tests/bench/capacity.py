"""A model of what one server does for its workers, and so of how many it serves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from search.workers.polling import pause_s
from tests.bench.window import SEAT, Measured, percentile

FULL = 0.7
"""Of a server, or of a lock: beyond, queues grow fast."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """CPU seconds of a server for a trial, and for a look of a launcher: each a sum of three parts.

    A worker reads all trials that moved since its last one, which are as many as there are workers; a launcher all that
    run. Some queries go over all trials of the study.
    """

    trial: tuple[float, float, float]
    """Whatever the study is; for each worker; for each trial of the study."""
    look: tuple[float, float, float]
    lock_s: float
    """For which a claim keeps all others waiting, at the most: how long it takes when there are none."""

    def cores(self, workers: float, trial_s: float, size: float) -> float:
        """Of the server, that so many workers keep busy."""
        facts = (1.0, workers, size)
        trial, look = (float(np.dot(part, facts)) for part in (self.trial, self.look))
        machines = math.ceil(workers / SEAT)
        return workers / trial_s * trial + machines / pause_s(0.0, machines=machines) * look

    def max_workers(self, cores: float, trial_s: float, size: float) -> int:
        """The most workers that keep no more than `cores` busy."""
        low, high = 0, 1_000_000
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.cores(middle, trial_s, size) <= cores else (low, middle - 1)
        return low

    def most_locked(self, trial_s: float) -> int:
        """The most workers that keep the lock of their study for no more than FULL of the time."""
        return int(FULL * trial_s / self.lock_s)


def model(rows: Sequence[Measured]) -> Model:
    """Fitted to what the server did in these rows."""
    seen = [each for each in rows if each.trials and each.looks]
    alone = min(seen, key=lambda each: each.row.workers)
    return Model(
        trial=fitted(seen, lambda each: each.trial_cpu_s),
        look=fitted(seen, lambda each: each.look_cpu_s),
        lock_s=percentile(alone.calls["claim"], 50),
    )


def fitted(rows: Sequence[Measured], cost: Callable[[Measured], float]) -> tuple[float, float, float]:
    """The parts that a cost is made of, none below zero, so that the relative errors are small."""
    facts = np.array([[1.0, each.row.workers, each.size] for each in rows])
    costs = np.array([max(cost(each), 1e-9) for each in rows])
    found, _ = nnls(facts / costs[:, None], np.ones(len(rows)))
    return float(found[0]), float(found[1]), float(found[2])
