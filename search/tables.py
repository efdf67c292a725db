"""How an answer looks: a table of at most 80 columns on a terminal, plain lines into a pipe, JSON, and CSV."""

import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from search.console import escape

#: The widest table on a terminal: what every terminal, mail and issue can show.
WIDTH = 80
#: Grows when a key is renamed or removed; new keys may come at any time.
SCHEMA = 1

_UNLIMITED = 1_000_000
#: What a spreadsheet takes for the beginning of a formula (https://owasp.org/www-community/attacks/CSV_Injection), and
#: text that is a number all the same.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with lines before and after it. Numbers stand to the right."""

    columns: tuple[str, ...]
    """Headings; empty ones for a list of names and values."""
    rows: tuple[tuple[str, ...], ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    """Headings of columns that are never broken into several lines."""


def print_answer(value: Mapping[str, Any], grid: Table, *, as_json: bool) -> int:
    """Print an answer, for a program or for people; returns 0, the exit code of a verb that only answers."""
    if as_json:
        sys.stdout.write(to_json(value))
    else:
        print_table(grid)
    return 0


def print_table(grid: Table) -> None:
    """Print a table to stdout."""
    write_table(grid, sys.stdout, os.environ)


def write_table(grid: Table, stream: TextIO, environ: Mapping[str, str]) -> None:
    """Print `grid`: with lines and at most 80 columns on a terminal, else plain, one line for each row."""
    if stream.isatty() and environ.get("TERM") != "dumb":
        stream.write(to_text(grid, width=WIDTH, ruled=_can_draw(stream)))
    else:
        stream.write(to_text(grid, width=None))


def discard_stdout() -> None:
    """Let what is still to be printed go nowhere, because the reader of our answers has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def to_text(grid: Table, *, width: int | None, ruled: bool = False) -> str:
    """`grid` as text of at most `width` columns; None: as wide as it is, and each row stays one line."""
    console = Console(
        file=io.StringIO(),
        width=width or _UNLIMITED,
        color_system=None,
        legacy_windows=False,
        emoji=False,
        highlight=False,
    )
    for line in grid.before:
        console.print(Text(escape(line)))
    if grid.rows:
        console.print(_table(grid, folds=width is not None, ruled=ruled))
    for line in grid.after:
        console.print(Text(escape(line)))
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def to_json(answer: Mapping[str, Any]) -> str:
    """The answer as one JSON object with the schema's number; a value that is not finite becomes null."""
    return json.dumps({"schema": SCHEMA} | _finite(answer), indent=2, allow_nan=False) + "\n"


def to_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The answer as CSV, a line for each row: what is not there is empty, and text is never a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def without_formulas(table: str) -> str:
    """Somebody else's CSV, written again as `to_csv` writes it."""
    columns, *rows = csv.reader(io.StringIO(table, newline="")) if table else [()]
    return to_csv(columns, rows) if columns else ""


def format_duration(seconds: float) -> str:
    """A time span for people: `4.1 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_number(value: float) -> str:
    """A measured value: four places, or four digits where it is large or tiny."""
    small = math.isfinite(value) and (value == 0 or 1e-3 <= abs(value) < 1e4)
    return f"{value:.4f}" if small else f"{value:.4g}"


def format_value(value: object) -> str:
    """A parameter's value as a study file would write it, without quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_values(params: Mapping[str, Any]) -> str:
    """Parameters on one line: `optimizer=sgd learning_rate=0.031`."""
    return " ".join(f"{name}={format_value(value)}" for name, value in params.items())


def _table(grid: Table, *, folds: bool, ruled: bool) -> RichTable:
    table = RichTable(
        box=box.SIMPLE if ruled else None,
        show_header=any(grid.columns),
        pad_edge=False,
        padding=(0, 2 if not ruled else 1, 0, 0),
        show_edge=False,
    )
    for index, heading in enumerate(grid.columns):
        numeric = all(re.fullmatch(r"[-+]?[\d.,]+( s)?|nan|-|", row[index]) for row in grid.rows)
        whole = not folds or numeric or heading in grid.fixed
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    return table


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
