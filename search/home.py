"""Where a study keeps its files. The only module that builds a path for them.

HOME/                       the folder of the SQLite file, or runs/
  NAME/                     a study
    convsearch.lock         held by the launcher that runs it on this machine; says which one, and of which database
    trial-00012/            checkpoints, and log.txt if something went wrong
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from search.errors import BusyError, DiskError, UsageError
from search.reader import sqlite_path

#: A name that is a plain file name on every system, and needs no quoting in a shell or a page.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Marks a folder as a study's. The home may be any folder with anything in it: nothing else there is ever touched.
LOCK = "convsearch.lock"
TRIAL = re.compile(r"trial-\d{5,}")


@dataclass(frozen=True, slots=True)
class Home:
    """The files of all studies of one database."""

    root: Path
    database: str = ""
    """Its name: several databases may lie in one folder."""

    def study(self, name: str) -> Path:
        return self.root / checked_name(name)

    def trial(self, name: str, number: int) -> Path:
        return self.study(name) / f"trial-{number:05d}"

    def log(self, name: str, number: int) -> Path:
        return self.trial(name, number) / "log.txt"

    def studies(self) -> tuple[str, ...]:
        """The names of the folders that were made for a study of this database."""
        locks = sorted(self.root.glob(f"*/{LOCK}"))
        return tuple(lock.parent.name for lock in locks if lock.read_text().splitlines()[1:] == [self.database])

    def remove(self, name: str) -> int:
        """Delete what was written for a study, and its folder if nothing else is in it; returns the bytes freed."""
        folder = self.study(name)
        own = [path for path in folder.glob("*") if path.name == LOCK or TRIAL.fullmatch(path.name)]
        freed = sum(size(path) for path in own)
        for path in own:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or not empty
            folder.rmdir()
        return freed

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Hold the study's lock on this machine; the system lets go of it however this process ends.

        Raises:
            BusyError: another process of this machine holds it.
            DiskError: the folder cannot be written.
        """
        path = self.study(name) / LOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+")
        except OSError as error:
            raise DiskError(f"cannot write to {path.parent}: {error.strerror}; name another --storage") from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                raise BusyError(
                    f"process {stream.readline().strip() or '?'} on this machine is already running "
                    f"the study {name!r}; --join adds workers to it"
                ) from error
            stream.seek(0)
            owner = stream.read().splitlines()[1:]
            if owner and owner != [self.database]:
                raise UsageError(
                    f"{path.parent} holds a study of another database, {owner[0]}; choose another name with --name, or "
                    "keep this database in a folder of its own"
                )
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n{self.database}\n")
            stream.flush()
            yield


def of(url: str) -> Home:
    """The home of the database at `url`."""
    file = sqlite_path(url)
    return Home(file.parent.resolve(), file.name) if file else Home(Path("runs").resolve())


def checked_name(name: str) -> str:
    """`name`, if it may name a study and its folder.

    Raises:
        UsageError: with the rule.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a study's name is up to 64 letters, digits, '_', '.' and '-', a letter or digit first; got {name!r}"
        )
    return name


def size(folder: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
