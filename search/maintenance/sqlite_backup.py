"""Copies of SQLite databases, and their checks."""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from search.errors import DatabaseError


def copy_database(original: sqlite3.Connection, file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as copy:
        original.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # a single file, with no -wal or -shm file beside it


def check_same_content(copy: Path, original: sqlite3.Connection) -> None:
    with closing(connect(copy)) as connection:
        check_integrity(connection)
        if count_rows(connection, list_tables(connection)) != count_rows(original, list_tables(original)):
            raise DatabaseError("the copy and the database have different rows; the database is unchanged")


def check_integrity(connection: sqlite3.Connection) -> None:
    result = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if result != "ok":
        raise DatabaseError(f"the database is damaged ({result}), and unchanged; restore it from a backup")


def count_rows(connection: sqlite3.Connection, tables: Sequence[str]) -> dict[str, int]:
    return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}


def list_tables(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return tuple(name for (name,) in rows.fetchall())


def path_aside(file: Path) -> Path:
    return file.with_name(f"{file.name}.migrating")


@contextmanager
def folder_aside(file: Path) -> Iterator[Path]:
    """An empty folder beside `file` that only its owner can read."""
    folder = path_aside(file)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_name(path: Path) -> Path:
    """`path`, with a number appended if it exists: a killed migration leaves its copy."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def connect(file: Path, *, lock_s: float = 0.0) -> sqlite3.Connection:
    """Connect to an existing file for writing. The caller begins and ends transactions. `lock_s`: lock timeout."""
    name = f"file:{quote(bytes(file.absolute()))}?mode=rw"
    return sqlite3.connect(name, uri=True, timeout=lock_s, isolation_level=None)
