"""Rows of the table of the soak: a fault, the number of injections, and the results."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

#: Widths of the columns; a line has 80 characters.
WIDTHS = (31, 9, 9, 5, 8, 6, 7)
HEADINGS = ("fault", "injected", "survived", "lost", "doubled", "stuck", "s")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """The result of one case: a study, or another target, into which a fault was injected once or several times."""

    injected: int
    survived: int
    trouble: str | None = None
    """The problem, and how to inspect it; None if there was none."""
    facts: Counter[str]
    """Other counts, such as exit codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultResult:
    """The result of all cases of one fault."""

    fault: str
    injected: int
    survived: int
    lost: int
    doubled: int
    """Cases with a trial recorded twice or changed (I3)."""
    stuck: int
    """Cases with a trial that stayed RUNNING (I2)."""
    seconds: float = 0.0
    """Duration of the part, measured by the soak."""
    note: str

    @property
    def is_good(self) -> bool:
        return self.lost == 0 and self.injected > 0


def total(fault: str, reports: Sequence[CaseResult], *, note: str = "") -> FaultResult:
    """The sum of all cases."""
    facts = sum((report.facts for report in reports), Counter[str]())
    counted = ", ".join(f"{count} {name}" for name, count in sorted(facts.items()))
    return FaultResult(
        fault=fault,
        injected=sum(report.injected for report in reports),
        survived=sum(report.survived for report in reports),
        lost=sum(_lost(report) for report in reports),
        doubled=sum("I3" in (report.trouble or "") for report in reports),
        stuck=sum("I2" in (report.trouble or "") for report in reports),
        note="; ".join(text for text in (note, counted) if text),
    )


def table(rows: Sequence[FaultResult]) -> str:
    """All rows as plain text, followed by their notes."""
    lines = [_line(HEADINGS), _line(["-" * (width - 1) for width in WIDTHS])]
    for row in rows:
        counts = (row.injected, row.survived, row.lost, row.doubled, row.stuck, round(row.seconds))
        lines.append(_line([row.fault, *(f"{count:,}" for count in counts)]))
    return "\n".join([*lines, *(f"{row.fault}: {row.note}" for row in rows if row.note)])


def _lost(report: CaseResult) -> int:
    """The losses of a case: at least 1 if it had trouble, even if it survived every fault that it counted."""
    lost = report.injected - report.survived
    return lost if report.trouble is None else max(1, lost)


def _line(cells: Sequence[str]) -> str:
    first, *others = (
        f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    return (first + "".join(others)).rstrip()
