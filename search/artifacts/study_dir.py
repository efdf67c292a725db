"""Paths of the files of a study. No other module builds them.

HOME/                       the folder of the SQLite file, or runs/
  NAME/                     a study
    convsearch.lock         held by the launcher on this machine; contains its process ID and the name of the database
    stopped.txt             workers stopped while the database was busy; their trials must go back to the queue
    trial-00012/            checkpoints (*.ckpt; *.part while they are written), and log.txt, the events of the trial

Files are private to their owner, because a log contains the path of the images and a model contains traces of them. If
a group may write to the home folder, the files are accessible to that group too, within the limits of the umask.
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

from search.artifacts import files
from search.errors import BusyError, DiskError, UsageError
from search.storage.read_only import server_database, sqlite_path

#: A plain file name on every system, which needs no quoting in a shell or on a page.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Marks the folder of a study. The home folder may contain other files, which are never touched.
LOCK = "convsearch.lock"
STOPPED = "stopped.txt"
TRIAL = re.compile(r"trial-(\d{5,})")
#: File name suffixes of checkpoints and of files that are being written.
CHECKPOINT, HALF = ".ckpt", ".part"
CHECKPOINT_NAME = re.compile(r"step-(\d{8})-(\d{12})\.ckpt")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFile:
    """A checkpoint of a trial, complete or half-written."""

    trial: int
    path: Path

    @property
    def is_half(self) -> bool:
        """Whether the file is incomplete, or is still being written."""
        return self.path.name.endswith(HALF)


@dataclass(frozen=True, slots=True)
class StudyDirs:
    """The files of all studies of one database."""

    root: Path
    database: str = ""
    """Name of the database; one folder may contain several databases."""
    is_served: bool = False
    """Whether the database is on a server, and not in this folder."""

    def study(self, name: str) -> Path:
        """Return the folder of a study, whether or not it exists.

        Args:
            name: name of the study.

        Raises:
            UsageError: the name is no valid folder name, or belongs to the database or a file beside it.
        """
        if self._is_database(name):
            raise UsageError(f"a study cannot be called {name!r}, because the database keeps a file of that name")
        return self.root / checked_name(name)

    def trial(self, name: str, number: int) -> Path:
        return self.study(name) / trial_name(number)

    def log(self, name: str, number: int) -> Path:
        return self.trial(name, number) / "log.txt"

    def known_log(self, name: str, number: int) -> str | None:
        """Return the path of the log of a trial; None if the trial ran elsewhere or the study is not ours.

        Args:
            name: name of the study.
            number: number of the trial.

        Returns:
            The path as text, or None if there is no such file.
        """
        if not NAME.fullmatch(name) or not self.log(name, number).exists():
            return None
        return str(self.log(name, number))

    def studies(self) -> tuple[str, ...]:
        """Return the names of the folders that were made for studies of this database, sorted."""
        locks = sorted(self.root.glob(f"*/{LOCK}"))
        return tuple(lock.parent.name for lock in locks if _owner(lock) == self.database)

    def files(self) -> Iterator[os.DirEntry[str]]:
        """Iterate over the files of all studies, of whichever database, and of the database itself."""
        for entry in files.entries(self.root):
            if entry.is_dir():
                yield from files.files_below(entry.path) if os.path.exists(os.path.join(entry.path, LOCK)) else ()
            elif self._is_database(entry.name):
                yield entry

    def checkpoints(self, name: str) -> Iterator[CheckpointFile]:
        """Iterate over all checkpoints of a study, including half-written ones.

        Args:
            name: name of the study.

        Yields:
            Checkpoints in no particular order.
        """
        for folder in files.entries(self.study(name)):
            if match := TRIAL.fullmatch(folder.name):
                for file in files.entries(folder.path):
                    if file.is_file() and file.name.endswith((CHECKPOINT, HALF)):
                        yield CheckpointFile(trial=int(match[1]), path=Path(file.path))

    def make(self) -> None:
        """Create the home folder and an empty database file if they are missing.

        SQLite treats an empty file as a new database, and gives its journal the same permissions.

        Raises:
            DiskError: the folder or the file cannot be created.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.database and not self.is_served:
                os.close(os.open(self.root / self.database, os.O_CREAT, self._with_group(0o600)))
        except OSError as error:
            raise DiskError(f"cannot write to {self.root}: {error.strerror}; name another --storage") from error

    def remove(self, name: str) -> int:
        """Delete the files of a study, and its folder if nothing else is in it.

        Args:
            name: name of the study.

        Returns:
            The number of bytes freed.
        """
        freed, folder = self.size(name), self.study(name)
        for path in self._study_files(name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):  # the folder is missing or not empty
            folder.rmdir()
        return freed

    def copy(self, name: str, other: "StudyDirs") -> int:
        """Copy the files of a study from another home folder, unless it is the same folder.

        Args:
            name: name of the study.
            other: the home folder to copy from.

        Returns:
            The number of bytes of the copy; 0 if both are the same folder.

        Raises:
            BusyError: a process runs a study of that name here.
            UsageError: the folder here belongs to another database.
            DiskError: a file cannot be written; partial copies are removed.
        """
        if self.root == other.root:
            return 0
        with self.running(name):
            try:
                for path in other._study_files(name):
                    if path.is_dir():
                        shutil.copytree(path, self.study(name) / path.name, dirs_exist_ok=True)
            except OSError as error:
                self.remove(name)
                raise DiskError(f"cannot write to {self.study(name)}: {error}; name another --to") from error
        return self.size(name)

    def is_ours(self, name: str) -> bool:
        """Whether the folder of a study belongs to this database, or is missing."""
        lock = self.study(name) / LOCK
        return not lock.exists() or _owner(lock) in (None, self.database)

    def claim_directory(self, name: str) -> None:
        """Record this database as the owner of a study folder. This process must hold its lock."""
        (self.study(name) / LOCK).write_text(f"{os.getpid()}\n{self.database}\n")

    def size(self, name: str) -> int:
        """Return the size of the files of a study in bytes."""
        return sum(files.size(path) for path in self._study_files(name))

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Hold the lock of a study on this machine. The system releases it however this process ends.

        Args:
            name: name of the study.

        Raises:
            BusyError: another process of this machine holds the lock.
            UsageError: the folder belongs to another database.
            DiskError: the folder cannot be written.
        """
        path = self.study(name) / LOCK
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=self._with_group(0o700), exist_ok=True)
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
                    "keep this database in a separate folder"
                )
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n{self.database}\n")
            stream.flush()
            yield

    def record_stopped_workers(self, name: str, tokens: Sequence[str]) -> None:
        """Record the workers that were stopped on purpose, for the next launcher. Ignores disk errors.

        Args:
            name: name of the study.
            tokens: tokens of the workers.
        """
        with suppress(OSError), (self.study(name) / STOPPED).open("a") as stream:
            stream.writelines(f"{token}\n" for token in tokens)

    def read_stopped_workers(self, name: str) -> tuple[str, ...]:
        """Return the recorded tokens of workers that were stopped on purpose."""
        with suppress(OSError):
            return tuple((self.study(name) / STOPPED).read_text(errors="replace").split())
        return ()

    def clear_stopped_workers(self, name: str) -> None:
        """Delete the record of stopped workers when their trials are back in the queue."""
        with suppress(OSError):
            (self.study(name) / STOPPED).unlink()

    def _study_files(self, name: str) -> list[Path]:
        fixed = (LOCK, STOPPED)
        return [path for path in self.study(name).glob("*") if path.name in fixed or TRIAL.fullmatch(path.name)]

    def _is_database(self, name: str) -> bool:
        """Whether a file is the database, its journal, or a copy made before a migration."""
        prefixes = (f"{self.database}-", f"{self.database}.")
        return bool(self.database) and (name == self.database or name.startswith(prefixes))

    def _with_group(self, mode: int) -> int:
        """Extend the permissions of the owner to the group if the home folder is writable for the group."""
        return mode | mode >> 3 if self.root.stat().st_mode & stat.S_IWGRP else mode


def trial_name(number: int) -> str:
    """Return the name of the folder of a trial."""
    return f"trial-{number:05d}"


def checkpoint_name(*, step: int, batch: int) -> str:
    """Return the file name of a checkpoint. Names sort by progress.

    Args:
        step: steps done.
        batch: batches done in total.
    """
    return f"step-{step:08d}-{batch:012d}.ckpt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name))


def delete_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished trial. Its other files stay.

    Args:
        folder: folder of the trial.

    Raises:
        OSError: a checkpoint cannot be removed.
    """
    for path in list_checkpoints(folder):
        path.unlink(missing_ok=True)


