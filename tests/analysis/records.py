"""Studies and trials, in the form that `search.storage.queries` returns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from search.storage.records import StudyRecord, TrialCounts, TrialRecord


def study_record(spec: Mapping[str, Any], **changes: Any) -> StudyRecord:
    """The study "s" with this stored spec; `changes` replace its other fields."""
    study = StudyRecord(
        name="s", question="", directions=("maximize",), counts=TrialCounts(budget=9), best=None, spec=spec
    )
    return replace(study, **changes)


def trial_record(
    number: int, *, state: str = "COMPLETE", curve: Sequence[tuple[int, float]] = (), **others: Any
) -> TrialRecord:
    """A trial of the study "s", which is evaluated after each of its epochs."""
    epochs = float(curve[-1][0]) if curve else 0.0
    return TrialRecord(study="s", number=number, state=state, curve=tuple(curve), epochs=epochs, **others)
