"""One table of a study file: validated strictly, or rejected with the place, the rule, the value and the remedy."""

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
"""Messages that replace those of pydantic, by error type."""


class UnknownKey(SpecError):
    """A key that this version does not have: a typing error in a file, or a newer key in a stored study."""


def read_model(table_name: str, kind: type[M], raw: object) -> M:
    """Validate a table.

    Args:
        table_name: Table name for messages, such as `[budget]`.
        kind: The pydantic model of the table.
        raw: The table as tomllib returns it.

    Raises:
        SpecError: The table breaks a rule of `kind`, or has a number that is not finite.
    """
    table = expect_table(table_name, raw)
    check_keys(table_name, table, known=kind.model_fields)
    for key, value in table.items():
        check_finite(f"{table_name} {key}", value)
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise SpecError(explain(table_name, error)) from error


def expect_table(table_name: str, raw: object) -> dict[str, Any]:
    """Return the table. Raises SpecError if it is a plain value or a list."""
    if isinstance(raw, dict):
        return raw
    raise SpecError(f"{table_name} must be a table, but got {to_toml(raw)}")


def expect_tables(table_name: str, raw: object) -> list[dict[str, Any]]:
    """Return the tables of an array such as `[[try]]`. Raises SpecError for anything else."""
    if isinstance(raw, list):
        return [expect_table(f"{table_name} {number}", row) for number, row in enumerate(raw, start=1)]
    raise SpecError(f"{table_name} must be an array of tables, but got {to_toml(raw)}")


def check_keys(table_name: str, raw: Iterable[str], *, known: Iterable[str]) -> None:
    """Raise UnknownKey for the first unknown key, with the most similar known key."""
    names = list(known)
    for key in raw:
        if key not in names:
            raise UnknownKey(f"{table_name} {key} is not known; {nearest(key, names)}".lstrip())


def check_finite(table_name: str, value: object) -> None:
    """Raise SpecError for nan and inf, which TOML allows and no setting accepts."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{table_name} must be a finite number, but got {value}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for the most similar name, or a list of all names if none is similar."""
    names = sorted(known)
    return did_you_mean(name, names) or f"known are {', '.join(to_toml(key) for key in names)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for the most similar name, or an empty text if none is similar."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {to_toml(close[0])}?" if close else ""


def explain(table_name: str, error: ValidationError, *, named: str | None = None) -> str:
    """Describe the first error from pydantic in one line: place, key (or `named`), rule and value."""
    errors = error.errors()
    first = errors[0]
    if not first["loc"]:
        return f"{table_name} {_rule(first)}"
    key = first["loc"][0]
    line = f"{table_name} {named or key}"
    if first["type"] == "missing":
        return f"{line} is missing"
    if first["type"] == "value_error":
        return f"{line} {_rule(first)}"
    # A field of two types (images or a share) has one error for each. Together they state the rule.
    rules = " or ".join(dict.fromkeys(_rule(details) for details in errors if details["loc"][:1] == (key,)))
    return f"{line} {rules.replace(' or must be ', ' or ')}, but got {to_toml(first['input'])}{_hint(first)}"


def to_toml(value: object) -> str:
    """A value in TOML syntax on one line, shortened to 200 characters."""
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
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return str(value)
