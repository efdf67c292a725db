"""Connections, transactions and retries of the storage; `rdb.py` has the writes."""

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError

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
from search.storage.upsert import upserting

T = TypeVar("T")


class TransactionalStorage(FastReadStorage):
    """Optuna's storage with explicit transactions, each retried while the database is busy or unreachable.

    `token` signs the leases of this process. Without a token, the storage can read, and can write to studies, but not
    to trials.
    """

    whole = False

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
        super().__init__(url, engine_kwargs=engine_options(url), skip_table_creation=True)

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
