"""`convsearch migrate`: upgrade a database of an older Optuna, after a backup.

    NAME                       unchanged until every step has succeeded, then overwritten in one transaction
    NAME.before-REVISION       the backup, complete and flushed to disk before NAME is changed; never overwritten
    NAME.migrating/            two copies, one of which Optuna migrates; removed at the end, or by the next migration

The file is not replaced by a rename: a process with the old file open would continue to write to an unlinked file, and
the journal of a killed process would be applied to another database
(https://www.sqlite.org/howtocorrupt.html, "unlinking or renaming a database file while in use"). SQLite's backup API
writes all pages in one transaction. After a kill at any moment, the file therefore holds the old database or the new
one. This process holds the exclusive lock from before the first copy until after the last page, and no other process
can write in between.
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

#: Tables in which a migration neither adds nor removes rows.
LASTING = ("studies", "study_user_attributes", "trials", "trial_params", "trial_user_attributes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Timeouts of a migration, in seconds."""

    lock_s: float = 10.0
    """Lock timeout."""
    lease_timeout_s: float = Timeouts().lease_timeout_s
    """Time without a renewal after which an owner on another machine counts as gone."""
    look_s: float = 1.0
    """Polling interval."""


class Lease(NamedTuple):
    """The lease of a trial, in the format of an older convsearch."""

    token: str
    host: str
    boot: str
    pid: int
    started: float
    renewals: int


def migrate(url: str, say: Say, *, waits: Waits | None = None) -> None:
    """Upgrade the database at `url` if it is outdated. After an error, the database is unchanged.

    Args:
        url: The URL of the database.
        say: Prints progress messages.
        waits: Timeouts; None for the defaults.

    Raises:
        DatabaseError: The database is missing, newer, not a SQLite file, or cannot be migrated.
        BusyError: Another process works on it.
        DiskError: There is no room for the copies, or the folder cannot be written.
    """
    engine = open_reader(url)
    revision = _revision(engine)
    if revision is None:
        raise DatabaseError(f"{display_name(engine)} holds no studies, so there is nothing to migrate")
    say(f"{display_name(engine)} has the tables of {revision}; convsearch needs those of {schema.HEAD_REVISION}")
    file = sqlite_path(url)
    if revision == schema.HEAD_REVISION:
        if file is not None:
            shutil.rmtree(path_aside(file.resolve()), ignore_errors=True)  # left by a migration killed at its end
        say("nothing to migrate")
        return
    if revision not in schema.REVISIONS:
        raise schema.version_error(revision, display_name(engine))
    if file is None:
        raise DatabaseError(by_hand(engine, revision))
    with _translated_errors(file), _exclusive_access(url, file, waits or Waits(), say) as original:
        _migrate(file.resolve(), original, say)


def _migrate(file: Path, original: sqlite3.Connection, say: Say) -> None:
    revision = _revision_of(original)
    if revision == schema.HEAD_REVISION:
        say("nothing to migrate: another process has just done it")
        return
    with folder_aside(file) as aside:
        before, after = aside / "before.db", aside / "after.db"
        copy_database(original, before)
        check_same_content(before, original)
        copy_database(original, after)
        _upgrade(after)
        _check_migrated(after, original)
        kept = _keep(before, file, revision)
        say(f"kept a copy of the database in {kept}")
        with closing(connect(after)) as source:
            source.backup(original)
    trials = original.execute("SELECT count(*) FROM trials").fetchone()[0]
    say(f"migrated {trials} trials to {schema.HEAD_REVISION}; delete the copy if nothing is missing")


def by_hand(engine: sa.Engine, revision: str) -> str:
    """Instructions for a database that convsearch cannot copy, such as PostgreSQL."""
    url = engine.url.render_as_string(hide_password=True)
    return (
        f"convsearch migrates only SQLite files, and {display_name(engine)} has the tables of {revision}; keep a copy "
        f"with `pg_dump --format=custom --file=before-{revision}.dump {engine.url.database}`, "
        f"then `optuna storage upgrade --storage {url}`"
    )


# -- exclusive access ---------------------------------------------------------------------------------------


@contextmanager
def _exclusive_access(url: str, file: Path, waits: Waits, say: Say) -> Iterator[sqlite3.Connection]:
    """Connect, and keep all other processes from the database and the launchers on this machine from its studies."""
    with ExitStack() as stack:
        _lock_studies(stack, study_dir.of(url))
        connection = stack.enter_context(closing(connect(file, lock_s=waits.lock_s)))
        dead_leases = _wait_for_owners(connection, waits, say)
        stack.enter_context(_locked(connection))
        if set(_leases(connection)) - dead_leases:
            raise BusyError(f"another process has just started to work on {file}; stop it first, then migrate")
        running = connection.execute("SELECT count(*) FROM trials WHERE state = 'RUNNING'").fetchone()[0]
        if running:
            say(f"{running} trials are stored as running; if an Optuna program works on them, end it first")
        yield connection


