"""`convsearch migrate`: bring a database of an older Optuna up to date, after a copy was kept.

    NAME                       stays as it is until everything has worked, then takes the new content in one transaction
    NAME.before-REVISION       the kept copy, whole and on the disk before NAME is touched; never overwritten
    NAME.migrating/            two copies, one of which Optuna migrates; removed at the end, or by the next migration

The file is not replaced by a rename: a process with the old file open would go on writing into a file without a name,
and a journal that a killed process left beside it would be applied to another database
(https://www.sqlite.org/howtocorrupt.html, "unlinking or renaming a database file while in use"). SQLite's backup API
writes all pages in one transaction, so after a kill at any moment the next who opens the file finds the old database or
the new one. This process holds the exclusive lock from before the first copy until after the last page, so that no
write of anybody can fall in between.
"""

import logging
import shutil
import socket
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import alembic.util
import sqlalchemy as sa
from optuna.storages import RDBStorage

from data.atomic import flush
from data.progress import Say
from search.artifacts import study_dir
from search.errors import BusyError, ConvsearchError, DatabaseError, DiskError
from search.maintenance.sqlite_backup import (
    check_integrity,
    check_same_content,
    connect,
    copy_database,
    count_rows,
    folder_aside,
    free_name,
    list_tables,
    path_aside,
)
from search.process import boot_id, is_dead
from search.storage import schema
from search.storage.db_errors import BUSY, DISK
from search.storage.read_only import display_name, open_reader, sqlite_path
from search.storage.retry import Timeouts