def append_log(log: Path, text: str) -> None:
    """Append an event to the log. Ignores disk errors, which must not stop a trial.

    Args:
        log: the log file; created if missing.
        text: the event; lines after the first are indented.
    """
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    first, *rest = text.rstrip().splitlines() or [""]
    lines = [f"{when} {first}", *(f"    {line}" for line in rest)]
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write("\n".join(lines) + "\n")


def of(url: str) -> StudyDirs:
    """Return the directories of a database.

    Args:
        url: URL of a SQLite file, whose folder is used, or of a server; then it is `runs` in the working directory.
    """
    file = sqlite_path(url)
    if file is None:
        return StudyDirs(Path("runs").resolve(), server_database(url), is_served=True)
    return StudyDirs(file.parent.resolve(), file.name)


def checked_name(name: str) -> str:
    """Return `name` if it is a valid name of a study and its folder.

    Raises:
        UsageError: the name is invalid; with the rule.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a study's name must be up to 64 letters, digits, '_', '.' and '-', and begin with a letter or digit, "
            f"but got {name!r}"
        )
    return name


def _owner(lock: Path) -> str | None:
    """Return the database recorded in the lock of a study folder; None if no database is recorded."""
    lines = lock.read_text(errors="replace").splitlines()
    return lines[1] if len(lines) > 1 else None
