"""Hand-written configurations: the points of `[[try]]` and the rows of `[[compare]]`."""

from collections.abc import Mapping
from dataclasses import dataclass

from search.errors import SpecError
from search.spec.domains import Value, describe
from search.spec.parameters import CONFIG_CLASS_OF, check_values
from search.spec.search_space import SearchSpace, irrelevance_reason, to_fixed_params
from search.spec.toml_table import check_keys, expect_tables, to_toml


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRow:
    """One row of a comparison: a name, and the values that differ from `[space]`."""

    name: str
    values: Mapping[str, Value]


def read_points(raw: object, space: SearchSpace, *, listed: bool) -> tuple[Mapping[str, Value], ...]:
    """Read the points of `[[try]]`, each inside the space. `listed`: a grid or comparison already lists all trials."""
    points = []
    for number, table in enumerate(expect_tables("[[try]]", raw), start=1):
        table_name = f"[[try]] {number}"
        if listed:
            raise SpecError(
                f"{table_name} has no place in a grid or comparison, which runs all its cells; leave it out"
            )
        point = check_values(table_name, table)
        try:
            to_fixed_params(space, point)
        except ValueError as error:
            raise SpecError(f"{table_name} {error}") from error
        points.append(point)
    return tuple(points)


def read_rows(raw: object, space: SearchSpace, *, least: int = 2) -> tuple[AblationRow, ...]:
    """Read the rows of `[[compare]]`, whose values must have a meaning beside the fixed values of the space.

    There must be at least `least` rows, or none.
    """
    tables = expect_tables("[[compare]]", raw)
    if not tables:
        return ()
    if len(tables) < least:
        raise SpecError("[[compare]] must have at least 2 rows, a base and what differs from it, but got 1")
    _check_base(space)
    rows: list[AblationRow] = []
    for number, table in enumerate(tables, start=1):
        row = _read_row(f"[[compare]] {number}", table, space)
        if row.name in [other.name for other in rows]:
            raise SpecError(
                f"[[compare]] {number} name must be unlike all others, but {to_toml(row.name)} is there twice"
            )
        rows.append(row)
    return tuple(rows)


def _check_base(space: SearchSpace) -> None:
    if space.when:
        raise SpecError("[space.when] has no place beside [[compare]], where every value is fixed; leave it out")
    for key, domain in space.parameters.items():
        if domain.single_value is None:
            raise SpecError(
                f"[space] {key} must be a plain value beside [[compare]], but got {describe(domain)}; "
                f"give each other value a row"
            )


def _read_row(table_name: str, table: Mapping[str, object], space: SearchSpace) -> AblationRow:
    check_keys(table_name, table, known=["name", *CONFIG_CLASS_OF])
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise SpecError(f"{table_name} name must describe the row in a word or two, but got {to_toml(name)}")
    table_name = f"[[compare]] {to_toml(name)}"
    values = check_values(table_name, {key: value for key, value in table.items() if key != "name"})
    base = {key: domain.single_value for key, domain in space.parameters.items() if domain.single_value is not None}
    for key in values:
        why = irrelevance_reason(space, key, base | values)
        if why is not None:
            raise SpecError(f"{table_name} {key} {why}; leave it out")
    return AblationRow(name=name, values=values)
