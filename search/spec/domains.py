"""The domain of a parameter: a range, a choice, or a fixed value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol, cast

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
            if value in self.values[:index]:
                raise ValueError(f"must offer each value once, but has {to_toml(value)} twice")

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


Domain = Float | Int | Choice | Fixed


def describe(domain: Domain) -> str:
    """A domain in plain words."""
    if isinstance(domain, Float | Int):
        step = f" in steps of {to_toml(domain.step)}" if domain.step not in (None, 1) else ""
        return f"{to_toml(domain.low)} to {to_toml(domain.high)}{step}"
    return " or ".join(to_toml(value) for value in domain.grid_values())


def label(value: Value) -> str:
    """A value as part of a table name, `[space.when.dense_layers.0]`, or of an Optuna name."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _exact(number: float) -> Decimal:
    """The number as it was written: three times 0.1 is exactly 0.3."""
    return Decimal(str(number))


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
