"""The text of a study file, which any editor of any system may have written."""

import codecs
from typing import Final

from search.errors import SpecError

MARKS: Final = {
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF32_LE: "UTF-32-LE",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32-BE",
    codecs.BOM_UTF16_LE: "UTF-16-LE",
    codecs.BOM_UTF16_BE: "UTF-16-BE",
}
"""Byte-order marks and their encodings."""


def decode(content: bytes) -> str:
    """Decode UTF-8, or the encoding that a byte-order mark names. Lines end with LF, CR LF or CR; the result has LF.

    Raises:
        SpecError: The bytes have another encoding. The message has the line and the column of the first such byte.
    """
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    encoding, content = MARKS.get(mark, "UTF-8"), content.removeprefix(mark)
    try:
        text = _with_lf(content.decode(encoding))
    except UnicodeDecodeError as error:
        byte, place = content[error.start], _place(_with_lf(content[: error.start].decode(encoding)))
        raise SpecError(f"byte 0x{byte:02x} ({place}) is not {encoding}; save the file as UTF-8") from error
    before, nul, _ = text.partition("\0")
    if nul:  # UTF-16 without its mark, or no text at all
        raise SpecError(f"there is a NUL character ({_place(before)}); save the file as UTF-8")
    return text


def _with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _place(before: str) -> str:
    """The line and the column after a text, as tomllib counts them."""
    lines = before.split("\n")
    return f"at line {len(lines)}, column {len(lines[-1]) + 1}"
