"""How much each parameter tells of which trials are in the best tenth, and how sure that is.

PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) on complete trials, as optuna-dashboard shows it. Its
numbers are shares, which add up to 1 even where nothing matters. So each has an interval (bootstrap over the trials,
percentiles), and the study a line: what the most important parameter would reach if the values were dealt out to the
trials by chance, in 19 of 20 deals.
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
from search.storage.trial_loader import TRIALS

#: Resamples, and deals: a percentile of 200 is known to some two points. Of thousands of trials, which narrow the
#: intervals by themselves, they are fewer: this number of trials is counted in all, half a minute on one core.
RESAMPLES, MIN_TRIALS, COUNTED = 200, 50, 250_000
#: Among fewer, the best tenth is one or two trials.
LEAST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """Of one parameter, under the name that Optuna knows it by."""

    parameter: str
    share: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Importances:
    """Of all parameters of a study, the most important first."""

    found: tuple[Importance, ...]
    by_chance: float
    """What the most important one would reach by chance, in 19 of 20 studies."""
    trials: int
    """Complete ones that this is known from."""


def importances(engine: sa.Engine, name: str) -> Importances:
    """Of the parameters of a study; none where it has too few complete trials, or draws nothing."""
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        chosen = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.state == "COMPLETE")
        trials = [_first_alone(trial) for trial in frozen_trials(connection, chosen) if np.isfinite(trial.values[0])]
    return of_trials(trials)


def of_trials(trials: Sequence[FrozenTrial], *, seed: int = 0) -> Importances:
    """Of the parameters of complete trials whose first value is to be large."""
    is_level = len({trial.values[0] for trial in trials}) < 2
    if len(trials) < LEAST or is_level or not any(trial.params for trial in trials):
        return Importances(found=(), by_chance=0.0, trials=len(trials))
    dice = np.random.default_rng(seed)
    shares = _shares(trials)
    times = min(RESAMPLES, max(MIN_TRIALS, COUNTED // len(trials)))
    again = [_shares([trials[index] for index in dice.integers(len(trials), size=len(trials))]) for _ in range(times)]
    dealt = [max(_shares(_dealt(trials, dice)).values()) for _ in range(times)]
    outside = 100 * (1 - CONFIDENCE) / 2
    found = []
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        low, high = np.percentile([each.get(name, 0.0) for each in again], (outside, 100 - outside))
        found.append(Importance(parameter=name, share=share, low=float(low), high=float(high)))
    return Importances(found=tuple(found), by_chance=float(np.percentile(dealt, 100 * CONFIDENCE)), trials=len(trials))


def _first_alone(trial: FrozenTrial) -> FrozenTrial:
    """A trial with the value of its first objective alone."""
    mine = copy.copy(trial)
    mine.values = trial.values[:1]
    return mine


def _shares(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    with quiet(), warnings.catch_warnings(category=UserWarning, action="ignore"):  # that values are level
        return dict(get_param_importances(_study_of(trials), target=None))


@contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna not tell of every study that is made in memory."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _dealt(trials: Sequence[FrozenTrial], dice: np.random.Generator) -> list[FrozenTrial]:
    """The same trials with their values shuffled."""
    dealt = []
    for trial, other in zip(trials, dice.permutation(len(trials)), strict=True):
        mine = copy.copy(trial)
        mine.values = trials[other].values
        dealt.append(mine)
    return dealt


def _study_of(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """A study in memory that has just these trials."""
    storage = optuna.storages.InMemoryStorage()
    name = storage.get_study_name_from_id(storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE]))
    return SubsetStudy(name, storage, trials)
