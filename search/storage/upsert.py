"""Writes to a trial as values that can be batched, grouped into few statements, and repeated."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


@dataclass(frozen=True, slots=True)
class Upsert:
    """Values of the row with these `keys`; a missing row is inserted."""

    table: sa.Table
    keys: dict[str, object]
    values: dict[str, object]


Write = Upsert | sa.Executable
"""One write to a trial."""


def attr(table: sa.Table, trial_id: int, key: str, value: object) -> Upsert:
    """Return the write of an attribute of a trial."""
    return Upsert(table, {"trial_id": trial_id, "key": key}, {"value_json": json.dumps(value)})


def group_statements(
    dialect: str, writes: Sequence[Write]
) -> list[tuple[sa.Executable, list[dict[str, object]] | None]]:
    """Group writes into fewer statements: one for all rows of a table, with tables in the order of their first row.

    PostgreSQL gets one row per statement. Its driver sends many rows at once; if the client is cut off, the server has
    received only some of them, treats the client as active and keeps the locks.
    """
    tables: dict[sa.Executable, list[dict[str, object]]] = {}
    others: list[tuple[sa.Executable, list[dict[str, object]] | None]] = []
    for write in writes:
        if isinstance(write, Upsert):
            statement = upserting(dialect, write.table, tuple(write.keys), tuple(write.values))
            tables.setdefault(statement, []).append(write.keys | write.values)
        else:
            others.append((write, None))
    if dialect == "postgresql":
        return [*((statement, [row]) for statement, rows in tables.items() for row in rows), *others]
    return [*tables.items(), *others]


def fenced_upsert(
    holder: sa.Select[tuple[str]], rows: Sequence[Upsert], token: str
) -> tuple[sa.Executable, dict[str, object]]:
    """Build one PostgreSQL statement, with its parameters, that writes these rows if `holder` selects `token`.

    The statement returns the token that `holder` selects. Of rows with the same keys the last one counts.
    """
    last = {(row.table, *row.keys.values()): row for row in rows}
    grouped: dict[tuple[sa.Table, tuple[str, ...], tuple[str, ...]], list[Upsert]] = {}
    for row in last.values():
        grouped.setdefault((row.table, tuple(row.keys), tuple(row.values)), []).append(row)
    parameters = {
        _parameter(table, index, name): value
        for table, table_rows in enumerate(grouped.values())
        for index, row in enumerate(table_rows)
        for name, value in (row.keys | row.values).items()
    }
    shape = tuple((*kind, len(table_rows)) for kind, table_rows in grouped.items())
    return _fenced(holder, shape), parameters | {"token": token}


@functools.lru_cache
def _fenced(
    holder: sa.Select[tuple[str]], shape: tuple[tuple[sa.Table, tuple[str, ...], tuple[str, ...], int], ...]
) -> sa.Executable:
    held = holder.cte("held")
    is_ours = sa.exists().where(held.c.token == sa.bindparam("token"))
    inserts = []
    for number, (table, keys, values, count) in enumerate(shape):
        names = (*keys, *values)
        selects = [
            sa.select(
                *(sa.cast(sa.bindparam(_parameter(number, index, name)), table.c[name].type) for name in names)
            ).where(is_ours)
            for index in range(count)
        ]
        insert = upserting("postgresql", table, keys, values).from_select(names, sa.union_all(*selects))
        inserts.append(insert.cte(f"written_{number}"))
    return sa.select(held.c.token).add_cte(*inserts)


def _parameter(table: int, row: int, name: str) -> str:
    return f"{name}_{table}_{row}"


@functools.lru_cache
def upserting(
    dialect: str, table: sa.Table, keys: tuple[str, ...], values: tuple[str, ...]
) -> sqlite.Insert | postgresql.Insert:
    """Return the statement that inserts rows of a table, or updates the rows with the same keys."""
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return insert.on_conflict_do_update(index_elements=keys, set_={name: insert.excluded[name] for name in values})
