"""Connections, transactions, retries and upserts of the storage; `rdb.py` has the writes of trials and studies."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.dialects import postgresql, sqlite

from search.errors import DatabaseError
from search.optuna_internals import models
from search.storage.db_errors import database_error, is_transient, to_user_error
from search.storage.engine import (
    LOCKED,
    check_tables,
    engine_options,
    is_missing,
    make_folder,
    make_tables,
    take_over_transactions,
)
from search.storage.rdb_reads import FastReadStorage
from search.storage.read_only import snapshot, sqlite_path
from search.storage.retry import Timeouts, retry_transient
from search.storage.tables import LEASES, STUDIES

T = TypeVar("T")


class TransactionalStorage(FastReadStorage):
    """Optuna's storage with explicit transactions, each retried while the database is busy or unreachable.

    `token` signs the leases of this process. Without a token, the storage can read, and can write to studies, but not
    to trials.
    """

    include_running_details = False
    """Samplers read all trials before each draw, but only the parameters of running ones. With hundreds of workers the
    running trials are most of the data."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        create: bool = False,
        retry_timeout_s: float = Timeouts().retry_timeout_s,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Open the database at `url`.

        Without a `token`, the first connection to a server is not retried: a wrong URL is the likelier cause.

        Args:
            url: Database URL.
            token: Token of the leases of this process.
            create: Whether to create a missing SQLite file and missing tables.
            retry_timeout_s: Duration of retries after a transient error, in seconds.
            should_stop: Called before each retry; True ends the retries.

        Raises:
            DatabaseError: The database is missing or invalid, or has the schema of another Optuna version.
        """
        self.token = token
        self.retry_timeout_s = retry_timeout_s
        self.should_stop = should_stop
        self._can_retry = token is not None or sqlite_path(url) is not None
        self.url = url
        self.retry_transient(lambda: self._make_and_open(url, create=create))
        self._can_retry = True
        self.engine.dispose()  # connections of the schema check use the driver's transactions
        take_over_transactions(self.engine)
        self._writer = self.engine.execution_options(**LOCKED)
        self._reader = snapshot(self.engine)
        self._at_once = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def _make_and_open(self, url: str, *, create: bool) -> None:
        if create:
            make_folder(url)
        if not create or not is_missing(url):
            check_tables(url)  # refuses a missing file, which a writer would create
        if create or self.token is None:  # for a worker all tables exist already
            make_tables(url, *([models.BaseModel.metadata] if create else []), LEASES.metadata)
        # Optuna's check would load all its migrations; `check_tables` compares the version without them.
        super().__init__(
            url, engine_kwargs=engine_options(url), skip_compatibility_check=True, skip_table_creation=True
        )

    # -- transactions ----------------------------------------------------------------------------------------

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction that holds the write lock from its start, and commit it.

        The lock covers the whole database on SQLite, and elsewhere the rows that `work` locks.

        Args:
            work: Called with the connection of the transaction. It runs again after a transient error, so it must
                change nothing but the database.

        Returns:
            The result of `work`.

        Raises:
            DiskError: The disk is full, or the file cannot be written.
            DatabaseError: The database does not answer.
        """

        def transact() -> T:
            with self._writer.begin() as connection:
                return work(connection)

        return self.retry_transient(transact)

    def execute(self, statement: sa.Executable) -> None:
        """Run one statement in a separate transaction; on PostgreSQL no lock is held during round trips.

        Raises the errors of `write`.
        """
        if self.engine.dialect.name != "postgresql":
            self.write(lambda connection: connection.execute(statement))
            return

        def execute() -> None:
            with self._at_once.connect() as connection:
                connection.execute(statement)

        self.retry_transient(execute)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run the read-only `work` on one snapshot of the database. Raises the errors of `write`."""

        def transact() -> T:
            with self._reader.begin() as connection:
                return work(connection)

        return self.retry_transient(transact)

    def retry_transient(self, call: Callable[[], T]) -> T:
        """Return the result of `call`, retried while the database is busy or away. Raises the errors of `write`."""
        try:
            return retry_transient(call, passes=self._should_retry, retry_timeout_s=self.retry_timeout_s)
        except (sa.exc.DBAPIError, StorageInternalError, DatabaseError) as error:
            if database_error(error) is None:
                raise
            raise to_user_error(self.url, error) from error

    def _should_retry(self, error: Exception) -> bool:
        return self._can_retry and is_transient(error) and not self.should_stop()

    def lock_study(self, connection: sa.Connection, study_id: int, *, wait_s: float | None = None) -> None:
        """Prevent others from claiming trials of the study or changing its budget until this transaction ends.

        PostgreSQL locks the study's row; SQLite ignores FOR UPDATE, and holds its one write lock already. A timed-out
        waiter loses its place in the lock queue.

        Args:
            connection: Connection in a write transaction.
            study_id: Id of the study.
            wait_s: Lock timeout in seconds on PostgreSQL; None for the default of the session.
        """
        if wait_s is not None and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait_s:g}s'")
        connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update())

    def upsert(self, table: sa.Table, keys: dict[str, object], values: dict[str, object]) -> sa.Executable:
        """Return the statement that writes `values` to the row with these `keys`, or inserts the row."""
        return upserting(self.engine.dialect.name, table, tuple(keys), tuple(values)).values(keys | values)


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
