"""Whether a configuration can be trained in a study, and the nearest one that can.

A network must fit its images (each pooling halves them), a batch must fit the images of a step, and both must fit the
limits of [budget]. Changed values stay within [space], with two exceptions: a batch never exceeds the available images,
and a parameter that the study file leaves out may leave its default.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from models.config import SMALLER, Impossible
from models.plan import Plan, check_batch_size, check_optimizer, plan
from search.errors import SpecError
from search.spec.domains import Choice, Domain, Fixed, Float, Int, OneOf, Range, Value
from search.spec.parameters import DEFAULTS, check
from search.spec.search_space import irrelevance_reason, resolve_name
from search.spec.study_spec import StudySpec, to_model_configs
from search.tables import format_value

#: Maximum number of changes, one value each, until a network fits: more than the steps of any shipped space.
MAX_CHANGES = 200
#: Factor of one change to a number without steps, such as a growth between 1.5 and 2.
FACTOR = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """Limits that the images of a search impose."""

    side: int
    """Side length in pixels."""
    classes: int
    images: int
    """Training images."""


def check_fit(spec: StudySpec, values: Mapping[str, Value], limits: ImageLimits) -> Plan:
    """Plan the layers of a flat configuration.

    Args:
        spec: The study, with its budget.
        values: The flat configuration.
        limits: Limits of the images.

    Raises:
        Impossible: The layers do not fit together, or exceed the images or the budget of a trial.
    """
    model, train, augment = to_model_configs(spec, values)
    shape = plan(model, image_size=limits.side, classes=limits.classes)
    for name, limit in (("parameters", spec.budget.max_parameters), ("macs", spec.budget.max_macs)):
        size = getattr(shape, name)
        if limit is not None and size > limit:
            raise Impossible(
                f"{size:,} {name} are more than [budget] max_{name} = {limit:,}; raise it, or lower [space] width",
                lower=SMALLER,
            )
    check_optimizer(model, train.optimizer)
    check_batch_size(model, train.batch_size, image_size=limits.side, classes=limits.classes)
    max_batch_size = _largest_batch(spec, limits, macs=shape.macs)
    way = _way_to_more_images(spec, limits, largest=max_batch_size)
    if max_batch_size < 1:
        raise Impossible(f"a step has less than one of the {limits.images} training images; {way}")
    if train.batch_size > max_batch_size:
        raise Impossible(
            f"a batch of {train.batch_size} is more than the {max_batch_size} images of a step; "
            f"lower [space] batch_size, or {way}",
            lower=("batch_size",),
        )
    _check_cutout(augment.scaled(limits.side / spec.data.side).cutout, limits)
    return shape


def _way_to_more_images(spec: StudySpec, limits: ImageLimits, *, largest: int) -> str:
    """The settings that give a step more images."""
    if largest == limits.images:
        if spec.data.search_images == limits.images:
            return "raise [data] search_images"
        others = "" if spec.data.train_images is None else ", or raise [data] train_images"
        return f"lower [data] validation, which leaves more images{others}"
    if spec.budget.trial_macs is not None:
        return "raise [budget] trial_macs"
    return "lower [budget] evaluations" if spec.budget.evaluations is not None else "lower [budget] steps_per_epoch"


def _check_cutout(side: int, limits: ImageLimits) -> None:
    """Refuse a cutout that blanks every image, wherever its middle is."""
    if side // 2 >= limits.side - 1 and side - side // 2 >= limits.side:
        raise Impossible(
            f"a cutout of {side} pixels leaves nothing of an image of {limits.side} x {limits.side} pixels; "
            f"lower [space] cutout",
            lower=("cutout",),
        )


def fitted(spec: StudySpec, values: Mapping[str, Value], limits: ImageLimits) -> dict[str, Value]:
    """Return the configuration if it fits, otherwise the nearest one that fits.

    Args:
        spec: The study, with its space and budget.
        values: The flat configuration.
        limits: Limits of the images.

    Raises:
        Impossible: No configuration fits. The message has the obstacle of the last attempt.
    """
    config = dict(values)
    for _ in range(MAX_CHANGES):
        try:
            check_fit(spec, config, limits)
            return config
        except Impossible as error:
            change = _change(spec, config, error, limits)
            if change is None:
                raise
            config |= change
    check_fit(spec, config, limits)
    return config


def nearest(spec: StudySpec, drawn: Mapping[str, Value], limits: ImageLimits) -> dict[str, Value]:
    """The nearest configuration that can be trained; if there is none, the drawn one, which then gives the reason."""
    try:
        return fitted(spec, drawn, limits)
    except Impossible:
        return dict(drawn)


def settled(spec: StudySpec, drawn: Mapping[str, Value], limits: ImageLimits) -> dict[str, Value] | None:
    """The configuration that a search trains if it draws this one; None if it draws again."""
    try:
        near = fitted(spec, drawn, limits)
    except Impossible:
        return None
    return None if near != drawn and is_in_space(spec, drawn, near) else near


def is_in_space(spec: StudySpec, drawn: Mapping[str, Value], near: Mapping[str, Value]) -> bool:
    """Whether another draw can avoid the changes from `drawn` to `near`.

    False if every changed parameter is fixed, or has no trainable value in the space.

    Args:
        spec: The study, with its space.
        drawn: The sampled configuration.
        near: The nearest one that fits.
    """
    changed = [key for key, value in near.items() if drawn.get(key, value) != value]
    domains = ((key, resolve_name(spec.space, key, near)[1]) for key in changed)
    return not changed or any(domain.single_value is None and near[key] in domain for key, domain in domains)


def describe_changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[str, ...]:
    """Describe the changed values, one text per key: `batch_size 256 -> 128`."""
    return tuple(
        f"{key} {format_value(before[key])} -> {format_value(value)}"
        for key, value in after.items()
        if before.get(key, value) != value
    )


def _largest_batch(spec: StudySpec, limits: ImageLimits, *, macs: int) -> int:
    """Maximum batch size: the images of a step, or all images if a step repeats them."""
    step_images = math.floor(spec.budget.step_epochs(images=limits.images, macs=macs) * limits.images)
    return min(step_images, limits.images)


def _change(
    spec: StudySpec, values: Mapping[str, Value], fault: Impossible, limits: ImageLimits
) -> dict[str, Value] | None:
    """The smallest change that may repair `fault`, or None."""
    moves = [(key, -1) for key in fault.lower] + [(key, 1) for key in fault.higher]
    for key, sign in moves:
        if irrelevance_reason(spec.space, key, values) is not None:
            continue
        value = _next(key, resolve_name(spec.space, key, values)[1], values[key], sign)
        if value is not None:
            return {key: value}
    if "batch_size" not in fault.lower:
        return None
    model, _, _ = to_model_configs(spec, values)
    macs = plan(model, image_size=limits.side, classes=limits.classes).macs
    return {"batch_size": max(1, _largest_batch(spec, limits, macs=macs))}


def _next(key: str, domain: Domain, value: Value, sign: int) -> Value | None:
    """The next lower (sign -1) or higher (sign 1) value of a parameter, or None."""
    assert isinstance(value, int | float)
    match domain:
        case Choice(values):
            numbers = [choice for choice in values if isinstance(choice, int | float) and sign * (choice - value) > 0]
            return min(numbers, key=lambda number: abs(number - value), default=None)
        case Int(low=lowest, high=highest, step=step):
            distance = max(step, round(value / 10 / step) * step)  # a wide range has hundreds of steps
            moved: Value = min(max(int(value) + sign * distance, lowest), highest)
            return moved if moved != value else None
        case Float(low=low, high=high, step=step):
            moved = value * FACTOR**-sign if step is None else value + sign * step
            moved = min(max(moved, low), high)
            return moved if moved != value else None
        case OneOf(members):
            moves = (_next_member(key, member, value, sign) for member in members)
            return min((move for move in moves if move is not None), key=lambda move: abs(move - value), default=None)
        case Fixed(fixed):
            return _next_default(key, value, sign) if fixed == DEFAULTS[key] else None
        case _:
            assert_never(domain)


def _next_member(key: str, member: Value | Range, value: float, sign: int) -> float | None:
    """The next lower or higher value of a parameter in one member of a list of values and ranges, or None."""
    if isinstance(member, Range) and value in member:
        moved = _next(key, member, value, sign)
        return moved if isinstance(moved, int | float) else None
    end = (member.low if sign > 0 else member.high) if isinstance(member, Range) else member
    return end if isinstance(end, int | float) and sign * (end - value) > 0 else None


def _next_default(key: str, value: float, sign: int) -> Value | None:
    """The next value of a parameter that the study file leaves out, within the limits of its config class."""
    default = DEFAULTS[key]
    moved = value + sign * max(1, round(value / 8)) if isinstance(default, int) else value * FACTOR**-sign
    try:
        return check("", key, moved)
    except SpecError:
        return None
