"""The domain of a parameter: a range, a choice, both together, or a fixed value."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, combinations
from typing import Protocol, assert_never, cast

from search.spec.toml_table import to_toml

Value = bool | int | float | str
"""The value of a parameter. JSON and TOML have the same four types."""


class TrialProtocol(Protocol):
    """The part of an Optuna trial that `sample` needs."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value | None: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """One value, which is never suggested by a trial."""

    value: Value

    @property
    def single_value(self) -> Value | None:
        return self.value

    def suggest(self, trial: TrialProtocol, name: str) -> Value:
        return self.value

    def grid_values(self) -> Sequence[Value]:
        return (self.value,)

    def __contains__(self, value: Value) -> bool:
        return value == self.value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several unordered values."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("must offer at least one value, but the list is empty")
        for index, value in enumerate(self.values):
            _check_is_new(value, self.values[:index])

    @property
    def single_value(self) -> Value | None:
        """The value, if there is only one."""
        return self.values[0] if len(self.values) == 1 else None

    def suggest(self, trial: TrialProtocol, name: str) -> Value:
        return cast("Value", trial.suggest_categorical(name, self.values))  # None is never among the values

    def grid_values(self) -> Sequence[Value]:
        return self.values

    def __contains__(self, value: Value) -> bool:
        return value in self.values


@dataclass(frozen=True, slots=True)
class Int:
    """Integers from low to high, both included."""

    low: int
    high: int
    log: bool = False
    """Whether equal factors are equally likely (8 to 16 and 64 to 128)."""
    step: int = 1

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, log=self.log, stepped=self.step != 1)
        _check_step(self.low, self.high, self.step)

    @property
    def single_value(self) -> Value | None:
        """The value, if both ends are the same."""
        return self.low if self.low == self.high else None

    def suggest(self, trial: TrialProtocol, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)

    def grid_values(self) -> Sequence[Value]:
        """All values. Raises ValueError for a logarithmic range, which has no even steps."""
        if self.log and self.single_value is None:
            raise ValueError("is a logarithmic range, which a grid cannot walk through; write a list of values")
        return range(self.low, self.high + 1, self.step)

    def __contains__(self, value: Value) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high and (value - self.low) % self.step == 0


@dataclass(frozen=True, slots=True)
class Float:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    """Whether equal factors are equally likely (0.001 to 0.01 and 0.1 to 1)."""
    step: float | None = None

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, log=self.log, stepped=self.step is not None)
        if self.step is not None:
            _check_step(self.low, self.high, self.step)

    @property
    def single_value(self) -> Value | None:
        """The value, if both ends are the same."""
        return self.low if self.low == self.high else None

    def suggest(self, trial: TrialProtocol, name: str) -> Value:
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def grid_values(self) -> Sequence[Value]:
        """All values. Raises ValueError for a range without a step, which has infinitely many."""
        if self.single_value is not None:
            return (self.low,)
        if self.step is None:
            raise ValueError("is a range without a step, which a grid cannot walk through; write a list of values")
        low, step = _exact(self.low), _exact(self.step)
        count = int((_exact(self.high) - low) / step) + 1
        return tuple(float(low + index * step) for index in range(count))

    def __contains__(self, value: Value) -> bool:
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8  # the tolerance of Optuna's FloatDistribution


Range = Float | Int


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several values and ranges: `[0, { low = 1e-6, high = 1e-2, log = true }]` is zero or a range.

    A trial suggests the option first, a value as itself and a range by its label. All options are equally likely. The
    value in a range then has the Optuna name `name[label]`, like a domain that another parameter decides about.
    """

    members: tuple[Value | Range, ...]

    def __post_init__(self) -> None:
        ranges = [member for member in self.members if isinstance(member, Range)]
        for index, member in enumerate(self.members):
            if not isinstance(member, Range):
                _check_is_new(member, self.members[:index], ranges)
        for first, second in combinations(sorted(ranges, key=lambda range_: range_.low), 2):
            if second.low <= first.high:
                raise ValueError(
                    f"must have ranges apart from each other, but {range_label(first)} and {range_label(second)} "
                    f"share values; write them as one, or move an end"
                )

    @property
    def options(self) -> tuple[Value, ...]:
        """The choices of the Optuna parameter: the values, and the labels of the ranges."""
        return tuple(range_label(member) if isinstance(member, Range) else member for member in self.members)

    @property
    def ranges(self) -> Mapping[Value, Range]:
        """The ranges by label."""
        return {range_label(member): member for member in self.members if isinstance(member, Range)}

    @property
    def single_value(self) -> Value | None:
        """None: there are several values."""
        return None

    def suggest(self, trial: TrialProtocol, name: str) -> Value:
        option = cast("Value", trial.suggest_categorical(name, self.options))
        range_ = self.ranges.get(option)
        return option if range_ is None else range_.suggest(trial, within(name, option))

    def grid_values(self) -> Sequence[Value]:
        """All values. Raises ValueError if a range cannot be walked through."""
        return tuple(chain.from_iterable(part.grid_values() for part in self._parts()))

    def option_of(self, value: Value) -> Value:
        """The option that offers `value`; `value` itself if none does."""
        return next((label for label, range_ in self.ranges.items() if value in range_), value)

    def __contains__(self, value: Value) -> bool:
        return any(value in part for part in self._parts())

    def _parts(self) -> "list[Domain]":
        return [member if isinstance(member, Range) else Fixed(member) for member in self.members]


