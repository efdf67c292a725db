"""What an error of the database means: whether it passes by itself, whether it is the disk's, what to tell people."""

import sqlite3

import sqlalchemy as sa

from search.errors import DatabaseError, DiskError
from search.storage.retry import root_cause

#: Codes of SQLite (https://www.sqlite.org/rescode.html) that say that somebody holds a lock, and that the disk, and not
#: the database, is in the way.
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
#: SQLSTATE codes of PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html) that pass by
#: themselves: no connection, a shutdown, too many connections, a deadlock or conflict of two transactions, a lock. And
#: those that say that its disk is full or broken, or that it takes no writes (a standby).
TRANSIENT = ("08", "57P", "53300", "40001", "40P01", "55P03")
FULL, BROKEN, READ_ONLY = "53100", "58030", "25006"


def is_transient(error: Exception) -> bool:
    """Whether the same call may well succeed a moment later: somebody holds a lock, or the server restarts."""
    cause = database_error(error)
    if cause is None:
        return False
    if isinstance(cause.orig, sqlite3.Error):
        return _sqlite_code(cause.orig) in BUSY
    state = getattr(cause.orig, "sqlstate", None)
    # Without a code there was no server to give one: the connection broke, or could not be made.
    return (
        cause.connection_invalidated
        or (isinstance(cause, sa.exc.OperationalError) and state is None)
        or (state is not None and state.startswith(TRANSIENT))
    )


def is_disk_error(error: sa.exc.DBAPIError) -> bool:
    """Whether the disk below the database is full, broken or write-protected."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in DISK
    return getattr(error.orig, "sqlstate", None) in (FULL, BROKEN, READ_ONLY)


def is_full_or_broken(error: sa.exc.DBAPIError) -> bool:
    """Whether the disk is full or broken. Readers meet that too: they may roll back a killed writer's journal."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return getattr(error.orig, "sqlstate", None) in (FULL, BROKEN)


def to_user_error(url: str, error: Exception) -> DatabaseError | DiskError:
    """What to tell of an error of the database, or of the disk below it."""
    cause = database_error(error)
    what = f"{readable_message(url)} cannot be used: {first_line(error)}"
    if cause is not None and is_disk_error(cause):
        return DiskError(f"{what}; {_way_out(cause)}, or name another --storage")
    if cause is not None and is_transient(cause) and not _is_met(cause):
        return DatabaseError(f"{what}; name another with --storage, or give the same command when it answers")
    if cause is not None and is_transient(cause):
        return DatabaseError(f"{what}; when whoever holds or stops it is done, the same command goes on")
    return DatabaseError(f"{what}; name another with --storage")


def _is_met(error: sa.exc.DBAPIError) -> bool:
    """Whether a server was there, and did or said something; a file always is."""
    has_said = getattr(error.orig, "sqlstate", None) is not None
    return isinstance(error.orig, sqlite3.Error) or error.connection_invalidated or has_said


def _way_out(error: sa.exc.DBAPIError) -> str:
    """What helps against a disk."""
    code = _sqlite_code(error.orig) if isinstance(error.orig, sqlite3.Error) else getattr(error.orig, "sqlstate", None)
    if code in (sqlite3.SQLITE_FULL, FULL):
        return "make room"
    return "see to the disk" if code in (sqlite3.SQLITE_IOERR, BROKEN) else "let it be written"


def database_error(error: BaseException | None) -> sa.exc.DBAPIError | None:
    """The error of the database that is behind `error`, if there is one.

    Optuna asks once more on a connection that broke (RDBStorage._get_trials), so that the break is only the context.
    """
    while error is not None and not isinstance(error, sa.exc.DBAPIError):
        error = error.__context__ if isinstance(error, sa.exc.PendingRollbackError) else error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of what went wrong, without the SQL that SQLAlchemy adds."""
    text = str(root_cause(error))
    return text.splitlines()[0] if text else type(root_cause(error)).__name__


def readable_message(url: str) -> str:
    """`url` as it may be printed: a password in it is replaced by stars."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "the storage"


def _sqlite_code(error: sqlite3.Error) -> int | None:
    """The primary result code; the extended one has it in its last byte."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
