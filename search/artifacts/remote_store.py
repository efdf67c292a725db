"""Operations on a remote folder, which may be slow, broken or never respond.

Uses fsspec (https://filesystem-spec.readthedocs.io), which supports local folders, ssh, and with one package each S3,
GCS, Azure and more.
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

#: Timeout of one operation in seconds. Several operations can run between two batches, and a worker counts as hung
#: after two minutes without a batch (`storage.retry`).
OPERATION_TIMEOUT_S = 30.0
#: Seconds after which an operation that does not end is abandoned.
STUCK_S = 600.0


class RemoteStoreError(Exception):
    """A remote store does not respond or reports an error. Contains the error message of the store."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A folder of a file system. All paths are relative to it."""

    files: Any
    root: PurePosixPath

    def probe(self) -> None:
        """Write an empty file and remove it."""
        path = self._path(PurePosixPath(f"{uuid.uuid4().hex}.part"))
        self.files.makedirs(str(self.root), exist_ok=True)
        self.files.pipe_file(path, b"")
        self.files.rm(path)

    def names(self, folder: PurePosixPath) -> set[str]:
        """Return the names in a folder; empty if the folder is missing. Not cached, as other machines write too."""
        self.files.invalidate_cache()
        with suppress(FileNotFoundError):
            return {PurePosixPath(path).name for path in self.files.ls(self._path(folder), detail=False)}
        return set()

    def write(self, path: Path, target: PurePosixPath) -> None:
        """Upload a file atomically: it is written under a temporary name and renamed.

        Args:
            path: the local file.
            target: path of the remote file, relative to the root.
        """
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        self.files.makedirs(self._path(target.parent), exist_ok=True)
        self.files.put_file(str(path), self._path(temporary))
        self.files.mv(self._path(temporary), self._path(target))

    def read(self, source: PurePosixPath, path: Path) -> None:
        """Download a file atomically.

        Args:
            source: path of the remote file, relative to the root.
            path: the local file.
        """
        with replacing(path) as temporary:
            self.files.get_file(self._path(source), str(temporary))

    def remove(self, target: PurePosixPath) -> None:
        """Remove a file, or a folder with its contents, if it exists."""
        with suppress(FileNotFoundError):
            self.files.rm(self._path(target), recursive=True)

    def _path(self, relative: PurePosixPath) -> str:
        return str(self.root / relative)


Operation = Callable[[ObjectStore], None]


@dataclass(kw_only=True, slots=True)
class RemoteStoreClient:
    """Runs one operation at a time on the store at a URL, in a thread with a timeout. All errors have one type."""

    url: str
    answer_s: float = OPERATION_TIMEOUT_S
    """Timeout of one operation in seconds."""
    _store: ObjectStore | None = field(init=False, default=None)
    """Connection, reused until an operation fails."""
    _thread: threading.Thread = field(init=False, default_factory=threading.Thread)
    """Thread of the current or last operation."""
    _started_at: float = field(init=False, default=0.0)
    """Start of the current or last operation, in monotonic seconds."""

    def call(self, operation: Operation, *, patient: bool = False) -> None:
        """Run an operation. After `answer_s` seconds the call returns, and the operation goes on in its thread.

        Args:
            operation: is called with the store.
            patient: wait without a timeout.

        Raises:
            RemoteStoreError: the operation failed or timed out, or was not started because an earlier one still runs.
        """
        if self._thread.is_alive():
            if time.monotonic() - self._started_at < STUCK_S:
                raise RemoteStoreError("the store is still busy with an earlier operation")
            self._store = None
        failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run, args=(operation, failures), daemon=True)
        self._started_at = time.monotonic()
        self._thread.start()
        self._thread.join(None if patient else self.answer_s)
        if self._thread.is_alive():
            raise RemoteStoreError(f"no answer within {self.answer_s:g} s")
        for error in failures:
            raise RemoteStoreError(f"{type(error).__name__}: {error}") from error

    def _run(self, operation: Operation, failures: list[Exception]) -> None:
        try:
            self._store = store = self._store or self._open()
            operation(store)
        except Exception as error:  # unknown protocol, missing package, or any error of that package
            self._store = None
            failures.append(error)

    def _open(self) -> ObjectStore:
        from fsspec.core import url_to_fs  # half a second of imports, only for studies with a remote store

        files, root = url_to_fs(self.url, skip_instance_cache=True)  # a cached instance may be the broken one
        return ObjectStore(files, PurePosixPath(root))
