"""The interface of directories and archives of images, and the directory."""

import hashlib
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from data.errors import DataError
from data.ignore import is_litter, is_side_file

Part: TypeAlias = Literal["train", "validation", "test"]

PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")

#: Names of the folders of each part, in lower case.
PART_NAMES: Final[Mapping[str, Part]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MAX_FILE_BYTES = 256 * 2**20  # above any photo, and stops decompression bombs
MAX_ENTRIES = 4_000_000  # of a directory; a path such as / is a mistake
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
    size: int = 0
    """In bytes; 0 for a folder."""

    status: os.stat_result | None = None
    """File status; None inside archives, and for a link to nowhere."""


class Store(Protocol):
    """A directory or an archive."""

    path: Path
    notes: tuple[str, ...]
    """Remarks for the user, complete after entries()."""

    def entries(self) -> Iterator[Entry]:
        """The files and folders in the best reading order; those that are ignored may be among them."""

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes | DataError]]:
        """Path and content of the wanted files, in the order of entries(), or the reason why a file is unreadable."""

    def stamp(self) -> "Stamp":
        """A fingerprint of the file status, without reading: it changes with any edit (ctime cannot be set back)."""

    def digest(self, paths: Iterable[str]) -> str:
        """A hash of the content of the files, or of the complete archive."""


class Stamp(NamedTuple):
    """A fingerprint of the file status of a store."""

    text: str
    changed_ns: int
    """Time of the latest change, in nanoseconds since 1970 by the clock of the file system."""


class Directory:
    """A directory on disk. Links are followed, and folders beside train/ are not searched."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0

    def entries(self) -> Iterator[Entry]:
        with as_data_error(self.path):
            self._count, seen = 0, _identities([self.path, *self.path.resolve().parents])
            top = self._top()
            entries = list(self._folder(top))
            has_parts = any(entry.is_folder and part_of(entry.path) == "train" for entry in entries)
            for entry in entries:
                yield entry
                if entry.is_folder and not is_litter(name_of(entry)) and (part_of(entry.path) or not has_parts):
                    yield from self._walk(f"{entry.path}/", seen)

    def below(self) -> Iterator[Entry]:
        """All files and folders, at any depth, but nothing in an ignored folder."""
        with as_data_error(self.path):
            self._count = 0
            yield from self._walk("", _identities(self.path.resolve().parents))

    def _top(self) -> str:
        def children(folder: str) -> list[Entry]:
            return list(self._folder(folder))

        return top_folder(children)

    def _walk(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
        """All entries below a folder. Each folder is read once: links may form circles, and lead to all of the disk."""
        status = (self.path / folder).stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            raise DataError(
                f"{self.path / folder} is a link to a folder above it, or to one that is read already; take it out"
            )
        seen.add(identity)
        for entry in self._folder(folder):
            self._count += 1
            if self._count > MAX_ENTRIES:
                raise DataError(f"{self.path} has more than {MAX_ENTRIES} files and folders; name a smaller one")
            yield entry
            if entry.is_folder and not is_litter(name_of(entry)):
                yield from self._walk(f"{entry.path}/", seen)

    def _folder(self, folder: str) -> Iterator[Entry]:
        with os.scandir(self.path / folder) as listing:
            items = sorted(listing, key=lambda item: item.name)
        for item in items:
            yield self._entry(f"{folder}{item.name}", item)

    def _entry(self, path: str, item: os.DirEntry[str]) -> Entry:
        try:
            status = item.stat()
        except FileNotFoundError:  # a link to nowhere
            return Entry(path, is_folder=False)
        is_folder = stat.S_ISDIR(status.st_mode)
        is_readable = is_folder or stat.S_ISREG(status.st_mode)  # reading a pipe would wait forever
        if not is_readable and not is_litter(item.name):
            raise DataError(f"{item.path} is neither a file nor a folder; take it out")
        return Entry(path, is_folder, 0 if is_folder else status.st_size, status)

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes | DataError]]:
        for path in sorted(wanted):
            try:
                with (self.path / path).open("rb") as file:
                    # At most the reported size: files in /proc report no size, and some have no end.
                    yield path, file.read(os.fstat(file.fileno()).st_size)
            except FileNotFoundError:
                yield path, DataError(f"{path}: is a link to nowhere; take it out")
            except OSError as error:
                yield path, DataError(f"{path}: cannot be read ({error.strerror or error}); check its permissions")

    def stamp(self) -> Stamp:
        digest, changed_ns = hashlib.sha256(), 0
        for entry in self.entries():
            if entry.status and not is_litter(name_of(entry)):
                digest.update(f"{entry.path}\0{stat_key(entry.status)}\n".encode("utf-8", "surrogateescape"))
                changed_ns = max(changed_ns, entry.status.st_ctime_ns)
        return Stamp(digest.hexdigest(), changed_ns)

    def digest(self, paths: Iterable[str]) -> str:
        digest = hashlib.sha256()
        for path, content in self.read(frozenset(paths)):
            known = content if isinstance(content, bytes) else b""
            digest.update(f"{path}\0{len(known)}\0".encode("utf-8", "surrogateescape"))
            digest.update(known)
        return digest.hexdigest()


def _identities(folders: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and inode of each folder."""
    return {(status.st_dev, status.st_ino) for status in (folder.stat() for folder in folders)}


def top_folder(children: Callable[[str], Sequence[Entry]]) -> str:
    """The folder that contains the parts or classes: a single folder around them is passed, as archives often have.

    Args:
        children: lists a folder, given with a slash at the end; the empty text is the root.

    Returns:
        The folder, empty or with a slash at the end.
    """
    top = ""
    while True:
        entries = [entry for entry in children(top) if not is_litter(name_of(entry))]
        folders = [entry for entry in entries if entry.is_folder]
        if len(folders) != 1 or part_of(folders[0].path):
            return top
        below = f"{folders[0].path}/"
        inner = [entry for entry in children(below) if entry.is_folder and not is_litter(name_of(entry))]
        files = [name_of(entry) for entry in entries if not entry.is_folder]
        has_images = any("." in name and not is_side_file(name) for name in files)  # LICENSE and VERSION are none
        if not inner or (has_images and not any(part_of(entry.path) == "train" for entry in inner)):
            return top
        top = below


def name_of(entry: Entry) -> str:
    """The last part of the path."""
    return entry.path.rpartition("/")[2]


def part_of(path: str) -> Part | None:
    """The part that a folder contains, by its name in any case."""
    return PART_NAMES.get(PurePosixPath(path).name.lower())


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
