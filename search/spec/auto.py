"""The value "auto" in a study file, alone or with a number: "auto", "auto * 2", "auto - 1", "image_size / 4".

In [space], [[try]], [[compare]] and for `FILLED` it is the value of the recipe (`search.spec.recipe`); for the
other keys it is the default, which chooses by itself. An end of a range and a member of a list may have it, too. A
study is built from its tables when they are filled, and so a built study has plain values only.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from annotated_types import Ge, Le

from models.config import NEEDS
from search.errors import SpecError
from search.spec.domains import Value, label
from search.spec.parameters import CONFIG_CLASS_OF, DEFAULTS, parse_value
from search.spec.recipe import IMAGE_SIZE, Recipe
from search.spec.toml_table import expect_table, expect_tables, to_toml

AUTO: Final = "auto"

BASE: Final = "base"
"""Key of a point of [[try]] that is the recipe with changes."""

OWN_AUTO: Final = frozenset({"fit", "depth", "precision"})
"""Keys that have a value "auto" of their own."""

FILLED_TABLES: Final = ("data", "budget", "search", "final")
"""Tables beside [space], [[try]] and [[compare]] in which "auto" is the default."""

FILLED: Final = frozenset(
    {
        ("data", IMAGE_SIZE),
        ("data", "search_images"),
        ("budget", "trial_macs"),
        ("final", "test_time_augmentation"),
    }
)
"""(table, key) of these for which "auto" is the value of the recipe; the default, if a recipe has none."""

REFERENCE: Final = re.compile(rf"\s*({AUTO}|{IMAGE_SIZE})\b")
"""The beginning of a value that refers to the recipe."""

PATTERN: Final = re.compile(rf"\s*({AUTO}|{IMAGE_SIZE})\s*(?:([*/+-])\s*(\d+(?:\.\d+)?)\s*)?")

OPERATIONS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "+": operator.add,
    "-": operator.sub,
}

RecipeOf = Callable[[Mapping[str, Value]], Recipe]
"""Makes the recipe that goes with given values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A value that refers to the recipe."""

    name: str
    """"auto", the value of the same key, or "image_size"."""

    operation: str | None
    number: float


def refers(raw: object) -> bool:
    """Whether a value of a study file refers to the recipe."""
    return isinstance(raw, str) and REFERENCE.match(raw) is not None


def needs_recipe(tables: Mapping[str, Any]) -> bool:
    """Whether a study file has values of a recipe."""
    is_filled = any(refers(_table(tables.get(name)).get(key)) for name, key in FILLED)
    return is_filled or any(map(refers, _values(*(tables.get(name) for name in ("space", "try", "compare")))))


def given_values(tables: Mapping[str, Any]) -> dict[str, Value]:
    """The values that a study file fixes; the recipe goes with them."""
    others = [(key, _table(tables.get(name)).get(key)) for name, key in sorted(FILLED)]
    kept = {key: value for key, value in others if isinstance(value, Value) and not refers(value)}
    return _fixed_values(_table(tables.get("space"))) | kept


def without_defaults(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a study file without a recipe; "auto" is the default, which is left out."""
    return {
        name: _fill_defaults(name, table, {}) if name in FILLED_TABLES and isinstance(table, Mapping) else table
        for name, table in tables.items()
    }


def fill(tables: Mapping[str, Any], recipe_of: RecipeOf) -> dict[str, Any]:
    """Replace the values that refer to the recipe. A search without [[try]] begins at the recipe.

    Args:
        tables: The tables of a study file.
        recipe_of: Makes the recipe that goes with given values.

    Raises:
        SpecError: A value has no meaning; the message names its place.
    """
    recipe = recipe_of(given_values(tables))
    filled = dict(tables)
    for name in FILLED_TABLES:
        if isinstance(filled.get(name), Mapping):
            filled[name] = _fill_defaults(name, filled[name], recipe)
    given = given_values(filled)
    space = filled["space"] = _fill_space(tables.get("space", {}), recipe_of, given)
    points = tables.get("try", [] if "compare" in tables else [{BASE: AUTO}])
    filled["try"] = [
        _fill_point(f"[[try]] {number}", point, space, recipe_of, given)
        for number, point in enumerate(expect_tables("[[try]]", points), 1)
    ]
    if "compare" in tables:
        filled["compare"] = [
            _fill_row(f"[[compare]] {number}", row, recipe_of, given)
            for number, row in enumerate(expect_tables("[[compare]]", tables["compare"]), 1)
        ]
    return filled


