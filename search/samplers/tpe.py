"""Builds the Optuna samplers. Grid, comparison and `[[try]]` points are queues of fixed parameters, not samplers."""

import math
import sys
import warnings
from bisect import insort
from copy import copy
from typing import Literal, assert_never

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.optuna_internals import SubsetTPESampler
from search.seeds import derive
from search.storage import attr_keys

#: TPE's gamma: the good set is this share of all trials, at most `MAX_GOOD` (Optuna's default). Hyperopt's, a quarter
#: of the square root, was better on one small space and worse on seven of eleven public ones (studies/LOG.md).
MAX_GOOD, GOOD_SHARE = 25, 0.1
#: One of this number of TPE trials is drawn at random, to leave the region of early good trials. BOHB draws every third
#: trial at random (Falkner et al. 2018, https://arxiv.org/abs/1807.01774), which cost more than it gained.
RANDOM_EVERY = 10
#: Maximum number of trials in the bad set: the run time of TPE grows with it (`make bench`, bookkeeping).
MAX_BAD = 500


#: The Optuna samplers that a study may name; `evolution` is in `search.samplers.evolution`.
OptunaSampler = Literal["tpe", "nsga2", "random", "grid"]


def build(
    name: OptunaSampler, *, study_seed: int, number: int, startup_trials: int, seen: optuna.Study, draw: int = 0
) -> optuna.samplers.BaseSampler:
    """A new sampler with its own seed for trial `number`.

    Optuna's samplers keep their random state in the process: workers with one seed would draw the same points, and a
    resumed study would repeat its draws. TPE itself has no other state than the stored trials. TPE is multivariate and
    draws parameters in groups (needed for conditional spaces). It counts running trials as bad ones, which spreads
    parallel workers out (constant liar); every tenth trial is drawn at random. Bergstra et al. 2011; Watanabe 2023,
    https://arxiv.org/abs/2304.11127.

    Args:
        name: The sampler.
        study_seed: The seed of the search.
        number: The number of the trial.
        startup_trials: Random trials before TPE; the population size of NSGA-II.
        seen: The study with the trials that TPE learns from.
        draw: Number of earlier draws of this trial.
    """
    seed = derive(study_seed, number, "sampler", *((draw,) if draw else ()))
    match name:
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=max(2, startup_trials), seed=seed)
        case "random" | "grid":  # the cells of a grid are fixed parameters; nothing is drawn
            return optuna.samplers.RandomSampler(seed=seed)
        case "tpe":
            if is_random(number):
                return optuna.samplers.RandomSampler(seed=seed)
            return _tpe(number, startup_trials=startup_trials, seen=seen, seed=seed)
        case _:
            assert_never(name)


def _tpe(number: int, *, startup_trials: int, seen: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group=True, tested in test_tpe.py
        return SubsetTPESampler(
            seen,
            good=gamma(number),  # of all trials, not only those in `seen`
            n_startup_trials=startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=seed,
        )


def gamma(count: int) -> int:
    """TPE's gamma: the size of the good set of `count` trials."""
    return min(MAX_GOOD, max(1, math.ceil(GOOD_SHARE * count)))


def is_random(number: int) -> bool:
    """Whether a TPE trial is drawn at random."""
    return number % RANDOM_EVERY == RANDOM_EVERY - 1


class TrialSubset:
    """The trials of a study that TPE learns from: its good set, and a sample of the other trials.

    The good set is that of the complete study. The sample has the other trials whose numbers are multiples of a power
    of two, the smallest one that leaves at most `others` trials. It depends only on the finished trials, not on the
    process that reads them or their order. A paused trial counts as pruned at its rung. A study of at most `others`
    trials is not sampled.
    """

    def __init__(self, storage: BaseStorage, study_id: int, *, others: int = MAX_BAD, several: bool = False) -> None:
        self._storage, self._study_id, self._several = storage, study_id, several
        self._most = sys.maxsize if several else others  # a Pareto front needs all trials
        self._ranked: list[tuple[tuple[float, ...], int]] = []
        """(rank, number) of the complete, pruned and paused trials, the best first."""
        self._ranks: dict[int, tuple[float, ...]] = {}
        """The same ranks by trial number."""
        self._open: set[int] = set()
        """Numbers of the trials that had not finished at the last read."""
        self._count = 0
        """Number of trials at the last read."""

    def read(self) -> list[FrozenTrial]:
        """Read new and changed trials.

        Returns:
            The subset, ordered by number, with the unfinished trials.
        """
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        for number in self._open.union(range(self._count, len(trials))):
            self._update(trials[number])
        self._count = len(trials)
        stride = 1
        while len(trials) // stride > self._most:
            stride *= 2
        best = (number for _, number in self._ranked[:MAX_GOOD])
        subset = {*best, *(number for number in range(0, len(trials), stride) if number in self._ranks)}
        unfinished = {number for number in self._open if number not in self._ranks}
        return [as_finished(trials[number], several=self._several) for number in sorted(subset | unfinished)]

    def _update(self, trial: FrozenTrial) -> None:
        old_rank = self._ranks.pop(trial.number, None)
        if old_rank is not None:  # the trial was paused at the last read
            self._ranked.remove((old_rank, trial.number))
        view = as_finished(trial)
        if trial.state.is_finished():
            self._open.discard(trial.number)
        else:
            self._open.add(trial.number)
        if view.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        self._ranks[trial.number] = rank(view)
        insort(self._ranked, (self._ranks[trial.number], trial.number))


def as_finished(trial: FrozenTrial, *, several: bool = False) -> FrozenTrial:
    """The trial as TPE reads it: pruned if paused; for `several` objectives without its curve, where TPE raises."""
    if not is_paused(trial) and not several:
        return trial
    view = copy(trial)
    view.state = TrialState.PRUNED if is_paused(trial) else trial.state
    view.intermediate_values = {} if several else trial.intermediate_values
    return view


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung; TPE learns from its value there, and the trial may still go on."""
    return trial.state == TrialState.WAITING and trial.user_attrs.get(attr_keys.PAUSED) is not None


def rank(trial: FrozenTrial) -> tuple[float, ...]:
    """TPE's sort key of a finished trial in a study that maximises; lower is better.

    Complete trials by value, then pruned ones by last step and value there, then impossible ones by violation.
    """
    impossible = sum(violation for violation in trial.constraints.values() if violation > 0)
    if impossible > 0:
        return (2.0, impossible)
    if trial.state == TrialState.COMPLETE:
        return (0.0, -float((trial.values or [0.0])[0]))
    step, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return (1.0, -step, math.inf if math.isnan(value) else -value)
