"""Classification of database errors: transient errors, disk errors, and the messages for users."""

import sqlite3

import sqlalchemy as sa

from search.errors import DatabaseError, DiskError
from search.storage.retry import root_cause

#: SQLite result codes (https://www.sqlite.org/rescode.html): another connection holds a lock; the disk, and
#: not the database, is the cause.
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
#: SQLSTATE codes of PostgreSQL (https://www.postgresql.org/docs/current/errcodes-appendix.html). Transient: no
#: connection, a shutdown, too many connections, a deadlock or conflict of two transactions, a lock. Permanent: the disk
#: is full or broken, or the server accepts no writes (a standby).
TRANSIENT = ("08", "57P", "53300", "40001", "40P01", "55P03")
FULL, BROKEN, READ_ONLY = "53100", "58030", "25006"


def is_transient(error: Exception) -> bool:
    """Whether a retry can succeed: another client holds a lock, or the server restarts."""
    cause = database_error(error)
    if cause is None:
        return False
    if isinstance(cause.orig, sqlite3.Error):
        return _sqlite_code(cause.orig) in BUSY
    state = getattr(cause.orig, "sqlstate", None)
    # An error without a code did not come from the server: the connection broke, or could not be made.
    return (
        cause.connection_invalidated
        or (isinstance(cause, sa.exc.OperationalError) and state is None)
        or (state is not None and state.startswith(TRANSIENT))
    )


def is_disk_error(error: sa.exc.DBAPIError) -> bool:
    """Whether the disk of the database is full, broken or write-protected."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in DISK
    return getattr(error.orig, "sqlstate", None) in (FULL, BROKEN, READ_ONLY)


def is_full_or_broken(error: sa.exc.DBAPIError) -> bool:
    """Whether the disk is full or broken. Readers can fail too, when they roll back a killed writer's journal."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error.orig) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return getattr(error.orig, "sqlstate", None) in (FULL, BROKEN)


def to_user_error(url: str, error: Exception) -> DatabaseError | DiskError:
    """Convert an error of the database or its disk to an error with a message for users.

    Args:
        url: Database URL; a password in it is not printed.
        error: Error of SQLAlchemy or Optuna.

    Returns:
        `DiskError` for a full, broken or write-protected disk, `DatabaseError` otherwise.
    """
    cause = database_error(error)
    problem = f"{redacted_url(url)} cannot be used: {first_line(error)}"
    if cause is not None and is_disk_error(cause):
        return DiskError(f"{problem}; {_remedy(cause)}, or name another --storage")
    if cause is not None and is_transient(cause) and not _has_answered(cause):
        return DatabaseError(f"{problem}; name another with --storage, or repeat the command when it answers")
    if cause is not None and is_transient(cause):
        return DatabaseError(f"{problem}; repeat the command when it is no longer locked or stopped")
    return DatabaseError(f"{problem}; name another with --storage")


def _has_answered(error: sa.exc.DBAPIError) -> bool:
    """Whether the server was reached; a file always counts as reached."""
    has_code = getattr(error.orig, "sqlstate", None) is not None
    return isinstance(error.orig, sqlite3.Error) or error.connection_invalidated or has_code


def _remedy(error: sa.exc.DBAPIError) -> str:
    """Remedy for a disk error."""
    code = _sqlite_code(error.orig) if isinstance(error.orig, sqlite3.Error) else getattr(error.orig, "sqlstate", None)
    if code in (sqlite3.SQLITE_FULL, FULL):
        return "make room"
    return "see to the disk" if code in (sqlite3.SQLITE_IOERR, BROKEN) else "let it be written"


def database_error(error: BaseException | None) -> sa.exc.DBAPIError | None:
    """Return the database error that caused `error`, or None.

    Optuna queries again on a broken connection (RDBStorage._get_trials); the break is then only the context.
    """
    while error is not None and not isinstance(error, sa.exc.DBAPIError):
        error = error.__context__ if isinstance(error, sa.exc.PendingRollbackError) else error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """Return the first line of the root cause, without the SQL that SQLAlchemy adds."""
    text = str(root_cause(error))
    return text.splitlines()[0] if text else type(root_cause(error)).__name__


def redacted_url(url: str) -> str:
    """Return `url` for printing: a password in it is replaced by stars."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "the storage"


def _sqlite_code(error: sqlite3.Error) -> int | None:
    """Primary result code: the last byte of the extended one."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
