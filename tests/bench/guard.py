"""How often a search ends below the point that it began with: made-up searches whose truth is known.

A search judges its known point and some challengers on the same validation images, and delivers one of them. What each
network is worth after the last training is given, or is what the recorded networks of `studies/records` had come to.
Networks recognise images by a common difficulty of these, so that two of them agree on most (16 % differ at an accuracy
of 0.75, as measured); each training has luck of its own, and a longer one changes the order.

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
from tests.bench.measure import ROOT, Figure, Result, Table

RECORDS = ROOT / "studies" / "records"
SEARCHES = 400
"""Of each kind."""
LIMIT = 0.05
"""Share of the searches that may end below their known point."""
DIFFICULTY = 0.8
"""Share of an image's difficulty that all networks have in common. Two of 0.75 then differ on 16 % of the images; those
of `cifar10-10min` did on 14 to 19 % after a whole trial (studies/LOG.md)."""
LENGTH = 0.02
"""Standard deviation of how a lead changes from a whole trial to a last training eight times as long: what it was from
a third of a trial to its end (studies/LOG.md, 2026-11-29), three times as long, where networks differ more."""
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
"""(dice, challengers) -> (1 + challengers,) accuracies after a whole trial; the known point is the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where made-up searches take their networks from."""

    name: str
    draw: Draw
    length: float
    """Standard deviation of what a longer training adds to a network or takes from it."""


def recognised(dice: np.random.Generator, accuracies: Floats, images: int) -> NDArray[np.bool_]:
    """(networks, images): which images each recognises, after one training with its own luck."""
    lucky = np.clip(accuracies + dice.normal(0, SEED_SD, len(accuracies)), 0.01, 0.99)
    ability = np.array([NormalDist().inv_cdf(each) for each in lucky])
    common = dice.normal(size=images)
    own = dice.normal(size=(len(lucky), images))
    right: NDArray[np.bool_] = ability[:, None] + math.sqrt(DIFFICULTY) * common + math.sqrt(1 - DIFFICULTY) * own > 0
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
    clear = BaselineComparison(study=STUDY, trials=trials, judged=len(trials) - 1).significant
    return clear[0].trial.number if clear else 0


def best_looking(right: NDArray[np.bool_]) -> int:
    """The network with the best accuracy, as before there was a guard."""
    return int(right.mean(axis=1).argmax())


POLICIES: Mapping[str, Callable[[NDArray[np.bool_]], int]] = {"the best": best_looking, "guarded": guarded}


def gains(world: World, *, challengers: int, images: int, seed: int, searches: int) -> Mapping[str, Floats]:
    """What each policy delivers more than the known point is worth, after the last training; one for each search."""
    dice = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(searches):
        accuracies = world.draw(dice, challengers)
        worth = accuracies + dice.normal(0, world.length / math.sqrt(2), len(accuracies))
        right = recognised(dice, accuracies, images)
        for name, policy in POLICIES.items():
            found[name].append(worth[policy(right)] - worth[0])
    return {name: np.array(values) for name, values in found.items()}


def alike(dice: np.random.Generator, challengers: int) -> Floats:
    """Networks that are all nearly as good as the known point, and none better: whatever is chosen was lucky."""
    return np.array([0.75, *(0.75 - abs(dice.normal(0, 0.002, challengers)))])


def around(dice: np.random.Generator, challengers: int) -> Floats:
    """Challengers of which one in fifteen is better than a good known point."""
    return np.array([0.75, *np.clip(0.75 + dice.normal(-0.06, 0.04, challengers), 0.1, 0.95)])


def recorded(accuracies: Sequence[float], *, low: float, high: float) -> Draw:
    """Networks as recorded; the known point is one of those of which that share is better."""
    ranked = np.sort(np.array(accuracies))[::-1]

    def draw(dice: np.random.Generator, challengers: int) -> Floats:
        first = int(dice.integers(round(low * len(ranked)), max(1, round(high * len(ranked)))))
        others = np.delete(ranked, first)
        return np.array([ranked[first], *dice.choice(others, challengers, replace=False)])

    return draw


def curves() -> list[float]:
    """What the 216 recorded networks of one small space have come to."""
    rows = json.loads((RECORDS / "2026-11-24_curves" / "curves.json").read_text())["trials"]
    return [row["curve"][-1] for row in rows]


def networks() -> list[float]:
    """What the recorded networks of the whole space have come to after the three steps that most of them have."""
    found = json.loads((RECORDS / "2026-11-25_random-networks" / "networks.json").read_text())
    return [row["curve"][2] for rows in found.values() for row in rows if len(row["curve"]) >= 3]


def worlds() -> tuple[World, ...]:
    """Where searches are made up from."""
    small, large = curves(), networks()
    return (
        World(name="all alike", draw=alike, length=0.0),
        World(name="few are better", draw=around, length=0.0),
        World(name="few are better, and length matters", draw=around, length=LENGTH),
        World(name=f"{len(small)} recorded, of the best tenth", draw=recorded(small, low=0.0, high=0.1), length=LENGTH),
        World(name=f"{len(small)} recorded, a good one", draw=recorded(small, low=0.1, high=0.3), length=LENGTH),
        World(name=f"{len(large)} recorded, of the best tenth", draw=recorded(large, low=0.0, high=0.1), length=LENGTH),
        World(name=f"{len(large)} recorded, a good one", draw=recorded(large, low=0.1, high=0.3), length=LENGTH),
    )


def carried() -> Table:
    """Of the recorded pairs of which one leads clearly after one length, how many have changed places after another."""
    rows = json.loads((RECORDS / "2026-11-29_lengths" / "trials.json").read_text())["trials"]
    trials = [
        TrialRecord(study=STUDY.name, number=row["trial"], state="COMPLETE", correct=row["correct"]) for row in rows
    ]
    told = []
    for end, last in ((1, 9), (3, 9)):
        for challengers in (1, 12, 40):
            clear = lost = 0
            for one, other in permutations(trials, 2):
                now, later = (correctness.pair(one.correct, other.correct, step) for step in (end, last))
                if now is None or later is None:
                    continue
                if Lead(trial=one, pair=now, challengers=challengers).is_significant:
                    clear, lost = clear + 1, lost + (later.lead < 0)
            told.append((f"{end} of 9", str(challengers), str(clear), str(lost), f"{100 * lost / max(1, clear):.1f} %"))
    heads = ("clear after", "among so many", "pairs", "behind at the end", "")
    return Table(title=f"Leads of {len(trials)} recorded networks", heads=heads, rows=tuple(told))


def measured(quick: bool) -> Result:
    """Every world with few and many challengers, on few and many images."""
    searches = 20 if quick else SEARCHES
    rows, below = [], []
    for place, world in enumerate(worlds()):
        for challengers in (12, 40):
            for images in (200, 2000):
                found = gains(world, challengers=challengers, images=images, seed=place, searches=searches)
                shares = {name: fmean(values < 0) for name, values in found.items()}
                below.append(shares["guarded"])
                rows.append(
                    (
                        world.name,
                        str(challengers),
                        f"{images:,}",
                        *(f"{100 * shares[name]:.1f} %" for name in POLICIES),
                        *(f"{found[name].mean():+.4f}" for name in POLICIES),
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
            f"{searches} made-up searches a row. Below: the share that delivers less than the known point is worth "
            "after the last training. Gain: what is delivered more than that, in accuracy, mean.",
            f"Luck of a training {SEED_SD}; a change of the order by length {LENGTH}, where length matters and in all "
            "recorded worlds.",
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
