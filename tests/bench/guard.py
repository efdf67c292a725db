"""Simulated searches with known accuracies: how often a search delivers less than its known point.

A search judges its known point and some challengers on the same validation images, and delivers one of them. The
accuracies after the final training are given, or those of the recorded networks of `studies/records`. Images have a
common difficulty, and two networks agree on most of them (16 % differ at an accuracy of 0.75, as measured). Each
training has random variation, and a longer training changes the order.

    .venv/bin/python -m tests.bench guard
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray

from search.analysis import correctness
from search.analysis.selection import SEED_SD, BaselineComparison, Lead
from search.storage.records import StudyRecord, TrialCounts, TrialRecord
from tests.bench import replay
from tests.bench.measure import ROOT, Figure, Result, Table

RECORDS = ROOT / "studies" / "records"
SEARCHES = 400
"""Simulated searches per row."""
LIMIT = 0.05
"""Maximum share of the searches that end below their known point."""
DIFFICULTY = 0.8
"""Share of an image's difficulty that all networks have in common. Two networks of accuracy 0.75 then differ on 16 % of
the images; those of `cifar10-10min` differed on 14 to 19 % after a full trial (studies/LOG.md)."""
LENGTH = 0.02
"""Standard deviation of the change of a lead from a full trial to a final training eight times as long. The value was
measured from a third of a trial to its end, three times as long, where networks differ more (studies/LOG.md,
2026-11-29)."""
CLASSES = 10
STUDY = StudyRecord(
    name="made up",
    question="",
    directions=("maximize",),
    counts=TrialCounts(budget=1),
    best=None,
    spec={"search": {"baseline": True, "sampler": "random", "objective": "accuracy"}},
)

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
"""(rng, challengers) -> (1 + challengers,) accuracies after a full trial; the known point is the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSource:
    """The source of the networks of simulated searches."""

    name: str
    draw: Draw
    length: float
    """Standard deviation of the change of a lead by a longer training."""


def recognised(rng: np.random.Generator, accuracies: Floats, images: int) -> NDArray[np.bool_]:
    """(networks, images): the correct images of each network, after one training with random variation."""
    varied = np.clip(accuracies + rng.normal(0, SEED_SD, len(accuracies)), 0.01, 0.99)
    ability = np.array([NormalDist().inv_cdf(accuracy) for accuracy in varied])
    common = rng.normal(size=images)
    individual = rng.normal(size=(len(varied), images))
    right: NDArray[np.bool_] = (
        ability[:, None] + math.sqrt(DIFFICULTY) * common + math.sqrt(1 - DIFFICULTY) * individual > 0
    )
    return right


def guarded(right: NDArray[np.bool_]) -> int:
    """The network that `search.analysis.selection` delivers."""
    labels = np.arange(right.shape[1]) % CLASSES
    trials = tuple(
        TrialRecord(
            study=STUDY.name,
            number=number,
            state="COMPLETE",
            config={"width": 8},
            correct=correctness.add_step({}, 9, row, labels, classes=CLASSES),
        )
        for number, row in enumerate(right)
    )
    significant = BaselineComparison(study=STUDY, trials=trials, judged=len(trials) - 1).significant
    return significant[0].trial.number if significant else 0


def best_looking(right: NDArray[np.bool_]) -> int:
    """The network with the best accuracy, without a guard."""
    return int(right.mean(axis=1).argmax())


POLICIES: Mapping[str, Callable[[NDArray[np.bool_]], int]] = {"the best": best_looking, "guarded": guarded}


def gains(source: NetworkSource, *, challengers: int, images: int, seed: int, searches: int) -> Mapping[str, Floats]:
    """Gain of each policy over the known point, after the final training; one value per search."""
    rng = np.random.default_rng(seed)
    gained: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(searches):
        accuracies = source.draw(rng, challengers)
        final_accuracies = accuracies + rng.normal(0, source.length / math.sqrt(2), len(accuracies))
        right = recognised(rng, accuracies, images)
        for name, policy in POLICIES.items():
            gained[name].append(final_accuracies[policy(right)] - final_accuracies[0])
    return {name: np.array(values) for name, values in gained.items()}


def alike(rng: np.random.Generator, challengers: int) -> Floats:
    """Networks slightly worse than the known point: any other choice is due to chance."""
    return np.array([0.75, *(0.75 - abs(rng.normal(0, 0.002, challengers)))])


def around(rng: np.random.Generator, challengers: int) -> Floats:
    """Challengers, one in fifteen of which is better than a good known point."""
    return np.array([0.75, *np.clip(0.75 + rng.normal(-0.06, 0.04, challengers), 0.1, 0.95)])


