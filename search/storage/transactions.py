"""Connections, transactions and retries of the storage; see `rdb.py` for what is written by them."""

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
    """Optuna's storage with transactions of our own, each of which is tried again while the database is busy or away.

    `token` is what this process signs its leases with; without one it can read, and write to studies, but to no trial.
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
        """Open the database at `url`; only with `create` a missing SQLite file is made.

        A call that fails for a transient reason is tried again for `retry_timeout_s` seconds; `should_stop` is asked
        before each further try. The first connection to a server is not retried: a wrong URL is the likelier cause.

        Raises:
            DatabaseError: there is no such database, it is none, or its schema is another Optuna's.
        """
        self.token = token
        self.retry_timeout_s = retry_timeout_s
        self.should_stop = should_stop
        self._is_met = token is not None or sqlite_path(url) is not None
        self.url = url
        self.retry_transient(lambda: self._make_and_open(url, create=create))
        self._is_met = True
        self.engine.dispose()  # the connections of the schema check began transactions in the driver's way
        take_over_transactions(self.engine)
        self._writer = self.engine.execution_options(**LOCKED)
        self._reader = snapshot(self.engine)
        self._at_once = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def _make_and_open(self, url: str, *, create: bool) -> None:
        if create:
            make_folder(url)
        if not create or not is_missing(url):
            check_tables(url)  # which refuses a missing file; a writer would make one
        if create or self.token is None:  # a worker finds all tables there
            make_tables(url, *([models.BaseModel.metadata] if create else []), LEASES.metadata)
        super().__init__(url, engine_kwargs=engine_options(url), skip_table_creation=True)

    # -- transactions ----------------------------------------------------------------------------------------

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do `work` in one transaction that holds the write lock from its start, and commit it.

        (The lock of the whole database on SQLite; elsewhere of the rows that `work` locks.) `work` is done again if the
        transaction failed for a reason that passes, so it must change nothing but the database.

        Raises:
            DiskError: the disk is full, or the file cannot be written.
            DatabaseError: the database does not answer.
        """

        def transact() -> T:
            with self._writer.begin() as connection:
                return work(connection)

        return self.retry_transient(transact)

    def execute(self, statement: sa.Executable) -> None:
        """Do one statement in a transaction of its own; on PostgreSQL it holds no lock while answers travel.

        Raises as `write` does.
        """
        if self.engine.dialect.name != "postgresql":
            self.write(lambda connection: connection.execute(statement))
            return

        def execute() -> None:
            with self._at_once.connect() as connection:
                connection.execute(statement)

        self.retry_transient(execute)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Do `work`, which only reads, so that all it sees is of one moment. Raises as `write` does."""

        def transact() -> T:
            with self._reader.begin() as connection:
                return work(connection)

        return self.retry_transient(transact)

    def retry_transient(self, call: Callable[[], T]) -> T:
        """The result of `call`, made again while the database is busy or away. Raises as `write` does."""
        try:
            return retry_transient(call, passes=self._is_worth_waiting, retry_timeout_s=self.retry_timeout_s)
        except (sa.exc.DBAPIError, StorageInternalError, DatabaseError) as error:
            if database_error(error) is None:
                raise
            raise to_user_error(self.url, error) from error

    def _is_worth_waiting(self, error: Exception) -> bool:
        return self._is_met and is_transient(error) and not self.should_stop()

    def lock_study(self, connection: sa.Connection, study_id: int, *, wait_s: float | None = None) -> None:
        """Let nobody else claim trials of the study or change its budget until this transaction ends.

        PostgreSQL locks the study's row; SQLite ignores FOR UPDATE, and holds its one write lock already. A timed-out
        waiter loses its place in the lock queue. `wait_s`: lock timeout in seconds.
        """
        if wait_s is not None and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait_s:g}s'")
        connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update())

    def upsert(self, table: sa.Table, keys: dict[str, object], values: dict[str, object]) -> sa.Executable:
        """The statement that writes `values` into the row named by `keys`, which is made if it is missing."""
        return upserting(self.engine.dialect.name, table, tuple(keys), tuple(values)).values(keys | values)
