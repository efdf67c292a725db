"""Sampler "evolution": a trial is the best trial until now with its most promising changes.

A random network of thirty parameters has ten badly chosen ones, and so has each of the ten networks that tpe begins
with; a search of some tens of trials never repairs them all. This sampler begins at one point, by default the network
of an empty study file, and makes changes that help. With few trials local search is as good as any other method: White
et al. 2021, https://arxiv.org/abs/2005.02960; mutation of the best: Real et al. 2019, https://arxiv.org/abs/1802.01548;
a start at the defaults, as in SMAC: https://github.com/automl/SMAC3. The promise of a change is estimated by Thompson
sampling (Chapelle and Li 2011, https://papers.nips.cc/paper/4321) from the scores of the trials with that value; fewer
trials mean a wider distribution.
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

from search.spec.domains import OneOf, Value
from search.spec.search_space import SearchSpace, base_name, one_of_domains, sample

#: Parameters changed in a child, at most half of all. On synthetic functions of 28 parameters two were better with
#: little noise, four with much noise (studies/LOG.md).
CHANGES: Final = 3
#: Attempts to draw a configuration that was not tried before; a space where all of them fail is nearly exhausted, and
#: duplicates are accepted.
MAX_DRAWS: Final = 50
#: Score of a diverged trial, in standard deviations: one trial in forty is this bad.
DIVERGED_SCORE: Final = -2.0
#: Minimum number of trials at a step before the best trial is chosen by it; BOHB's rule of the highest fidelity with
#: enough observations (Falkner et al. 2018, https://arxiv.org/abs/1807.01774).
MIN_TRIALS_AT_STEP: Final = 6
#: Standard deviation of a change, as a share of a range; PriorBand has 0.25 (Mallik et al. 2023,
#: https://arxiv.org/abs/2306.12370).
MUTATION_SD: Final = 0.25
#: Width of the kernel over a range, as a share of it: a value at this distance weighs e**-0.5.
KERNEL_WIDTH: Final = 0.1
#: Prior weight: an unseen value counts as this number of trials with score 0.
PRIOR_WEIGHT: Final = 2
#: Candidate values for a numeric parameter; a categorical one has all its other choices.
NUMERIC_CANDIDATES: Final = 2

Number = FloatDistribution | IntDistribution
#: No list of values and ranges: most spaces have none.
EMPTY: Final[Mapping[str, OneOf]] = {}


@dataclass(frozen=True, slots=True)
class Point:
    """Values by Optuna name, each with its distribution."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class IndependentSampler(optuna.samplers.BaseSampler):
    """A sampler that draws each parameter independently."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class EvolutionSampler(IndependentSampler):
    """The sampler of one trial; it changes the best trial of `seen`, or `start` while `seen` has no judged trial.

    Trial 0 is `start` itself. A parameter that the parent lacks, such as the learning rate of another optimizer, has
    the parent's value of the same base name, otherwise that of `defaults` (key -> value).
    """

    def __init__(
        self,
        seen: Sequence[FrozenTrial],
        *,
        number: int,
        start: Point,
        defaults: Mapping[str, Value],
        seed: int,
        one_ofs: Mapping[str, OneOf] = EMPTY,
    ) -> None:
        rng = random.Random(seed)
        best = None if number == 0 else best_of([trial for trial in seen if is_judged(trial)])
        parent = start if best is None else Point(best.params, best.distributions)
        self._values = dict(parent.params) if number == 0 else child_of(parent, Effects(seen, rng), rng)
        # The option of a list with ranges is no value for a range: with zero in the parent, the default is.
        inherited = {base_name(name): value for name, value in parent.params.items() if name not in one_ofs}
        self._defaults = {**defaults, **inherited}
        self._one_ofs = one_ofs

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._values:
            return self._values[param_name]
        return default_value(param_distribution, usual_value(param_name, self._defaults, self._one_ofs))


class FixedSampler(IndependentSampler):
    """The sampler of a trial with given values by key; a value outside its distribution is replaced by the default."""

    def __init__(self, values: Mapping[str, Value], one_ofs: Mapping[str, OneOf] = EMPTY) -> None:
        self._values, self._one_ofs = values, one_ofs

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return default_value(param_distribution, usual_value(param_name, self._values, self._one_ofs))


class Effects:
    """Estimates the score of a parameter value from the trials that had it."""

    def __init__(self, seen: Sequence[FrozenTrial], rng: random.Random) -> None:
        self._rng = rng
        self._seen = [trial.params for trial in seen if trial.params]
        judged = [trial for trial in seen if is_judged(trial)]
        first_rung = min((max(trial.intermediate_values) for trial in judged), default=0)
        at_rung = [(trial, trial.intermediate_values.get(first_rung, math.nan)) for trial in judged]
        at_rung = [(trial, value) for trial, value in at_rung if math.isfinite(value)]
        values = [value for _, value in at_rung] or [0.0]
        mean, spread = fmean(values), pstdev(values) or 1.0
        self._scores = [(trial.params, (value - mean) / spread) for trial, value in at_rung]
        """(parameters, score) of each trial that reached the first rung; the score in standard deviations there."""
        self._scores += [(trial.params, DIVERGED_SCORE) for trial in seen if is_impossible(trial) and was_begun(trial)]

    def is_known(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial, in any state, has the same values for all shared parameters."""
        return any(all(params[name] == value for name, value in seen.items() if name in params) for seen in self._seen)

    def guess(self, name: str, distribution: BaseDistribution, value: Any) -> float:
        """One draw from the posterior of a value: a normal distribution around the mean score of its trials."""
        weighted = [
            (kernel(distribution, value, params[name]), score) for params, score in self._scores if name in params
        ]
        count = PRIOR_WEIGHT + sum(weight for weight, _ in weighted)
        return self._rng.gauss(sum(weight * score for weight, score in weighted) / count, 1 / math.sqrt(count))


