"""Names of files and classes as text."""

import unicodedata
from collections.abc import Iterable
from typing import Final

#: Invisible characters that spelling needs: the soft hyphen, joiners, and marks of direction, which change no order
#: beyond themselves (Unicode Standard Annex 9). Other format characters could reverse or hide text.
SPELLING: Final = frozenset("\u00ad\u061c\u200c\u200d\u200e\u200f\u2060")
#: Control and format characters, line and paragraph separators, bytes that are not UTF-8 (Unicode general categories).
UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})


def canonical(name: str) -> str:
    """The name in composed Unicode (NFC): macOS writes an umlaut as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name)


def is_printable(name: str) -> bool:
    """Whether a name has no characters that break a line or hide text. Joiners and special spaces are printable."""
    return all(character in SPELLING or unicodedata.category(character) not in UNPRINTABLE for character in name)


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names in order, in quotes, and the number of the others."""
    shown = sorted(names)
    rest = len(shown) - most
    return ", ".join(f"'{name}'" for name in shown[:most]) + (f" and {rest} more" if rest > 0 else "")
