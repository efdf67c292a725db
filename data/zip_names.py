"""Names of the members of a .zip: the format tells their encoding only if it is UTF-8 (APPNOTE.TXT, appendix D)."""

import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from data.errors import DataError
from data.text import some

SEPARATORS: Final = re.compile(
    r"[\s\x21-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7e]+"
)  # between words: ASCII but letters, digits, _
IS_UTF8: Final = 0x800  # bit of the general purpose flags
UNICODE_PATH: Final = 0x7075  # extra field with the name in UTF-8, by Info-ZIP and WinZip (APPNOTE.TXT, 4.6.9)
KANA: Final = re.compile("[\u3005\u3040-\u30ff\uff01-\uff5e]")  # with letters and digits of full width


def _are_kana_or_common_kanji(text: str) -> bool:
    """Level 1 of JIS X 0208 ends at lead byte 0x98. Kana of half width are rarer than a wrong guess."""
    return all(
        KANA.match(character) or (_is_cjk(character) and character.encode("cp932")[0] <= 0x98) for character in text
    )


def _are_common_hanzi(text: str) -> bool:
    """Level 1 of GB 2312 has the lead bytes 0xB0 to 0xD7."""
    return all(_is_cjk(character) and 0xB0 <= character.encode("gbk")[0] <= 0xD7 for character in text)


def _are_common_traditional_hanzi(text: str) -> bool:
    """Level 1 of Big5 has the lead bytes 0xA4 to 0xC6."""
    return all(_is_cjk(character) and 0xA4 <= character.encode("cp950")[0] <= 0xC6 for character in text)


def _are_hangul(text: str) -> bool:
    """The syllables of KS X 1001 have the lead bytes 0xB0 to 0xC8; the others of cp949 are rare."""
    return all("\uac00" <= character <= "\ud7a3" and character.encode("cp949")[0] >= 0xB0 for character in text)


def _is_cjk(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


def _are_words_of(script: str) -> Callable[[str], bool]:
    """Whether all letters are of a script, as Unicode names it, and capitals stand at the begin of a word only."""

    def check(word: str) -> bool:
        letters = [character for character in word if character.isalpha()]
        has_capital_inside = any(before.islower() and letter.isupper() for before, letter in pairwise(letters))
        return (
            len(letters) == len(word.strip("0123456789_"))
            and all(unicodedata.name(letter, "").startswith(script) for letter in letters)
            and all(unicodedata.category(letter) in ("Lu", "Ll", "Lo") for letter in letters)
            and not has_capital_inside
        )

    return check


#: Code pages of DOS and Windows, which archivers write, and the rule that text in them keeps. Where several fit, the
#: first is taken: the common ones of a script, and in it those of DOS, which the format names.
CODE_PAGES: Final[Sequence[tuple[str, Callable[[str], bool]]]] = (
    ("cp949", _are_hangul),
    ("cp932", _are_kana_or_common_kanji),
    ("gbk", _are_common_hanzi),
    ("cp950", _are_common_traditional_hanzi),
    ("cp866", _are_words_of("CYRILLIC")),
    ("cp1251", _are_words_of("CYRILLIC")),
    ("cp437", _are_words_of("LATIN")),
    ("cp850", _are_words_of("LATIN")),
    ("cp1252", _are_words_of("LATIN")),
    ("cp852", _are_words_of("LATIN")),
    ("cp1250", _are_words_of("LATIN")),
    ("cp857", _are_words_of("LATIN")),
    ("cp1254", _are_words_of("LATIN")),
    ("cp737", _are_words_of("GREEK")),
    ("cp1253", _are_words_of("GREEK")),
    ("cp862", _are_words_of("HEBREW")),
    ("cp1255", _are_words_of("HEBREW")),
    ("cp1256", _are_words_of("ARABIC")),
    ("cp874", _are_words_of("THAI")),
)


class ZipNames:
    """The names of the members of a .zip.

    Args:
        infos: the members.
        encoding: of the names that the archive does not tell; guessed by default.

    Raises:
        DataError: names are not in the encoding, or no known one fits.
    """

    def __init__(self, infos: Sequence[zipfile.ZipInfo], *, encoding: str | None = None) -> None:
        untold = [_raw(info) for info in infos if not _is_told(info)]
        beyond_ascii = [name for name in untold if not name.isascii()]
        self.notes: tuple[str, ...] = ()
        used = encoding or "ascii"
        if beyond_ascii and not encoding:
            used = _guess(beyond_ascii)
            folders = {name.decode(used).replace("\\", "/").rpartition("/")[0] for name in beyond_ascii}
            if used != "utf-8":
                self.notes = (
                    f"the zip does not tell the encoding of its names, which are read as {used}: {some(folders, 3)}; "
                    'if they are wrong, set [data] name_encoding = "..."',
                )
        self.names: list[str] = [_name(info, used) for info in infos]


def _is_told(info: zipfile.ZipInfo) -> bool:
    return bool(info.flag_bits & IS_UTF8) or _unicode_path(info) is not None


def _raw(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("cp437")  # as zipfile has decoded it


def _name(info: zipfile.ZipInfo, encoding: str) -> str:
    if info.flag_bits & IS_UTF8:
        return info.orig_filename
    told = _unicode_path(info)
    try:
        return _raw(info).decode(encoding) if told is None else told
    except UnicodeDecodeError as error:
        raise DataError(
            f"the zip has a name that is not {encoding}: {_raw(info)!r}; set [data] name_encoding to its encoding"
        ) from error


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The name in the extra field, unless the member was renamed by a program that does not know the field."""
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5 and struct.unpack("<I", field[1:5])[0] == zlib.crc32(_raw(info)):
            return field[5:].decode("utf-8", "strict")
    return None


def _guess(names: Sequence[bytes]) -> str:
    """The encoding of names: UTF-8, or the code page in which most of their words are plausible."""
    shares = {"utf-8": 2.0} if all(_decoded(name, "utf-8") is not None for name in names) else {}
    for encoding, is_plausible in CODE_PAGES:
        decoded = [_decoded(name, encoding) for name in names]
        if None not in decoded:  # a byte of a letter may be that of a backslash, and names are split afterwards
            parts = {part for name in decoded if name for part in re.split(r"[/\\]", name)}
            shares[encoding] = _plausible_share(parts, is_plausible)
    best = max(shares, key=lambda encoding: shares[encoding], default=None)
    if best is None or not shares[best]:
        raise DataError(
            f"the zip does not tell the encoding of its names, and none fits: {names[0]!r}; set [data] "
            'name_encoding, such as "cp1252", or pack it again with names in UTF-8'
        )
    return best


def _decoded(name: bytes, encoding: str) -> str | None:
    try:
        return name.decode(encoding)
    except UnicodeDecodeError:
        return None


def _plausible_share(names: Iterable[str], is_plausible: Callable[[str], bool]) -> float:
    words = [word for name in names for word in re.split(SEPARATORS, name) if not word.isascii()]
    return sum(map(is_plausible, words)) / len(words) if words else 0.0