Domain = Float | Int | Choice | OneOf | Fixed


def range_label(range_: Range) -> str:
    """The label of a range in a list, `1e-06 to 0.01`. Stored trials have it, so it never changes."""
    return f"{to_toml(range_.low)} to {to_toml(range_.high)}"


def within(name: str, option: Value) -> str:
    """The Optuna name of a parameter under a choice that decides about it: `learning_rate[sgd]`."""
    return f"{name}[{label(option)}]"


def to_params(domain: Domain, name: str, value: Value) -> dict[str, Value]:
    """The Optuna parameters, by name, that stand for a value of a domain."""
    if not isinstance(domain, OneOf):
        return {name: value}
    option = domain.option_of(value)
    return {name: option} if option not in domain.ranges else {name: option, within(name, option): value}


def count_values(domain: Domain) -> int | None:
    """The number of values of a domain; None for a range without steps, which has infinitely many."""
    match domain:
        case Fixed():
            return 1
        case Choice(values):
            return len(values)
        case Int(low=low, high=high, step=step):
            return (high - low) // step + 1
        case Float(low=low, high=high, step=step):
            if low == high:
                return 1
            return None if step is None else int((_exact(high) - _exact(low)) / _exact(step)) + 1
        case OneOf(members):
            counts = [count_values(member) if isinstance(member, Range) else 1 for member in members]
            return None if None in counts else sum(count or 0 for count in counts)
        case _:
            assert_never(domain)


def all_values(domain: Domain) -> Sequence[Value]:
    """All values of a domain that has finitely many. Unlike a grid, this includes those of a logarithmic range."""
    match domain:
        case Int(low=low, high=high, step=step):
            return range(low, high + 1, step)
        case OneOf(members):
            parts = (all_values(member) if isinstance(member, Range) else (member,) for member in members)
            return tuple(chain.from_iterable(parts))
        case _:
            return domain.grid_values()


def is_among_few(domain: Domain, value: Value) -> bool:
    """Whether a value of a domain comes from a part with finitely many values: another draw can be equal."""
    if isinstance(domain, OneOf):
        range_ = domain.ranges.get(domain.option_of(value))
        return range_ is None or count_values(range_) is not None
    return count_values(domain) is not None


def describe(domain: Domain) -> str:
    """A domain in plain words."""
    if isinstance(domain, Range):
        step = f" in steps of {to_toml(domain.step)}" if domain.step not in (None, 1) else ""
        return f"{range_label(domain)}{step}"
    if isinstance(domain, OneOf):
        members = domain.members
        return " or ".join(describe(member) if isinstance(member, Range) else to_toml(member) for member in members)
    return " or ".join(to_toml(value) for value in domain.grid_values())


def label(value: Value) -> str:
    """A value as part of a table name, `[space.when.dense_layers.0]`, or of an Optuna name."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _exact(number: float) -> Decimal:
    """The number as it was written: three times 0.1 is exactly 0.3."""
    return Decimal(str(number))


def _check_is_new(value: Value, others: Sequence[object], ranges: Sequence[Range] = ()) -> None:
    if value in others:
        raise ValueError(f"must offer each value once, but has {to_toml(value)} twice")
    for range_ in ranges:
        if value in range_:
            raise ValueError(
                f"must offer each value once, but has {to_toml(value)} alone and in {range_label(range_)}; leave "
                f"{to_toml(value)} out"
            )


def _check_ends(low: float, high: float, *, log: bool, stepped: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"must have finite ends, but got low = {low} and high = {high}")
    if low > high:
        raise ValueError(f"must have low below high, but got low = {low} and high = {high}")
    if log and low <= 0:
        raise ValueError(f"must have low above 0 in a logarithmic range, but got low = {low}")
    if log and stepped:
        raise ValueError("must have either log or step, but got both")


def _check_step(low: float, high: float, step: float) -> None:
    if not step > 0:
        raise ValueError(f"must have a step above 0, but got step = {step}")
    rest = (_exact(high) - _exact(low)) % _exact(step)
    if rest:
        raise ValueError(
            f"must reach high from low in whole steps, but got low = {low}, high = {high} and step = {step}; "
            f"the last value would be {_exact(high) - rest}"
        )