class DefaultsTrial:
    """A trial that suggests the default of each parameter, and records its suggestions."""

    def __init__(self, defaults: Mapping[str, Value], one_ofs: Mapping[str, OneOf] = EMPTY) -> None:
        self.params: dict[str, Value] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._defaults, self._one_ofs = defaults, one_ofs

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return float(self._default(name, FloatDistribution(low, high, step=step, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._default(name, IntDistribution(low, high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value | None:
        value: Value = self._default(name, CategoricalDistribution(choices))
        return value

    def _default(self, name: str, distribution: BaseDistribution) -> Any:
        self.distributions[name] = distribution
        self.params[name] = default_value(distribution, usual_value(name, self._defaults, self._one_ofs))
        return self.params[name]


def default_point(space: SearchSpace, defaults: Mapping[str, Value]) -> Point:
    """The point of the default values."""
    trial = DefaultsTrial(defaults, one_of_domains(space))
    sample(space, trial)
    return Point(trial.params, trial.distributions)


def default_values(space: SearchSpace, defaults: Mapping[str, Value]) -> dict[str, Value]:
    """The default values by key, each inside its domain."""
    return sample(space, DefaultsTrial(defaults, one_of_domains(space)))


def usual_value(name: str, values: Mapping[str, Value], one_ofs: Mapping[str, OneOf]) -> Value | None:
    """The value of an Optuna parameter that goes with values by key; for a list with ranges, the option of the value.

    Args:
        name: Name of the parameter in Optuna.
        values: Values by key.
        one_ofs: The lists of values and ranges by Optuna name.
    """
    value = values.get(base_name(name))
    return value if value is None or name not in one_ofs else one_ofs[name].option_of(value)


def best_of(judged: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best trial at the highest step that enough trials have reached; if there is no such step, at the lowest."""
    best = None
    for step in sorted({max(trial.intermediate_values) for trial in judged}, reverse=True):
        reached = [trial for trial in judged if math.isfinite(trial.intermediate_values.get(step, math.nan))]
        best = max(reached, key=lambda trial: (trial.intermediate_values[step], -trial.number), default=None)
        if len(reached) >= MIN_TRIALS_AT_STEP:
            break
    return best


def child_of(parent: Point, effects: Effects, rng: random.Random) -> dict[str, Any]:
    """The values of a parent with some changes; if possible a combination that no trial has."""
    count = min(CHANGES, max(1, len(parent.distributions) // 2))
    for _ in range(MAX_DRAWS):
        child = {**parent.params, **changes(parent, effects, rng, count=count)}
        if not effects.is_known(child):
            break
        count = rng.randint(1, max(1, len(parent.distributions)))
    return child


def changes(parent: Point, effects: Effects, rng: random.Random, *, count: int) -> dict[str, Any]:
    """The `count` most promising changes of a parent: parameter name -> new value."""
    promises: list[tuple[float, str, Any]] = []
    for name, distribution in parent.distributions.items():
        current = effects.guess(name, distribution, parent.params[name])
        for value in candidates(distribution, parent.params[name], rng):
            promises.append((effects.guess(name, distribution, value) - current, name, value))
    best: dict[str, Any] = {}
    for _, name, value in sorted(promises, key=lambda promise: -promise[0]):
        if len(best) == count:
            break
        best.setdefault(name, value)
    return best


def is_judged(trial: FrozenTrial) -> bool:
    """Whether a trial has ended, or is paused, with a network that could be trained."""
    has_ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return has_ended and bool(trial.intermediate_values) and not is_impossible(trial)


def is_impossible(trial: FrozenTrial) -> bool:
    """Whether the network of a trial cannot be trained."""
    return any(violation > 0 for violation in trial.constraints.values())


def was_begun(trial: FrozenTrial) -> bool:
    """Whether the network of a trial was built. A network above the size limits is not, and does not count against its
    values: they would keep a search from networks that are just small enough (studies/LOG.md).
    """
    return "macs" in trial.user_attrs


def default_value(distribution: BaseDistribution, habit: Value | None) -> Any:
    """The habit, if the distribution contains it; otherwise the middle of a range, or the first choice."""
    if isinstance(distribution, CategoricalDistribution):
        return habit if habit in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(habit, int | float) or not distribution.low <= habit <= distribution.high:
        return from_unit(distribution, 0.5)
    return habit if distribution.step is None else from_unit(distribution, to_unit(distribution, habit))


def candidates(distribution: BaseDistribution, value: Any, rng: random.Random) -> list[Any]:
    """Other values to try: all other choices of a categorical parameter, some nearby values of a numeric one."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if choice != value]
    return [_mutated(distribution, value, rng) for _ in range(NUMERIC_CANDIDATES)]


def _mutated(distribution: BaseDistribution, value: float, rng: random.Random) -> float | int:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    while True:
        position = to_unit(distribution, value) + rng.gauss(0, MUTATION_SD)
        if 0 <= position <= 1 and from_unit(distribution, position) != from_unit(
            distribution, to_unit(distribution, value)
        ):
            return from_unit(distribution, position)


def kernel(distribution: BaseDistribution, first: Any, second: Any) -> float:
    """The weight of a trial with one value in the estimate of another value, from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        return float(first == second)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return math.exp(-(((to_unit(distribution, first) - to_unit(distribution, second)) / KERNEL_WIDTH) ** 2) / 2)


def to_unit(distribution: Number, value: float) -> float:
    """The position of a value in its range, from 0 to 1."""
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def from_unit(distribution: Number, position: float) -> float | int:
    """The value at a position from 0 to 1 of a range."""
    low, high, step = distribution.low, distribution.high, distribution.step
    value = low * (high / low) ** position if distribution.log else low + (high - low) * position
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
