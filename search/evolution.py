"""Sampler "evolution": a trial is one of the best until now, with a few of its parameters changed.

A random network of thirty parameters has ten that are badly chosen, and so have the ten that tpe would begin with; a
search of some tens of trials never gets rid of all. This one begins at one point, by default the network that a study
file describes which says nothing, and changes what helps. Mutation of the best: Real et al. 2019,
https://arxiv.org/abs/1802.01548; that local search is as good as any where trials are few: White et al. 2021,
https://arxiv.org/abs/2005.02960; a start at the defaults, as in SMAC: https://github.com/automl/SMAC3.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.domain import Value
from search.space import Space, sample, strip

#: Parameters that a child has changed, and how many of the best may be its parent. On made-up functions of 28
#: parameters with noise, 66 trials, three and three came first or nearly so at each level of noise (studies/LOG.md).
CHANGES, PARENTS = 3, 3
#: Trials that must have come to a step before parents are chosen by it; BOHB's rule of the highest fidelity that is
#: known well enough (Falkner et al. 2018, https://arxiv.org/abs/1807.01774).
ENOUGH = 6
#: Standard deviation of a change, as a share of a range; PriorBand has 0.25 (Mallik et al. 2023,
#: https://arxiv.org/abs/2306.12370).
SPREAD: Final = 0.25

Number = FloatDistribution | IntDistribution


class Evolution(optuna.samplers.BaseSampler):
    """The sampler of one trial, which changes one of the best trials of `seen`, or the point `start` (name -> value)
    as long as there is none; trial 0 is that point itself. `habits` are the values of parameters (key -> value) that
    the parent does not have.
    """

    def __init__(
        self,
        seen: Sequence[FrozenTrial],
        *,
        number: int,
        start: Mapping[str, Value],
        habits: Mapping[str, Value],
        seed: int,
    ) -> None:
        self._dice = random.Random(seed)
        self._habits = habits
        chosen = parents(seen)
        self._parent: Mapping[str, Any] = self._dice.choice(chosen).params if chosen else start
        count = 0 if number == 0 else min(CHANGES, len(self._parent))
        self._changed = frozenset(self._dice.sample(sorted(self._parent), count))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name not in self._parent:
            return usual(param_distribution, self._habits.get(strip(param_name)))
        value = self._parent[param_name]
        return changed(param_distribution, value, self._dice) if param_name in self._changed else value


class AtRest:
    """A trial that answers each question with the usual value, and remembers its answers."""

    def __init__(self, habits: Mapping[str, Value]) -> None:
        self.params: dict[str, Value] = {}
        self._habits = habits

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return float(self._answer(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._answer(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value | None:
        answer: Value = self._answer(name, CategoricalDistribution(choices))
        return answer

    def _answer(self, name: str, distribution: BaseDistribution) -> Any:
        self.params[name] = usual(distribution, self._habits.get(strip(name)))
        return self.params[name]


def start(space: Space, habits: Mapping[str, Value]) -> dict[str, Value]:
    """The point (Optuna name -> value) of the usual values."""
    trial = AtRest(habits)
    sample(space, trial)
    return trial.params


def parents(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The best at the highest step that enough trials have come to; where there is none, at the lowest."""
    judged = [trial for trial in trials if is_judged(trial)]
    ranked: list[FrozenTrial] = []
    for step in sorted({max(trial.intermediate_values) for trial in judged}, reverse=True):
        there = [trial for trial in judged if math.isfinite(trial.intermediate_values.get(step, math.nan))]
        ranked = sorted(there, key=lambda trial: (-trial.intermediate_values[step], trial.number))
        if len(ranked) >= ENOUGH:
            break
    return ranked[:PARENTS]


def is_judged(trial: FrozenTrial) -> bool:
    """Whether a trial has ended, or pauses, with a network that could be trained."""
    ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return ended and bool(trial.intermediate_values) and all(violation <= 0 for violation in trial.constraints.values())


def usual(distribution: BaseDistribution, habit: Value | None) -> Any:
    """The habit, if it is one of the values, else the middle of a range, or the first choice."""
    if isinstance(distribution, CategoricalDistribution):
        return habit if habit in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(habit, int | float) or not distribution.low <= habit <= distribution.high:
        return at(distribution, 0.5)
    return habit if distribution.step is None else at(distribution, share(distribution, habit))


def changed(distribution: BaseDistribution, value: Any, dice: random.Random) -> Any:
    """Another value: any other choice, or one not far away in a range."""
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if choice != value]
        return dice.choice(others)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    while True:
        place = share(distribution, value) + dice.gauss(0, SPREAD)
        if 0 <= place <= 1 and at(distribution, place) != value:
            return at(distribution, place)


def share(distribution: Number, value: float) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def at(distribution: Number, place: float) -> float | int:
    """The value at a place from 0 to 1 of a range."""
    low, high, step = distribution.low, distribution.high, distribution.step
    value = low * (high / low) ** place if distribution.log else low + (high - low) * place
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
