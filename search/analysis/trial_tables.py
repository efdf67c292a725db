"""Tables, JSON values and CSV rows about trials."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from search.analysis import averaged
from search.storage.attr_keys import AVERAGED
from search.storage.records import StudyRecord, TrialRecord, is_verdict
from search.tables import Table, format_duration, format_number, format_value, format_values


def _restarts(row: TrialRecord) -> str:
    """Note about each attempt that started again for lack of a checkpoint."""
    return "".join(f"; attempt {attempt} found no checkpoint and started again" for attempt in row.retrained_attempts)


def trial_table(row: TrialRecord, log: str | None = None) -> Table:
    """Table of all facts about a trial, one per line.

    Args:
        row: The trial.
        log: Path of its log file, if it has one.
    """
    lines = {
        "state": describe_state(row),
        "value": ", ".join(format_number(value) for value in row.values),
        "parameters": format_values(row.params),
        "fixed": format_values({key: value for key, value in row.config.items() if key not in row.params}),
        "changed to fit": ", ".join(row.fitted),
        "repeat": "" if row.repeat is None else str(row.repeat),
        "audited": "" if row.spared is None else f"the pruner would have stopped it: {row.spared['reason']}",
        "curve": ", ".join(f"{step}: {format_number(value)}" for step, value in row.curve),
        "attempts": str(row.attempts) + "".join(f"; {crash}" for crash in row.crashes) + _restarts(row),
        "trained": f"{format_value(row.epochs)} epochs in {format_duration(row.seconds)}",
        "speed": f"{row.images_per_second:.0f} images/s" if row.images_per_second else "",
        "test images": "" if row.test is None else _test(row.test),
        "model": _model(row),
        "begun": f"{row.started:%Y-%m-%d %H:%M:%S} UTC" if row.started else "",
        "ended": f"{row.completed:%Y-%m-%d %H:%M:%S} UTC" if row.completed else "",
        "log": log or "",
        "again": rerun_command(row),
    }
    return Table(
        columns=("", ""),
        rows=tuple((key, value) for key, value in lines.items() if value),
        before=(f"trial {row.number} of {row.study}",),
    )


def trials_csv(study: StudyRecord, trials: Sequence[TrialRecord]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Columns and rows of `report --csv`: all trials with state, reason and cost; missing parameters are empty."""
    extra = ("averaged",) if any(trial.averaged for trial in trials) else ()
    fixed = (
        "trial",
        "state",
        *study.objectives,
        *extra,
        "last_value",
        "epochs",
        "seconds",
        *(name for name in ("parameters", "macs") if name not in study.objectives),
        "attempts",
        "reason",
    )
    names = tuple(dict.fromkeys(name for trial in trials for name in trial.params))
    rows: list[tuple[object, ...]] = [
        (
            trial.number,
            trial.state.lower(),
            *(trial.values or (None,) * len(study.objectives)),
            *((trial.averaged or {}).get("value") for _ in extra),
            trial.curve[-1][1] if trial.curve else None,
            trial.epochs,
            trial.seconds,
            *(getattr(trial, name) for name in ("parameters", "macs") if name not in study.objectives),
            trial.attempts,
            trial.reason,
            *(trial.params.get(name) for name in names),
        )
        for trial in trials
    ]
    return (*fixed, *(f"params_{name}" if name in fixed else name for name in names)), rows


def trial_json(row: TrialRecord, log: str | None = None) -> dict[str, Any]:
    """JSON value of `show --json`; arguments as of `trial_table`."""
    return {
        "study": row.study,
        **trial_summary_json(row),
        "curve": row.curve,
        "attempts": row.attempts,
        "reason": row.reason,
        "command": rerun_command(row) or None,
        "crashes": row.crashes,
        "config": row.config,
        "repeat": row.repeat,
        "seed": row.seed,
        "paused": row.paused,
        "spared": row.spared,
        "fitted": row.fitted,
        "test": row.test,
        "parameters": row.parameters,
        "macs": row.macs,
        "images_per_second": row.images_per_second,
        "started": row.started,
        "completed": row.completed,
        "log": log,
    }


def verdict_line(row: TrialRecord) -> str:
    """Result of the last training of a study, in one line."""
    if row.test is None or not row.values:
        return f"no verdict: the last training was {row.state.lower()}, {row.reason or 'for no recorded reason'}"
    trained = f"{format_value(row.epochs)} epochs on train and validation images in {format_duration(row.seconds)}"
    return f"verdict: {format_number(row.values[0])} on {_test(row.test)}; {trained}"


def _test(test: Mapping[str, Any]) -> str:
    low, high = test["interval"]
    seen = f", {test['seen_in_training']:,} of them seen in training" if test.get("seen_in_training") else ""
    return (
        f"{test['images']:,} test images{seen}, {test['right']:,} right (95 % interval {low:.4f} to {high:.4f})"
        f"{averaged.result_text(test.get(AVERAGED))}"
    )


def rerun_command(row: TrialRecord) -> str:
    """Command that trains the configuration of a trial again.

    It is empty for a last training, which is tested only once, and for a trial that convsearch did not make.
    """
    return (
        ""
        if is_verdict(row.study) or not row.config
        else f"convsearch run {shlex.quote(row.study)} --again {row.number}"
    )


def describe_state(row: TrialRecord) -> str:
    """State of a trial, with the reason."""
    if row.paused is not None:
        until = "all are trained" if is_verdict(row.study) else "it is among the best there"
        return f"paused at step {row.paused}, until {until}"
    return row.state.lower() + (f": {row.reason}" if row.reason else "")


def _model(row: TrialRecord) -> str:
    parts = [f"{row.parameters:,} parameters"] if row.parameters is not None else []
    parts += [f"{row.macs:,} multiply-accumulates per image"] if row.macs is not None else []
    return ", ".join(parts)


def trial_summary_json(row: TrialRecord) -> dict[str, Any]:
    """JSON value of a trial in lists; a result with test-time augmentation is its key `averaged`."""
    return {
        "number": row.number,
        "state": row.state,
        "values": row.values,
        "params": row.params,
        "epochs": row.epochs,
        "seconds": row.seconds,
    } | averaged.result_json(row.averaged)


def reasons_table(rows: Sequence[TrialRecord], state: str = "", lines: Sequence[str] = ()) -> Table:
    """Reasons why trials stopped or paused, one row per trial.

    Args:
        rows: The trials.
        state: Sentence about the study; may be empty.
        lines: Lines below the table.
    """
    before = (state,) if state else ()
    if not rows:
        return Table(columns=(), rows=(), before=(*before, "no trial was pruned or failed"))
    return Table(
        columns=("trial", "state", "epochs", "why"),
        fixed=("state",),
        before=before,
        rows=tuple((str(row.number), row.state.lower(), format_value(row.epochs), _why(row)) for row in rows),
        after=("", *lines) if lines else (),
    )


def reasons_json(rows: Sequence[TrialRecord]) -> dict[str, Any]:
    """JSON value of `why --json`."""
    return {
        "trials": [
            {
                "number": row.number,
                "state": row.state,
                "reason": row.reason,
                "paused": row.paused,
                "spared": row.spared,
                "crashes": row.crashes,
            }
            for row in rows
        ]
    }


def _why(row: TrialRecord) -> str:
    paused = "" if row.paused is None else describe_state(row)
    spared = "" if row.spared is None else f"the pruner would have stopped it: {row.spared['reason']}"
    reasons = "; ".join(filter(None, (row.reason or paused, spared, *row.crashes)))
    return reasons or ("no reason is recorded" if row.state in ("PRUNED", "FAIL") else "nothing stopped it")