def _lock_studies(stack: ExitStack, dirs: study_dir.StudyDirs) -> None:
    for name in dirs.studies():
        try:
            stack.enter_context(dirs.running(name))
        except BusyError as error:
            text = f"the study {name!r} of this database is running on this machine"
            raise BusyError(f"{text}; stop it first, then migrate") from error


def _wait_for_owners(connection: sqlite3.Connection, waits: Waits, say: Say) -> set[Lease]:
    """Return the leases when all their owners are certainly gone.

    An owner on another machine, or from before a restart of this one, cannot be checked directly. It counts as gone
    after `lease_timeout_s` without a renewal.

    Raises:
        BusyError: An owner is alive.
    """
    leases = set(_leases(connection))
    for lease in leases:
        if _is_local(lease) and _is_alive(lease):
            raise BusyError(f"process {lease.pid} works on a study of this database; stop it first, then migrate")
    hosts = sorted({lease.host for lease in leases if not _is_local(lease)})
    if not hosts:
        return leases
    say(f"waiting {waits.lease_timeout_s:g} s for lease renewals from {', '.join(hosts)}")
    deadline = time.monotonic() + waits.lease_timeout_s
    while time.monotonic() < deadline:
        time.sleep(waits.look_s)
        if set(_leases(connection)) != leases:
            raise BusyError(f"a process works on a study of this database on {', '.join(hosts)}; stop it, then migrate")
    return leases


@contextmanager
def _locked(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the exclusive lock on the database, between transactions too."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    try:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        yield
    finally:
        connection.execute("PRAGMA locking_mode = NORMAL")
        with suppress(sqlite3.Error):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the next access releases the lock


def _leases(connection: sqlite3.Connection) -> list[Lease]:
    if "convsearch_leases" not in list_tables(connection):
        return []
    rows = connection.execute(f"SELECT {', '.join(Lease._fields)} FROM convsearch_leases")
    return [Lease(*row) for row in rows.fetchall()]


def _is_local(owner: Lease) -> bool:
    return owner.host == socket.gethostname() and owner.boot == boot_id()


def _is_alive(owner: Lease) -> bool:
    return not is_dead(owner.pid, owner.started)


# -- copies -------------------------------------------------------------------------------------------------


def _upgrade(file: Path) -> None:
    """Migrate a private copy with Optuna."""
    quiet = logging.NullHandler()  # without any handler, Optuna's alembic reconfigures all logging
    logging.getLogger().addHandler(quiet)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # one for each old distribution
            storage = RDBStorage(f"sqlite:///{file}", skip_compatibility_check=True, skip_table_creation=True)
            storage.upgrade()
        storage.remove_session()
        storage.engine.dispose()
    except (sa.exc.SQLAlchemyError, alembic.util.CommandError) as error:
        text = f"Optuna cannot migrate these tables ({_first_line(error)}), and the database is unchanged"
        raise DatabaseError(f"{text}; only the Optuna version that made it can read it") from error
    finally:
        logging.getLogger().removeHandler(quiet)


def _check_migrated(copy: Path, original: sqlite3.Connection) -> None:
    with closing(connect(copy)) as connection:
        check_integrity(connection)
        before, after = count_rows(original, LASTING), count_rows(connection, LASTING)
        if (_revision_of(connection), after) != (schema.HEAD_REVISION, before):
            raise DatabaseError(f"the migration went wrong ({before} rows became {after}); the database is unchanged")


def _keep(copy: Path, file: Path, revision: str) -> Path:
    """Flush the copy to disk, rename it and return its path."""
    shutil.copymode(file, copy)
    flush(copy)
    kept = free_name(file.with_name(f"{file.name}.before-{revision}"))
    copy.rename(kept)
    flush(file.parent)
    return kept


# -- revisions and errors -----------------------------------------------------------------------------------


def _revision(engine: sa.Engine) -> str | None:
    # Not with `read_transaction`, which rejects outdated tables.
    try:
        with engine.connect() as connection:
            return schema.revision(connection)
    except sa.exc.SQLAlchemyError as error:
        raise DatabaseError(f"{display_name(engine)} cannot be read: {_first_line(error)}") from error


def _revision_of(connection: sqlite3.Connection) -> str:
    engine = sa.create_engine("sqlite://", creator=lambda: connection, poolclass=sa.StaticPool)
    with engine.connect() as wrapped:
        return schema.revision(wrapped) or ""


@contextmanager
def _translated_errors(file: Path) -> Iterator[None]:
    """Translate errors of SQLite and the system into errors with the file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary result code
        raise _translate(code, f"{file} cannot be migrated ({error})") from error
    except OSError as error:
        raise DiskError(f"cannot write beside {file}: {error.strerror}; the database is unchanged") from error


def _translate(code: int, text: str) -> ConvsearchError:
    if code in BUSY:
        return BusyError(f"{text}: another process uses it; end it, then migrate")
    if code in DISK:
        return DiskError(f"{text}; it is unchanged: free some space or make it writable, then migrate")
    return DatabaseError(f"{text}; it is unchanged")


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
