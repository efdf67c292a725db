"""The value "auto" in a study file, alone or with a number: "auto", "auto * 2", "auto - 1", "image_size / 4".

In [space], [[try]] and for the image size it is the value of the recipe (`search.spec.recipe`); in other tables it is
the default, which chooses by itself. An end of a range and a member of a list may have it, too. A study is built from
its tables when they are filled, and so a built study has plain values only.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotated_types import Ge, Le

from models.config import NEEDS
from search.errors import SpecError
from search.spec.domains import Value
from search.spec.parameters import CONFIG_CLASS_OF, DEFAULTS, parse_value
from search.spec.recipe import IMAGE_SIZE, Recipe
from search.spec.toml_table import expect_table, expect_tables, to_toml

AUTO: Final = "auto"

BASE: Final = "base"
"""Key of a point of [[try]] that is the recipe with changes."""

OWN_AUTO: Final = frozenset({"fit", "depth", "precision"})
"""Keys that have a value "auto" of their own."""

FILLED_TABLES: Final = ("data", "budget", "search", "final")
"""Tables beside [space] and [[try]] in which "auto" is the default."""

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


def parse(raw: object) -> Expression | None:
    """Parse a value of a study file; None if it does not refer to the recipe."""
    match = PATTERN.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        return None
    name, operation, number = match.groups()
    return Expression(name=name, operation=operation, number=float(number or 0))


def needs_recipe(tables: Mapping[str, Any]) -> bool:
    """Whether a study file has values of a recipe."""
    is_sized = _table(tables.get("data")).get(IMAGE_SIZE) == AUTO
    return is_sized or any(parse(value) for value in _values(tables.get("space"), tables.get("try")))


def given_values(tables: Mapping[str, Any]) -> dict[str, Value]:
    """The values that a study file fixes; the recipe goes with them."""
    size = _table(tables.get("data")).get(IMAGE_SIZE)
    return _fixed_values(_table(tables.get("space"))) | ({IMAGE_SIZE: size} if isinstance(size, int) else {})


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
            filled[name] = _fill_defaults(filled[name], recipe)
    given = given_values(filled)
    space = filled["space"] = _fill_space(tables.get("space", {}), recipe_of, given)
    points = tables.get("try", [] if "compare" in tables else [{BASE: AUTO}])
    filled["try"] = [
        _fill_point(f"[[try]] {number}", point, space, recipe_of, given)
        for number, point in enumerate(expect_tables("[[try]]", points), 1)
    ]
    return filled


def _fill_defaults(table: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A table without the keys that are left to their default."""
    kept = {key: value for key, value in table.items() if value != AUTO or key in OWN_AUTO}
    return kept | {key: recipe[key].value for key, value in table.items() if value == AUTO and key in recipe}


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
    recipe = recipe_of({**given, **_fixed_values(point)})
    changes = _fill_table(place, point, recipe)
    if base is None:
        return changes
    if base != AUTO:
        raise SpecError(f'{place} base must be "auto", the recipe, but got {to_toml(base)}; leave it out')
    values = {key: setting.value for key, setting in recipe.items()} | changes
    is_searched = {key for key, domain in space.items() if isinstance(domain, list | dict)}
    return {key: value for key, value in values.items() if key in is_searched and _has_meaning(key, values)} | changes


def _fill_table(place: str, table: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    return {
        key: value if key in OWN_AUTO else _fill(f"{place} {key}", key, value, recipe) for key, value in table.items()
    }


def _fill(place: str, key: str, raw: object, recipe: Recipe) -> object:
    if isinstance(raw, list):
        filled = [_fill(place, key, member, recipe) for member in raw]
        return [value for index, value in enumerate(filled) if value not in filled[:index]]
    if isinstance(raw, dict):
        return _fill_range(place, key, raw, recipe)
    expression = parse(raw)
    return raw if expression is None else _evaluate(place, key, expression, raw, recipe)


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


def _evaluate(place: str, key: str, expression: Expression, raw: object, recipe: Recipe) -> Value:
    name = key if expression.name == AUTO else expression.name
    if name not in recipe:
        raise SpecError(f"{place} has no value in a recipe, but got {to_toml(raw)}; give a value")
    if expression.operation is None:
        return recipe[name].value
    value = OPERATIONS[expression.operation](_number(place, name, recipe), expression.number)
    for limit in CONFIG_CLASS_OF[key].model_fields[key].metadata:
        match limit:
            case Ge(ge=int() | float() as lowest):
                value = max(value, lowest)
            case Le(le=int() | float() as highest):
                value = min(value, highest)
    return round(value) if isinstance(DEFAULTS[key], int) else float(f"{value:.4g}")


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
    return {key: value for key, value in table.items() if isinstance(value, Value) and not parse(value)}


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