def _fill_defaults(name: str, table: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The table of a name with values of the recipe, without the keys that are left to their default."""
    kept = {key: value for key, value in table.items() if value != AUTO or key in OWN_AUTO}
    wanted = {key: str(value) for key, value in table.items() if (name, key) in FILLED and refers(value)}
    return kept | {
        key: _evaluate(f"[{name}] {key}", key, value, recipe) for key, value in wanted.items() if key in recipe
    }


def _fill_space(raw: object, recipe_of: RecipeOf, given: Mapping[str, Value]) -> dict[str, Any]:
    space = dict(expect_table("[space]", raw))
    when = expect_table("[space.when]", space.pop("when", {}))
    filled = _fill_table("[space]", space, recipe_of(given))
    for control, choices in when.items():
        tables = filled.setdefault("when", {})[control] = {}
        for name, table in expect_table(f"[space.when.{control}]", choices).items():
            place, chosen = f"[space.when.{control}.{name}]", parse_value(name)
            recipe = recipe_of({**given, control: chosen} if isinstance(chosen, Value) else given)
            tables[name] = _fill_table(place, expect_table(place, table), recipe)
    return filled


def _fill_point(
    place: str, raw: Mapping[str, Any], space: Mapping[str, Any], recipe_of: RecipeOf, given: Mapping[str, Value]
) -> dict[str, Any]:
    """A point of [[try]]; with base = "auto" the recipe and the changes of the point."""
    point = dict(raw)
    base = point.pop(BASE, None)
    fixed = {**given, **_fixed_values(point)}
    changes = _fill_table(place, point, recipe_of(fixed))
    if base is None:
        return changes
    if base != AUTO:
        raise SpecError(f'{place} base must be "auto", the recipe, but got {to_toml(base)}; leave it out')
    return _recipe_point(space, recipe_of, fixed, changes)


def _recipe_point(
    space: Mapping[str, Any], recipe_of: RecipeOf, fixed: Mapping[str, Value], changes: dict[str, Any]
) -> dict[str, Any]:
    """The recipe in the space: the nearest value that the space has, for each parameter that it searches."""

    def moved(recipe: Recipe) -> dict[str, Value]:
        values = {key: setting.value for key, setting in recipe.items()} | changes
        domains = {key: _domain(space, key, values) for key in values}
        return {
            key: values[key] if key in changes else _nearest(domain, values[key])
            for key, domain in domains.items()
            if isinstance(domain, list | dict) and _has_meaning(key, values)
        }

    recipe = recipe_of(fixed)
    others = {key: value for key, value in moved(recipe).items() if value != recipe[key].value}
    return moved(recipe_of({**fixed, **others})) | changes


def _domain(space: Mapping[str, Any], key: str, values: Mapping[str, Value]) -> object:
    """The domain of a parameter beside the values of others; None if the space leaves it out."""
    for control, tables in space.get("when", {}).items():
        table = tables.get(label(values[control])) if control in values else None
        if table is not None and key in table:
            return table[key]
    return space.get(key)


def _nearest(domain: object, value: Value) -> Any:
    """The value of a domain that is nearest to a value; for texts and switches its first one."""
    members = domain if isinstance(domain, list) else [domain]
    if value in members:
        return value
    ends = [_clamped(member, value) if isinstance(member, dict) else member for member in members]
    if not _is_number(value):
        return ends[0] if ends else value
    numbers = [end for end in ends if _is_number(end)]
    return min(numbers, key=lambda end: abs(end - value)) if numbers else value


def _clamped(ends: Mapping[str, Any], value: Value) -> Any:
    """The value of a range that is nearest to a value."""
    low, high, step = ends.get("low"), ends.get("high"), ends.get("step")
    if not (_is_number(low) and _is_number(high)):
        return value  # refused when the space is read
    if not _is_number(value):
        return low
    inside = min(max(value, low), high)
    return low + math.floor((inside - low) / step) * step if _is_number(step) and step > 0 else inside


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fill_row(place: str, raw: Mapping[str, Any], recipe_of: RecipeOf, given: Mapping[str, Value]) -> dict[str, Any]:
    """A row of a comparison; its name is no value."""
    values = {key: value for key, value in raw.items() if key in CONFIG_CLASS_OF}
    return {**raw, **_fill_table(place, values, recipe_of({**given, **_fixed_values(values)}))}


def _fill_table(place: str, table: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A table with plain values; an unknown key is refused when the result is read."""
    return {
        key: _fill(f"{place} {key}", key, value, recipe) if key in CONFIG_CLASS_OF and key not in OWN_AUTO else value
        for key, value in table.items()
    }


def _fill(place: str, key: str, raw: object, recipe: Recipe) -> object:
    if isinstance(raw, list):
        filled = [_fill(place, key, member, recipe) for member in raw]
        return [value for index, value in enumerate(filled) if value not in filled[:index]]
    if isinstance(raw, dict):
        return _fill_range(place, key, raw, recipe)
    return _evaluate(place, key, str(raw), recipe) if refers(raw) else raw


def _fill_range(place: str, key: str, raw: Mapping[str, Any], recipe: Recipe) -> object:
    """A range with plain ends; a single value if they are equal. A range with a step holds the recipe's value."""
    ends = {name: _fill(place, key, value, recipe) for name, value in raw.items()}
    low, high, step = ends.get("low"), ends.get("high"), ends.get("step")
    if ends == raw or not isinstance(low, int | float) or not isinstance(high, int | float):
        return ends
    if isinstance(step, int | float) and step > 0:
        middle = _number(place, key, recipe)
        low, high = (
            middle - math.floor((middle - low) / step) * step,
            middle + math.floor((high - middle) / step) * step,
        )
    return low if low == high else ends | {"low": low, "high": high}


def _evaluate(place: str, key: str, raw: str, recipe: Recipe) -> Value:
    expression = _parse(place, raw)
    name = key if expression.name == AUTO else expression.name
    if name not in recipe:
        raise SpecError(f"{place} has no value in a recipe, but got {to_toml(raw)}; give a value")
    if expression.operation is None:
        return recipe[name].value
    value = OPERATIONS[expression.operation](_number(place, name, recipe), expression.number)
    for limit in CONFIG_CLASS_OF[key].model_fields[key].metadata if key in CONFIG_CLASS_OF else ():
        match limit:
            case Ge(ge=int() | float() as lowest):
                value = max(value, lowest)
            case Le(le=int() | float() as highest):
                value = min(value, highest)
    return round(value) if isinstance(DEFAULTS.get(key, recipe[name].value), int) else float(f"{value:.4g}")


def _parse(place: str, raw: str) -> Expression:
    match = PATTERN.fullmatch(raw)
    operation, number = (None, 0.0) if match is None else (match[2], float(match[3] or 0))
    if match is None or not math.isfinite(number) or (operation == "/" and number == 0):
        raise SpecError(
            f'{place} must be "{AUTO}" or "{IMAGE_SIZE}", alone or with one of * / + - and a number, such as '
            f'"{AUTO} * 2", but got {to_toml(raw)}'
        )
    return Expression(name=match[1], operation=operation, number=number)


def _number(place: str, name: str, recipe: Recipe) -> float:
    value = recipe[name].value
    if isinstance(value, bool | str):
        raise SpecError(f"{place} needs a number for its arithmetic, but the recipe has {to_toml(value)} for {name}")
    return value


def _has_meaning(key: str, values: Mapping[str, Value]) -> bool:
    """Whether a parameter has a meaning beside the others."""
    if key not in NEEDS:
        return True
    control, choices = NEEDS[key]
    return values.get(control, DEFAULTS[control]) in choices


def _fixed_values(table: Mapping[str, Any]) -> dict[str, Value]:
    """The plain values of a table."""
    return {key: value for key, value in table.items() if isinstance(value, Value) and not refers(value)}


def _table(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, Mapping) else {}


def _values(*raw: object) -> Iterator[object]:
    """All values in nested tables and lists."""
    for item in raw:
        if isinstance(item, Mapping):
            yield from _values(*(value for key, value in item.items() if key not in OWN_AUTO))
        elif isinstance(item, Sequence) and not isinstance(item, str):
            yield from _values(*item)
        else:
            yield item
