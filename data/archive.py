"""Reads untrusted .zip and .tar files in memory."""

import gzip
import lzma
import os
import posixpath
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

from data.atomic import sha256_of
from data.errors import DataError
from data.store import DAMAGE, Directory, Entry, Stamp, Store, as_data_error, stat_key
from data.zip_names import ZipNames

CHUNK = 2**20
DRIVE = re.compile(r"[A-Za-z]:(/|$)")  # of Windows
# zipfile unpacks a few kilobytes of bzip2 or LZMA in one call, which may give gigabytes.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# tarfile reads headers that extend the next one (long name, pax) in one call, regardless of size.
TAR_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
MAX_EXTENSION_BYTES = 2**16
# tarfile reads the whole map of a sparse file before it reports one. Limit for all headers of a member together:
MAX_HEADER_BYTES = 2**20
# Unpacking the output of `xz -9` needs 65 MiB; a header can request 4 GiB.
MAX_XZ_BYTES = 2**27
# Maximum unpacked size of a stream: the larger of these bytes and this multiple of its size. Images hardly compress.
MAX_UNPACKED_BYTES, MAX_RATIO = 2**30, 100
# Names of four million images; a .tar.xz of one megabyte can list ten times that number.
MAX_LIST_BYTES, MEMBER_BYTES = 2**29, 100


def open_store(path: Path, *, encoding: str | None = None) -> Store:
    """Open a directory or archive; the first bytes determine the format.

    Args:
        path: a directory, .zip, .tar, .tar.gz or .tar.xz.
        encoding: of the names in a .zip that does not tell it; guessed by default.

    Raises:
        DataError: the path is missing or unreadable, or has another format.
    """
    try:
        if path.is_dir():
            os.listdir(path)
            return Directory(path)
        if path.exists() and not path.is_file():
            raise DataError(f"[data] path must be a directory or an archive, but {path} is neither")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise DataError(f"[data] path: there is no {path}; correct the path (it is relative to {Path.cwd()})") from None
    except ValueError as error:
        raise DataError(f"[data] path: {str(path)!r} cannot be a path ({error}); correct it") from error
    except OSError as error:
        raise DataError(f"[data] path: {path} cannot be read ({error.strerror}); check its permissions") from error
    if head.startswith(b"PK"):
        return Zip(path, encoding=encoding)
    if head.startswith((b"\xfd7zXZ\0", b"\x1f\x8b")) or head[257:262] == b"ustar":
        return Tar(path)
    raise DataError(
        f"[data] path must be a directory, .zip, .tar, .tar.gz or .tar.xz, but {path} ({path.stat().st_size} bytes) "
        "has none of these formats; it may be truncated: fetch or pack it again"
    )


class _Archive:
    """The common part of Zip and Tar: one file on disk."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> Stamp:
        status = self.path.stat()
        return Stamp(stat_key(status), status.st_ctime_ns)

    def digest(self, paths: Iterable[str]) -> str:
        """A hash of the file; the paths do not matter."""
        with as_data_error(self.path):
            return sha256_of(self.path)


class Zip(_Archive):
    """A .zip file. Backslashes in names separate folders, as Windows writes them."""

    def __init__(self, path: Path, *, encoding: str | None = None) -> None:
        super().__init__(path)
        self._encoding = encoding

    def entries(self) -> Iterator[Entry]:
        with as_data_error(self.path), zipfile.ZipFile(self.path) as archive:
            for name, info in self._members(archive):
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(_refusal(self.path, name, "is a link"))
                if info.compress_type not in ZIP_METHODS:
                    raise DataError(_refusal(self.path, name, "is packed by another method than deflate"))
                if path := _checked(self.path, name):
                    yield Entry(path, name.endswith("/"), info.file_size)

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes | DataError]]:
        with as_data_error(self.path), zipfile.ZipFile(self.path) as archive:
            for name, info in self._members(archive):
                path = _checked(self.path, name)
                if path in wanted:
                    yield path, self._content(archive, info, path)

    @staticmethod
    def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> bytes | DataError:
        try:
            return archive.read(info)
        except DAMAGE as error:
            return DataError(f"{path}: cannot be unpacked ({str(error) or type(error).__name__}); pack it again")

    def _members(self, archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
        infos = archive.infolist()
        names = ZipNames(infos, encoding=self._encoding)
        self.notes = names.notes
        return [(name.replace("\\", "/"), info) for name, info in zip(names.names, infos, strict=True)]


class _StrictInfo(tarfile.TarInfo):
    """A tar header with strict checks.

    tarfile treats a truncated or damaged header as the end of the archive, reads 10 GB for a name if its size is 10 GB,
    and loops over a negative size.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # a block of zeros is the regular end
            raise tarfile.ReadError(f"a header is missing or damaged: {error}") from error
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"'{info.name}' is a sparse file, which is refused")
        if info.size < 0 or (info.type in TAR_EXTENSIONS and info.size > MAX_EXTENSION_BYTES):
            raise tarfile.ReadError(f"a header says {info.size} bytes, which cannot be")
        return info


