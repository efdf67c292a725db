"""Output formats: a table of at most 80 columns on a terminal, plain lines in a pipe, JSON, and CSV."""

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from search.console import escape

if TYPE_CHECKING:
    from rich.table import Table as RichTable

#: Maximum width of a table, which every terminal, mail and issue can show.
WIDTH = 80
#: Version of the JSON output. It grows when a key is renamed or removed; new keys may be added at any time.
SCHEMA = 1

_UNLIMITED = 1_000_000
#: Prefixes that a spreadsheet interprets as a formula (https://owasp.org/www-community/attacks/CSV_Injection), and
#: numbers, which are harmless with such a prefix.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
#: A number within a text, which is not a part of a name such as `resnet18`.
_FIGURE = re.compile(r"(?<![\w.-])\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with lines before and after it. Numbers are right-aligned."""

    columns: tuple[str, ...]
    """Headings; all empty for a list of names and values."""
    rows: tuple[tuple[str, ...], ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    """Headings of columns that are never wrapped."""


def print_answer(value: Mapping[str, Any], table: Table, *, as_json: bool) -> int:
    """Print an answer to stdout.

    Args:
        value: The answer for JSON.
        table: The answer as a table.
        as_json: Whether to print JSON instead of the table.

    Returns:
        0, the exit code.
    """
    if as_json:
        sys.stdout.write(to_json(value))
    else:
        print_table(table)
    return 0


def print_table(table: Table) -> None:
    """Print a table to stdout."""
    write_table(table, sys.stdout, os.environ)


def write_table(table: Table, stream: TextIO, environ: Mapping[str, str]) -> None:
    """Print `table`: on a terminal with rules and at most 80 columns, otherwise plain, one line per row.

    Characters that the encoding of the stream lacks are escaped beforehand, because that changes the widths.
    """
    table = _encodable(table, stream.encoding or "utf-8")
    if stream.isatty() and environ.get("TERM") != "dumb":
        stream.write(to_text(table, width=WIDTH, ruled=_can_draw(stream)))
    else:
        stream.write(to_text(table, width=None))


def to_text(table: Table, *, width: int | None, ruled: bool = False) -> str:
    """Format `table` as text of at most `width` columns; None: unlimited, one line per row. `ruled`: draw rules."""
    from rich.console import Console  # most commands that draw no table do not need it
    from rich.text import Text

    console = Console(
        file=io.StringIO(),
        width=width or _UNLIMITED,
        color_system=None,
        legacy_windows=False,
        emoji=False,
        highlight=False,
    )
    for line in table.before:
        console.print(Text(escape(line)))
    if table.rows:
        console.print(_rich_table(table, folds=width is not None, ruled=ruled))
    for line in table.after:
        console.print(Text(escape(line)))
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def to_json(answer: Mapping[str, Any]) -> str:
    """Format the answer as one JSON object with the schema version. Non-finite values become null."""
    return json.dumps({"schema": SCHEMA} | _finite(answer), indent=2, allow_nan=False) + "\n"


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format the answer as CSV, one line per row. Missing values are empty, and text is never a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def without_formulas(table: str) -> str:
    """Rewrite CSV text from another source in the format of `to_csv`."""
    columns, *rows = csv.reader(io.StringIO(table, newline="")) if table else [()]
    return to_csv(columns, rows) if columns else ""


def format_duration(seconds: float) -> str:
    """Format a duration: `4.1 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_number(value: float) -> str:
    """Format a measured value: four decimal places, or four significant digits if it is large or tiny."""
    is_plain = math.isfinite(value) and (value == 0 or 1e-3 <= abs(value) < 1e4)
    return f"{value:.4f}" if is_plain else f"{value:.4g}"


def format_value(value: object) -> str:
    """Format a parameter value in the syntax of a study file, without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_values(params: Mapping[str, Any]) -> str:
    """Format parameters on one line: `optimizer=sgd learning_rate=0.031`."""
    return " ".join(f"{name}={format_value(value)}" for name, value in params.items())


def _encodable(table: Table, encoding: str) -> Table:
    def fit(lines: Sequence[str]) -> tuple[str, ...]:
        return tuple(escape(line).encode(encoding, "backslashreplace").decode(encoding) for line in lines)

    return replace(table, rows=tuple(map(fit, table.rows)), before=fit(table.before), after=fit(table.after))


def format_span(values: Iterable[float]) -> str:
    """Format the range of some parameter values: `0.1 to 0.5`, or `0.1` if all are equal."""
    ordered = sorted(set(values))
    return " to ".join(format_value(value) for value in dict.fromkeys((ordered[0], ordered[-1])))


def with_ranges(texts: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Join texts that differ only in their numbers: `4 of 9` and `7 of 9` become `4 to 7 of 9`.

    Returns:
        Each text with its count, the most frequent first.
    """
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for text in texts:
        groups.setdefault(tuple(_FIGURE.split(text)), []).append(_FIGURE.findall(text))
    joined = [(_interleaved(words, rows), len(rows)) for words, rows in groups.items()]
    return tuple(sorted(joined, key=lambda pair: -pair[1]))


def _interleaved(words: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The words with the range of each column of numbers between them."""
    spans = [_text_span(column) for column in zip(*rows, strict=True)]
    return "".join(word + span for word, span in zip(words, (*spans, ""), strict=True))


def _text_span(numbers: Sequence[str]) -> str:
    """The range of some numbers as they were written."""
    ordered = sorted(numbers, key=lambda number: float(number.replace(",", "")))
    return " to ".join(dict.fromkeys((ordered[0], ordered[-1])))


def _rich_table(table: Table, *, folds: bool, ruled: bool) -> "RichTable":
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rich_table = RichTable(
        box=box.SIMPLE if ruled else None,
        show_header=any(table.columns),
        pad_edge=False,
        padding=(0, 2 if not ruled else 1, 0, 0),
        show_edge=False,
    )
    for index, heading in enumerate(table.columns):
        numeric = all(re.fullmatch(r"[-+]?[\d.,]+( s)?|nan|-|", row[index]) for row in table.rows)
        is_unwrapped = not folds or numeric or heading in table.fixed
        rich_table.add_column(heading, justify="right" if numeric else "left", no_wrap=is_unwrapped, overflow="fold")
    for row in table.rows:
        rich_table.add_row(*(Text(escape(cell)) for cell in row))
    return rich_table


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else value
    raw = str(value)
    is_formula = raw.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(raw)
    return f"'{escape(raw)}" if is_formula else escape(raw)


def _can_draw(stream: TextIO) -> bool:
    return (stream.encoding or "ascii").lower().startswith("utf")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
