"""A model of the load of workers on one server, and of the number of workers that it serves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from search.workers.polling import pause_s
from tests.bench.window import WORKERS_PER_MACHINE, Measured, percentile

FULL = 0.7
"""Maximum utilisation of a server or of a lock; queues grow fast beyond it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """CPU seconds of a server for a trial, and for a poll of a launcher: each is a sum of three parts.

    A worker reads all trials that changed since its last trial, about one per worker; a launcher reads all running
    trials. Some queries read all trials of the study.
    """

    trial: tuple[float, float, float]
    """Constant; per worker; per trial of the study."""
    poll: tuple[float, float, float]
    lock_s: float
    """Upper limit of the time for which a claim blocks all others: its duration without other claims."""

    def cores(self, workers: float, trial_s: float, size: float) -> float:
        """Cores of the server that `workers` workers keep busy."""
        terms = (1.0, workers, size)
        trial, poll = (float(np.dot(part, terms)) for part in (self.trial, self.poll))
        machines = math.ceil(workers / WORKERS_PER_MACHINE)
        return workers / trial_s * trial + machines / pause_s(0.0, machines=machines) * poll

    def max_workers(self, cores: float, trial_s: float, size: float) -> int:
        """Maximum number of workers that keep at most `cores` busy."""
        low, high = 0, 1_000_000
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.cores(middle, trial_s, size) <= cores else (low, middle - 1)
        return low

    def most_locked(self, trial_s: float) -> int:
        """Maximum number of workers that hold the lock of their study for at most FULL of the time."""
        return int(FULL * trial_s / self.lock_s)


def model(rows: Sequence[Measured]) -> Model:
    """Fit the model to the load of the server in these rows."""
    windows = [window for window in rows if window.trials and window.polls]
    smallest = min(windows, key=lambda window: window.row.workers)
    return Model(
        trial=fitted(windows, lambda window: window.trial_cpu_s),
        poll=fitted(windows, lambda window: window.poll_cpu_s),
        lock_s=percentile(smallest.calls["claim"], 50),
    )


def fitted(rows: Sequence[Measured], cost: Callable[[Measured], float]) -> tuple[float, float, float]:
    """Fit the three non-negative parts of a cost by least squares of the relative errors."""
    terms = np.array([[1.0, window.row.workers, window.size] for window in rows])
    costs = np.array([max(cost(window), 1e-9) for window in rows])
    parts, _ = nnls(terms / costs[:, None], np.ones(len(rows)))
    return float(parts[0]), float(parts[1]), float(parts[2])
