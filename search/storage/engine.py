"""Engines for both databases: how to connect, to lock, to wait; and what is made where it is missing."""

import logging
import sqlite3
from typing import Any

import sqlalchemy as sa

from search.errors import DiskError
from search.storage import schema
from search.storage.db_errors import to_user_error
from search.storage.read_only import display_name, open_reader, server_options, sqlite_path
from search.storage.retry import BUSY_S

#: The advisory lock of PostgreSQL under which tables are made: "convsear" in ASCII.
CREATE_LOCK_KEY = 0x636F6E7673656172
#: Lock timeout on the study row in seconds. On timeout the waiter loses its place in the queue, and handles signals.
LOCK_S = 3.0
#: Keepalives: a client that is cut off in the middle of a query looks busy to the server; it is dropped after 25 s.
KEEPALIVE = ("tcp_keepalives_idle=10", "tcp_keepalives_interval=5", "tcp_keepalives_count=3", "tcp_user_timeout=25s")
#: Index for ranking trials at a step; without it the query scans all intermediate values.
RANK_INDEX = ("trial_intermediate_values", "convsearch_standing", "step, trial_id, intermediate_value")
#: The option of a connection whose transactions hold the write lock from their first statement.
LOCKED = {"convsearch_locked": True}


def engine_options(url: str) -> dict[str, Any]:
    """What `create_engine` needs for this kind of database."""
    if is_sqlite(url):
        return {"connect_args": {"timeout": BUSY_S}, "hide_parameters": True}
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # of lost connections we tell ourselves, if it matters
    limits = (
        "idle_in_transaction_session_timeout=30s",  # a client that freezes in a transaction loses its locks
        *KEEPALIVE,
        f"lock_timeout={LOCK_S:g}s",
        "timezone=UTC",  # whatever the role's: nothing of ours asks the server for the time, and others may
        r"default_transaction_isolation=read\ committed",  # whatever the role's: behind a lock lies the newest row
    )
    connect_args = server_options(sa.make_url(url), *limits)
    # A worker talks to it from one thread: it keeps one connection, and closes others when they are not used.
    sizes = {"pool_size": 1, "max_overflow": 4}
    return {"pool_pre_ping": True, "hide_parameters": True, "connect_args": connect_args, **sizes}


def is_sqlite(url: str) -> bool:
    return sa.make_url(url).get_backend_name() == "sqlite"


def make_folder(url: str) -> None:
    """Make the folder of a SQLite file.

    Raises:
        DiskError: it cannot be made.
    """
    file = sqlite_path(url)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make the folder {file.parent}: {error.strerror}; name another --storage") from error


def is_missing(url: str) -> bool:
    """Whether there is no SQLite file at `url` yet, or an empty one, which is a new database."""
    file = sqlite_path(url)
    return file is not None and (not file.exists() or file.stat().st_size == 0)


def check_tables(url: str) -> None:
    """Refuse a database with the tables of another Optuna, before anything is written to it.

    Raises:
        DatabaseError: so it is; or it is missing, none, or does not answer.
    """
    reader = open_reader(url)
    try:
        with reader.connect() as connection:
            schema.check(connection, display_name(reader))
    except sa.exc.DBAPIError as error:
        raise to_user_error(url, error) from error
    finally:
        reader.dispose()


def make_tables(url: str, *wanted: sa.MetaData) -> None:
    """Make those tables that are missing, all in one transaction: launchers cannot collide, and a kill leaves none.

    New ones get the note of their version with them, which Optuna would make later, when launchers meet.
    """
    engine = sa.create_engine(url, **engine_options(url))
    take_over_transactions(engine)
    with engine.execution_options(**LOCKED).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CREATE_LOCK_KEY)))
        for tables in wanted:
            tables.create_all(connection)
        table, index, columns = RANK_INDEX
        if not sa.inspect(connection).has_index(table, index):  # PostgreSQL would lock the table to see that
            connection.exec_driver_sql(f"CREATE INDEX {index} ON {table} ({columns})")
        if schema.revision(connection) is None:
            schema.note(connection)
    engine.dispose()


def take_over_transactions(engine: sa.Engine) -> None:
    """Begin SQLite's transactions ourselves; the driver would begin one only at the first write, without a lock.

    Source: https://docs.sqlalchemy.org/en/21/dialects/sqlite.html (serializable isolation, savepoints).
    """
    if engine.dialect.name != "sqlite":
        return
    sa.event.listen(engine, "connect", _leave_transactions_to_us)
    sa.event.listen(engine, "begin", _begin)


def _leave_transactions_to_us(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    locked = connection.get_execution_options().get("convsearch_locked", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if locked else "BEGIN")
