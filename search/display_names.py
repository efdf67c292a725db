"""Names of classes for pages and pictures: in full, in their script, and no two of them the same.

A name comes from a folder or an archive, and may contain any character. A character that has no shape of its own, or
that moves others, is shown by its code, as in `\\u202e`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

#: Zero width non-joiner and joiner, which Arabic, the scripts of India and emoji need.
_JOINERS = "\u200c\u200d"
#: Letters and marks without a shape (Default_Ignorable_Code_Point of
#: https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt), and the empty braille pattern.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_SELECTOR = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
#: Blocks of emoji and of Chinese characters. Python may be older than some of them, and those have shapes, too.
_EMOJI, _CHINESE = re.compile("[\U0001f000-\U0001fffd]"), re.compile("[\U00020000-\U0003fffd]")
#: The letters of a flag as of Scotland, which follow a black flag, and those of a flag as of Japan, a pair.
_TAG, _FLAG = re.compile("[\U000e0020-\U000e007f]"), re.compile("[\U0001f1e6-\U0001f1ff]")
_BLACK_FLAG, _KEYCAP = "\U0001f3f4", "\u20e3"
#: Combining class of the marks that join two letters in the scripts of India.
_VIRAMA = 9
#: Marks around a text that keep its direction apart from that of its neighbours (https://www.unicode.org/reports/tr9/).
_ISOLATE, _END = "\u2068", "\u2069"
_RIGHT_TO_LEFT = {"R", "AL", "AN"}
_ELLIPSIS = "\u2026"


def visible(name: str) -> str:
    """Show each character of a name that has no shape, or that moves others, by its code. Different names stay so."""
    return "".join(
        char if _is_visible(char, name[index - 1 : index], name[index + 1 : index + 2]) else _code(char)
        for index, char in enumerate(name)
    )


def isolated(name: str) -> str:
    """Return a visible name for a sentence: a name from right to left does not move the text beside it."""
    shown = visible(name)
    if _RIGHT_TO_LEFT.isdisjoint(map(unicodedata.bidirectional, shown)):
        return shown
    return f"{_ISOLATE}{shown}{_END}"


def shortened(names: Sequence[str], width: int) -> tuple[str, ...]:
    """Return visible names without the middle of long ones. Different names stay so.

    Args:
        names: The names.
        width: Columns of a terminal for each name. Names that would become alike get more.
    """
    shown = [visible(name) for name in names]
    cut = {name: _cut(name, width) for name in shown}
    while True:
        count = Counter(cut.values())
        alike = [name for name in cut if count[cut[name]] > 1]
        if not alike:
            return tuple(cut[name] for name in shown)
        width *= 2
        cut |= {name: _cut(name, width) for name in alike}


def _is_visible(char: str, before: str, after: str) -> bool:
    if char == "\\":
        return False  # it begins a code
    if char in _JOINERS:
        return _is_joined(before, after)
    if _SELECTOR.fullmatch(char):
        return after == _KEYCAP or _is_emoji(before) or _category(before) in ("Sm", "Lo")
    if _TAG.fullmatch(char):
        return before == _BLACK_FLAG or bool(_TAG.fullmatch(before))
    if _category(char) == "Zs":
        return bool(before and after)
    return char not in _BLANK and (char.isprintable() or bool(_EMOJI.fullmatch(char)) or bool(_CHINESE.fullmatch(char)))


def _is_joined(before: str, after: str) -> bool:
    """Whether a joiner between these characters changes their shapes."""
    if before and unicodedata.combining(before) == _VIRAMA:
        return True
    if _is_emoji(before) or _SELECTOR.fullmatch(before):
        return _is_emoji(after)
    return _category(before) in ("Lo", "Mn", "Mc") and _columns(before) < 2 and _category(after) == "Lo"


def _is_emoji(char: str) -> bool:
    return _category(char) in ("So", "Sk") or bool(_EMOJI.fullmatch(char))


def _code(char: str) -> str:
    return f"\\x{ord(char):02x}" if char == " " else char.encode("unicode_escape").decode()


def _category(char: str) -> str:
    return unicodedata.category(char) if char else ""


def _columns(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return sum(
        0 if _category(char) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _cut(name: str, width: int) -> str:
    """Leave out the middle of a name that is too wide, and tear nothing that belongs together."""
    if _columns(name) <= width:
        return name
    parts = list(_clusters(name))
    tail = _fitting(parts[::-1], (width - 1) // 2)
    head = _fitting(parts, width - 1 - _columns("".join(tail)))
    return "".join((*head, _ELLIPSIS, *tail[::-1]))


def _fitting(parts: Sequence[str], width: int) -> list[str]:
    fitting: list[str] = []
    for part in parts:
        width -= _columns(part)
        if width < 0:
            break
        fitting.append(part)
    return fitting


def _clusters(name: str) -> Iterator[str]:
    """The characters of a name, each with the marks, joiners and further emoji that belong to it."""
    cluster = ""
    for char in name:
        if cluster and not _is_attached(cluster, char):
            yield cluster
            cluster = ""
        cluster += char
    yield cluster


def _is_attached(cluster: str, char: str) -> bool:
    if _category(char) in ("Mn", "Mc", "Me", "Cf", "Sk") or (_FLAG.fullmatch(cluster) and _FLAG.fullmatch(char)):
        return True
    return cluster[-1] in _JOINERS or unicodedata.combining(cluster[-1]) == _VIRAMA
