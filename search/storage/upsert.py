"""What is written to a trial, as values that can be collected, put in few statements, and written twice."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


@dataclass(frozen=True, slots=True)
class Upsert:
    """The values of the row that `keys` name; the row is made if it is missing."""

    table: sa.Table
    keys: dict[str, object]
    values: dict[str, object]


Write = Upsert | sa.Executable
"""One thing that is written to a trial."""


def attr(table: sa.Table, trial_id: int, key: str, value: object) -> Upsert:
    """An attribute of a trial."""
    return Upsert(table, {"trial_id": trial_id, "key": key}, {"value_json": json.dumps(value)})


def group_statements(
    dialect: str, writes: Sequence[Write]
) -> list[tuple[sa.Executable, list[dict[str, object]] | None]]:
    """The same writes in fewer statements: all rows of a table by one, the tables in the order of their first row.

    But one by one on PostgreSQL: its driver sends many at once, and a server that got a part of them and no more, as
    its client was cut off, takes it for being at work and keeps the locks.
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
    """On PostgreSQL: one statement, with its parameters, that writes these rows if `holder` finds `token`, and answers
    with what it found. Of rows with the same keys the last one counts.
    """
    last = {(row.table, *row.keys.values()): row for row in rows}
    grouped: dict[tuple[sa.Table, tuple[str, ...], tuple[str, ...]], list[Upsert]] = {}
    for row in last.values():
        grouped.setdefault((row.table, tuple(row.keys), tuple(row.values)), []).append(row)
    parameters = {
        _parameter(table, line, name): value
        for table, lines in enumerate(grouped.values())
        for line, row in enumerate(lines)
        for name, value in (row.keys | row.values).items()
    }
    shape = tuple((*kind, len(lines)) for kind, lines in grouped.items())
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
        lines = [
            sa.select(
                *(sa.cast(sa.bindparam(_parameter(number, line, name)), table.c[name].type) for name in names)
            ).where(is_ours)
            for line in range(count)
        ]
        insert = upserting("postgresql", table, keys, values).from_select(names, sa.union_all(*lines))
        inserts.append(insert.cte(f"written_{number}"))
    return sa.select(held.c.token).add_cte(*inserts)


def _parameter(table: int, line: int, name: str) -> str:
    return f"{name}_{table}_{line}"


@functools.lru_cache
def upserting(
    dialect: str, table: sa.Table, keys: tuple[str, ...], values: tuple[str, ...]
) -> sqlite.Insert | postgresql.Insert:
    """The statement that writes rows of a table; the row with the same keys is replaced."""
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    return insert.on_conflict_do_update(index_elements=keys, set_={name: insert.excluded[name] for name in values})