class _Reader(Protocol):
    """A sequential source of the bytes of a tar."""

    def read(self, size: int, /) -> bytes: ...


class _Stream:
    """The bytes of a tar in sequence, with the seek() that tarfile requires."""

    def __init__(self, source: _Reader, path: Path) -> None:
        self._source = source
        self._path = path
        self._position = 0
        self._most = max(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size)
        self.header = 0
        """Header bytes read since the start of the member."""

    def read(self, size: int) -> bytes:
        self.header += size
        if self.header > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has more than {MAX_HEADER_BYTES} bytes, which cannot be")
        return self.content(size)

    def content(self, size: int) -> bytes:
        """Read bytes that do not belong to a header."""
        data = self._source.read(size)
        self._position += len(data)
        if self._position > self._most:
            raise DataError(
                f"{self._path} unpacks to more than {MAX_RATIO} times its size, which images do not; "
                "pack train/ and test/ alone"
            )
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("its members do not follow one another")
        while self._position < position and self.content(min(CHUNK, position - self._position)):
            pass


class _Xz:
    """A .xz file, unpacked in bounded memory: lzma.open would allocate the size that its headers request."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = self._new()

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        """Read 1 to `most` bytes, or none at the end of the file."""
        part = b""
        while not part:
            packed = b""
            if self._unpacker.eof:
                packed = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(CHUNK).lstrip(b"\0")  # padding
                if not packed:
                    return b""
                self._unpacker = self._new()  # one .xz file may follow another
            elif self._unpacker.needs_input and not (packed := self._file.read(CHUNK)):
                raise EOFError("it ends in the middle")
            part = self._unpacker.decompress(packed, most)
        return part

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_BYTES)


def _members(archive: tarfile.TarFile, stream: _Stream, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members and drop each one: tarfile would keep them all, at a kilobyte each."""
    list_bytes = 0
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # missing in typeshed
        if info.size < 0:  # from a pax header
            raise tarfile.ReadError(f"a header says {info.size} bytes, which cannot be")
        # tarfile keeps global headers, because they apply to all later members.
        if sum(len(key) + len(value) for key, value in archive.pax_headers.items()) > MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"its global headers have more than {MAX_EXTENSION_BYTES} bytes, which cannot be")
        list_bytes += MEMBER_BYTES + len(info.name)
        if list_bytes > MAX_LIST_BYTES:
            raise DataError(f"{path} names more files than can be listed in memory; pack train/ and test/ alone")
        yield info
        stream.header = 0


class Tar(_Archive):
    """A .tar, .tar.gz or .tar.xz file, read sequentially."""

    def entries(self) -> Iterator[Entry]:
        with as_data_error(self.path), self._opened() as (stream, archive):
            for info in _members(archive, stream, self.path):
                if info.issparse() or not (info.isfile() or info.isdir()):
                    raise DataError(_refusal(self.path, info.name, "is a link, a device or a sparse file"))
                if path := _checked(self.path, info.name):
                    yield Entry(path, info.isdir(), info.size)
            while stream.content(CHUNK):  # gzip and xz verify their checksums at the end
                pass

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes | DataError]]:
        with as_data_error(self.path), self._opened() as (stream, archive):
            for info in _members(archive, stream, self.path):
                path = _checked(self.path, info.name)
                if path in wanted and info.isfile():
                    stream.seek(info.offset_data)  # like extractfile(), in half the time
                    yield path, stream.content(info.size)

    @contextmanager
    def _opened(self) -> Iterator[tuple[_Stream, tarfile.TarFile]]:
        with self.path.open("rb") as file:
            stream = _Stream(_unpacked(file), self.path)
            with tarfile.open(fileobj=cast("BinaryIO", stream), mode="r:", tarinfo=_StrictInfo) as archive:
                yield stream, archive


def _unpacked(file: BinaryIO) -> _Reader:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\xfd7zXZ\0"):
        return _Xz(file)
    return gzip.GzipFile(fileobj=file) if head.startswith(b"\x1f\x8b") else file


def _checked(archive: Path, name: str) -> str:
    """The path of a member, empty for the root. Raises DataError if it leads out of the archive."""
    path = posixpath.normpath(name)
    if path.startswith(("/", "../")) or path == ".." or DRIVE.match(path):
        raise DataError(_refusal(archive, name, "leads out of the archive"))
    return "" if path == "." else path


def _refusal(archive: Path, name: str, reason: str) -> str:
    return f"{archive}: '{name}' {reason}, which is refused; pack plain files in train/CLASS/ again"
