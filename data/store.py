"""The interface of directories and archives of images, and the directory."""

import hashlib
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from data.errors import DataError

PARTS = ("train", "test")
MAX_FILE_BYTES = 256 * 2**20  # above any image of image.MAX_PIXELS; stops decompression bombs
LITTER = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})  # left by file managers, besides hidden files
# Errors of the decoders for a damaged archive, or one that they cannot read. zipfile raises RuntimeError for
# encryption, a subclass of it for an unknown version or compression, and ValueError for names that are not Unicode;
# struct, EOFError and OverflowError come from headers that are cut off or hold sizes beyond the file.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder of a store."""

    path: str
    """Relative, with slashes, as in train/cat/1.jpg."""

    is_folder: bool
    status: os.stat_result | None = None
    """File status; None inside archives."""


class Store(Protocol):
    """A directory or an archive."""

    path: Path

    def entries(self) -> Iterator[Entry]:
        """The files and folders in the best reading order, without hidden files and litter."""

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """Path and content of the wanted files, in the order of entries()."""

    def stamp(self) -> "Stamp":
        """A fingerprint of the file status, without reading: it changes with any edit (ctime cannot be set back)."""

    def digest(self) -> str:
        """A hash of all bytes."""


class Stamp(NamedTuple):
    """A fingerprint of the file status of a store."""

    text: str
    changed_ns: int
    """Time of the latest change, in nanoseconds since 1970 by the clock of the file system."""


class Directory:
    """A directory on disk; only train/ and test/ are listed, and links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> Iterator[Entry]:
        with as_data_error(self.path):
            for entry in self._folder(self._top()):
                yield entry
                if entry.is_folder and PurePosixPath(entry.path).name in PARTS:
                    yield from self._below(entry)

    def _top(self) -> str:
        """The parent folder of train/, or an empty text."""
        if (self.path / PARTS[0]).is_dir():
            return ""
        folders = [entry.path for entry in self._folder("") if entry.is_folder]
        return f"{folders[0]}/" if len(folders) == 1 and (self.path / folders[0] / PARTS[0]).is_dir() else ""

    def _below(self, part: Entry) -> Iterator[Entry]:
        for entry in self._folder(f"{part.path}/"):
            yield entry
            if entry.is_folder:
                for image in self._folder(f"{entry.path}/"):
                    refuse_huge(self.path, image.path, image.status.st_size if image.status else 0)
                    yield image

    def _folder(self, folder: str) -> Iterator[Entry]:
        with os.scandir(self.path / folder) as listing:
            items = sorted((item for item in listing if not is_ignored(item.name)), key=lambda item: item.name)
        for item in items:
            status = item.stat()
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):  # reading a pipe would wait forever
                raise DataError(f"{item.path} is neither a file nor a folder; take it out")
            yield Entry(f"{folder}{item.name}", stat.S_ISDIR(status.st_mode), status)

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        with as_data_error(self.path):
            for path in sorted(wanted):
                with (self.path / path).open("rb") as file:
                    # At most the reported size: files in /proc report no size, and some have no end.
                    yield path, file.read(os.fstat(file.fileno()).st_size)

    def stamp(self) -> Stamp:
        digest, changed_ns = hashlib.sha256(), 0
        for entry in self.entries():
            if entry.status:
                digest.update(f"{entry.path}\0{stat_key(entry.status)}\n".encode("utf-8", "surrogateescape"))
                changed_ns = max(changed_ns, entry.status.st_ctime_ns)
        return Stamp(digest.hexdigest(), changed_ns)

    def digest(self) -> str:
        digest = hashlib.sha256()
        files = frozenset(entry.path for entry in self.entries() if not entry.is_folder and "/" in entry.path)
        for path, content in self.read(files):
            digest.update(f"{path}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
        return digest.hexdigest()


def is_ignored(name: str) -> bool:
    """Whether a file or folder is ignored because of its name."""
    return name.startswith(".") or name in LITTER


def refuse_huge(store: Path, path: str, size: int) -> None:
    """Raise DataError for a file of train/ or test/ that is larger than any image."""
    if size > MAX_FILE_BYTES and any(part in PARTS for part in path.split("/")[:2]):
        raise DataError(
            f"{store}: '{path}' has {size / 1e6:.0f} MB, but no image of more than {MAX_FILE_BYTES / 1e6:.0f} MB is "
            "read; take it out"
        )


def stat_key(status: os.stat_result) -> str:
    """A text that changes whenever the file changes, regardless of clocks: the ctime cannot be set."""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


@contextmanager
def as_data_error(path: Path) -> Iterator[None]:
    """Convert the errors of missing, unreadable or damaged files to DataError."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{path} is truncated or damaged ({str(error) or type(error).__name__}); fetch or pack it again"
        ) from error
    except OSError as error:  # gzip and xz raise it too
        where = error.filename or path
        raise DataError(
            f"{where} cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error
