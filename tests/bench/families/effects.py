"""Effects of changes to the recipe on the errors of each image set: `python -m tests.bench.families.effects FOLDER`.

An effect is the logarithm of the errors with a change, divided by the recipe's, at the same rung. Trainings with more
CPU time are corrected by the recipe's own gain from time, which its last two rungs show.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from search.tables import Table, to_text
from tests.bench.families.curves import Recording, bits, read
from tests.bench.families.image_families import FAMILIES
from tests.bench.families.record import RUNGS

#: An image set without errors counts as having half an error.
LEAST_ERRORS: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The effect of a configuration on one image set."""

    images: str
    number: int
    changes: str
    at_rungs: tuple[float, ...]
    """Logarithm of the ratio of errors at each rung."""


def effects(recordings: Iterable[Recording]) -> list[Effect]:
    """The effects of all configurations but the recipe; diverged trainings are left out."""
    by_set: dict[str, dict[int, list[Recording]]] = {}
    for recording in recordings:
        if not recording.failure:
            by_set.setdefault(recording.images, {}).setdefault(recording.number, []).append(recording)
    return [
        _effect(images, number, of_number, numbers[0])
        for images, numbers in by_set.items()
        for number, of_number in sorted(numbers.items())
        if number and 0 in numbers
    ]


def log_error(recording: Recording, rung: int) -> float:
    """Logarithm of the share of wrong test images at a rung."""
    count = FAMILIES[recording.images].test
    wrong = count - int(bits(recording.test[rung], count).sum())
    return math.log(max(wrong, LEAST_ERRORS) / count)


def _effect(images: str, number: int, changed: Sequence[Recording], recipe: Sequence[Recording]) -> Effect:
    last, before = len(RUNGS) - 1, len(RUNGS) - 2
    gain = (_mean(recipe, last) - _mean(recipe, before)) / math.log(RUNGS[last] / RUNGS[before])
    time = math.log(fmean(row.seconds[last] for row in changed) / fmean(row.seconds[last] for row in recipe))
    at_rungs = tuple(_mean(changed, rung) - _mean(recipe, rung) - gain * time for rung in range(len(RUNGS)))
    changes = ", ".join(f"{key} = {value}" for key, value in changed[0].changes.items())
    return Effect(images=images, number=number, changes=changes, at_rungs=at_rungs)


def _mean(recordings: Sequence[Recording], rung: int) -> float:
    return fmean(log_error(recording, rung) for recording in recordings)


def table(found: Sequence[Effect]) -> Table:
    """One line for each configuration, those with the fewest errors first: its effects in percent of the errors."""
    sets = list(dict.fromkeys(effect.images for effect in found))
    by_number: dict[int, dict[str, Effect]] = {}
    for effect in found:
        by_number.setdefault(effect.number, {})[effect.images] = effect
    last = len(RUNGS) - 1

    def mean(number: int, rung: int) -> float:
        return fmean(effect.at_rungs[rung] for effect in by_number[number].values())

    rows = [
        (
            str(number),
            next(iter(by_number[number].values())).changes,
            *(percent(by_number[number][name].at_rungs[last]) if name in by_number[number] else "" for name in sets),
            *(percent(mean(number, rung)) for rung in range(len(RUNGS))),
            spread([effect.at_rungs[last] for effect in by_number[number].values()]),
        )
        for number in sorted(by_number, key=lambda number: mean(number, last))
    ]
    means = (f"mean at {rung}/{RUNGS[-1]}" for rung in RUNGS)
    return Table(columns=("number", "changes", *sets, *means, "error of the last"), rows=tuple(rows))


def percent(effect: float) -> str:
    """The change of the errors: `-12 %`."""
    return f"{100 * math.expm1(effect):+.0f} %"


def spread(values: Sequence[float]) -> str:
    """The standard error of a mean over image sets."""
    return f"{100 * stdev(values) / math.sqrt(len(values)):.0f} %" if len(values) > 1 else ""


if __name__ == "__main__":
    rows = read(sorted(Path(sys.argv[1]).glob("*.jsonl*")))
    print(to_text(table(effects(rows)), width=None))
