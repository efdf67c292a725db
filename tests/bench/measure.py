"""Measures both sides of a comparison in turn in one run, reports ratios, and stores a record."""

import json
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.study.provenance import commit, hardware

ROOT = Path(__file__).resolve().parents[2]
COMPARED = ("measured", "n", "unit", "ours", "theirs", "ratio", "target", "")
MEASURED = ("measured", "n", "unit", "median (range)", "limit", "")
BOOTSTRAPS = 2000
"""Bootstrap samples for an interval; twice the number moves its ends by less than a hundredth."""
PACKAGES = ("torch", "torchvision", "optuna", "optuna-dashboard", "sqlalchemy", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One quantity measured on both sides, pair by pair; a machine that slows down then slows down both."""

    what: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    more_is_better: bool = False
    target: float | None = None
    """Minimum ratio; None without a target."""
    of_means: bool = False
    """Whether means are compared instead of pairs: for values that vary by chance, not with the machine."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """The factor by which ours is better, for each pair."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return tuple(our / their if self.more_is_better else their / our for our, their in pairs)

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.ratio >= self.target

    @property
    def ratio(self) -> float:
        """The factor by which ours is better: the median of the pairs, or the ratio of the means."""
        if not self.of_means:
            return statistics.median(self.ratios)
        our, their = statistics.mean(self.ours), statistics.mean(self.theirs)
        return our / their if self.more_is_better else their / our

    def ratio_interval(self) -> tuple[float, float]:
        """95 % interval of the ratio of the means: the middle of BOOTSTRAPS samples of seeds, with replacement."""
        rng = random.Random(0)
        count = len(self.ours)
        ratios = []
        for _ in range(BOOTSTRAPS):
            chosen = rng.choices(range(count), k=count)
            our, their = sum(self.ours[i] for i in chosen), sum(self.theirs[i] for i in chosen)
            ratios.append(our / their if self.more_is_better else their / our)
        ratios.sort()
        return ratios[int(0.025 * BOOTSTRAPS)], ratios[int(0.975 * BOOTSTRAPS)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One quantity measured on one side."""

    what: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None
    """Upper limit of the median; None without a target."""

    @property
    def is_met(self) -> bool | None:
        return None if self.limit is None else statistics.median(self.values) < self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of plain values without a comparison."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of one benchmark."""

    name: str
    about: tuple[str, ...]
    """Lines about the measurements and the method."""
    comparisons: tuple[Comparison, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure both sides `repeats` times in turn: ours, theirs, ours, theirs, ..."""
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    return tuple(our for our, _ in pairs), tuple(their for _, their in pairs)


def seconds(call: Callable[[], object]) -> float:
    """Duration of a call in seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def page(result: Result, command: str) -> str:
    """The result as Markdown."""
    lines = [*heading(result.name, command, package_versions()), *(f"- {line}" for line in result.about)]
    if result.comparisons:
        lines += ["", *table(COMPARED, [_compared(row) for row in result.comparisons])]
    if result.figures:
        lines += ["", *table(MEASURED, [_measured(row) for row in result.figures])]
    for columns in result.tables:
        lines += ["", f"{columns.title}:", "", *aligned(columns)]
    return "\n".join([*lines, ""])


def keep(result: Result, command: str) -> Path:
    """Write the page and the figures to a new folder under studies/records/, and return the folder."""
    return write_record(result.name, page(result, command), as_json(result, command))


def package_versions() -> dict[str, str]:
    """Versions of Python and the packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def heading(name: str, command: str, versions: Mapping[str, str]) -> list[str]:
    """The first lines of the page of a record: its name and its origin."""
    command_and_commit = f"`{command}` at commit {commit()}, {time.strftime('%Y-%m-%d')}."
    return [f"# {name}", "", command_and_commit, "", f"{hardware()}; {listed(versions)}.", ""]


def listed(versions: Mapping[str, str]) -> str:
    """The versions in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def origin(name: str, command: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """The heading of a record for its JSON file."""
    return {
        "name": name,
        "command": command,
        "commit": commit(),
        "hardware": hardware(),
        "versions": dict(versions),
    }


def write_record(name: str, text: str, stored: Mapping[str, Any]) -> Path:
    """Write a page and its figures to a new folder under studies/records/, and return the folder."""
    folder_name = "_".join((time.strftime("%Y-%m-%d"), slug(hardware().split(";")[0]), slug(name)))
    folder = ROOT / "studies" / "records" / folder_name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    (folder / "result.json").write_text(json.dumps(stored, indent=1) + "\n")
    return folder


def as_json(result: Result, command: str) -> dict[str, Any]:
    """All measurements, unrounded."""
    return origin(result.name, command, package_versions()) | {
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
    """The table as Markdown with aligned columns; the first column has names, and is left-aligned."""
    cells = [table.heads, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.heads))]
    padded = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])]


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
