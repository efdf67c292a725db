"""Engines for both databases: connection options, locks, timeouts, and creation of missing tables."""

import logging
import sqlite3
from typing import Any

import sqlalchemy as sa

from search.errors import DiskError
from search.storage import schema
from search.storage.db_errors import to_user_error
from search.storage.read_only import display_name, open_reader, server_options, sqlite_path
from search.storage.retry import BUSY_S

#: PostgreSQL advisory lock that is held while tables are created: "convsear" in ASCII.
CREATE_LOCK_KEY = 0x636F6E7673656172
#: Lock timeout on the study row in seconds. A timed-out waiter loses its place in the queue, and handles signals.
LOCK_S = 3.0
#: Keepalives: a client that is cut off during a query looks busy to the server; the server drops it after 25 s.
KEEPALIVE = ("tcp_keepalives_idle=10", "tcp_keepalives_interval=5", "tcp_keepalives_count=3", "tcp_user_timeout=25s")
#: Index for ranking trials at a step; without it the query scans all intermediate values.
RANK_INDEX = ("trial_intermediate_values", "convsearch_standing", "step, trial_id, intermediate_value")
#: Execution option of connections whose transactions hold the write lock from their first statement.
LOCKED = {"convsearch_locked": True}


def engine_options(url: str) -> dict[str, Any]:
    """Return the `create_engine` arguments for the database at `url`."""
    if is_sqlite(url):
        return {"connect_args": {"timeout": BUSY_S}, "hide_parameters": True}
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # this package reports lost connections that matter
    limits = (
        "idle_in_transaction_session_timeout=30s",  # a client that freezes in a transaction loses its locks
        *KEEPALIVE,
        f"lock_timeout={LOCK_S:g}s",
        "timezone=UTC",  # overrides the role's: this package never asks the server for the time, but others may
        r"default_transaction_isolation=read\ committed",  # overrides the role's: a lock waiter reads the newest row
    )
    connect_args = server_options(sa.make_url(url), *limits)
    # A worker uses the database from one thread: its pool keeps one connection and closes others after use.
    pool_options = {"pool_size": 1, "max_overflow": 4}
    return {"pool_pre_ping": True, "hide_parameters": True, "connect_args": connect_args, **pool_options}


def is_sqlite(url: str) -> bool:
    return sa.make_url(url).get_backend_name() == "sqlite"


def make_folder(url: str) -> None:
    """Create the folder of a SQLite file.

    Raises:
        DiskError: The folder cannot be created.
    """
    file = sqlite_path(url)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot create the folder {file.parent}: {error.strerror}; name another --storage") from error


def is_missing(url: str) -> bool:
    """Whether the SQLite file at `url` is missing or empty; an empty file is a new database."""
    file = sqlite_path(url)
    return file is not None and (not file.exists() or file.stat().st_size == 0)


def check_tables(url: str) -> None:
    """Refuse a database with the tables of another Optuna version, before anything is written to it.

    Raises:
        DatabaseError: The tables are of another version, or the database is missing, invalid or does not answer.
    """
    reader = open_reader(url)
    try:
        with reader.connect() as connection:
            schema.check(connection, display_name(reader))
    except sa.exc.DBAPIError as error:
        raise to_user_error(url, error) from error
    finally:
        reader.dispose()


def make_tables(url: str, *schemas: sa.MetaData) -> None:
    """Create the missing tables in one transaction: launchers cannot collide, and a kill leaves none of the tables.

    The transaction also stores the version of new tables. Optuna would store it later, when launchers can collide.
    """
    engine = sa.create_engine(url, **engine_options(url))
    take_over_transactions(engine)
    with engine.execution_options(**LOCKED).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK_KEY)))
        for tables in schemas:
            tables.create_all(connection)
        table, index, columns = RANK_INDEX
        if not sa.inspect(connection).has_index(table, index):  # IF NOT EXISTS locks the table on PostgreSQL
            connection.exec_driver_sql(f"CREATE INDEX {index} ON {table} ({columns})")
        if schema.revision(connection) is None:
            schema.note(connection)
    engine.dispose()


def take_over_transactions(engine: sa.Engine) -> None:
    """Begin SQLite's transactions explicitly; the driver begins one only at the first write, without a lock.

    Source: https://docs.sqlalchemy.org/en/21/dialects/sqlite.html (serializable isolation, savepoints).
    """
    if engine.dialect.name != "sqlite":
        return
    sa.event.listen(engine, "connect", _disable_driver_transactions)
    sa.event.listen(engine, "begin", _begin)


def _disable_driver_transactions(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    locked = connection.get_execution_options().get("convsearch_locked", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if locked else "BEGIN")
