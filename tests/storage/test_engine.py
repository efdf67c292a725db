"""SQLite's file, journal and single lock; databases of other applications are refused."""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from search.errors import DatabaseError
from search.storage.db_errors import redacted_url
from search.storage.rdb import Storage
from search.storage.retry import BUSY_S
from tests.harness import locked


def test_a_write_holds_the_lock_from_its_first_statement(url: str, make_study: Callable[[int], int]) -> None:
    make_study(1)
    storage = Storage(url)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0, isolation_level=None)

    def assert_locked(_: sa.Connection) -> None:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")

    storage.write(assert_locked)
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_missing_database_is_created_only_on_request(tmp_path: Path) -> None:
    file = tmp_path / "none.db"

    with pytest.raises(DatabaseError, match=r"no database at .*none\.db yet; `convsearch run STUDY` makes it"):
        Storage(f"sqlite:///{file}")

    assert not file.exists()


def test_a_file_that_is_no_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("shopping list")

    with pytest.raises(DatabaseError, match="not a database; name another with --storage"):
        Storage(f"sqlite:///{file}", create=True)

    assert file.read_text() == "shopping list"


def test_a_database_of_another_application_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()

    with pytest.raises(DatabaseError, match="cannot be used: no such table"):
        Storage(f"sqlite:///{file}")


def test_a_new_database_has_optunas_tables_and_our_own(url: str, tmp_path: Path) -> None:
    stock = tmp_path / "stock.db"
    optuna.storages.RDBStorage(f"sqlite:///{stock}")
    Storage(url, create=True)

    ours, theirs = (content(Path(file)) for file in (url.removeprefix("sqlite:///"), stock))

    assert {name for name in ours if "convsearch" not in name} == set(theirs)
    assert {name: ours[name] for name in theirs} == theirs


def content(file: Path) -> dict[str, object]:
    """The SQL of every table and index of a database, and the rows of its version tables."""
    with closing(sqlite3.connect(file)) as connection:
        definitions = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
        rows = {
            table: connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("alembic_version", "version_info")
        }
    return {name: " ".join(sql.split()) if sql else None for name, sql in definitions.items()} | {
        f"rows of {table}": version_rows for table, version_rows in rows.items()
    }


def test_a_password_is_never_shown() -> None:
    assert "secret" not in redacted_url("postgresql://user:secret@host/db")


def test_the_journal_stays_delete_and_synchronous_stays_full(url: str, make_study: Callable[[int], int]) -> None:
    make_study(1)

    with Storage(url).engine.connect() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "delete"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar_one() == 2


def test_opening_waits_until_the_database_is_unlocked(url: str, make_study: Callable[[int], int]) -> None:
    make_study(1)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(BUSY_S + 1.5, other.close)

    release.start()
    began = time.monotonic()
    storage = Storage(url)
    waited_s = time.monotonic() - began
    release.join()

    assert waited_s > BUSY_S
    assert storage.get_study_id_from_name("s") == 1


def test_a_storage_that_should_stop_does_not_wait_for_a_lock(url: str, make_study: Callable[[int], int]) -> None:
    make_study(1)
    storage = Storage(url, should_stop=lambda: True)
    began = time.monotonic()

    with locked(url), pytest.raises(DatabaseError, match="locked"):
        storage.set_study_user_attr(1, "stop", True)

    assert time.monotonic() - began < storage.retry_timeout_s / 2