#: Tables whose rows no migration makes or removes.
LASTING = ("studies", "study_user_attributes", "trials", "trial_params", "trial_user_attributes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """How long a migration waits for others."""

    lock_s: float = 10.0
    """Lock timeout."""
    lease_timeout_s: float = Timeouts().lease_timeout_s
    """Seconds without a renewal after which an owner on another machine counts as gone."""
    look_s: float = 1.0
    """Polling interval."""


class Lease(NamedTuple):
    """The lease of a trial, as an older convsearch stored it."""

    token: str
    host: str
    boot: str
    pid: int
    started: float
    renewals: int


def migrate(url: str, say: Say, *, waits: Waits | None = None) -> None:
    """Bring the database at `url` up to date, unless it is.

    Raises:
        DatabaseError: there is none, it is a newer one, not a SQLite file, or cannot be migrated; it is unchanged.
        BusyError: somebody works on it; it is unchanged.
        DiskError: there is no room for the copies, or the folder cannot be written; it is unchanged.
    """
    engine = open_reader(url)
    found = _revision(engine)
    if found is None:
        raise DatabaseError(f"{display_name(engine)} holds no studies, so that there is nothing to migrate")
    say(f"{display_name(engine)} has the tables of {found}; needed are those of {schema.HEAD_REVISION}")
    file = sqlite_path(url)
    if found == schema.HEAD_REVISION:
        if file is not None:
            shutil.rmtree(
                path_aside(file.resolve()), ignore_errors=True
            )  # of a migration that was killed at its very end
        say("nothing to migrate")
        return
    if found not in schema.REVISIONS:
        raise schema.version_error(found, display_name(engine))
    if file is None:
        raise DatabaseError(by_hand(engine, found))
    with _explained(file), _nobody_else(url, file, waits or Waits(), say) as original:
        _migrate(file.resolve(), original, say)


def _migrate(file: Path, original: sqlite3.Connection, say: Say) -> None:
    found = _revision_of(original)
    if found == schema.HEAD_REVISION:
        say("nothing to migrate: another process has just done it")
        return
    with folder_aside(file) as aside:
        before, after = aside / "before.db", aside / "after.db"
        copy_database(original, before)
        check_same_content(before, original)
        copy_database(original, after)
        _upgrade(after)
        _check_migrated(after, original)
        kept = _keep(before, file, found)
        say(f"kept the database as it is in {kept}")
        with closing(connect(after)) as source:
            source.backup(original)
    trials = original.execute("SELECT count(*) FROM trials").fetchone()[0]
    say(f"migrated {trials} trials to {schema.HEAD_REVISION}; delete the copy when you miss nothing")


def by_hand(engine: sa.Engine, found: str) -> str:
    """What helps where convsearch cannot copy the database, as on PostgreSQL."""
    url = engine.url.render_as_string(hide_password=True)
    return (
        f"convsearch migrates only SQLite files, and {display_name(engine)} has the tables of {found}; keep a copy "
        f"with `pg_dump --format=custom --file=before-{found}.dump {engine.url.database}`, "
        f"then `optuna storage upgrade --storage {url}`"
    )


# -- alone --------------------------------------------------------------------------------------------------


@contextmanager
def _nobody_else(url: str, file: Path, waits: Waits, say: Say) -> Iterator[sqlite3.Connection]:
    """The database, while nobody else can read or write it, and no launcher of this machine can run its studies."""
    with ExitStack() as stack:
        _hold_studies(stack, study_dir.of(url))
        connection = stack.enter_context(closing(connect(file, lock_s=waits.lock_s)))
        gone = _wait_for_owners(connection, waits, say)
        stack.enter_context(_locked(connection))
        if set(_leases(connection)) - gone:
            raise BusyError(f"somebody has just begun to work on {file}; stop it first, then migrate")
        running = connection.execute("SELECT count(*) FROM trials WHERE state = 'RUNNING'").fetchone()[0]
        if running:
            say(f"{running} trials are stored as running; a program of Optuna's that works on them must be ended first")
        yield connection


def _hold_studies(stack: ExitStack, files: study_dir.StudyDirs) -> None:
    for name in files.studies():
        try:
            stack.enter_context(files.running(name))
        except BusyError as error:
            text = f"the study {name!r} of this database is running on this machine"
            raise BusyError(f"{text}; stop it first, then migrate") from error


def _wait_for_owners(connection: sqlite3.Connection, waits: Waits, say: Say) -> set[Lease]:
    """The leases, when it is certain that all their owners are gone.

    An owner on another machine, or before a restart of this one, cannot be seen; it is gone when it was silent for as
    long as everywhere in convsearch.

    Raises:
        BusyError: an owner lives.
    """
    leases = set(_leases(connection))
    for each in leases:
        if _is_here(each) and _lives(each):
            raise BusyError(f"process {each.pid} works on a study of this database; stop it first, then migrate")
    hosts = sorted({each.host for each in leases if not _is_here(each)})
    if not hosts:
        return leases
    say(f"waiting {waits.lease_timeout_s:g} s for a sign of those who worked on a study on {', '.join(hosts)}")
    deadline = time.monotonic() + waits.lease_timeout_s
    while time.monotonic() < deadline:
        time.sleep(waits.look_s)
        if set(_leases(connection)) != leases:
            raise BusyError(f"somebody works on a study of this database on {', '.join(hosts)}; stop it, then migrate")
    return leases


@contextmanager
def _locked(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the lock of the whole database, between transactions too."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    try:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        yield
    finally:
        connection.execute("PRAGMA locking_mode = NORMAL")
        with suppress(sqlite3.Error):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only an access gives the lock back


def _leases(connection: sqlite3.Connection) -> list[Lease]:
    if "convsearch_leases" not in list_tables(connection):
        return []
    rows = connection.execute(f"SELECT {', '.join(Lease._fields)} FROM convsearch_leases")
    return [Lease(*row) for row in rows.fetchall()]


def _is_here(owner: Lease) -> bool:
    return owner.host == socket.gethostname() and owner.boot == boot_id()


def _lives(owner: Lease) -> bool:
    return not is_dead(owner.pid, owner.started)


# -- copies -------------------------------------------------------------------------------------------------


def _upgrade(file: Path) -> None:
    """Let Optuna migrate a file that nobody else knows."""
    quiet = logging.NullHandler()  # without any handler, Optuna's alembic configures all logging anew
    logging.getLogger().addHandler(quiet)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of each old distribution that it reads
            storage = RDBStorage(f"sqlite:///{file}", skip_compatibility_check=True, skip_table_creation=True)
            storage.upgrade()
        storage.remove_session()
        storage.engine.dispose()
    except (sa.exc.SQLAlchemyError, alembic.util.CommandError) as error:
        text = f"Optuna cannot migrate these tables ({_line(error)}), and the database is unchanged"
        raise DatabaseError(f"{text}; only the optuna that made it can read it") from error
    finally:
        logging.getLogger().removeHandler(quiet)


def _check_migrated(copy: Path, original: sqlite3.Connection) -> None:
    with closing(connect(copy)) as connection:
        check_integrity(connection)
        before, after = count_rows(original, LASTING), count_rows(connection, LASTING)
        if (_revision_of(connection), after) != (schema.HEAD_REVISION, before):
            raise DatabaseError(f"the migration went wrong ({before} rows became {after}); the database is unchanged")


def _keep(copy: Path, file: Path, found: str) -> Path:
    """Give the copy its name when it is on the disk; that name."""
    shutil.copymode(file, copy)
    flush(copy)
    kept = free_name(file.with_name(f"{file.name}.before-{found}"))
    copy.rename(kept)
    flush(file.parent)
    return kept


# -- files --------------------------------------------------------------------------------------------------


# -- questions and errors -----------------------------------------------------------------------------------


def _revision(engine: sa.Engine) -> str | None:
    # Not with reader.reading, which refuses what is to be migrated here.
    try:
        with engine.connect() as connection:
            return schema.revision(connection)
    except sa.exc.SQLAlchemyError as error:
        raise DatabaseError(f"{display_name(engine)} cannot be read: {_line(error)}") from error


def _revision_of(connection: sqlite3.Connection) -> str:
    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=sa.StaticPool)
    with engine.connect() as wrapped:
        return schema.revision(wrapped) or ""


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """What SQLite and the system say, as errors that name the file and the way out."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary result code
        raise _translated(code, f"{file} cannot be migrated ({error})") from error
    except OSError as error:
        raise DiskError(f"cannot write beside {file}: {error.strerror}; the database is unchanged") from error


def _translated(code: int, text: str) -> ConvsearchError:
    if code in BUSY:
        return BusyError(f"{text}: another process uses it; end it, then migrate")
    if code in DISK:
        return DiskError(f"{text}; it is unchanged: make room or let it be written, then migrate")
    return DatabaseError(f"{text}; it is unchanged")


def _line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
