"""Parameter importances for membership in the best tenth of trials, with intervals.

PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) on complete trials, as in optuna-dashboard. The
importances are shares that add up to 1 even if no parameter matters. Each share therefore has an interval (percentile
bootstrap over the trials). The study has a chance level: the share that the most important parameter stays below in 19
of 20 random permutations of the values.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial

from search.analysis.intervals import CONFIDENCE
from search.optuna_internals import SubsetStudy
from search.storage.queries import find_study
from search.storage.rdb_reads import frozen_trials
from search.storage.read_only import read_transaction
from search.storage.tables import TRIALS

#: Maximum and minimum number of resamples and of permutations, and maximum number of trials in all of them together
#: (half a minute on one core). A percentile of 200 is accurate to about two points; thousands of trials, whose
#: intervals are narrow anyway, get fewer.
RESAMPLES, MIN_TRIALS, COUNTED = 200, 50, 250_000
#: Minimum number of trials: the best tenth of fewer is one or two trials.
LEAST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """Importance of one parameter, under its name in Optuna."""

    parameter: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Importances:
    """Importances of all parameters of a study, the most important first."""

    importances: tuple[Importance, ...]
    by_chance: float
    """Share that the most important parameter stays below by chance, in 19 of 20 studies."""
    trials: int
    """Number of complete trials used."""


def importances(engine: sa.Engine, name: str) -> Importances:
    """Importances of the parameters of a study; empty with too few complete trials or without sampled parameters."""
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        trial_ids = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.state == "COMPLETE")
        trials = [
            _first_objective(trial) for trial in frozen_trials(connection, trial_ids) if np.isfinite(trial.values[0])
        ]
    return of_trials(trials)


def of_trials(trials: Sequence[FrozenTrial], *, seed: int = 0) -> Importances:
    """Importances of the parameters of complete trials with one value each, to be maximised."""
    is_constant = len({trial.values[0] for trial in trials}) < 2
    if len(trials) < LEAST or is_constant or not any(trial.params for trial in trials):
        return Importances(importances=(), by_chance=0.0, trials=len(trials))
    rng = np.random.default_rng(seed)
    shares = _shares(trials)
    times = min(RESAMPLES, max(MIN_TRIALS, COUNTED // len(trials)))
    resampled = [
        _shares([trials[index] for index in rng.integers(len(trials), size=len(trials))]) for _ in range(times)
    ]
    by_chance = [max(_shares(_permuted(trials, rng)).values()) for _ in range(times)]
    outside = 100 * (1 - CONFIDENCE) / 2
    rows = []
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        low, high = np.percentile([resample.get(name, 0.0) for resample in resampled], (outside, 100 - outside))
        rows.append(Importance(parameter=name, share=share, low=float(low), high=float(high)))
    return Importances(
        importances=tuple(rows), by_chance=float(np.percentile(by_chance, 100 * CONFIDENCE)), trials=len(trials)
    )


def _first_objective(trial: FrozenTrial) -> FrozenTrial:
    """Copy of a trial with only the value of its first objective."""
    copied = copy.copy(trial)
    copied.values = trial.values[:1]
    return copied


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    with quiet(), warnings.catch_warnings(category=UserWarning, action="ignore"):  # all values are equal
        return dict(get_param_importances(_study_of(trials), target=None))


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the log messages of Optuna about studies in memory."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _permuted(trials: Sequence[FrozenTrial], rng: np.random.Generator) -> list[FrozenTrial]:
    """The same trials with their values shuffled."""
    permuted = []
    for trial, source in zip(trials, rng.permutation(len(trials)), strict=True):
        copied = copy.copy(trial)
        copied.values = trials[source].values
        permuted.append(copied)
    return permuted


def _study_of(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """In-memory study with exactly these trials."""
    storage = optuna.storages.InMemoryStorage()
    name = storage.get_study_name_from_id(storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE]))
    return SubsetStudy(name, storage, trials)
