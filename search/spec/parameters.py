"""The flat keys of a configuration: their config classes, their checks, and reading and writing `[space]`."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, assert_never

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.config import AugmentConfig
from models.config import BACKBONE_NEEDS, NEEDS, ModelConfig, TrainConfig
from search.errors import SpecError
from search.spec.domains import Choice, Domain, Fixed, Float, Int, OneOf, Range, Value, all_values, label
from search.spec.search_space import SearchSpace, resolve_name
from search.spec.toml_table import check_keys, expect_table, explain, read_model, to_toml

CONFIG_CLASS_OF: Final[Mapping[str, type[BaseModel]]] = {
    key: kind for kind in (ModelConfig, TrainConfig, AugmentConfig) for key in kind.model_fields
}
"""Key -> the class that has it as a field. The three classes have disjoint keys."""

DEFAULTS: Final[Mapping[str, Value]] = {key: kind.model_fields[key].default for key, kind in CONFIG_CLASS_OF.items()}


#: The ends of a log range in an example: high / low. The weight decays of the shipped studies span as much.
EXAMPLE_SPAN: Final = 10_000


class _Range(BaseModel):
    """A range in a study file: `{ low = 1e-4, high = 1.0, log = true }`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: int | float
    high: int | float
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None


def check(table_name: str, key: str, value: object, *, named: str | None = None) -> Value:
    """Validate a value with its config class (1 becomes 1.0 for a float).

    Args:
        table_name: Table name for messages, such as `[space]`.
        key: Key of the value.
        value: The raw value.
        named: Replaces `key` in messages.

    Raises:
        SpecError: The class rejects the value.
    """
    try:
        config = CONFIG_CLASS_OF[key].model_validate({key: value})
    except ValidationError as error:
        raise SpecError(explain(table_name, error, named=named)) from error
    checked: Value = getattr(config, key)
    return checked


def check_values(table_name: str, raw: Mapping[str, object]) -> dict[str, Value]:
    """Check the values of some keys."""
    check_keys(table_name, raw, known=CONFIG_CLASS_OF)
    return {key: check(table_name, key, value) for key, value in raw.items()}


def to_configs(values: Mapping[str, Value]) -> tuple[ModelConfig, TrainConfig, AugmentConfig]:
    """Convert flat values to the three configs. Missing keys take their defaults."""
    check_keys("the configuration's", values, known=CONFIG_CLASS_OF)

    def fields_of(kind: type[BaseModel]) -> dict[str, Value]:
        return {key: value for key, value in values.items() if CONFIG_CLASS_OF[key] is kind}

    return (
        ModelConfig.model_validate(fields_of(ModelConfig)),
        TrainConfig.model_validate(fields_of(TrainConfig)),
        AugmentConfig.model_validate(fields_of(AugmentConfig)),
    )


def read_space(raw: object) -> SearchSpace:
    """Read `[space]`. Keys that it leaves out are fixed at their defaults.

    The result has every key of a configuration, in the order of the config classes: the order in a file has no effect.
    """
    table = dict(expect_table("[space]", raw))
    when = expect_table("[space.when]", table.pop("when", {}))
    written = _read_domains("[space]", table)
    parameters: dict[str, Domain] = {key: Fixed(value) for key, value in DEFAULTS.items()}
    try:
        # Keys without conditions are drawn first, so a space without backbones keeps its old order.
        has_backbones = written.get("backbone", Fixed("none")).single_value != "none"
        needs = {**NEEDS, **(BACKBONE_NEEDS if has_backbones else {})}
        space = SearchSpace(parameters=parameters | written, when=_read_when(when, written), conditions=needs)
    except ValueError as error:
        raise SpecError(f"[space.when] {error}") from error
    _check_input_channels(space)
    return space


def write_space(space: SearchSpace) -> dict[str, Any]:
    """The table from which `read_space` restores the space."""
    table: dict[str, Any] = {key: _write_domain(domain) for key, domain in space.parameters.items()}
    when: dict[str, dict[str, Any]] = {}
    for (control, value), domains in space.when.items():
        written = {key: _write_domain(domain) for key, domain in domains.items()}
        when.setdefault(control, {})[label(value)] = written
    return {**table, "when": when} if when else table


