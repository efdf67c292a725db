"""Sampler "evolution": a trial is the best one until now, with the changes that promise most.

A random network of thirty parameters has ten that are badly chosen, and so have the ten that tpe would begin with; a
search of some tens of trials never gets rid of all. This one begins at one point, by default the network that a study
file describes which says nothing, and changes what helps. That local search is as good as any where trials are few:
White et al. 2021, https://arxiv.org/abs/2005.02960; mutation of the best: Real et al. 2019,
https://arxiv.org/abs/1802.01548; a start at the defaults, as in SMAC: https://github.com/automl/SMAC3. Which changes
promise most is guessed as in Thompson sampling (Chapelle and Li 2011, https://papers.nips.cc/paper/4321): what the
trials with a value came to, and the less is known the bolder.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.spec.domains import Value
from search.spec.search_space import SearchSpace, base_name, sample

#: Parameters that a child has changed, where that is no more than half of them. On made-up functions of 28 parameters
#: two were better with little noise, four with much (studies/LOG.md).
CHANGES: Final = 3
#: Attempts to draw a configuration that was not tried before; then the space is small enough to have been seen nearly
#: whole, and duplicates are accepted.
MAX_DRAWS: Final = 50
#: What the values of a trial that diverged have come to, in standard deviations: one in forty is so bad.
DIVERGED_SCORE: Final = -2.0
#: Trials that must have come to a step before the best is chosen by it; BOHB's rule of the highest fidelity that is
#: known well enough (Falkner et al. 2018, https://arxiv.org/abs/1807.01774).
MIN_TRIALS_AT_STEP: Final = 6
#: Standard deviation of a change, as a share of a range; PriorBand has 0.25 (Mallik et al. 2023,
#: https://arxiv.org/abs/2306.12370).
MUTATION_SD: Final = 0.25
#: Width of the kernel over a range, as a share of it: a value at this distance weighs e**-0.5.
KERNEL_WIDTH: Final = 0.1
#: Prior weight: an unseen value counts as this number of trials with score 0.
PRIOR_WEIGHT: Final = 2
#: Changes of a range that are looked at, where a choice has all its other values.
NUMERIC_CANDIDATES: Final = 2

Number = FloatDistribution | IntDistribution


@dataclass(frozen=True, slots=True)
class Point:
    """Values by Optuna name, and what each may be."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class IndependentSampler(optuna.samplers.BaseSampler):
    """A sampler that answers for one parameter after the other."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class EvolutionSampler(IndependentSampler):
    """The sampler of one trial, which changes the best trial of `seen`, or `start` as long as there is none.

    Trial 0 is that point itself. A parameter that the parent lacks, such as the learning rate of another optimizer, is
    taken from the parent's parameter of the same base name, otherwise from `habits` (key -> value).
    """

    def __init__(
        self, seen: Sequence[FrozenTrial], *, number: int, start: Point, habits: Mapping[str, Value], seed: int
    ) -> None:
        dice = random.Random(seed)
        best = None if number == 0 else best_of([trial for trial in seen if is_judged(trial)])
        parent = start if best is None else Point(best.params, best.distributions)
        self._values = dict(parent.params) if number == 0 else child_of(parent, Effects(seen, dice), dice)
        self._habits = {**habits, **{base_name(name): value for name, value in parent.params.items()}}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._values:
            return self._values[param_name]
        return default_value(param_distribution, self._habits.get(base_name(param_name)))


class FixedSampler(IndependentSampler):
    """The sampler of a trial whose values are given by key; one that cannot be takes the usual value in its place."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return default_value(param_distribution, self._values.get(base_name(param_name)))


class Effects:
    """What a parameter's value is good for, as far as the trials that had it tell."""

    def __init__(self, seen: Sequence[FrozenTrial], dice: random.Random) -> None:
        self._dice = dice
        self._seen = [trial.params for trial in seen if trial.params]
        judged = [trial for trial in seen if is_judged(trial)]
        first = min((max(trial.intermediate_values) for trial in judged), default=0)
        there = [(trial, trial.intermediate_values.get(first, math.nan)) for trial in judged]
        there = [(trial, value) for trial, value in there if math.isfinite(value)]
        values = [value for _, value in there] or [0.0]
        mean, spread = fmean(values), pstdev(values) or 1.0
        self._scores = [(trial.params, (value - mean) / spread) for trial, value in there]
        """Of each trial that has come to the first rung: in standard deviations there."""
        self._scores += [(trial.params, DIVERGED_SCORE) for trial in seen if is_impossible(trial) and was_begun(trial)]

    def is_known(self, params: Mapping[str, Any]) -> bool:
        """Whether there is a trial of these values, as far as it has the same parameters, in whatever state."""
        return any(all(params[name] == value for name, value in each.items() if name in params) for each in self._seen)

    def guess(self, name: str, distribution: BaseDistribution, value: Any) -> float:
        """One draw from what is believed of a value: a normal distribution around what its trials have scored."""
        told = [(kernel(distribution, value, params[name]), score) for params, score in self._scores if name in params]
        count = PRIOR_WEIGHT + sum(weight for weight, _ in told)
        return self._dice.gauss(sum(weight * score for weight, score in told) / count, 1 / math.sqrt(count))


