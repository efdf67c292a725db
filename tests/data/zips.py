"""Zip archives with names as older archivers write them; zipfile writes ASCII or UTF-8 only."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

IS_UTF8 = 0x800


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member: the bytes of its name, and what an archiver says about them (APPNOTE.TXT, 4.4.4 and 4.6.9)."""

    content: bytes = b""
    flags: int = 0
    extra: bytes = b""


def zipped(members: Mapping[bytes, Member]) -> bytes:
    """A zip of stored members (APPNOTE.TXT, 4.3)."""
    file, directory = io.BytesIO(), b""
    for name, member in members.items():
        start, size = file.tell(), len(member.content)
        head = struct.pack("<HHHHH", 20, member.flags, 0, 0, 0x5821)
        head += struct.pack("<IIIHH", zlib.crc32(member.content), size, size, len(name), len(member.extra))
        file.write(b"PK\3\4" + head + name + member.extra + member.content)
        directory += b"PK\1\2" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, start)
        directory += name + member.extra
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), file.tell(), 0)
    return file.getvalue() + directory + b"PK\5\6" + end


def infos_of(*names: bytes, flags: int = 0) -> list[zipfile.ZipInfo]:
    """The members of a zip with these names, as zipfile reads them."""
    content = zipped({name: Member(flags=flags) for name in names})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.infolist()


def unicode_path(raw: bytes, name: str, *, checksum: int | None = None) -> bytes:
    """The extra field with the name in UTF-8 that Info-ZIP writes, valid for the raw name."""
    content = b"\1" + struct.pack("<I", zlib.crc32(raw) if checksum is None else checksum) + name.encode()
    return struct.pack("<HH", 0x7075, len(content)) + content
