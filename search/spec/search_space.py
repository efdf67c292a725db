"""The search space: parameters, their dependence on other parameters, and the cells of a grid."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Final

from search.errors import SpecError
from search.spec.domains import (
    Domain,
    Int,
    OneOf,
    TrialProtocol,
    Value,
    all_values,
    count_values,
    describe,
    is_among_few,
    to_params,
    within,
)
from search.spec.toml_table import to_toml

Condition = tuple[str, frozenset[object]]
"""A controlling key, and its values for which the dependent parameter has a meaning."""

Identity = tuple[Value | None, ...]
"""The values that tell configurations apart."""

Walk = Callable[[str, Domain], Sequence[Value]]
"""Takes the Optuna name and the domain of a parameter, and returns its values in the order in which they are tried."""

REPEAT: Final = "repeat"
"""The parameter that counts the repeats of grid cells, from 0."""

MAX_CELLS: Final = 10_000
"""Maximum cells of a grid: at ten seconds a trial, more would run for over a day."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """All parameters of a configuration, and their dependences.

    Raises:
        ValueError: The dependences are cyclic, or two parameters replace the domain of the same other one.
    """

    parameters: Mapping[str, Domain]
    when: Mapping[tuple[str, Value], Mapping[str, Domain]] = field(default_factory=dict)
    """(controlling key, its value) -> domains that then replace those of other parameters."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """Dependent key -> the condition under which it is sampled. A controlling key outside the space has no effect."""

    def __post_init__(self) -> None:
        for control, value in self.when:
            self._check_when(control, value)
        try:
            order(self)
        except CycleError as error:
            raise ValueError(f"parameters decide about each other in a circle: {' > '.join(error.args[1])}") from error

    def _check_when(self, control: str, value: Value) -> None:
        for key in (control, *self.when[control, value]):
            if key not in self.parameters:
                raise ValueError(f"{key} decides or depends, but is no parameter")
        for key in self.when[control, value]:
            others = [other for (other, _), table in self.when.items() if key in table and other != control]
            if others:
                raise ValueError(f"{key} may have ranges of its own under one parameter, not {control} and {others[0]}")

    def controls(self, key: str) -> tuple[str, ...]:
        """The parameters on which the domain or the meaning of `key` depends."""
        controls = [control for (control, _), table in self.when.items() if key in table]
        if key in self.conditions:
            controls.append(self.conditions[key][0])
        return tuple(dict.fromkeys(control for control in controls if control in self.parameters))


def order(space: SearchSpace) -> tuple[str, ...]:
    """The keys in sampling order: each after its controlling keys, otherwise in the order of the space."""
    return tuple(TopologicalSorter({key: space.controls(key) for key in space.parameters}).static_order())


def sample(space: SearchSpace, trial: TrialProtocol) -> dict[str, Value]:
    """Sample flat values.

    A domain from `when` has the Optuna name `key[value]`. Each Optuna name therefore has one distribution.

    Args:
        space: The parameters.
        trial: Suggests the values of those that are not fixed.

    Returns:
        Key -> value, without the parameters that have no meaning beside the others.
    """
    values: dict[str, Value] = {}
    for key in order(space):
        name, domain = resolve_name(space, key, values)
        if domain.single_value is not None:
            values[key] = domain.single_value
        elif _has_meaning(space, key, values):
            values[key] = domain.suggest(trial, name)
    return values


def resolve_name(space: SearchSpace, key: str, values: Mapping[str, Value]) -> tuple[str, Domain]:
    """The Optuna name and the domain of a parameter, given the values of its controlling keys."""
    for (control, value), table in space.when.items():
        if key in table and values.get(control) == value:
            return within(key, value), table[key]
    return key, space.parameters[key]


def is_searched(space: SearchSpace) -> bool:
    """Whether any parameter is sampled."""
    domains = [*space.parameters.values(), *(domain for table in space.when.values() for domain in table.values())]
    return any(domain.single_value is None for domain in domains)


def ineffective_tables(space: SearchSpace) -> tuple[str, ...]:
    """The tables of [space.when] for values that their parameter never has, as one line for each parameter."""
    ineffective: dict[str, list[str]] = {}
    for control, value in space.when:
        domains = [space.parameters[control], *(table[control] for table in space.when.values() if control in table)]
        if not any(value in domain for domain in domains):
            ineffective.setdefault(control, []).append(to_toml(value))
    return tuple(
        f"[space.when.{control}] {', '.join(values)}: without effect, because [space] {control} offers no such value"
        for control, values in ineffective.items()
    )


def base_name(name: str) -> str:
    """The key of an Optuna name: `learning_rate[sgd]` is `learning_rate`."""
    return name.split("[", 1)[0]


def with_repeats(space: SearchSpace, repeats: int) -> SearchSpace:
    """The space with a first parameter that counts the repeats. With one repeat it is fixed at 0."""
    counted: dict[str, Domain] = {REPEAT: Int(0, repeats - 1)}
    return SearchSpace(parameters={**counted, **space.parameters}, when=space.when, conditions=space.conditions)


def grid(space: SearchSpace, repeats: int = 1) -> tuple[dict[str, Value], ...]:
    """All cells, as Optuna name -> value.

    The last parameter changes fastest and the repeat slowest: an unfinished grid has measured all cells nearly equally
    often.

    Args:
        space: The parameters.
        repeats: Trials per cell.

    Raises:
        SpecError: A range has infinitely many values, or there are more than `MAX_CELLS` cells.
    """
    counted = with_repeats(space, repeats)
    walked = _cells(counted, order(counted), {}, {}, _grid_values)
    cells = tuple(cell for _, cell in islice(walked, MAX_CELLS + 1))
    if len(cells) > MAX_CELLS:
        raise SpecError(f"[space] must have at most {MAX_CELLS:,} grid cells, but has more; give shorter lists")
    return cells


def count_configurations(space: SearchSpace) -> int | None:
    """The number of different draws; None for infinitely many, or more than `MAX_CELLS`."""
    keys = order(space)
    controls = frozenset(control for key in keys for control in space.controls(key))
    count = _count(space, keys, controls, {})
    return count if count is not None and count <= MAX_CELLS else None


def configurations(space: SearchSpace, rng: random.Random | None = None) -> Iterator[dict[str, Value]]:
    """All different draws of a finite space, as `sample` returns them.

    Args:
        space: The parameters.
        rng: Shuffles the values of each parameter.
    """

    def walk(_: str, domain: Domain) -> Sequence[Value]:
        values = all_values(domain)
        return values if rng is None else rng.sample(values, len(values))

    return (values for values, _ in _cells(space, order(space), {}, {}, walk))


def identity(space: SearchSpace, values: Mapping[str, Value]) -> Identity:
    """The values that tell a configuration from others: equal for two whose meaningful values are equal.

    A value in steps, such as 0.3, has several floats: 3 * 0.1 is another one. Twelve digits tell steps apart.
    """
    return tuple(_rounded(values[key]) if _has_meaning(space, key, values) else None for key in space.parameters)


def is_repeatable(space: SearchSpace, values: Mapping[str, Value]) -> bool:
    """Whether another draw can have the same values: none of them comes from a range without steps."""
    return all(
        is_among_few(resolve_name(space, key, values)[1], values[key])
        for key in space.parameters
        if _has_meaning(space, key, values)
    )


def one_of_domains(space: SearchSpace) -> dict[str, OneOf]:
    """The lists of values and ranges by Optuna name."""
    names = {key: domain for key, domain in space.parameters.items() if isinstance(domain, OneOf)}
    for (_, value), table in space.when.items():
        names |= {within(key, value): domain for key, domain in table.items() if isinstance(domain, OneOf)}
    return names


def to_fixed_params(space: SearchSpace, point: Mapping[str, Value]) -> dict[str, Value]:
    """Convert a point of some parameters from key -> value to Optuna name -> value.

    Raises:
        ValueError: A value is outside the domain of its parameter, or has no meaning at this point.
    """
    known: dict[str, Value] = {}
    names: dict[str, Value] = {}
    for key in order(space):
        is_determined = all(control in known for control in space.controls(key))
        if key not in point and not is_determined:
            continue
        name, domain = resolve_name(space, key, known)
        if key in point:
            known[key] = _checked(space, key, point[key], known)
            names |= {} if domain.single_value is not None else to_params(domain, name, point[key])
        elif domain.single_value is not None:
            known[key] = domain.single_value
    return names


def irrelevance_reason(space: SearchSpace, key: str, values: Mapping[str, Value]) -> str | None:
    """The reason why `key` has no meaning beside `values`, or None if it has one."""
    if _has_meaning(space, key, values):
        return None
    control = space.conditions[key][0]
    return f"has no meaning with {control} = {to_toml(values.get(control))}"


def _has_meaning(space: SearchSpace, key: str, values: Mapping[str, Value]) -> bool:
    if key not in space.conditions:
        return True
    control, meaningful = space.conditions[key]
    return control not in space.parameters or values.get(control) in meaningful


def _checked(space: SearchSpace, key: str, value: Value, known: Mapping[str, Value]) -> Value:
    for control in space.controls(key):
        if control not in known:
            raise ValueError(f"{key} depends on {control}, which the point leaves open; give {control} too")
    domain = resolve_name(space, key, known)[1]
    if domain.single_value == value:
        return value
    if domain.single_value is not None:
        fixed = to_toml(domain.single_value)
        raise ValueError(f"{key} is fixed at {fixed} by [space], but got {to_toml(value)}; give it a list there")
    reason = irrelevance_reason(space, key, known)
    if reason is not None:
        raise ValueError(f"{key} {reason}; leave it out")
    if value in domain:
        return value
    raise ValueError(f"{key} must be {describe(domain)}, but got {to_toml(value)}")


def _count(
    space: SearchSpace, keys: Sequence[str], controls: frozenset[str], values: Mapping[str, Value]
) -> int | None:
    """The number of cells that extend `values`, or any number above `MAX_CELLS`; None for infinitely many."""
    total = 1
    for index, key in enumerate(keys):
        _, domain = resolve_name(space, key, values)
        if domain.single_value is not None:
            values = {**values, key: domain.single_value}
        elif _has_meaning(space, key, values):
            count = count_values(domain)
            if count is None:
                return None
            if key in controls:
                branches = _count_branches(space, keys[index:], controls, values)
                return None if branches is None else total * branches
            total *= count
    return total


def _count_branches(
    space: SearchSpace, keys: Sequence[str], controls: frozenset[str], values: Mapping[str, Value]
) -> int | None:
    """The same sum over the values of the first key."""
    total = 0
    for value in all_values(resolve_name(space, keys[0], values)[1]):
        count = _count(space, keys[1:], controls, {**values, keys[0]: value})
        if count is None:
            return None
        total += count
        if total > MAX_CELLS:
            break
    return total


def _rounded(value: Value) -> Value:
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _cells(
    space: SearchSpace, keys: Sequence[str], values: Mapping[str, Value], cell: Mapping[str, Value], walk: Walk
) -> Iterator[tuple[dict[str, Value], dict[str, Value]]]:
    """All cells that extend `cell`: `values` are set, `keys` are still open.

    Yields:
        The values by key, as `sample` returns them, and the cell, as Optuna name -> value.
    """
    if not keys:
        yield dict(values), dict(cell)
        return
    key, rest = keys[0], keys[1:]
    name, domain = resolve_name(space, key, values)
    if domain.single_value is not None:
        yield from _cells(space, rest, {**values, key: domain.single_value}, cell, walk)
        return
    if not _has_meaning(space, key, values):
        yield from _cells(space, rest, values, cell, walk)
        return
    for value in walk(name, domain):
        yield from _cells(space, rest, {**values, key: value}, {**cell, **to_params(domain, name, value)}, walk)


def _grid_values(name: str, domain: Domain) -> Sequence[Value]:
    try:
        return domain.grid_values()
    except ValueError as error:
        raise SpecError(f"[space] {name} {error}") from error
