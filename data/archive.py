"""Reading .zip and .tar files in memory, without trusting them."""

import gzip
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Self, cast

from data.errors import DataError
from data.store import Directory, Entry, Stamp, Store, damage_told, is_ignored, refuse_huge, text_of

CHUNK = 2**20
# zipfile unpacks what bzip2 and LZMA give for a few kilobytes in one piece, and that may be gigabytes.
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# tarfile reads a header that says more of the next one (a long name, pax) in one piece, whatever its size.
TAR_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
MAX_EXTENSION_BYTES = 2**16
# Names of four million images; a .tar.xz of a megabyte could name ten times as many.
MAX_LIST_BYTES, MEMBER_BYTES = 2**29, 100


def open_store(path: Path) -> Store:
    """Find out by its first bytes what `path` is. Raises DataError where it is missing, unreadable, or none of them."""
    try:
        if path.is_dir():
            os.listdir(path)
            return Directory(path)
        if path.exists() and not path.is_file():
            raise DataError(f"[data] path must be a directory or an archive, but {path} is neither")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise DataError(f"[data] path: there is no {path}; correct the path, it is relative to {Path.cwd()}") from None
    except ValueError as error:
        raise DataError(f"[data] path: {str(path)!r} cannot be a path ({error}); correct it") from error
    except OSError as error:
        raise DataError(f"[data] path: {path} cannot be read ({error.strerror}); check its permissions") from error
    if head.startswith(b"PK"):
        return Zip(path)
    if head.startswith((b"\xfd7zXZ\0", b"\x1f\x8b")) or head[257:262] == b"ustar":
        return Tar(path)
    raise DataError(
        f"[data] path must be a directory, .zip, .tar, .tar.gz or .tar.xz, but {path} ({path.stat().st_size} bytes) "
        "begins like none of them; it may be truncated: fetch or pack it again"
    )


class _Archive:
    """What a zip and a tar have in common: one file on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> Stamp:
        status = self.path.stat()
        return Stamp(text_of(status), status.st_ctime_ns)

    def digest(self) -> str:
        with damage_told(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Zip(_Archive):
    """A .zip file."""

    def entries(self) -> Iterator[Entry]:
        with damage_told(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(_refusal(self.path, info.filename, "is a link"))
                if info.compress_type not in ZIP_METHODS:
                    raise DataError(_refusal(self.path, info.filename, "is packed by another method than deflate"))
                if path := _checked(self.path, info.filename):
                    refuse_huge(self.path, path, info.file_size)
                    yield Entry(path, info.is_dir())

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        with damage_told(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                path = _checked(self.path, info.filename)
                if path in wanted:
                    with archive.open(info) as file:
                        yield path, file.read()


class _StrictInfo(tarfile.TarInfo):
    """A header of a tar that must be whole: tarfile takes a cut or damaged one for the end of the archive.

    And one of a size that can be: tarfile would read 10 GB for a name, and go in circles over a negative one.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # a block of zeros, which is the proper end
            raise tarfile.ReadError(f"a header is missing or damaged: {error}") from error
        if info.size < 0 or (info.type in TAR_EXTENSIONS and info.size > MAX_EXTENSION_BYTES):
            raise tarfile.ReadError(f"a header says {info.size} bytes, which cannot be")
        return info


def _members(stream: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictInfo)


def _each(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members, which tarfile would all keep, a kilobyte each."""
    listed = 0
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # typeshed does not know it
        if info.size < 0:  # said by a pax header
            raise tarfile.ReadError(f"a header says {info.size} bytes, which cannot be")
        listed += MEMBER_BYTES + len(info.name)
        if listed > MAX_LIST_BYTES:
            raise DataError(f"{path} names more files than can be listed in memory; pack train/ and test/ alone")
        yield info


class Tar(_Archive):
    """A .tar, .tar.gz or .tar.xz file, read once from front to back."""

    def entries(self) -> Iterator[Entry]:
        with damage_told(self.path), self._stream() as stream:
            with _members(stream) as archive:
                for info in _each(archive, self.path):
                    if info.issparse() or not (info.isfile() or info.isdir()):
                        raise DataError(_refusal(self.path, info.name, "is a link, a device or a sparse file"))
                    if path := _checked(self.path, info.name):
                        refuse_huge(self.path, path, info.size)
                        yield Entry(path, info.isdir())
            while stream.read(CHUNK):  # to the end, where the checksums of gzip and xz are
                pass

    def read(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        with damage_told(self.path), self._stream() as stream, _members(stream) as archive:
            for info in _each(archive, self.path):
                path = _checked(self.path, info.name)
                if path in wanted and info.isfile():
                    stream.seek(info.offset_data)  # as extractfile() does, at half the time
                    yield path, stream.read(info.size)

    def _stream(self) -> AbstractContextManager[BinaryIO]:
        with self.path.open("rb") as file:
            head = file.read(6)
        if head.startswith(b"\xfd7zXZ\0"):
            return cast("BinaryIO", lzma.open(self.path))
        if head.startswith(b"\x1f\x8b"):
            return cast("BinaryIO", gzip.open(self.path))
        return self.path.open("rb")


def _checked(archive: Path, name: str) -> str:
    """The path of a member, empty where it does not count; a refusal where it leads out of the archive."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise DataError(_refusal(archive, name, "leads out of the archive"))
    return "" if any(is_ignored(part) for part in parts) else "/".join(parts)


def _refusal(archive: Path, name: str, reason: str) -> str:
    return f"{archive}: '{name}' {reason}, which is refused; pack plain files in train/CLASS/ again"
