"""Errands to a folder that is somewhere else, on what may be slow, broken or silent for ever.

Through fsspec (https://filesystem-spec.readthedocs.io), which knows local folders, ssh, and by a package each S3, GCS,
Azure and more.
"""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.atomic import replacing

#: Timeout of one operation in seconds: several can run between two batches of a worker, which counts as hung after two
#: minutes without one (`storage.retry`).
OPERATION_TIMEOUT_S = 30.0
#: Seconds after which an operation that never ended is given up.
STUCK_S = 600.0


class RemoteStoreError(Exception):
    """A store does not answer, or refuses; says what it said."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A file system, and a folder in it, from which on paths are meant."""

    files: Any
    root: PurePosixPath

    def probe(self) -> None:
        """Write an empty file and remove it."""
        place = self._at(PurePosixPath(f"{uuid.uuid4().hex}.part"))
        self.files.makedirs(str(self.root), exist_ok=True)
        self.files.pipe_file(place, b"")
        self.files.rm(place)

    def names(self, folder: PurePosixPath) -> set[str]:
        """What lies in a folder; nothing where there is no such folder. (Not cached: other machines write, too.)"""
        self.files.invalidate_cache()
        with suppress(FileNotFoundError):
            return {PurePosixPath(path).name for path in self.files.ls(self._at(folder), detail=False)}
        return set()

    def write(self, path: Path, place: PurePosixPath) -> None:
        """Store a file under its name when all of it is there: on a disk it is written aside and renamed."""
        aside = place.with_name(f"{place.name}.{uuid.uuid4().hex}.part")
        self.files.makedirs(self._at(place.parent), exist_ok=True)
        self.files.put_file(str(path), self._at(aside))
        self.files.mv(self._at(aside), self._at(place))

    def read(self, place: PurePosixPath, path: Path) -> None:
        """Bring a file, and give it its name when all of it is here."""
        with replacing(path) as aside:
            self.files.get_file(self._at(place), str(aside))

    def remove(self, place: PurePosixPath) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        with suppress(FileNotFoundError):
            self.files.rm(self._at(place), recursive=True)

    def _at(self, place: PurePosixPath) -> str:
        return str(self.root / place)


Operation = Callable[[ObjectStore], None]


@dataclass(kw_only=True, slots=True)
class RemoteStoreClient:
    """Does one errand at a time at a URL, in a thread, and waits for none for ever. All its errors are one."""

    url: str
    answer_s: float = OPERATION_TIMEOUT_S
    _store: ObjectStore | None = field(init=False, default=None)
    """Kept from errand to errand, as long as none fails: a connection is made once."""
    _under_way: threading.Thread = field(init=False, default_factory=threading.Thread)
    _since: float = field(init=False, default=0.0)
    """When it began, monotonic seconds."""

    def call(self, errand: Operation, *, patient: bool = False) -> None:
        """Do it; what takes longer than `answer_s` goes on, and nobody waits for it unless `patient`.

        Raises:
            Unreachable: it failed, or goes on; or an earlier one still does, and this one is not done at all.
        """
        if self._under_way.is_alive():
            if time.monotonic() - self._since < STUCK_S:
                raise RemoteStoreError("it is still busy with what it was sent before")
            self._store = None
        failures: list[Exception] = []
        self._under_way = threading.Thread(target=self._go, args=(errand, failures), daemon=True)
        self._since = time.monotonic()
        self._under_way.start()
        self._under_way.join(None if patient else self.answer_s)
        if self._under_way.is_alive():
            raise RemoteStoreError(f"no answer within {self.answer_s:g} s")
        for error in failures:
            raise RemoteStoreError(f"{type(error).__name__}: {error}") from error

    def _go(self, errand: Operation, failures: list[Exception]) -> None:
        try:
            self._store = store = self._store or self._open()
            errand(store)
        except Exception as error:  # no package for this protocol, no such protocol, or what its package says
            self._store = None
            failures.append(error)

    def _open(self) -> ObjectStore:
        from fsspec.core import url_to_fs  # half a second of imports, only for studies with a remote store

        files, root = url_to_fs(self.url, skip_instance_cache=True)  # else it would be the broken one again
        return ObjectStore(files, PurePosixPath(root))
