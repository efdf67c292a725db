"""Parameter values that go with higher scores: each value of a choice, and the upper half of a range, against all other
trials.

A trial counts with its value after the last step that every judged trial has reached, so that those that were pruned
count as well: the survivors alone show what pruning left, not what matters. The intervals hold all
together with 95 % (Welch's t, with the level of each by Bonferroni), so that where nothing matters, one study in twenty
names anything at all.

A search draws more where it has found something good, and draws parameters together. What it shows is therefore an
association; an effect is only what a whole grid shows, which has every value beside every other.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from search.analysis.intervals import CONFIDENCE, Interval, mean, welch_interval
from search.spec import stored_spec, study_spec
from search.spec.domains import Choice, Value
from search.spec.search_space import SearchSpace, resolve_name
from search.storage.records import StudyRecord, TrialRecord
from search.tables import format_number, format_value

#: Fewer trials on one side say nothing: an interval of four is wider than all that a parameter may do.
MIN_GROUP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """Some trials against the others that have drawn the same parameter."""

    parameter: str
    """As Optuna knows it: `learning_rate[sgd]` is that of trials with sgd."""
    group: str
    """`= gelu`, or `> 0.031`."""
    n: int
    others: int
    difference: float
    """Mean value of the group minus that of the others."""
    interval: Interval
    """Holds together with those of all other insights of the study."""

    @property
    def is_significant(self) -> bool:
        return not self.interval.low <= 0.0 <= self.interval.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """All of a study, the clear ones first, and what they are about."""

    found: tuple[Effect, ...]
    step: int
    """After which the trials are compared; 0 if there is none."""
    epochs: float | None
    """That is; None where a step has as many epochs as the network has compute for."""
    trials: int
    """That are compared."""
    is_designed: bool
    """A whole grid, each cell trained as long: differences are effects."""

    @property
    def significant(self) -> tuple[Effect, ...]:
        return tuple(each for each in self.found if each.is_significant)


def effects(study: StudyRecord, trials: Sequence[TrialRecord]) -> Effects:
    """Parameter values of a study that go with higher scores."""
    judged = [trial for trial in trials if trial.curve and trial.state != "FAIL" and trial.violation <= 0]
    step = min((trial.curve[-1][0] for trial in judged), default=0)
    values = {trial.number: value for trial in judged for at, value in trial.curve if at == step}
    kept = [trial for trial in judged if math.isfinite(values.get(trial.number, math.nan))]
    stored = stored_spec.restore(study.spec)
    groups = [each for each in _groups(stored.space, kept) if min(len(each.inside), len(each.outside)) >= MIN_GROUP]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(groups))
    found = [each for group in groups if (each := _insight(group, values, confidence)) is not None]
    return Effects(
        found=tuple(sorted(found, key=lambda each: (not each.is_significant, each.interval.p))),
        step=step,
        epochs=None if study.epochs is None else study.epochs * step / stored.budget.steps,
        trials=len(kept),
        is_designed=stored.search.sampler == "grid" and len(kept) == len(study_spec.fixed_trials(stored)),
    )


def sentence(found: Effect, about: Effects, *, objective: str) -> str:
    """An insight in words."""
    low, high = found.interval.low, found.interval.high
    direction = "higher" if found.difference > 0 else "lower"
    verb = "gives" if about.is_designed else "goes with"
    return (
        f"{found.parameter} {found.group} {verb} {format_number(abs(found.difference))} {direction} {objective} "
        f"({low:+.4f} to {high:+.4f}; {found.n} trials against {found.others})"
    )


def caveat(about: Effects) -> str:
    """What the insights are worth."""
    when = f"step {about.step}" if about.epochs is None else f"{about.epochs:g} epochs"
    if about.is_designed:
        return (
            f"All combinations were trained, so that these are effects, after {when}; {about.trials} trials, intervals "
            "of 95 % for all of them together."
        )
    return (
        f"Associations, not effects: the search chose what it tried. {about.trials} trials after {when}, pruned ones "
        "included; intervals of 95 % for all of them together."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    parameter: str
    group: str
    inside: tuple[int, ...]
    """Numbers of trials."""
    outside: tuple[int, ...]


def _groups(space: SearchSpace, trials: Sequence[TrialRecord]) -> list[_Group]:
    """Each value of a choice, and the upper half of a range; of what was drawn."""
    drawn: dict[str, dict[int, Value]] = defaultdict(dict)
    domains: dict[str, Any] = {}
    for trial in trials:
        for key in trial.params.keys() & space.parameters.keys():
            name, domains[name] = resolve_name(space, key, trial.config)
            drawn[name][trial.number] = trial.params[key]
    found: list[_Group] = []
    for name in sorted(drawn):
        if isinstance(domains[name], Choice):
            found += _options(name, drawn[name])
        else:
            found += _halves(name, drawn[name])
    return found


def _options(name: str, drawn: Mapping[int, Value]) -> list[_Group]:
    options = sorted(set(drawn.values()), key=str)
    if len(options) == 2:  # the one says what the other says
        options = options[1:]
    return [_group(name, f"= {format_value(option)}", drawn, partial(operator.eq, option)) for option in options]


def _halves(name: str, drawn: Mapping[int, Value]) -> list[_Group]:
    middle = median(float(value) for value in drawn.values())
    return [_group(name, f"> {format_value(middle)}", drawn, lambda value: float(value) > middle)]


def _group(name: str, words: str, drawn: Mapping[int, Value], belongs: Callable[[Any], bool]) -> _Group:
    inside = {number for number, value in drawn.items() if belongs(value)}
    return _Group(parameter=name, group=words, inside=tuple(inside), outside=tuple(drawn.keys() - inside))


def _insight(group: _Group, values: Mapping[int, float], confidence: float) -> Effect | None:
    inside, outside = ([values[number] for number in numbers] for numbers in (group.inside, group.outside))
    interval = welch_interval(inside, outside, confidence=confidence)
    if interval is None:
        return None
    return Effect(
        parameter=group.parameter,
        group=group.group,
        n=len(inside),
        others=len(outside),
        difference=mean(inside) - mean(outside),
        interval=interval,
    )
