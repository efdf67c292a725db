"""Read-only access to a database: queries never create a file, never write, and never load Optuna.

A SQLite file is opened with `mode=rw` and `query_only`, not with `mode=ro`. Neither creates a missing file. But a
process that was killed during a write leaves a journal that the next reader has to roll back, and `mode=ro` cannot
(https://www.sqlite.org/lockingv3.html#hot_journals). SQLite opens a write-protected file for reading.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

import sqlalchemy as sa

from search.errors import DatabaseError, DiskError
from search.storage import schema
from search.storage.db_errors import database_error, first_line, is_full_or_broken

#: Lock timeout of a query. Writers hold SQLite's lock for milliseconds; a person waits for the answer.
READ_TIMEOUT_S = 10.0

#: Options of libpq (https://www.postgresql.org/docs/current/libpq-connect.html). They detect a silently lost server
#: within half a minute; TCP alone takes hours.
NOTICE_THE_DEAD = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

_CREATE_HINT = "`convsearch run STUDY` makes it, and --storage or CONVSEARCH_STORAGE names another"


def open_reader(url: str, *, timeout_s: float = READ_TIMEOUT_S) -> sa.Engine:
    """Open an existing database without write access.

    Args:
        url: Database URL.
        timeout_s: Lock timeout in seconds.

    Returns:
        The read-only engine.

    Raises:
        DatabaseError: The URL is invalid, the SQLite file is missing or invalid, or the driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise DatabaseError("the storage is not a database URL; write sqlite:///PATH or postgresql://...") from error
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_reader(_existing_file(parsed), timeout_s)
    try:
        engine = sa.create_engine(
            parsed,
            poolclass=sa.NullPool,
            hide_parameters=True,
            connect_args=server_options(parsed, f"lock_timeout={timeout_s:g}s"),
        )
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        text = f"{parsed.get_backend_name()} needs a driver that is not installed ({error})"
        raise DatabaseError(f"{text}; for PostgreSQL install convsearch[postgres]") from error
    return engine.execution_options(postgresql_readonly=True)


def snapshot(engine: sa.Engine) -> sa.Engine:
    """Return `engine` with transactions that read one snapshot; SQLite's transactions do so by default."""
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def sqlite_connection(file: Path, timeout_s: float = READ_TIMEOUT_S) -> sqlite3.Connection:
    """Return a connection to an existing SQLite file that refuses every write; the caller begins transactions."""
    connection = sqlite3.connect(
        f"file:{quote(bytes(file.absolute()))}?mode=rw",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


#: Engines whose tables have passed the version check.
_CHECKED: WeakSet[sa.Engine] = WeakSet()


@contextmanager
def read_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a read-only transaction; all its SELECTs read one snapshot.

    Raises:
        DatabaseError: The database does not answer, holds no studies, or has the tables of another Optuna version.
        DiskError: The disk of the database is full or broken.
    """
    try:
        with snapshot(engine).connect() as connection, connection.begin():
            if engine not in _CHECKED:
                schema.check(connection, display_name(engine))
                _CHECKED.add(engine)
            yield connection
    except sa.exc.SQLAlchemyError as error:
        cause = database_error(error)
        if cause is not None and is_full_or_broken(cause):
            raise DiskError(f"{display_name(engine)} cannot be read ({first_line(error)}); see to its disk") from error
        raise DatabaseError(_reason(engine, error)) from error


def display_name(engine: sa.Engine) -> str:
    """Return the name of the database for messages: the file, or the URL without its password."""
    file = engine.get_execution_options().get("convsearch_file")
    return str(file) if file else engine.url.render_as_string(hide_password=True)


def integrity(engine: sa.Engine) -> str:
    """Run SQLite's integrity check, which reads the whole file. Any other database only has to answer.

    Args:
        engine: Read-only engine.

    Returns:
        "ok", or the first error.

    Raises:
        DatabaseError: The database does not answer.
        DiskError: The disk of the database is full or broken.
    """
    with read_transaction(engine) as connection:
        if connection.dialect.name != "sqlite":
            return "ok"
        return str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one())


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for any other database and for an invalid URL."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return None
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}
    return Path(str(parsed.database)) if is_file else None


def server_options(url: sa.URL, *settings: str) -> dict[str, Any]:
    """Return connection arguments for a PostgreSQL server that complete those of the URL.

    Args:
        url: Database URL; its own options have priority over `NOTICE_THE_DEAD`.
        *settings: Settings of the session, as NAME=VALUE.

    Returns:
        Arguments for libpq.
    """
    url_options = url.query.get("options", ())
    options = " ".join([url_options] if isinstance(url_options, str) else url_options)
    arguments = {name: value for name, value in NOTICE_THE_DEAD.items() if name not in url.query}
    return arguments | {"options": " ".join(filter(None, [options, *(f"-c {setting}" for setting in settings)]))}


def server_database(url: str) -> str:
    """Return HOST:PORT/NAME of a database on a server, or its service; without the user, because users can change."""
    parsed = sa.make_url(url)
    if "service" in parsed.query:  # a service file has all other parameters (libpq-pgservice)
        return f"service {parsed.query['service']}"
    return f"{parsed.host or 'localhost'}:{parsed.port or 5432}/{parsed.database}"


def _existing_file(url: sa.URL) -> Path:
    if url.database in {None, "", ":memory:"}:
        raise DatabaseError("a SQLite database in memory holds nothing to read; write sqlite:///PATH")
    file = Path(str(url.database))
    if not file.exists():
        raise DatabaseError(f"there is no database at {file} yet; {_CREATE_HINT}")
    if not file.is_file():
        raise DatabaseError(f"{file} is no file, so it cannot be a SQLite database; {_CREATE_HINT}")
    return file


def _sqlite_reader(file: Path, timeout_s: float) -> sa.Engine:
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite_connection(file, timeout_s),
        poolclass=sa.NullPool,
        execution_options={"convsearch_file": file},
    )
    sa.event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: sa.Connection) -> None:
    # The driver begins no transaction for a SELECT; two SELECTs could then read two snapshots.
    connection.exec_driver_sql("BEGIN")


def _reason(engine: sa.Engine, error: sa.exc.SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    where = display_name(engine)
    if "no such table" in text or "UndefinedTable" in type(getattr(error, "orig", None)).__name__:
        return f"{where} is a database, but holds no studies (it has no such table); {_CREATE_HINT}"
    if "not a database" in text or "malformed" in text:
        return f"{where} cannot be read as a SQLite database ({text}); {_CREATE_HINT}"
    if "locked" in text:
        return f"{where} is busy: another process holds its lock; repeat the command"
    return f"{where} cannot be read ({text}); `convsearch doctor` has details"
