"""Whether a study can train anything on its images, before its first trial."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.config import Impossible
from search.errors import AllTrialsImpossibleError
from search.spec.domains import Value
from search.spec.fit import ImageLimits, check_fit, describe_changes, fitted
from search.spec.search_space import REPEAT, is_searched
from search.spec.study_spec import StudySpec, fixed_trials, sample_config
from search.spec.trial_length import MAX_EPOCHS
from search.tables import with_ranges

#: Number of random configurations: as many as the first ten trials of a search draw before each takes the nearest one
#: that can be trained (`trial.recorder`).
DRAWS = 200
#: Maximum number of reasons that are listed.
MOST_REASONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Feasibility:
    """The configurations of a study that cannot be trained."""

    kind: str
    """Plural noun for them: cells of a grid, rows of a comparison, or configurations of a search."""
    checked: int
    impossible: int
    """Those that cannot be trained as they are. A search is only checked until one can be trained."""
    is_hopeless: bool = False
    """Whether nothing can be trained, even after changes."""
    reasons: tuple[tuple[str, int], ...] = ()
    """Reasons with their counts, the most frequent first."""
    changes: tuple[str, ...] = ()
    """The changes that a search makes to each trial, if none can be trained as it is: `batch_size 128 to 512 -> 27`."""
    rows: tuple[str, ...] = ()
    """The rows of a comparison that cannot be trained."""
    has_base: bool = True
    """Whether the first row of a comparison, which all others are compared with, can be trained."""

    def lines(self) -> tuple[str, ...]:
        """The text for the user before the study runs, one line each; none if something can be trained as it is."""
        if not self.reasons:
            return ()
        if len(self.reasons) == 1:
            return (f"{self._head()}: {self.reasons[0][0]}", *self._consequences())
        listed = [f"  {count}: {reason}" for reason, count in self.reasons[:MOST_REASONS]]
        if rest := sum(count for _, count in self.reasons[MOST_REASONS:]):
            listed.append(f"  {rest}: other reasons")
        return (f"{self._head()}:", *listed, *self._consequences())

    def _head(self) -> str:
        if self.impossible == self.checked:
            verb = "be trained as it is" if self.changes else "be trained"
            return f"none of {self.checked} {self.kind} can {verb}" if self.checked > 1 else f"the study cannot {verb}"
        names = f" ({', '.join(self.rows)})" if self.rows else ""
        return f"{self.impossible} of {self.checked} {self.kind} cannot be trained{names}"

    def _consequences(self) -> Iterator[str]:
        if self.changes:
            yield f"each trial has the nearest values that can: {', '.join(self.changes)}"
        if not self.has_base and not self.is_hopeless:
            yield "the first row is among them: the others will have nothing to be compared with"


def check_feasible(spec: StudySpec, limits: ImageLimits) -> Feasibility:
    """Check that a study can train something.

    Args:
        spec: The study.
        limits: Limits of its images.

    Returns:
        What cannot be trained.

    Raises:
        AllTrialsImpossibleError: Nothing can be trained; the message has the reasons and the settings to change.
    """
    found = examine(spec, limits)
    if found.is_hopeless:
        raise AllTrialsImpossibleError("\n".join(found.lines()))
    return found


def examine(spec: StudySpec, limits: ImageLimits) -> Feasibility:
    """Examine whether a study can be trained: all cells of a grid or comparison, a random sample of a search.

    Latency is not known before a trial.

    Args:
        spec: The study.
        limits: Limits of its images.
    """
    if spec.budget.epochs is None:  # they are measured later, and then long enough for the batches of the known point
        budget = spec.budget.model_copy(update={"epochs": MAX_EPOCHS, "evaluations": spec.budget.steps})
        spec = replace(spec, budget=budget)
    return _examine_cells(spec, limits) if spec.search.sampler == "grid" else _examine_draws(spec, limits)


def _examine_cells(spec: StudySpec, limits: ImageLimits) -> Feasibility:
    cells = [cell for cell in fixed_trials(spec) if not cell.get(REPEAT)]  # repeats differ in their seeds only
    faults = {}
    for index, cell in enumerate(cells):
        if fault := _fault(spec, sample_config(spec, _Cell(cell)), limits):
            faults[index] = fault
    return Feasibility(
        kind="rows of [[compare]]" if spec.rows else "cells",
        checked=len(cells),
        impossible=len(faults),
        is_hopeless=len(faults) == len(cells),
        reasons=with_ranges(faults.values()),
        rows=tuple(spec.rows[index].name for index in faults) if spec.rows else (),
        has_base=0 not in faults or not spec.rows,
    )


def _examine_draws(spec: StudySpec, limits: ImageLimits) -> Feasibility:
    draws, kind = RandomDraws(spec.search.seed), "random configurations of [space]"
    drawn, faults = list[Mapping[str, Value]](), list[str]()
    for _ in range(DRAWS if is_searched(spec.space) else 1):
        drawn.append(sample_config(spec, draws))
        fault = _fault(spec, drawn[-1], limits)
        if fault is None:
            return Feasibility(kind=kind, checked=len(drawn), impossible=len(faults))
        faults.append(fault)
    changes, blocks = list[str](), list[str]()
    for values in drawn:
        try:
            changes += describe_changes(values, fitted(spec, values, limits))
        except Impossible as error:
            blocks.append(str(error))
    return Feasibility(
        kind=kind,
        checked=len(drawn),
        impossible=len(drawn),
        is_hopeless=len(blocks) == len(drawn),
        reasons=with_ranges(faults if changes else blocks),
        changes=tuple(text for text, _ in with_ranges(changes)),
    )


def _fault(spec: StudySpec, values: Mapping[str, Value], limits: ImageLimits) -> str | None:
    """Why a configuration cannot be trained; None if it can."""
    try:
        check_fit(spec, values, limits)
    except Impossible as error:
        return str(error)
    return None


class _Cell:
    """Suggests the values of a cell of a grid."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return float(self._values[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return self._values[name]


class RandomDraws:
    """Suggests random values, without an Optuna study."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        if log:
            return float(math.exp(self._rng.uniform(math.log(low), math.log(high))))
        return float(self._rng.uniform(low, high)) if step is None else self._stepped(low, high, step)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if log:
            return round(math.exp(self._rng.uniform(math.log(low), math.log(high))))
        return round(self._stepped(low, high, step))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return choices[int(self._rng.integers(len(choices)))]

    def _stepped(self, low: float, high: float, step: float) -> float:
        return float(low + step * self._rng.integers(int((high - low) / step + 1e-9) + 1))