def recorded(accuracies: Sequence[float], *, low: float, high: float) -> Draw:
    """Recorded networks; a share from `low` to `high` of them is better than the known point."""
    ranked = np.sort(np.array(accuracies))[::-1]

    def draw(rng: np.random.Generator, challengers: int) -> Floats:
        first = int(rng.integers(round(low * len(ranked)), max(1, round(high * len(ranked)))))
        others = np.delete(ranked, first)
        return np.array([ranked[first], *rng.choice(others, challengers, replace=False)])

    return draw


def curves() -> list[float]:
    """Final accuracies of the 216 recorded networks of one small space."""
    return [curve[-1] for curve in replay.table().curves.values()]


def networks() -> list[float]:
    """Accuracies of the recorded networks of the whole space after three steps, which most of them have."""
    recordings = json.loads((RECORDS / "2026-11-25_random-networks" / "networks.json").read_text())
    return [row["curve"][2] for rows in recordings.values() for row in rows if len(row["curve"]) >= 3]


def network_sources() -> tuple[NetworkSource, ...]:
    """All sources of simulated searches."""
    small, large = curves(), networks()
    return (
        NetworkSource(name="all alike", draw=alike, length=0.0),
        NetworkSource(name="few are better", draw=around, length=0.0),
        NetworkSource(name="few are better, and length matters", draw=around, length=LENGTH),
        NetworkSource(
            name=f"{len(small)} recorded, of the best tenth", draw=recorded(small, low=0.0, high=0.1), length=LENGTH
        ),
        NetworkSource(
            name=f"{len(small)} recorded, a good one", draw=recorded(small, low=0.1, high=0.3), length=LENGTH
        ),
        NetworkSource(
            name=f"{len(large)} recorded, of the best tenth", draw=recorded(large, low=0.0, high=0.1), length=LENGTH
        ),
        NetworkSource(
            name=f"{len(large)} recorded, a good one", draw=recorded(large, low=0.1, high=0.3), length=LENGTH
        ),
    )


def carried() -> Table:
    """Recorded pairs in which one leads significantly at one length: how many have the reverse order at another."""
    rows = json.loads((RECORDS / "2026-11-29_lengths" / "trials.json").read_text())["trials"]
    trials = [
        TrialRecord(study=STUDY.name, number=row["trial"], state="COMPLETE", correct=row["correct"]) for row in rows
    ]
    table_rows = []
    for end, last in ((1, 9), (3, 9)):
        for challengers in (1, 12, 40):
            significant = lost = 0
            for first, second in permutations(trials, 2):
                now, later = (correctness.pair(first.correct, second.correct, step) for step in (end, last))
                if now is None or later is None:
                    continue
                if Lead(trial=first, pair=now, challengers=challengers).is_significant:
                    significant, lost = significant + 1, lost + (later.lead < 0)
            table_rows.append(
                (
                    f"{end} of 9",
                    str(challengers),
                    str(significant),
                    str(lost),
                    f"{100 * lost / max(1, significant):.1f} %",
                )
            )
    heads = ("significant after", "challengers", "pairs", "behind at the end", "")
    return Table(title=f"Leads of {len(trials)} recorded networks", heads=heads, rows=tuple(table_rows))


def run_benchmark(quick: bool) -> Result:
    """Every source with few and many challengers, on few and many images."""
    searches = 20 if quick else SEARCHES
    rows, below = [], []
    for seed, source in enumerate(network_sources()):
        for challengers in (12, 40):
            for images in (200, 2000):
                gained = gains(source, challengers=challengers, images=images, seed=seed, searches=searches)
                shares = {name: fmean(values < 0) for name, values in gained.items()}
                below.append(shares["guarded"])
                rows.append(
                    (
                        source.name,
                        str(challengers),
                        f"{images:,}",
                        *(f"{100 * shares[name]:.1f} %" for name in POLICIES),
                        *(f"{gained[name].mean():+.4f}" for name in POLICIES),
                    )
                )
    heads = (
        "known point and networks",
        "trials",
        "images",
        "best: below",
        "guarded: below",
        "best: gain",
        "guarded: gain",
    )
    return Result(
        name="Guard",
        about=(
            f"{searches} simulated searches per row. Below: the share that delivers less than the known point, after "
            "the final training. Gain: mean accuracy of the delivered network minus that of the known point.",
            f"Standard deviation over seeds {SEED_SD}; of the change by length {LENGTH}, where length matters and for "
            "all recorded networks.",
        ),
        figures=(
            Figure(
                what="share of the guarded searches that end below their known point, in the worst row",
                unit="",
                values=(max(below),),
                limit=LIMIT,
            ),
        ),
        tables=(Table(title="Searches", heads=heads, rows=tuple(rows)), carried()),
    )
