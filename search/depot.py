"""A second copy of each checkpoint, in a folder or an object store that every machine of a study can reach.

The first one is on the disk of the machine that trains, and is what counts there. So a store that does not answer stops
nothing: a trial that moves to another machine meanwhile begins anew there. Through fsspec
(https://filesystem-spec.readthedocs.io), which knows local folders, ssh, and by a package each S3, GCS, Azure and more.
"""

import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from search import shelf
from search.errors import SpecError

#: So long a store is waited for; a worker that finishes no batch for twice that is taken for one that hangs.
ANSWER_S = 60.0


class Unreachable(Exception):
    """The store does not answer, or refuses; says what it said."""


@dataclass(frozen=True, slots=True)
class Depot:
    """Where the checkpoints of one study lie for all machines."""

    url: str
    uid: str
    """Of the study, which has a folder of its own there."""
    _courier: "_Courier" = field(default_factory=lambda: _Courier(), repr=False, compare=False)

    def put(self, folder: Path, number: int) -> None:
        """Let what lies there of a trial be what lies in `folder`, but for what came from further on in its training.

        Raises:
            Unreachable: it may not be; the next call makes up for it.
        """

        def bring(store: _Store) -> None:
            there, ours = store.names(_trial(number)), {path.name: path for path in shelf.files(folder)}
            for name in sorted(ours.keys() - there):
                store.write(ours[name], _trial(number) / name)
            for name in sorted(there - ours.keys()):
                if name < max(ours, default=""):
                    store.remove(_trial(number) / name)

        self._do(bring)

    def get(self, folder: Path, number: int) -> None:
        """Bring the newest checkpoint of a trial into `folder`, if it is newer than those there.

        Raises:
            Unreachable: it could not be brought.
        """

        def fetch(store: _Store) -> None:
            newest = max(store.names(_trial(number)), default="")
            if newest > max((path.name for path in shelf.files(folder)), default=""):
                folder.mkdir(parents=True, exist_ok=True)
                store.read(_trial(number) / newest, folder / newest)

        self._do(fetch)

    def forget(self, numbers: Collection[int]) -> None:
        """Remove the checkpoints of these trials, as far as there are any. Raises Unreachable."""

        def remove(store: _Store) -> None:
            for name in sorted(store.listed(PurePosixPath()) & {str(_trial(number)) for number in numbers}):
                store.remove(PurePosixPath(name))

        self._do(remove)

    def forget_all(self) -> None:
        """Remove those of the whole study. Raises Unreachable."""
        self._do(lambda store: store.remove(PurePosixPath()))

    def _do(self, errand: "Callable[[_Store], None]") -> None:
        self._courier.send(self.url, PurePosixPath(self.uid), errand)


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
        _Courier().send(url, PurePosixPath(), lambda store: store.probe())
    except Unreachable as error:
        raise SpecError(f"checkpoints = {url!r} cannot be used from this machine: {error}") from error


def _trial(number: int) -> PurePosixPath:
    return PurePosixPath(f"trial-{number:05d}")


@dataclass(slots=True)
class _Courier:
    """Does one errand at a time, in a thread, as a store can be silent for ever; whose errors are all one."""

    _under_way: threading.Thread | None = None
    _failed: Exception | None = None

    def send(self, url: str, folder: PurePosixPath, errand: "Callable[[_Store], None]") -> None:
        """Do it; what takes longer than ANSWER_S goes on, and nobody waits for it.

        Raises:
            Unreachable: it failed, or goes on; or an earlier one still does, and this one is not done at all.
        """
        if self._under_way is not None and self._under_way.is_alive():
            raise Unreachable("it is still busy with what it was sent before")
        self._failed = None
        self._under_way = threading.Thread(target=self._go, args=(url, folder, errand), daemon=True)
        self._under_way.start()
        self._under_way.join(ANSWER_S)
        if self._under_way.is_alive():
            raise Unreachable(f"no answer within {ANSWER_S:g} s")
        if self._failed is not None:
            raise Unreachable(f"{type(self._failed).__name__}: {self._failed}") from self._failed

    def _go(self, url: str, folder: PurePosixPath, errand: "Callable[[_Store], None]") -> None:
        try:
            from fsspec.core import url_to_fs  # loads half a second of packages, for who has a depot

            files, root = url_to_fs(url)
            errand(_Store(files, PurePosixPath(root) / folder))
        except Exception as error:  # no package for this protocol, no such protocol, or what its package says
            self._failed = error


@dataclass(frozen=True, slots=True)
class _Store:
    """A file system, and a folder in it."""

    files: Any
    root: PurePosixPath

    def probe(self) -> None:
        """Write an empty file and remove it."""
        place = self._at(PurePosixPath(f"convsearch-{os.getpid()}.part"))
        self.files.makedirs(str(self.root), exist_ok=True)
        self.files.pipe_file(place, b"")
        self.files.rm(place)

    def names(self, folder: PurePosixPath) -> set[str]:
        """The checkpoints in a folder."""
        return {name for name in self.listed(folder) if shelf.NAME.fullmatch(name)}

    def listed(self, folder: PurePosixPath) -> set[str]:
        """All in a folder; nothing where there is no such folder. (Looked up anew: others write, too.)"""
        self.files.invalidate_cache()
        if not self.files.exists(self._at(folder)):
            return set()
        return {PurePosixPath(path).name for path in self.files.ls(self._at(folder), detail=False)}

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
