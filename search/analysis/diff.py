"""Two trials of a study, or two studies, side by side: their settings where they differ, and their results."""

from typing import Any

from search.spec import stored_spec
from search.spec.parameters import DEFAULTS
from search.storage.records import StudyRecord, TrialRecord
from search.tables import Table, format_duration, format_number, format_value


def diff_trials(first: TrialRecord, second: TrialRecord) -> Table:
    """Table of the differing settings of two trials, their results, and their curves."""
    differing = _differing(first, second)
    rows: list[tuple[str, ...]] = [(key, _text(value), _text(other)) for key, (value, other) in differing.items()]
    rows += zip(_FACTS, _facts(first), _facts(second), strict=True)
    curves = dict(first.curve), dict(second.curve)
    rows += [
        (f"step {step}", *("-" if step not in curve else format_number(curve[step]) for curve in curves))
        for step in sorted({**curves[0], **curves[1]})
    ]
    return Table(
        columns=("", f"trial {first.number}", f"trial {second.number}"),
        rows=tuple(row for row in rows if row[1:] != ("-", "-")),
        before=(f"{first.study}: differences" if differing else f"{first.study}: both trials have the same settings",),
    )


def diff_studies(first: StudyRecord, second: StudyRecord) -> Table:
    """Table of the results of two studies, and the differences of their specs."""
    return Table(
        columns=("", first.name, second.name),
        rows=tuple(zip(_ANSWERS, _answers(first), _answers(second), strict=True)),
        after=("", *_differences(first, second)),
    )


def trials_json(first: TrialRecord, second: TrialRecord) -> dict[str, Any]:
    """JSON value of `compare STUDY A B --json`."""
    return {
        "study": first.study,
        "trials": [first.number, second.number],
        "values": [first.values, second.values],
        "differences": _differing(first, second),
        "curves": [first.curve, second.curve],
    }


def studies_json(first: StudyRecord, second: StudyRecord) -> dict[str, Any]:
    """JSON value of `compare STUDY OTHER --json`."""
    return {
        "studies": [first.name, second.name],
        "best": [None if row.best is None else row.best.values[0] for row in (first, second)],
        "differences": _differences(first, second),
    }


_FACTS = ("state", "value", "epochs", "trained", "parameters", "multiply-accumulates", "seed")
_ANSWERS = ("question", "objective", "finished", "best", "in trial", "on the clock")


def _facts(row: TrialRecord) -> tuple[str, ...]:
    return (
        row.state.lower() + (f": {row.reason}" if row.reason else ""),
        ", ".join(map(format_number, row.values)) or "-",
        format_value(row.epochs),
        format_duration(row.seconds),
        "-" if row.parameters is None else f"{row.parameters:,}",
        "-" if row.macs is None else f"{row.macs:,}",
        "-" if row.seed is None else str(row.seed),
    )


def _answers(row: StudyRecord) -> tuple[str, ...]:
    return (
        row.question or "-",
        row.objective,
        f"{row.counts.finished} of {row.counts.budget}",
        "-" if row.best is None else format_number(row.best.values[0]),
        "-" if row.best is None else str(row.best.number),
        format_duration(row.seconds_run),
    )


def _differences(first: StudyRecord, second: StudyRecord) -> list[str]:
    """Differences of the second spec to the first, and of the images."""
    if not first.spec or not second.spec:
        return []
    lines = stored_spec.difference(stored_spec.restore(first.spec), stored_spec.restore(second.spec), but=frozenset())
    if first.data.get("fingerprint") != second.data.get("fingerprint"):
        lines.append("their images differ, so their values are not comparable")
    return lines


def _differing(first: TrialRecord, second: TrialRecord) -> dict[str, tuple[Any, Any]]:
    """Differing settings as (first, second); a setting that an older version did not store has its default.

    A waiting trial, or one that convsearch did not make, has only its sampled parameters.
    """
    settings, others = ({**DEFAULTS, **row.config} if row.config else row.params for row in (first, second))
    return {
        key: (settings.get(key), others.get(key))
        for key in {**settings, **others}
        if settings.get(key) != others.get(key)
    }


def _text(value: object) -> str:
    return "-" if value is None else format_value(value)
