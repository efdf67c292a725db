"""How the next trial is drawn. Grid, comparison and `[[try]]` points are queues of fixed parameters, not samplers."""

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
from search.storage.records import PAUSED

#: TPE's gamma: the good set is this share of all trials, and `MAX_GOOD` at the most (Optuna's default). Hyperopt's, a
#: quarter of their root, was better on one small space, and worse on seven of eleven public ones (studies/LOG.md).
MAX_GOOD, GOOD_SHARE = 25, 0.1
#: One of this number of its trials is drawn at random, so that it cannot stay for ever around what was good early; BOHB
#: draws every third so (Falkner et al. 2018, https://arxiv.org/abs/1807.01774), which cost more than it gained.
RANDOM_EVERY = 10
#: Trials of the bad set that it learns from, at the most: its arithmetic grows with them (`make bench`, bookkeeping).
MAX_BAD = 500


#: The samplers of Optuna that a study may name; evolution is our own.
OptunaSampler = Literal["tpe", "nsga2", "random", "grid"]


def build(
    name: OptunaSampler, *, study_seed: int, number: int, startup_trials: int, seen: optuna.Study, draw: int = 0
) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number`: a fresh one for each trial, with a seed of its own. What it learns from is `seen`.
    `draw` counts how often the trial was drawn before.

    Optuna's samplers carry their random state in the process, so that workers with one seed draw the same points, and a
    resumed study repeats itself; all that TPE has learnt is in the stored trials. TPE is multivariate, with groups of
    parameters that are drawn together (conditional spaces need that), and counts running trials as bad ones so that
    parallel workers spread out (constant liar); every tenth trial is drawn at random. Bergstra et al. 2011; Watanabe
    2023, https://arxiv.org/abs/2304.11127.
    """
    seed = derive(study_seed, number, "sampler", *((draw,) if draw else ()))
    match name:
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=max(2, startup_trials), seed=seed)
        case "random" | "grid":  # the cells of a grid are given, so that nothing is drawn
            return optuna.samplers.RandomSampler(seed=seed)
        case "tpe":
            if is_random(number):
                return optuna.samplers.RandomSampler(seed=seed)
            return _tpe(number, startup_trials=startup_trials, seen=seen, seed=seed)
        case _:
            assert_never(name)


def _tpe(number: int, *, startup_trials: int, seen: optuna.Study, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group=True, tested in test_sampler.py
        return SubsetTPESampler(
            seen,
            good=gamma(number),  # of the whole study, however much of it is seen
            n_startup_trials=startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=seed,
        )


def gamma(count: int) -> int:
    """TPE's gamma: the size of its good set, of `number` trials."""
    return min(MAX_GOOD, max(1, math.ceil(GOOD_SHARE * count)))


def is_random(number: int) -> bool:
    """Whether a trial of tpe is one of those that are drawn at random, whatever is known."""
    return number % RANDOM_EVERY == RANDOM_EVERY - 1


class TrialSubset:
    """The trials of a study that tpe learns from: those that it takes for good ones, and of the others some.

    The good ones are the same as in the whole study. Of the others it has those whose numbers are multiples of 1, 2, 4,
    8, ..., so that they are at most `others`; which ones depends on the finished trials alone, in whatever order and by
    whichever process they were read. A trial that pauses is seen as one that was pruned there. A study of no more than
    `others` trials is seen whole.
    """

    def __init__(self, storage: BaseStorage, study_id: int, *, others: int = MAX_BAD, several: bool = False) -> None:
        self._storage, self._study_id, self._several = storage, study_id, several
        self._most = sys.maxsize if several else others  # only the whole study tells which trials are on a Pareto front
        self._ranked: list[tuple[tuple[float, ...], int]] = []
        """(rank, number) of the trials to learn from, the best first."""
        self._ranks: dict[int, tuple[float, ...]] = {}
        """The same by number."""
        self._open: set[int] = set()
        """Numbers of trials that had not finished when they were last looked at."""
        self._count = 0
        """Trials that were looked at."""

    def read(self) -> list[FrozenTrial]:
        """Read what is new, and return the excerpt by number, with the trials that are at work."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        for number in self._open.union(range(self._count, len(trials))):
            self._look_at(trials[number])
        self._count = len(trials)
        stride = 1
        while len(trials) // stride > self._most:
            stride *= 2
        best = (number for _, number in self._ranked[:MAX_GOOD])
        shown = {*best, *(number for number in range(0, len(trials), stride) if number in self._ranks)}
        at_work = {number for number in self._open if number not in self._ranks}
        return [as_finished(trials[number], several=self._several) for number in sorted(shown | at_work)]

    def _look_at(self, trial: FrozenTrial) -> None:
        known = self._ranks.pop(trial.number, None)
        if known is not None:  # it paused when it was last looked at
            self._ranked.remove((known, trial.number))
        learnt = as_finished(trial)
        if trial.state.is_finished():
            self._open.discard(trial.number)
        else:
            self._open.add(trial.number)
        if learnt.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        self._ranks[trial.number] = rank(learnt)
        insort(self._ranked, (self._ranks[trial.number], trial.number))


def as_finished(trial: FrozenTrial, *, several: bool = False) -> FrozenTrial:
    """A trial as tpe is to see it; with `several` objectives it cannot rank pruned ones by their curves, and raises."""
    if not is_paused(trial) and not several:
        return trial
    learnt = copy(trial)
    learnt.state = TrialState.PRUNED if is_paused(trial) else trial.state
    learnt.intermediate_values = {} if several else trial.intermediate_values
    return learnt


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung: what it came to there is what tpe can learn from it, and it may go on."""
    return trial.state == TrialState.WAITING and trial.user_attrs.get(PAUSED) is not None


def rank(trial: FrozenTrial) -> tuple[float, ...]:
    """Where tpe ranks a finished trial of a study that maximises; a lower one is better.

    Complete ones by their value, then pruned ones by how far they came and their value there, then impossible ones.
    """
    impossible = sum(violation for violation in trial.constraints.values() if violation > 0)
    if impossible > 0:
        return (2.0, impossible)
    if trial.state == TrialState.COMPLETE:
        return (0.0, -float((trial.values or [0.0])[0]))
    step, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
    return (1.0, -step, math.inf if math.isnan(value) else -value)
