"""Where a study keeps its files. The only module that builds a path for them.

HOME/                       the folder of the SQLite file, or runs/
  NAME/                     a study
    convsearch.lock         held by the launcher that runs it on this machine; says which one, and of which database
    stopped.txt             whose trials were to go back to the queue when it was stopped, if the database was busy then
    trial-00012/            checkpoints (*.ckpt; *.part while they are written), and log.txt, which tells how it went

What we make here is for its owner alone, because a log tells where the images lie and a model what was in them; in a
home folder that a group may write to, it is for that group too, as far as the umask lets it.
"""

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from search.errors import BusyError, DiskError, UsageError
from search.storage.read_only import server_database, sqlite_path

#: A name that is a plain file name on every system, and needs no quoting in a shell or a page.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Marks a folder as a study's. The home may be any folder with anything in it: nothing else there is ever touched.
LOCK = "convsearch.lock"
STOPPED = "stopped.txt"
TRIAL = re.compile(r"trial-(\d{5,})")
#: How the names of checkpoints end, and of files that are being written.
CHECKPOINT, HALF = ".ckpt", ".part"
CHECKPOINT_NAME = re.compile(r"step-(\d{8})-(\d{12})\.ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """A checkpoint of a trial, whole or half-written."""

    trial: int
    path: Path

    @property
    def is_half(self) -> bool:
        """It was not written to its end; or is just being written."""
        return self.path.name.endswith(HALF)


@dataclass(frozen=True, slots=True)
class StudyDirs:
    """The files of all studies of one database."""

    root: Path
    database: str = ""
    """Its name: several databases may lie in one folder."""
    is_served: bool = False
    """It lies on a server, and not in this folder."""

    def study(self, name: str) -> Path:
        """The folder of a study.

        Raises:
            UsageError: the name cannot be a folder's, or is that of the database or of a file beside it.
        """
        if self._is_database(name):
            raise UsageError(f"a study cannot be called {name!r}, because the database keeps a file of that name")
        return self.root / checked_name(name)

    def trial(self, name: str, number: int) -> Path:
        return self.study(name) / f"trial-{number:05d}"

    def log(self, name: str, number: int) -> Path:
        return self.trial(name, number) / "log.txt"

    def known_log(self, name: str, number: int) -> str | None:
        """The log of a trial, where there is one: none if it ran elsewhere, or if the study is not ours."""
        if not NAME.fullmatch(name) or not self.log(name, number).exists():
            return None
        return str(self.log(name, number))

    def studies(self) -> tuple[str, ...]:
        """The names of the folders that were made for a study of this database."""
        locks = sorted(self.root.glob(f"*/{LOCK}"))
        return tuple(lock.parent.name for lock in locks if _owner(lock) == self.database)

    def files(self) -> Iterator[os.DirEntry[str]]:
        """Every file that was made here: by the studies, whichever database knows them, and the database itself."""
        for entry in _entries(self.root):
            if entry.is_dir():
                yield from files_below(entry.path) if os.path.exists(os.path.join(entry.path, LOCK)) else ()
            elif self._is_database(entry.name):
                yield entry

    def checkpoints(self, name: str) -> Iterator[CheckpointFile]:
        """All checkpoints of a study, half-written ones among them."""
        for folder in _entries(self.study(name)):
            if found := TRIAL.fullmatch(folder.name):
                for file in _entries(folder.path):
                    if file.is_file() and file.name.endswith((CHECKPOINT, HALF)):
                        yield CheckpointFile(trial=int(found[1]), path=Path(file.path))

    def make(self) -> None:
        """Make the home folder and an empty database file where they are missing.

        SQLite takes an empty file for a new database, and gives its journal the same permissions.

        Raises:
            DiskError: they cannot be made.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.database and not self.is_served:
                os.close(os.open(self.root / self.database, os.O_CREAT, self._shared(0o600)))
        except OSError as error:
            raise DiskError(f"cannot write to {self.root}: {error.strerror}; name another --storage") from error

    def remove(self, name: str) -> int:
        """Delete what was written for a study, and its folder if nothing else is in it; returns the bytes freed."""
        freed, folder = self.size(name), self.study(name)
        for path in self._own(name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or not empty
            folder.rmdir()
        return freed

    def copy(self, name: str, other: "StudyDirs") -> int:
        """Copy the files of a study from another home, unless that is the same folder; returns their bytes.

        Raises:
            BusyError, UsageError: somebody runs a study of that name here, or there is one of another database.
            DiskError: they cannot be written; none is left then.
        """
        if self.root == other.root:
            return 0
        with self.running(name):
            try:
                for path in other._own(name):
                    if path.is_dir():
                        shutil.copytree(path, self.study(name) / path.name, dirs_exist_ok=True)
            except OSError as error:
                self.remove(name)
                raise DiskError(f"cannot write to {self.study(name)}: {error}; name another --to") from error
        return self.size(name)

    def is_ours(self, name: str) -> bool:
        """Whether the folder of a study, if there is one, belongs to this database."""
        lock = self.study(name) / LOCK
        return not lock.exists() or _owner(lock) in (None, self.database)

    def claim_directory(self, name: str) -> None:
        """Record this database as the owner of the study folder, whose lock this process holds."""
        (self.study(name) / LOCK).write_text(f"{os.getpid()}\n{self.database}\n")

    def size(self, name: str) -> int:
        """Bytes of what was written for a study."""
        return sum(size(path) for path in self._own(name))

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Hold the study's lock on this machine; the system lets go of it however this process ends.

        Raises:
            BusyError: another process of this machine holds it.
            DiskError: the folder cannot be written.
        """
        path = self.study(name) / LOCK
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=self._shared(0o700), exist_ok=True)
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
            owner = _owner(path)
            if owner not in (None, self.database):
                raise UsageError(
                    f"{path.parent} holds a study of another database, {owner}; choose another name with --name, or "
                    "keep this database in a folder of its own"
                )
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n{self.database}\n")
            stream.flush()
            yield

    def record_stopped_workers(self, name: str, tokens: Sequence[str]) -> None:
        """Note the workers that were stopped on purpose, for the next launcher; as far as the disk takes it."""
        with suppress(OSError), (self.study(name) / STOPPED).open("a") as stream:
            stream.writelines(f"{token}\n" for token in tokens)

    def read_stopped_workers(self, name: str) -> tuple[str, ...]:
        """The workers that were stopped on purpose, if it was noted."""
        with suppress(OSError):
            return tuple((self.study(name) / STOPPED).read_text(errors="replace").split())
        return ()

    def clear_stopped_workers(self, name: str) -> None:
        """Their trials are back in the queue."""
        with suppress(OSError):
            (self.study(name) / STOPPED).unlink()

    def _own(self, name: str) -> list[Path]:
        ours = (LOCK, STOPPED)
        return [path for path in self.study(name).glob("*") if path.name in ours or TRIAL.fullmatch(path.name)]

    def _is_database(self, name: str) -> bool:
        """The database, its journal, or a copy that was kept of it before it was migrated."""
        beside = (f"{self.database}-", f"{self.database}.")
        return bool(self.database) and (name == self.database or name.startswith(beside))

    def _shared(self, mode: int) -> int:
        """The permissions of the owner, and of the group where the home folder is one that a group may write to."""
        return mode | mode >> 3 if self.root.stat().st_mode & stat.S_IWGRP else mode


def checkpoint_name(*, step: int, batch: int) -> str:
    """The name of a checkpoint after `step` steps and `batch` batches; names sort by progress."""
    return f"step-{step:08d}-{batch:012d}.ckpt"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name))


def delete_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a trial that is over; its other files stay.

    Raises OSError where one cannot be removed.
    """
    for path in list_checkpoints(folder):
        path.unlink(missing_ok=True)


def append_log(log: Path, text: str) -> None:
    """Add an event to the log; later lines of `text` are indented. A log that cannot be written stops no trial."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    first, *rest = text.rstrip().splitlines() or [""]
    lines = [f"{when} {first}", *(f"    {line}" for line in rest)]
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("\n".join(lines) + "\n")


def of(url: str) -> StudyDirs:
    """The home of the database at `url`."""
    file = sqlite_path(url)
    return (
        StudyDirs(file.parent.resolve(), file.name)
        if file
        else StudyDirs(Path("runs").resolve(), server_database(url), is_served=True)
    )


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


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(bytes_of(file) for file in files_below(path))


def files_below(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """All files below a folder, but for those that are removed meanwhile; links are not followed."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry


def bytes_of(file: os.DirEntry[str]) -> int:
    """Bytes of a file; none if it is gone by now."""
    with suppress(FileNotFoundError):
        return file.stat(follow_symlinks=False).st_size
    return 0


def _owner(lock: Path) -> str | None:
    """The database whose study a folder belongs to, as its lock says; None if that says nothing."""
    lines = lock.read_text(errors="replace").splitlines()
    return lines[1] if len(lines) > 1 else None


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if there is no such folder, or it is somebody else's."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folder) as found:
        return list(found)
    return []
