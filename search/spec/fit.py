"""Whether a configuration can be trained in a study at all, and if not, the nearest one that can.

A network has to fit its images (each pooling halves them), a batch the images of a step, and both the limits of
[budget]. Only values that [space] allows are taken, with two exceptions: a batch is never more than the images there
are, whatever [space] offers; and what a study file leaves out is at a default that nobody has asked for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from models.config import SMALLER, Impossible
from models.plan import Plan, check_batch_size, check_optimizer, plan
from search.errors import SpecError
from search.spec.domains import Choice, Domain, Fixed, Float, Int, Value
from search.spec.parameters import DEFAULTS, check
from search.spec.search_space import irrelevance_reason, resolve_name
from search.spec.study_spec import StudySpec, to_model_configs
from search.spec.toml_table import to_toml

#: Values that are changed one after the other until a network fits: more than the steps of any shipped space.
MAX_CHANGES = 200
#: A number without steps, as a growth between 1.5 and 2, is changed by this factor at a time.
FACTOR = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """What the images of a search allow."""

    side: int
    """Pixels."""
    classes: int
    images: int
    """For training."""


def check_fit(spec: StudySpec, values: Mapping[str, Value], limits: ImageLimits) -> Plan:
    """The layers that a flat configuration asks for.

    Raises:
        Impossible: they do not fit together, the images, or the budget of a trial.
    """
    model, train, _ = to_model_configs(spec, values)
    shape = plan(model, image_size=limits.side, classes=limits.classes)
    for name, limit in (("parameters", spec.budget.max_parameters), ("macs", spec.budget.max_macs)):
        asked = getattr(shape, name)
        if limit is not None and asked > limit:
            raise Impossible(f"{asked:,} {name} are more than [budget] max_{name} = {limit:,}", lower=SMALLER)
    check_optimizer(model, train.optimizer)
    check_batch_size(model, train.batch_size, image_size=limits.side, classes=limits.classes)
    most = _largest_batch(spec, limits, macs=shape.macs)
    if train.batch_size > most:
        raise Impossible(
            f"a batch of {train.batch_size} is more than the {most} images of a step; lower batch_size",
            lower=("batch_size",),
        )
    return shape


def fitted(spec: StudySpec, values: Mapping[str, Value], limits: ImageLimits) -> dict[str, Value]:
    """The configuration itself where it fits, else the nearest one that does.

    Raises:
        Impossible: there is none; says what stands in the way of the last one that was tried.
    """
    found = dict(values)
    for _ in range(MAX_CHANGES):
        try:
            check_fit(spec, found, limits)
            return found
        except Impossible as error:
            change = _change(spec, found, error, limits)
            if change is None:
                raise
            found |= change
    check_fit(spec, found, limits)
    return found


def is_in_space(spec: StudySpec, drawn: Mapping[str, Value], near: Mapping[str, Value]) -> bool:
    """Whether another draw may do better than this one: not where all that had to be changed is fixed, or has no value
    in the space that can be trained.
    """
    changed = [key for key, value in near.items() if drawn.get(key, value) != value]
    domains = ((key, resolve_name(spec.space, key, near)[1]) for key in changed)
    return not changed or any(domain.single_value is None and near[key] in domain for key, domain in domains)


def describe_changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[str, ...]:
    """What was changed, one text for each key: `batch_size 256 -> 128`."""
    return tuple(
        f"{key} {to_toml(before[key])} -> {to_toml(value)}"
        for key, value in after.items()
        if before.get(key, value) != value
    )


def _largest_batch(spec: StudySpec, limits: ImageLimits, *, macs: int) -> int:
    """Images of a step, or all there are where a step sees each several times."""
    step_images = math.floor(spec.budget.step_epochs(images=limits.images, macs=macs) * limits.images)
    return min(step_images, limits.images)


def _change(
    spec: StudySpec, values: Mapping[str, Value], why: Impossible, limits: ImageLimits
) -> dict[str, Value] | None:
    """The smallest change that may mend it; None if there is none."""
    moves = [(key, -1) for key in why.lower] + [(key, 1) for key in why.higher]
    for key, sign in moves:
        if irrelevance_reason(spec.space, key, values) is not None:
            continue
        value = _next(key, resolve_name(spec.space, key, values)[1], values[key], sign)
        if value is not None:
            return {key: value}
    if "batch_size" not in why.lower:
        return None
    model, _, _ = to_model_configs(spec, values)
    macs = plan(model, image_size=limits.side, classes=limits.classes).macs
    return {"batch_size": max(1, _largest_batch(spec, limits, macs=macs))}


def _next(key: str, domain: Domain, value: Value, sign: int) -> Value | None:
    """The next lower (-1) or higher (1) value that a parameter may have; None if there is none."""
    assert isinstance(value, int | float)
    match domain:
        case Choice(values):
            beyond = [each for each in values if isinstance(each, int | float) and sign * (each - value) > 0]
            return min(beyond, key=lambda each: abs(each - value), default=None)
        case Int(low=lowest, high=highest, step=step):
            far = max(step, round(value / 10 / step) * step)  # a wide range has hundreds of steps
            moved: Value = min(max(int(value) + sign * far, lowest), highest)
            return moved if moved != value else None
        case Float(low=low, high=high, step=step):
            moved = value * FACTOR**-sign if step is None else value + sign * step
            moved = min(max(moved, low), high)
            return moved if moved != value else None
        case Fixed(only):
            return _next_default(key, value, sign) if only == DEFAULTS[key] else None
        case _:
            assert_never(domain)


def _next_default(key: str, value: float, sign: int) -> Value | None:
    """The same of a parameter that stands at its default, within what its class allows."""
    default = DEFAULTS[key]
    moved = value + sign * max(1, round(value / 8)) if isinstance(default, int) else value * FACTOR**-sign
    try:
        return check("", key, moved)
    except SpecError:
        return None
