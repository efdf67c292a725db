"""One table of a study file: read strictly into a frozen value, or refused with place, rule, value and way out."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from search.errors import SpecError

M = TypeVar("M", bound=BaseModel)

RULES = {
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a string",
}
"""pydantic's error types in the words of a study file; every other rule keeps pydantic's words."""


class UnknownKey(SpecError):
    """A key that this version does not know: a slip in a file, or a newer version's in a stored study."""


def read_model(place: str, kind: type[M], raw: object) -> M:
    """The value of `kind` that the table says. `place` names it in errors: `[budget]`."""
    table = expect_table(place, raw)
    check_keys(place, table, known=kind.model_fields)
    for key, value in table.items():
        check_finite(f"{place} {key}", value)
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise SpecError(explain(place, error)) from error


def expect_table(place: str, raw: object) -> dict[str, Any]:
    """The table itself. Raises SpecError if it is a plain value or a list."""
    if isinstance(raw, dict):
        return raw
    raise SpecError(f"{place} must be a table, but got {to_toml(raw)}")


def expect_tables(place: str, raw: object) -> list[dict[str, Any]]:
    """The tables of an array like `[[try]]`. Raises SpecError if it is anything else."""
    if isinstance(raw, list):
        return [expect_table(f"{place} {number}", row) for number, row in enumerate(raw, start=1)]
    raise SpecError(f"{place} must be an array of tables, but got {to_toml(raw)}")


def check_keys(place: str, raw: Iterable[str], *, known: Iterable[str]) -> None:
    """Raises UnknownKey for the first key that is not known, with the nearest one that is."""
    names = list(known)
    for key in raw:
        if key not in names:
            raise UnknownKey(f"{place} {key} is not known; {nearest(key, names)}".lstrip())


def check_finite(place: str, value: object) -> None:
    """Raises SpecError for nan and inf, which TOML can write and no setting can be."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{place} must be a finite number, but got {value}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What the writer may have meant: the most similar name, else all of them."""
    names = sorted(known)
    return did_you_mean(name, names) or f"known are {', '.join(to_toml(each) for each in names)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for the most similar name, or nothing if none is similar."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {to_toml(close[0])}?" if close else ""


def explain(place: str, error: ValidationError, *, named: str | None = None) -> str:
    """The first fault that pydantic found, as one line: place, key (or `named`), rule and value."""
    found = error.errors()
    first = found[0]
    if not first["loc"]:
        return f"{place} {_rule(first)}"
    key = first["loc"][0]
    line = f"{place} {named or key}"
    if first["type"] == "missing":
        return f"{line} is missing"
    if first["type"] == "value_error":
        return f"{line} {_rule(first)}"
    # A field of two types (images or a share) has one complaint for each; together they say the rule.
    rules = " or ".join(dict.fromkeys(_rule(each) for each in found if each["loc"][:1] == (key,)))
    return f"{line} {rules.replace(' or must be ', ' or ')}, but got {to_toml(first['input'])}{_hint(first)}"


def to_toml(value: object) -> str:
    """A value as TOML writes it on one line, long ones shortened."""
    text = _toml(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _rule(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return RULES.get(error["type"], error["msg"].replace("Input should be", "must be"))


def _hint(error: ErrorDetails) -> str:
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    allowed = [word for word in error["ctx"]["expected"].split("'") if word.isidentifier() and word != "or"]
    question = did_you_mean(error["input"], allowed)
    return f"; {question}" if question else ""


def _toml(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if "'" not in value and value.isprintable() else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return str(value)
