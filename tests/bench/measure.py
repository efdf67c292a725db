"""Both sides of a comparison in one run, in turn, as ratios; and the record that is kept of it."""

import json
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.study.provenance import commit, hardware

ROOT = Path(__file__).resolve().parents[2]
COMPARED = ("measured", "n", "unit", "ours", "theirs", "ratio", "target", "")
MEASURED = ("measured", "n", "unit", "median (range)", "limit", "")
BOOTSTRAPS = 2000
"""Drawings for an interval; twice as many move its ends by less than a hundredth."""
PACKAGES = ("torch", "torchvision", "optuna", "optuna-dashboard", "sqlalchemy", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One thing measured on both sides, pair by pair, so that a machine that slows down slows down both."""

    what: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    more_is_better: bool = False
    target: float | None = None
    """How many times better ours is to be; None where nothing was promised."""
    of_means: bool = False
    """Whether means are compared, and not pairs: for what varies by chance, and not with the machine."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times better ours is, pair by pair."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return tuple(our / their if self.more_is_better else their / our for our, their in pairs)

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target

    @property
    def ratio(self) -> float:
        """How many times better ours is: the median of the pairs, or that of the means."""
        if not self.of_means:
            return statistics.median(self.ratios)
        our, their = statistics.mean(self.ours), statistics.mean(self.theirs)
        return our / their if self.more_is_better else their / our

    def ratio_interval(self) -> tuple[float, float]:
        """Where the ratio of the means lies: the middle 95 % of BOOTSTRAPS drawings of seeds, with replacement."""
        dice = random.Random(0)
        count = len(self.ours)
        drawn = []
        for _ in range(BOOTSTRAPS):
            chosen = dice.choices(range(count), k=count)
            our, their = sum(self.ours[i] for i in chosen), sum(self.theirs[i] for i in chosen)
            drawn.append(our / their if self.more_is_better else their / our)
        drawn.sort()
        return drawn[int(0.025 * BOOTSTRAPS)], drawn[int(0.975 * BOOTSTRAPS)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One thing measured on one side."""

    what: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None
    """What the median is to stay below; None where nothing was promised."""

    @property
    def is_met(self) -> bool | None:
        return None if self.limit is None else statistics.median(self.values) < self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of cells that are numbers of their own, and are compared with nothing."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one benchmark has found."""

    name: str
    about: tuple[str, ...]
    """What was measured, and how, a line each."""
    comparisons: tuple[Comparison, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure both sides so often, one after the other: ours, theirs, ours, theirs, ..."""
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    return tuple(our for our, _ in pairs), tuple(their for _, their in pairs)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def page(result: Result, command: str) -> str:
    """The result as Markdown."""
    lines = [f"# {result.name}", "", f"`{command}` at commit {commit()}, {time.strftime('%Y-%m-%d')}.", ""]
    lines += [f"{hardware()}; {versions()}.", "", *(f"- {line}" for line in result.about)]
    if result.comparisons:
        lines += ["", *table(COMPARED, [_compared(row) for row in result.comparisons])]
    if result.figures:
        lines += ["", *table(MEASURED, [_measured(row) for row in result.figures])]
    for each in result.tables:
        lines += ["", f"{each.title}:", "", *aligned(each)]
    return "\n".join([*lines, ""])


def keep(result: Result, command: str) -> Path:
    """Write page and figures into a folder of their own under studies/records/; returns it."""
    place = folder(result.name)
    place.mkdir(parents=True, exist_ok=True)
    (place / "README.md").write_text(page(result, command))
    (place / "result.json").write_text(json.dumps(as_json(result, command), indent=1) + "\n")
    return place


def folder(name: str) -> Path:
    """Where what was found today, on this machine, under this name is kept."""
    found = "_".join((time.strftime("%Y-%m-%d"), slug(hardware().split(";")[0]), slug(name)))
    return ROOT / "studies" / "records" / found


def as_json(result: Result, command: str) -> dict[str, Any]:
    """Everything that was measured, unrounded."""
    return {
        "name": result.name,
        "command": command,
        "commit": commit(),
        "hardware": hardware(),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "about": result.about,
        "comparisons": [
            {
                "what": row.what,
                "unit": row.unit,
                "ours": row.ours,
                "theirs": row.theirs,
                "ratios": row.ratios,
                "target": row.target,
                "of_means": row.of_means,
            }
            for row in result.comparisons
        ],
        "figures": [
            {"what": row.what, "unit": row.unit, "values": row.values, "limit": row.limit} for row in result.figures
        ],
        "tables": [{"title": table.title, "heads": table.heads, "rows": table.rows} for table in result.tables],
    }


def aligned(table: Table) -> list[str]:
    """The table as Markdown whose columns stand below each other on a terminal, too; the first one is of names."""
    cells = [table.heads, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.heads))]
    padded = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])]


def versions() -> str:
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _compared(row: Comparison) -> tuple[str, ...]:
    target, count = "" if row.target is None else f"{row.target:g}x", str(len(row.ours))
    if row.of_means:
        low, high = row.ratio_interval()
        sides = [
            f"mean {statistics.mean(side):.4g}, median {statistics.median(side):.4g}" for side in (row.ours, row.theirs)
        ]
        ratio = f"{row.ratio:.4g}x (95 %: {low:.4g} to {high:.4g})"
    else:
        sides, ratio = [spread(row.ours), spread(row.theirs)], spread(row.ratios, "x")
    return row.what, count, row.unit, *sides, ratio, target, _verdict(row.is_met)


def _measured(row: Figure) -> tuple[str, ...]:
    limit = "" if row.limit is None else f"{row.limit:g}"
    return row.what, str(len(row.values)), row.unit, spread(row.values), limit, _verdict(row.is_met)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.4g}{unit} ({low:.4g} to {high:.4g})"


def _verdict(is_met: bool | None) -> str:
    return {None: "", True: "met", False: "missed"}[is_met]