def parse_value(text: str) -> object:
    """Parse the text after `--set key=`: a TOML value, or a bare word as a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _read_domains(table_name: str, raw: Mapping[str, object]) -> dict[str, Domain]:
    check_keys(table_name, raw, known=[*CONFIG_CLASS_OF, "when"] if table_name == "[space]" else CONFIG_CLASS_OF)
    return {key: _read_domain(table_name, key, value) for key, value in raw.items()}


def _read_domain(table_name: str, key: str, raw: object) -> Domain:
    try:
        if isinstance(raw, list):
            return _read_list(table_name, key, raw)
        if isinstance(raw, dict):
            return _read_range(table_name, key, raw)
    except ValueError as error:
        raise SpecError(f"{table_name} {key} {error}") from error
    return Fixed(check(table_name, key, raw))


def _read_list(table_name: str, key: str, raw: Sequence[object]) -> Domain:
    """A choice, or with tables in the list one of several values and ranges."""
    members = tuple(
        _read_range(table_name, key, item, is_member=True) if isinstance(item, dict) else check(table_name, key, item)
        for item in raw
    )
    values = tuple(member for member in members if not isinstance(member, Range))
    if len(values) == len(members):
        return Choice(values)
    return members[0] if len(members) == 1 and isinstance(members[0], Range) else OneOf(members)


def _read_range(table_name: str, key: str, raw: Mapping[str, object], *, is_member: bool = False) -> Range:
    """Read a range. `is_member`: it is in a list of values and ranges."""
    kind = CONFIG_CLASS_OF[key].model_fields[key].annotation
    if kind not in (int, float):
        raise ValueError(f"cannot be a range; write a list of values, such as [{to_toml(DEFAULTS[key])}]")
    inner = f"{table_name[:-1]}.{key}]"
    ends = read_model(inner, _Range, raw)
    low, high = (check(inner, key, end, named=name) for name, end in (("low", ends.low), ("high", ends.high)))
    if not isinstance(ends.step, int | None) and kind is int:
        raise SpecError(f"{inner} step must be a whole number, but got {to_toml(ends.step)}")
    if low == high:
        fixed = to_toml(low) if is_member else f"{key} = {to_toml(low)}"
        raise ValueError(f"must have low below high, but got {to_toml(low)} for both; to fix it write {fixed}")
    if ends.log and low == 0:
        raise ValueError(
            f"must have low above 0 in a logarithmic range, but got low = {to_toml(low)}; for zero or a log range "
            f"write {key} = {to_toml(_zero_or_log(high))}"
        )
    if kind is int:
        return Int(int(low), int(high), log=ends.log, step=int(ends.step or 1))
    return Float(float(low), float(high), log=ends.log, step=None if ends.step is None else float(ends.step))


def _zero_or_log(high: Value) -> list[object]:
    """A list of zero and a log range up to `high`, as an example."""
    if high == 1 and isinstance(high, int):
        return [0, 1]
    low = 1 if isinstance(high, int) else float(f"{float(high) / EXAMPLE_SPAN:.2g}")
    return [0, {"low": low, "high": high, "log": True}]


def _read_when(raw: Mapping[str, object], written: Mapping[str, Domain]) -> dict[tuple[str, Value], dict[str, Domain]]:
    check_keys("[space.when]", raw, known=CONFIG_CLASS_OF)
    when: dict[tuple[str, Value], dict[str, Domain]] = {}
    for control, tables in raw.items():
        if control not in written:
            raise SpecError(f"[space.when.{control}] {control} is not in [space], so it decides nothing; add it there")
        for name, table in expect_table(f"[space.when.{control}]", tables).items():
            table_name = f"[space.when.{control}.{name}]"
            value = check(table_name, control, parse_value(name))
            when[control, value] = _read_domains(table_name, expect_table(table_name, table))
    return when


def _check_input_channels(space: SearchSpace) -> None:
    """Refuse a fixed single channel beside a backbone: all trials with that backbone would be impossible."""
    for backbone in all_values(space.parameters["backbone"]):
        _, domain = resolve_name(space, "input_channels", {"backbone": backbone})
        if backbone != "none" and domain.single_value == 1:
            raise SpecError(
                f"[space] input_channels must be 3 beside backbone {to_toml(backbone)}, which was pretrained on red, "
                f"green and blue, but got 1; write 3, or [space.when.backbone.{backbone}] with input_channels = 3"
            )


def _write_domain(domain: Domain) -> object:
    match domain:
        case Fixed(value):
            return value
        case Choice(values):
            return list(values)
        case OneOf(members):
            return [_write_range(member) if isinstance(member, Range) else member for member in members]
        case Int() | Float():
            return _write_range(domain)
        case _:
            assert_never(domain)


def _write_range(domain: Range) -> dict[str, object]:
    step = None if isinstance(domain, Int) and domain.step == 1 else domain.step
    ends: dict[str, object] = {"low": domain.low, "high": domain.high}
    return ends | ({"log": True} if domain.log else {}) | ({} if step is None else {"step": step})
