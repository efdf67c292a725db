"""Inheritance: the tables of a study file on top of those of its base."""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from search.errors import SpecError
from search.spec.toml_table import did_you_mean, to_toml

LEVELS: Final = 2
"""Levels at which tables merge key by key: the file, and its tables. A table below, a range of [space], is a value."""

WHEN_LEVELS: Final = 3
"""The levels of [space.when]: its parameters, their values, and the ranges under each value."""


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the tables of a file into those of its base.

    Tables merge key by key. Everything else replaces the inherited value whole: plain values, lists, ranges of [space],
    and arrays of tables such as [[try]]. A key that the file gives in [space] has this value for every choice: the
    ranges that the base has for it in [space.when] end.

    Args:
        base: The tables of the base.
        own: The tables of the file.
    """
    kept, space = deepcopy(dict(base)), own.get("space")
    if isinstance(space, dict) and isinstance(kept.get("space"), dict):
        _delete_keys(kept["space"].get("when"), space.keys(), depth=2)
    return _merge(kept, own, levels=LEVELS)


def remove(base: Mapping[str, Any], keys: object) -> dict[str, Any]:
    """Copy the tables of a base without some of them.

    Args:
        base: The tables.
        keys: What to leave out: a list of tables and dotted keys, such as `["final", "budget.hours"]`.

    Raises:
        SpecError: `keys` is something else, or the base does not have one of them.
    """
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise SpecError(f"remove must be a list of keys, such as ['final', 'budget.hours'], but got {to_toml(keys)}")
    kept = deepcopy(dict(base))
    places = {dotted: (table, key) for dotted, table, key in _places(kept)}
    for dotted in keys:
        if dotted not in places:
            fault = f"remove has {to_toml(dotted)}, which the base does not have"
            raise SpecError("; ".join(filter(None, [fault, did_you_mean(dotted, places)])))
        table, key = places[dotted]
        table.pop(key, None)  # a key may be there twice
    return kept


def _merge(base: Mapping[str, Any], own: Mapping[str, Any], *, levels: int) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        inherited, below = base.get(key), WHEN_LEVELS if key == "when" else levels - 1
        if below and isinstance(inherited, dict) and isinstance(value, dict):
            value = _merge(inherited, value, levels=below)
        merged[key] = value
    return merged


def _delete_keys(table: object, keys: Collection[str], *, depth: int) -> None:
    """Delete keys from the tables `depth` levels further down, and the tables that are empty then."""
    if not isinstance(table, dict):
        return
    for name, inner in list(table.items()):
        if depth == 0 and name in keys:
            del table[name]
        elif depth > 0:
            _delete_keys(inner, keys, depth=depth - 1)
            if inner == {}:
                del table[name]


def _places(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """All keys of a table and of the tables in it: the dotted key, the table that has it, and its name there."""
    for key, value in table.items():
        yield prefix + key, table, key
        if isinstance(value, dict):
            yield from _places(value, f"{prefix}{key}.")
