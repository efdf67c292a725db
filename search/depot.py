"""A second copy of each checkpoint, in a folder or an object store that every machine of a study can reach.

The first one is on the disk of the machine that trains, and is what counts there. So a store that does not answer stops
nothing: a trial that moves to another machine meanwhile begins anew there. Through fsspec
(https://filesystem-spec.readthedocs.io), which knows local folders, ssh, and by a package each S3, GCS, Azure and more.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from search import shelf
from search.errors import SpecError


class Unreachable(Exception):
    """The store does not answer, or refuses; says what it said."""


@dataclass(frozen=True, slots=True)
class Depot:
    """Where the checkpoints of one study lie for all machines."""

    url: str
    uid: str
    """Of the study, which has a folder of its own there."""

    def put(self, folder: Path, number: int) -> None:
        """Let what lies there of a trial be what lies in `folder`, but for what came from further on in its training.

        Raises:
            Unreachable: it may not be; the next call makes up for it.
        """
        with _store(self.url) as store:
            there, ours = store.names(self._trial(number)), {path.name: path for path in shelf.files(folder)}
            for name in sorted(ours.keys() - there):
                store.write(ours[name], self._trial(number) / name)
            for name in sorted(there - ours.keys()):
                if name < max(ours, default=""):
                    store.remove(self._trial(number) / name)

    def get(self, folder: Path, number: int) -> None:
        """Bring the newest checkpoint of a trial into `folder`, if it is newer than those there.

        Raises:
            Unreachable: it could not be brought.
        """
        with _store(self.url) as store:
            newest = max(store.names(self._trial(number)), default="")
            if newest > max((path.name for path in shelf.files(folder)), default=""):
                folder.mkdir(parents=True, exist_ok=True)
                store.read(self._trial(number) / newest, folder / newest)

    def forget(self, number: int) -> None:
        """Remove the checkpoints of a trial. Raises Unreachable."""
        with _store(self.url) as store:
            store.remove(self._trial(number))

    def forget_all(self) -> None:
        """Remove those of the whole study. Raises Unreachable."""
        with _store(self.url) as store:
            store.remove(PurePosixPath(self.uid))

    def _trial(self, number: int) -> PurePosixPath:
        return PurePosixPath(self.uid) / f"trial-{number:05d}"


def of(url: str | None, uid: str) -> Depot | None:
    """The depot of a study; None where it has none."""
    return None if url is None else Depot(url, uid)


def check(url: str | None) -> None:
    """See that a depot can be used from here: that there is a package for it, and that it can be written.

    Raises:
        SpecError: says why not.
    """
    if url is None:
        return
    try:
        with _store(url) as store:
            store.probe()
    except Unreachable as error:
        raise SpecError(f"checkpoints = {url!r} cannot be used from this machine: {error}") from error


@contextmanager
def _store(url: str) -> Iterator["_Store"]:
    """The file system at a URL, whose errors are all one: each protocol has its own."""
    try:
        from fsspec.core import url_to_fs  # loads half a second of packages, for who has a depot

        files, root = url_to_fs(url)
        yield _Store(files, PurePosixPath(root))
    except Exception as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Store:
    """A file system, and the folder in it that is ours."""

    files: Any
    root: PurePosixPath

    def probe(self) -> None:
        """Write an empty file and remove it."""
        place = self._at(PurePosixPath(f"convsearch-{os.getpid()}.part"))
        self.files.makedirs(str(self.root), exist_ok=True)
        self.files.pipe_file(place, b"")
        self.files.rm(place)

    def names(self, folder: PurePosixPath) -> set[str]:
        """The checkpoints in a folder; none where there is no such folder. (Looked up anew: others write, too.)"""
        self.files.invalidate_cache()
        if not self.files.exists(self._at(folder)):
            return set()
        found = (PurePosixPath(path).name for path in self.files.ls(self._at(folder), detail=False))
        return {name for name in found if shelf.NAME.fullmatch(name)}

    def write(self, path: Path, place: PurePosixPath) -> None:
        """Store a file under its name when all of it is there: on a disk it is written aside and renamed."""
        aside = place.with_name(f"{place.name}.{os.getpid()}.part")
        self.files.makedirs(self._at(place.parent), exist_ok=True)
        self.files.put_file(str(path), self._at(aside))
        self.files.mv(self._at(aside), self._at(place))

    def read(self, place: PurePosixPath, path: Path) -> None:
        aside = path.with_name(f"{path.name}.{os.getpid()}.part")
        self.files.get_file(self._at(place), str(aside))
        aside.replace(path)

    def remove(self, place: PurePosixPath) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        if self.files.exists(self._at(place)):
            self.files.rm(self._at(place), recursive=True)

    def _at(self, place: PurePosixPath) -> str:
        return str(self.root / place)
