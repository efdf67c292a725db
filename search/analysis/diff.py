"""Two trials of a study, or two studies, side by side: what differs, and what came of it."""

from typing import Any

from search.spec import stored_spec
from search.spec.parameters import DEFAULTS
from search.storage.records import StudyRecord, TrialRecord
from search.tables import Table, format_duration, format_number, format_value


def diff_trials(first: TrialRecord, second: TrialRecord) -> Table:
    """Two trials: their settings as far as they differ, and their curves."""
    differing = _differing(first, second)
    rows: list[tuple[str, ...]] = [(key, _told(one), _told(other)) for key, (one, other) in differing.items()]
    rows += zip(_FACTS, _facts(first), _facts(second), strict=True)
    curves = dict(first.curve), dict(second.curve)
    rows += [
        (f"step {step}", *("-" if step not in curve else format_number(curve[step]) for curve in curves))
        for step in sorted({**curves[0], **curves[1]})
    ]
    return Table(
        columns=("", f"trial {first.number}", f"trial {second.number}"),
        rows=tuple(row for row in rows if row[1:] != ("-", "-")),
        before=(f"{first.study}: what differs" if differing else f"{first.study}: both trials have the same settings",),
    )


def diff_studies(first: StudyRecord, second: StudyRecord) -> Table:
    """Two studies: their specs as far as they differ, and what they found."""
    return Table(
        columns=("", first.name, second.name),
        rows=tuple(zip(_ANSWERS, _answers(first), _answers(second), strict=True)),
        after=("", *_differences(first, second)),
    )


def trials_json(first: TrialRecord, second: TrialRecord) -> dict[str, Any]:
    """`compare STUDY A B --json`."""
    return {
        "study": first.study,
        "trials": [first.number, second.number],
        "values": [first.values, second.values],
        "differences": _differing(first, second),
        "curves": [first.curve, second.curve],
    }


def studies_json(first: StudyRecord, second: StudyRecord) -> dict[str, Any]:
    """`compare STUDY OTHER --json`."""
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
    """What the second study's file says otherwise; and whether their images are others."""
    if not first.spec or not second.spec:
        return []
    lines = stored_spec.difference(stored_spec.restore(first.spec), stored_spec.restore(second.spec), but=frozenset())
    if first.data.get("fingerprint") != second.data.get("fingerprint"):
        lines.append("their images are not the same, so that their values do not compare")
    return lines


def _differing(first: TrialRecord, second: TrialRecord) -> dict[str, tuple[Any, Any]]:
    """The settings that are not the same; what an older version did not know has its default.

    A trial that nobody has begun has only what was drawn, as has one that convsearch did not make.
    """
    one, other = ({**DEFAULTS, **row.config} if row.config else row.params for row in (first, second))
    return {key: (one.get(key), other.get(key)) for key in {**one, **other} if one.get(key) != other.get(key)}


def _told(value: object) -> str:
    return "-" if value is None else format_value(value)