class DefaultsTrial:
    """A trial that answers each question with the usual value, and remembers its answers."""

    def __init__(self, habits: Mapping[str, Value]) -> None:
        self.params: dict[str, Value] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._habits = habits

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return float(self._answer(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._answer(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value | None:
        answer: Value = self._answer(name, CategoricalDistribution(choices))
        return answer

    def _answer(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        self.params[name] = default_value(distribution, self._habits.get(base_name(name)))
        return self.params[name]


def default_point(space: SearchSpace, habits: Mapping[str, Value]) -> Point:
    """The point of the usual values."""
    trial = DefaultsTrial(habits)
    sample(space, trial)
    return Point(trial.params, trial.distributions)


def best_of(judged: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best at the highest step that enough trials have come to; where there is none, at the lowest."""
    best = None
    for step in sorted({max(trial.intermediate_values) for trial in judged}, reverse=True):
        there = [trial for trial in judged if math.isfinite(trial.intermediate_values.get(step, math.nan))]
        best = max(there, key=lambda trial: (trial.intermediate_values[step], -trial.number), default=None)
        if len(there) >= MIN_TRIALS_AT_STEP:
            break
    return best


def child_of(parent: Point, effects: Effects, dice: random.Random) -> dict[str, Any]:
    """The values of a parent with some changes; if it can be had, such as no trial has."""
    count = min(CHANGES, max(1, len(parent.distributions) // 2))
    for _ in range(MAX_DRAWS):
        child = {**parent.params, **changes(parent, effects, dice, count=count)}
        if not effects.is_known(child):
            break
        count = dice.randint(1, max(1, len(parent.distributions)))
    return child


def changes(parent: Point, effects: Effects, dice: random.Random, *, count: int) -> dict[str, Any]:
    """The `count` parameters of a parent that promise most from a change, each with its new value."""
    promises: list[tuple[float, str, Any]] = []
    for name, distribution in parent.distributions.items():
        own = effects.guess(name, distribution, parent.params[name])
        for value in candidates(distribution, parent.params[name], dice):
            promises.append((effects.guess(name, distribution, value) - own, name, value))
    best: dict[str, Any] = {}
    for _, name, value in sorted(promises, key=lambda promise: -promise[0]):
        if len(best) == count:
            break
        best.setdefault(name, value)
    return best


def is_judged(trial: FrozenTrial) -> bool:
    """Whether a trial has ended, or pauses, with a network that could be trained."""
    ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return ended and bool(trial.intermediate_values) and not is_impossible(trial)


def is_impossible(trial: FrozenTrial) -> bool:
    """Whether a trial has a network that cannot be trained."""
    return any(violation > 0 for violation in trial.constraints.values())


def was_begun(trial: FrozenTrial) -> bool:
    """Whether a trial's network was built. One that is too large was not, which says nothing against its values: blamed
    for it, they would keep a search from networks that are just small enough (studies/LOG.md).
    """
    return "macs" in trial.user_attrs


def default_value(distribution: BaseDistribution, habit: Value | None) -> Any:
    """The habit, if it is one of the values, else the middle of a range, or the first choice."""
    if isinstance(distribution, CategoricalDistribution):
        return habit if habit in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(habit, int | float) or not distribution.low <= habit <= distribution.high:
        return from_unit(distribution, 0.5)
    return habit if distribution.step is None else from_unit(distribution, to_unit(distribution, habit))


def candidates(distribution: BaseDistribution, value: Any, dice: random.Random) -> list[Any]:
    """Other values: of a choice all, of a range some that are not far away."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if choice != value]
    return [_moved(distribution, value, dice) for _ in range(NUMERIC_CANDIDATES)]


def _moved(distribution: BaseDistribution, value: float, dice: random.Random) -> float | int:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    while True:
        place = to_unit(distribution, value) + dice.gauss(0, MUTATION_SD)
        if 0 <= place <= 1 and from_unit(distribution, place) != from_unit(distribution, to_unit(distribution, value)):
            return from_unit(distribution, place)


def kernel(distribution: BaseDistribution, first: Any, second: Any) -> float:
    """How much a trial with one value tells of another one, from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        return float(first == second)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return math.exp(-(((to_unit(distribution, first) - to_unit(distribution, second)) / KERNEL_WIDTH) ** 2) / 2)


def to_unit(distribution: Number, value: float) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def from_unit(distribution: Number, place: float) -> float | int:
    """The value at a place from 0 to 1 of a range."""
    low, high, step = distribution.low, distribution.high, distribution.step
    value = low * (high / low) ** place if distribution.log else low + (high - low) * place
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
