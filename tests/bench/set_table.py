"""The table of `python -m tests.bench sets`: accuracies of each arm, and ratios of errors with intervals."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.text import counted
from search.analysis.intervals import Interval, crossed_interval, mean_interval
from tests.bench.measure import Result, Table, listed
from tests.bench.set_arms import ARMS, Arm
from tests.bench.set_runs import SetRun

BUSY = 0.1
"""A machine whose cores are busier than this before a run is shared; the page says so."""
LONGEST = 90
"""Characters of a reason in the table; the file of results has all of it."""
SATURATED = 0.98
"""A set on which the recipe alone is better than this cannot tell the arms apart, and is not counted."""
MOST_RATIO = 100.0
"""Ratios above it count as unbounded."""
HALVINGS = 40
#: Goals of this project: the most errors, relative to the expert's script in the median and at worst, and to the recipe
#: without a search in the mean.
MEDIAN_TARGET, WORST_TARGET, RECIPE_TARGET = 0.7, 1.05, 1.0

Scores = NDArray[np.float64]
"""(seeds, images): 1 for a wrong image, otherwise 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Errors of one arm divided by those of another, on the same seeds and images."""

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        high = "unbounded" if math.isinf(self.high) else f"{self.high:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {high}, n = {self.seeds})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SetResult:
    """All runs on one set with the same time."""

    name: str
    minutes: float
    runs: Mapping[Arm, Sequence[SetRun]]
    """By arm, ordered by seed."""

    @property
    def is_counted(self) -> bool:
        recipes = [run.test for run in self.runs.get("recipe", ()) if run.test is not None]
        return not recipes or statistics.mean(recipes) <= SATURATED

    def ratio(self, ours: Arm, theirs: Arm) -> Ratio | None:
        """Errors of `ours` by those of `theirs`; None without a common seed, or if theirs has no error."""
        tested = [{run.seed: run for run in self.runs.get(arm, ()) if run.test is not None} for arm in (ours, theirs)]
        seeds = sorted(tested[0].keys() & tested[1].keys())
        sides = [[runs[seed].wrong() for seed in seeds] for runs in tested]
        sizes = {None if wrong is None else len(wrong) for side in sides for wrong in side}
        if len(sizes) != 1 or None in sizes:
            return None
        our, their = (np.stack([wrong for wrong in side if wrong is not None]) for side in sides)
        return error_ratio(our, their)


def error_ratio(ours: Scores, theirs: Scores) -> Ratio | None:
    """The ratio of two error rates, with an interval over seeds and images.

    The interval has every r for which the mean of `ours - r * theirs` may be 0 (Fieller 1954,
    https://doi.org/10.1111/j.2517-6161.1954.tb00159.x). With one seed it is over images alone.

    Args:
        ours: (seeds, images) wrong images.
        theirs: The same seeds and images.

    Returns:
        The ratio; None if theirs has no error.
    """
    if not theirs.any():
        return None

    def is_above(r: float) -> bool:
        """Whether the ratio is certainly more than r."""
        return _ends(ours - r * theirs)[0] > 0

    def is_below(r: float) -> bool:
        return _ends(ours - r * theirs)[1] < 0

    return Ratio(
        value=float(ours.mean() / theirs.mean()),
        low=_boundary(is_above) if is_above(0.0) else 0.0,
        high=_boundary(lambda r: not is_below(r)) if is_below(MOST_RATIO) else math.inf,
        seeds=len(ours),
    )


def _ends(differences: Scores) -> tuple[float, float]:
    interval: Interval | None = (
        crossed_interval(differences) if len(differences) > 1 else mean_interval(differences[0].tolist())
    )
    if interval is None:  # no spread
        return float(differences.mean()), float(differences.mean())
    return interval.low, interval.high


def _boundary(holds: Callable[[float], bool]) -> float:
    """The largest r up to MOST_RATIO for which a statement holds that holds at 0 and fails above some r."""
    low, high = 0.0, MOST_RATIO
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


# -- the page -----------------------------------------------------------------------------------------------------


def grouped(runs: Sequence[SetRun]) -> list[SetResult]:
    """The last result of each run, by set and time."""
    groups: dict[tuple[float, str, str], dict[Arm, dict[int, SetRun]]] = {}
    for run in runs:
        arms = groups.setdefault((run.minutes, run.set, run.digest), {})
        arms.setdefault(run.arm, {})[run.seed] = run
    return [
        SetResult(
            name=name,
            minutes=minutes,
            runs={arm: [of_arm[seed] for seed in sorted(of_arm)] for arm, of_arm in arms.items()},
        )
        for (minutes, name, _), arms in sorted(groups.items(), key=lambda item: item[0])
    ]


def result(runs: Sequence[SetRun]) -> Result:
    """All tables of a file of runs."""
    results = grouped(runs)
    latest = [run for row in results for arm in ARMS for run in row.runs.get(arm, ())]
    tables = [sets_table(minutes, [row for row in results if row.minutes == minutes]) for minutes in _minutes(results)]
    targets = [
        targets_table(minutes, [row for row in results if row.minutes == minutes]) for minutes in _minutes(results)
    ]
    tables += [table for table in targets if table.rows]
    if bad := [run for run in latest if run.failure or run.is_late]:
        tables.append(failures_table(bad))
    return Result(name="Sets", about=about(latest), tables=tuple(tables))


def sets_table(minutes: float, results: Sequence[SetResult]) -> Table:
    """One row per set."""
    return Table(
        title=f"Accuracy on the test images after {minutes:g} minutes, and ratios of errors with 95 % intervals",
        heads=("set", "images", *ARMS, "errors ours / expert", "ours / recipe", ""),
        rows=tuple(
            (
                row.name,
                _images(row),
                *(_accuracies(row.runs.get(arm, ())) for arm in ARMS),
                str(row.ratio("ours", "expert") or "-"),
                str(row.ratio("ours", "recipe") or "-"),
                "" if row.is_counted else "not counted",
            )
            for row in results
        ),
    )


def targets_table(minutes: float, results: Sequence[SetResult]) -> Table:
    """Ratios over the counted sets, beside their goals."""
    counted = [row for row in results if row.is_counted]
    experts = [ratio.value for row in counted if (ratio := row.ratio("ours", "expert"))]
    recipes = [ratio for row in counted if (ratio := row.ratio("ours", "recipe"))]
    rows = []
    if experts:
        rows += [
            _target("ours / expert, median", len(experts), statistics.median(experts), MEDIAN_TARGET),
            _target("ours / expert, worst", len(experts), max(experts), WORST_TARGET),
        ]
    if recipes:
        mean = statistics.mean(ratio.value for ratio in recipes)
        worse = sum(ratio.low > 1 for ratio in recipes)
        rows += [
            _target("ours / recipe, mean", len(recipes), mean, RECIPE_TARGET),
            _target("sets where ours is worse than the recipe beyond its interval", len(recipes), worse, 0),
        ]
    if untested := sum(run.test is None for row in results for run in row.runs.get("ours", ())):
        rows.append(_target("runs of ours without a tested network", len(results), untested, 0))
    heads = ("errors", "sets", "measured", "at most", "")
    return Table(title=f"Over the counted sets, {minutes:g} minutes", heads=heads, rows=tuple(rows))


def failures_table(runs: Sequence[SetRun]) -> Table:
    """Runs without a tested network, or with one that came late."""
    return Table(
        title="Runs that failed or were late",
        heads=("set", "arm", "seed", "minutes", "took", "why"),
        rows=tuple(
            (
                run.set,
                run.arm,
                str(run.seed),
                f"{run.minutes:g}",
                f"{run.seconds:.0f} s",
                run.failure[:LONGEST] or "late",
            )
            for run in runs
        ),
    )


def about(runs: Sequence[SetRun]) -> tuple[str, ...]:
    """The method, and the machines, versions and commits of the runs."""
    lines = [
        "Wall time from the start of the process to a tested network, with the decoding of the images, on all "
        "cores and no GPU; the arms in turn on one machine. The expert's images are unpacked before.",
        "Accuracies are by seed, in order; * is a run that took more than 5 % longer than allowed.",
        f"A set is not counted if the recipe alone is above {100 * SATURATED:g} % in the mean.",
        "Intervals of ratios are over seeds and test images (Fieller); with one seed over test images alone.",
    ]
    lines += [f"{machine}." for machine in dict.fromkeys(f"{run.machine}; {listed(run.versions)}" for run in runs)]
    if shared := [run for run in runs if run.busy > BUSY]:
        lines.append(
            f"Other work shared the machine before {counted(len(shared), 'run')} of {len(runs)} (up to "
            f"{max(run.busy for run in shared):.0%} of its cores): fewer updates fitted into their time."
        )
    for arm in ARMS:
        of_arm = [run for run in runs if run.arm == arm]
        if of_arm:
            lines.append(f"{arm}: {_spread(of_arm)}, commit {', '.join(dict.fromkeys(run.commit for run in of_arm))}.")
    return tuple(lines)


def _minutes(results: Sequence[SetResult]) -> list[float]:
    return sorted({row.minutes for row in results})


def _images(row: SetResult) -> str:
    counts = {run.images for runs in row.runs.values() for run in runs if run.images is not None}
    return " or ".join(f"{count:,}" for count in sorted(counts)) or "-"


def _accuracies(runs: Sequence[SetRun]) -> str:
    cells = ["failed" if run.test is None else f"{run.test:.3f}{'*' if run.is_late else ''}" for run in runs]
    return " ".join(cells) or "-"


def _target(what: str, sets: int, value: float, most: float) -> tuple[str, ...]:
    return (
        what,
        str(sets),
        f"{value:.2f}".removesuffix(".00"),
        f"{most:g}",
        "met" if round(value, 9) <= most else "missed",
    )


def _spread(runs: Sequence[SetRun]) -> str:
    tested = [run for run in runs if run.test is not None]
    if not tested:
        return f"{counted(len(runs), 'run')}, none tested"
    return f"{counted(len(runs), 'run')}, {statistics.median(run.seconds for run in tested):.0f} s in the median"
