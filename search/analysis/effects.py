"""Parameter values associated with higher scores: each option of a choice, and the upper half of a range.

Each group is compared with all other trials, at the last step that every judged trial has reached. Pruned trials
therefore count as well: the survivors alone show what pruning left, not what matters. The intervals hold jointly at
95 % (Welch's t, Bonferroni-adjusted level): if nothing matters, one study in twenty reports a parameter.

A search samples more often where scores are high, and it samples parameters jointly. Its differences are therefore
associations. Only a complete grid, which combines each value with every other, shows effects.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any

from search.analysis.intervals import CONFIDENCE, Interval, welch_interval
from search.spec import stored_spec, study_spec
from search.spec.domains import Choice, OneOf, Value, to_params
from search.spec.search_space import SearchSpace, resolve_name
from search.storage.records import StudyRecord, TrialRecord
from search.tables import format_number, format_value

#: Minimum number of trials on each side: the interval of four trials is wider than the effect of any parameter.
MIN_GROUP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A group of trials, compared with the other trials that have the same parameter."""

    parameter: str
    """Name of the parameter in Optuna: `learning_rate[sgd]` is the learning rate of trials with sgd."""
    group: str
    """`= gelu`, or `> 0.031`."""
    n: int
    others: int
    difference: float
    """Mean value of the group minus the mean of the others."""
    interval: Interval
    """Holds jointly with the intervals of all other effects of the study."""

    @property
    def is_significant(self) -> bool:
        return not self.interval.low <= 0.0 <= self.interval.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """All effects of a study, significant ones first, and the trials that they are computed from."""

    effects: tuple[Effect, ...]
    step: int
    """Step at which the trials are compared; 0 if there is none."""
    epochs: float | None
    """Epochs at `step`; None if the epochs of a step depend on the compute of the network."""
    trials: int
    """Number of trials compared."""
    is_designed: bool
    """Whether the trials are a complete grid, trained equally long: differences are then effects."""

    @property
    def significant(self) -> tuple[Effect, ...]:
        return tuple(effect for effect in self.effects if effect.is_significant)


def effects(study: StudyRecord, trials: Sequence[TrialRecord]) -> Effects:
    """Computes the association of each parameter value with the score.

    Args:
        study: The study, whose stored spec gives the search space.
        trials: Its trials, in any state.
    """
    judged = [trial for trial in trials if trial.curve and trial.state != "FAIL" and trial.violation <= 0]
    step = min((trial.curve[-1][0] for trial in judged), default=0)
    values = {trial.number: value for trial in judged for at, value in trial.curve if at == step}
    kept = [trial for trial in judged if math.isfinite(values.get(trial.number, math.nan))]
    stored = stored_spec.restore(study.spec)
    groups = [group for group in _groups(stored.space, kept) if min(len(group.inside), len(group.outside)) >= MIN_GROUP]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(groups))
    effects = [effect for group in groups if (effect := _effect(group, values, confidence)) is not None]
    return Effects(
        effects=tuple(sorted(effects, key=lambda effect: (not effect.is_significant, effect.interval.p))),
        step=step,
        epochs=None if study.epochs is None else study.epochs * step / stored.budget.steps,
        trials=len(kept),
        is_designed=stored.search.sampler == "grid" and len(kept) == len(study_spec.fixed_trials(stored)),
    )


def sentence(effect: Effect, study_effects: Effects, *, objective: str) -> str:
    """Describes an effect in words. `study_effects`: all effects of the same study."""
    low, high = effect.interval.low, effect.interval.high
    direction = "higher" if effect.difference > 0 else "lower"
    verb = "gives" if study_effects.is_designed else "goes with"
    return (
        f"{effect.parameter} {effect.group} {verb} {format_number(abs(effect.difference))} {direction} {objective} "
        f"({low:+.4f} to {high:+.4f}; {effect.n} trials against {effect.others})"
    )


def caveat(study_effects: Effects) -> str:
    """Describes the trials behind the effects, and whether they show effects or associations."""
    when = f"step {study_effects.step}" if study_effects.epochs is None else f"{study_effects.epochs:g} epochs"
    if study_effects.is_designed:
        return (
            f"All combinations were trained, so these are effects, after {when}; {study_effects.trials} trials, joint "
            "95 % intervals."
        )
    return (
        f"Associations, not effects: the search chose the values that it tried. {study_effects.trials} trials after "
        f"{when}, pruned ones included; joint 95 % intervals."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    parameter: str
    group: str
    inside: tuple[int, ...]
    """Trial numbers."""
    outside: tuple[int, ...]


def _groups(space: SearchSpace, trials: Sequence[TrialRecord]) -> list[_Group]:
    """Groups of the sampled values: each option of a choice, and the upper half of a range."""
    drawn: dict[str, dict[int, Value]] = defaultdict(dict)
    choices: set[str] = set()
    for trial in trials:
        for key in trial.params.keys() & space.parameters.keys():
            name, domain = resolve_name(space, key, trial.config)
            if isinstance(domain, Choice | OneOf):
                choices.add(name)
            for part, value in to_params(domain, name, trial.params[key]).items():
                drawn[part][trial.number] = value
    groups: list[_Group] = []
    for name in sorted(drawn):
        if name in choices:
            groups += _options(name, drawn[name])
        else:
            groups += _halves(name, drawn[name])
    return groups


def _options(name: str, drawn: Mapping[int, Value]) -> list[_Group]:
    options = sorted(set(drawn.values()), key=str)
    if len(options) == 2:  # the effect of one option is the negative of the other
        options = options[1:]
    return [_group(name, f"= {format_value(option)}", drawn, partial(operator.eq, option)) for option in options]


def _halves(name: str, drawn: Mapping[int, Value]) -> list[_Group]:
    middle = median(float(value) for value in drawn.values())
    return [_group(name, f"> {format_value(middle)}", drawn, lambda value: float(value) > middle)]


def _group(name: str, label: str, drawn: Mapping[int, Value], belongs: Callable[[Any], bool]) -> _Group:
    inside = {number for number, value in drawn.items() if belongs(value)}
    return _Group(parameter=name, group=label, inside=tuple(inside), outside=tuple(drawn.keys() - inside))


def _effect(group: _Group, values: Mapping[int, float], confidence: float) -> Effect | None:
    inside, outside = ([values[number] for number in numbers] for numbers in (group.inside, group.outside))
    interval = welch_interval(inside, outside, confidence=confidence)
    if interval is None:
        return None
    return Effect(
        parameter=group.parameter,
        group=group.group,
        n=len(inside),
        others=len(outside),
        difference=fmean(inside) - fmean(outside),
        interval=interval,
    )
