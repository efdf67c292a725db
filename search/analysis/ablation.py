"""Results of a [[compare]] study: the difference of each row to the first row, paired over the repeats.

Repeat r has the same seed in every row. Differences are taken within repeats, which removes shared variation (a paired
t-interval; Student 1908). Each interval alone is at 95 %: of 20 comparisons without an effect, one looks clear by
chance. The p values are therefore also adjusted over all comparisons by Holm's method, which keeps the probability of
any false verdict below 5 % (Holm 1979, https://www.jstor.org/stable/4615733). A verdict that does not survive the
adjustment is marked. Holm's method gives the same guarantee as Bonferroni's and has more power.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from search.analysis import obstacles
from search.analysis.intervals import CONFIDENCE, Interval, holm, mean_interval
from search.errors import UsageError
from search.storage.records import Obstacle, StudyRecord, TrialRecord
from search.tables import Table, format_number

_WHY_MISSING = {
    Obstacle.FAILED: "failed",
    Obstacle.IMPOSSIBLE: "is impossible",
    Obstacle.DIVERGED: "diverged",
    Obstacle.OUT_OF_MEMORY: "ran out of memory",
    "PRUNED": "was pruned",
    "RUNNING": "is running",
    "WAITING": "is waiting",
    "COMPLETE": "has no finite value",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """One row of the comparison."""

    name: str
    n: int
    """Repeats with a value."""
    mean: float | None
    sd: float | None
    """Over the repeats, with n - 1."""
    pairs: int = 0
    """Repeats with a value here and in the first row."""
    difference: float | None = None
    """Mean of this row minus the first, over the pairs."""
    interval: Interval | None = None
    """None for fewer than two pairs, or if all differences are equal and not 0 (no spread)."""
    p_holm: float | None = None
    verdict: str = ""
    """helped, hurt, no clear difference, or, for the first row, base."""
    missing: tuple[str, ...] = ()
    """Repeats without a value, with the reason."""
    obstacles: tuple[str, ...] = ()
    """Reasons why repeats ended without a result, and the settings to change."""

    @property
    def survives_holm(self) -> bool:
        """Whether the verdict holds after adjustment over all comparisons."""
        return self.p_holm is not None and self.p_holm < 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Results of all rows."""

    study: str
    question: str
    objective: str
    rows: tuple[RowResult, ...]
    """The first is the base."""
    repeats: int = 1
    """Planned repeats of each row."""

    @property
    def pending(self) -> int:
        """Trials that have not ended yet."""
        return sum(self.repeats - row.n - len(row.missing) for row in self.rows)

    @property
    def comparisons(self) -> int:
        """Number of rows with an interval."""
        return sum(row.interval is not None for row in self.rows)


def compare_rows(study: StudyRecord, trials: Sequence[TrialRecord]) -> Comparison:
    """Compares each row of a [[compare]] study with the first row.

    Args:
        study: The study; its spec has the rows.
        trials: Its trials, in any state.

    Raises:
        UsageError: the study is not a comparison.
    """
    names = [str(row["name"]) for row in study.spec.get("compare") or ()]
    if not names:
        raise UsageError(
            f"study {study.name!r} is not a comparison: it has no [[compare]] rows; "
            f"`convsearch best {study.name}` shows its best trials"
        )
    values = {name: _values(name, trials) for name in names}
    sign = -1.0 if study.directions[:1] == ("minimize",) else 1.0
    repeats = int(study.spec.get("search", {}).get("repeats", 1))
    missing = {name: _missing(name, values[name], trials, repeats) for name in names}
    rows = [_result(name, values[name], base=values[names[0]], sign=sign, missing=missing[name]) for name in names[1:]]
    first = _described(names[0], values[names[0]], verdict="base", missing=missing[names[0]])
    return Comparison(
        study=study.name,
        question=study.question,
        objective=study.objective,
        rows=tuple(replace(row, obstacles=_obstacles(study, row.name, trials)) for row in (first, *_adjusted(rows))),
        repeats=repeats,
    )


def _obstacles(study: StudyRecord, name: str, trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    return obstacles.causes(study, [trial for trial in trials if trial.params.get("row") == name])


def ablation_table(comparison: Comparison) -> Table:
    """Table of the rows, with footnotes."""
    return Table(
        columns=("row", "n", "mean", "sd", "difference", "verdict"),
        fixed=("n", "mean", "sd", "difference"),
        rows=tuple(_line(row) for row in comparison.rows),
        before=(*((comparison.question,) if comparison.question else ()), ""),
        after=("", *_foot(comparison)),
    )


def ablation_json(comparison: Comparison) -> dict[str, Any]:
    """JSON value of `compare --json`."""
    return {
        "study": comparison.study,
        "question": comparison.question,
        "objective": comparison.objective,
        "confidence": CONFIDENCE,
        "comparisons": comparison.comparisons,
        "adjustment": "holm",
        "rows": [_row_json(row) for row in comparison.rows],
    }


def _values(name: str, trials: Sequence[TrialRecord]) -> dict[int, float]:
    """Finite values of the complete trials of a row, by repeat."""
    return {
        trial.repeat or 0: trial.values[0]
        for trial in trials
        if trial.params.get("row") == name
        and trial.state == "COMPLETE"
        and trial.values
        and math.isfinite(trial.values[0])
    }


def _missing(name: str, values: Mapping[int, float], trials: Sequence[TrialRecord], repeats: int) -> tuple[str, ...]:
    by_repeat = {trial.repeat or 0: trial for trial in trials if trial.params.get("row") == name}
    return tuple(
        f"repeat {repeat} {_WHY_MISSING[_state(by_repeat[repeat])]}"
        for repeat in range(repeats)
        if repeat in by_repeat and repeat not in values and _state(by_repeat[repeat]) in _WHY_MISSING
    )


def _state(trial: TrialRecord) -> str:
    return trial.obstacle or trial.state


def _described(name: str, values: Mapping[int, float], *, verdict: str, missing: tuple[str, ...]) -> RowResult:
    numbers = list(values.values())
    return RowResult(
        name=name,
        n=len(numbers),
        mean=fmean(numbers) if numbers else None,
        sd=stdev(numbers) if len(numbers) > 1 else None,
        verdict=verdict,
        missing=missing,
    )


def _result(
    name: str, values: Mapping[int, float], *, base: Mapping[int, float], sign: float, missing: tuple[str, ...]
) -> RowResult:
    differences = [values[repeat] - base[repeat] for repeat in sorted(values.keys() & base.keys())]
    interval = mean_interval(differences)
    described = _described(name, values, verdict=_verdict(interval, sign), missing=missing)
    return replace(
        described,
        pairs=len(differences),
        difference=fmean(differences) if differences else None,
        interval=interval,
    )


def _verdict(interval: Interval | None, sign: float) -> str:
    if interval is None or interval.low <= 0.0 <= interval.high:
        return "no clear difference"
    return "helped" if sign * interval.low > 0.0 else "hurt"


def _adjusted(rows: Sequence[RowResult]) -> list[RowResult]:
    judged = [row.interval.p for row in rows if row.interval]
    adjusted = iter(holm(judged))
    return [replace(row, p_holm=next(adjusted)) if row.interval else row for row in rows]


def _line(row: RowResult) -> tuple[str, ...]:
    centre = "-" if row.mean is None else format_number(row.mean)
    spread = "-" if row.sd is None else format_number(row.sd)
    marked = row.verdict in {"helped", "hurt"} and not row.survives_holm
    return row.name, str(row.n), centre, spread, _difference(row), row.verdict + ("*" if marked else "")


def _difference(row: RowResult) -> str:
    if row.difference is None:
        return ""
    if row.interval is None:
        return f"{row.difference:+.4f}"
    return f"{row.difference:+.4f} [{row.interval.low:+.4f}, {row.interval.high:+.4f}]"


def _foot(comparison: Comparison) -> tuple[str, ...]:
    base, count = comparison.rows[0].name, comparison.comparisons
    lines = [
        f"{comparison.objective}; difference to {base!r} over repeats of the same seed, with its 95 % t-interval.",
    ]
    if count:
        by_chance = count * (1 - CONFIDENCE)
        lines.append(f"Each of the {count} intervals is at 95 %: by chance {by_chance:.1f} of them look clear.")
        lines.append("The intervals are over seeds; all rows have the same validation images.")
    if any(_line(row)[-1].endswith("*") for row in comparison.rows):
        lines.append(f"* no longer clear after adjustment over all {count} (Holm, p >= 0.05).")
    if comparison.pending:
        lines.append(f"{comparison.pending} of {comparison.repeats * len(comparison.rows)} trials have not ended yet.")
    for row in comparison.rows:
        lines += [f"{row.name}: {', '.join(row.missing)}."] if row.missing else []
        lines += row.obstacles
    lines += [
        f"{row.name}: only {row.pairs} of {row.n} repeats have a partner in {base!r}."
        for row in comparison.rows[1:]
        if row.pairs < row.n
    ]
    return tuple(lines)


def _row_json(row: RowResult) -> dict[str, Any]:
    interval = row.interval
    return {
        "name": row.name,
        "n": row.n,
        "mean": row.mean,
        "sd": row.sd,
        "pairs": row.pairs,
        "difference": row.difference,
        "interval": None if interval is None else [interval.low, interval.high],
        "p": None if interval is None else interval.p,
        "p_holm": row.p_holm,
        "survives_holm": row.survives_holm,
        "verdict": row.verdict,
        "missing": row.missing,
    }
