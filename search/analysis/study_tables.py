"""What questions are answered with: a table for people, and a value for JSON or CSV."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from search.analysis.trial_tables import trial_summary_json
from search.storage.records import Ranking, RunningTrial, StudyRecord, TrialCounts
from search.tables import Table, format_duration, format_number, format_value, format_values


def studies_table(rows: Sequence[StudyRecord]) -> Table:
    """One line for each study."""
    if not rows:
        return Table(columns=(), rows=(), before=("there are no studies yet; `convsearch run quickstart` begins one",))
    return Table(
        columns=("study", "finished", "running", "waiting", "failed", "best", "trial", "question"),
        fixed=("finished",),
        rows=tuple(_study_line(row) for row in rows),
        after=("", f"`convsearch best {shlex.quote(rows[0].name)}` shows the best trials of a study"),
    )


def workers_table(rows: Sequence[RunningTrial]) -> Table:
    """One line for each worker that has a trial."""
    if not rows:
        return Table(columns=(), rows=(), before=("nobody works on any study",))
    return Table(
        columns=("host", "process", "study", "trial", "since", "epochs", "value"),
        rows=tuple(_worker_line(each) for each in rows),
        after=("", "since: start of this attempt, UTC; dead workers are listed until their lease expires"),
    )


def workers_json(rows: Sequence[RunningTrial]) -> dict[str, Any]:
    """The same, and how often each trial was begun."""
    return {
        "workers": [
            {
                "host": each.host,
                "pid": each.pid,
                "study": each.trial.study,
                "trial": each.trial.number,
                "since": None if each.trial.started is None else each.trial.started.isoformat(),
                "attempt": each.trial.attempts,
                "epochs": each.trial.epochs,
            }
            for each in rows
        ]
    }


def _worker_line(each: RunningTrial) -> tuple[str, ...]:
    trial = each.trial
    last = trial.curve[-1:]
    return (
        each.host or "?",
        "?" if each.pid is None else str(each.pid),
        trial.study,
        str(trial.number),
        f"{trial.started:%Y-%m-%d %H:%M:%S}" if trial.started else "",
        format_value(trial.epochs),
        format_number(last[0][1]) if last else "",
    )


def best_table(ranking: Ranking, delivered: str = "") -> Table:
    """The best trials; where there is none yet, what is going on and what to do. `delivered`: which one is, and why."""
    study = ranking.study
    head = ((study.question,) if study.question else ()) + (f"{study.name}: {counts_line(study.counts)}",)
    if not ranking.trials:
        return Table(columns=(), rows=(), before=(*head, explain_no_best(study)))
    rows = tuple(
        (
            str(t.number),
            *map(format_number, t.values),
            format_value(t.epochs),
            format_duration(t.seconds),
            format_values(t.params),
        )
        for t in ranking.trials
    )
    front = "the Pareto front: no other trial is as good in all and better in one" if len(study.objectives) > 1 else ""
    if ranking.front > len(rows):
        front += f"; {len(rows)} of its {ranking.front} trials (--top {ranking.front} shows all)"
    return Table(
        columns=("trial", *study.objectives, "epochs", "time", "settings" if front else "parameters"),
        fixed=("trial", *study.objectives, "time"),
        rows=rows,
        before=(*head, *((front,) if front else ()), ""),
        after=(
            "",
            *((delivered,) if delivered else ()),
            f"`convsearch show {shlex.quote(study.name)} {ranking.trials[0].number}` shows the best one whole",
        ),
    )


def studies_json(rows: Sequence[StudyRecord]) -> dict[str, Any]:
    """`studies --json`."""
    return {
        "studies": [
            _study_json(row)
            | {
                "question": row.question,
                "objective": row.objective,
                "seconds_run": row.seconds_run,
                "best": None if row.best is None else trial_summary_json(row.best),
            }
            for row in rows
        ]
    }


def best_json(ranking: Ranking) -> dict[str, Any]:
    """`best --json`."""
    return _study_json(ranking.study) | {"trials": [trial_summary_json(t) for t in ranking.trials]}


def best_csv(ranking: Ranking) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """`best --csv`: columns and rows. A parameter that a trial does not have is empty there."""
    own = ("trial", *ranking.study.objectives, "epochs", "seconds")
    names = tuple(dict.fromkeys(name for trial in ranking.trials for name in trial.params))
    rows: list[tuple[object, ...]] = [
        (t.number, *t.values, t.epochs, t.seconds, *(t.params.get(name) for name in names)) for t in ranking.trials
    ]
    return (*own, *(f"params_{name}" if name in own else name for name in names)), rows


def spec_table(stored: Mapping[str, Any]) -> Table:
    """`validate`: every setting of a dumped spec, with what a search draws before what is fixed."""
    space = stored["space"]
    drawn = {key: value for key, value in space.items() if isinstance(value, list | dict) and key != "when"}
    lines = [
        (f"[{table}] {key}", _given(value))
        for table in ("data", "budget", "search", "final")
        for key, value in (stored[table] or {}).items()
    ]
    lines += [(f"[space] {key}", _given(value)) for key, value in drawn.items()]
    for control, tables in space.get("when", {}).items():
        lines += [
            (f"[space.when.{control}.{choice}]", format_values({k: _given(v) for k, v in table.items()}))
            for choice, table in tables.items()
        ]
    lines += [
        (
            "[space] fixed",
            format_values({key: value for key, value in space.items() if key not in drawn and key != "when"}),
        )
    ]
    lines += [("[[try]]", format_values(point)) for point in stored["try"]]
    lines += [("[[compare]]", format_values(row)) for row in stored["compare"]]
    return Table(
        columns=("", ""), rows=tuple(lines), before=(*((stored["question"],) if stored["question"] else ()), "")
    )


def next_commands(row: StudyRecord, *, is_judged: bool = False) -> tuple[str, ...]:
    """What to do with a study whose run has just ended, a line for each. `is_judged`: its last training has, too."""
    name, counts = shlex.quote(row.name), row.counts
    lines = []
    if row.nothing_found and (is_judged or not row.spec.get("final")):
        lines.append(f"search on:       convsearch resume {name} --hours 1")
    elif counts.to_do:
        lines.append(f"go on:           convsearch resume {name}")
    if counts.failed:
        lines.append(f"try failed ones: convsearch resume {name} --retry-failed")
    elif counts.finished >= counts.budget and can_grow(row):
        lines.append(f"more trials:     convsearch resume {name} --trials {2 * counts.budget}")
    return (*lines, "in a browser:    convsearch dashboard")


def can_grow(row: StudyRecord) -> bool:
    """Whether more trials would have anything else to draw: a grid has its cells, a fixed configuration one trial."""
    is_grid = row.spec.get("search", {}).get("sampler") == "grid"
    return not is_grid and any(map(_is_drawn, row.spec.get("space", {}).values()))


def _is_drawn(stored: object) -> bool:
    """Whether an entry of a stored [space] leaves a choice; [space.when] does."""
    if isinstance(stored, Mapping):
        return "low" not in stored or stored["low"] != stored["high"]
    return isinstance(stored, list) and len(stored) > 1


def counts_line(counts: TrialCounts) -> str:
    """`37 of 60 trials finished: 20 complete, 15 pruned, 2 failed; 2 running, 0 waiting, 21 to begin`."""
    return f"{counts.finished} of {counts.budget} trials finished: {states_line(counts)}"


def states_line(counts: TrialCounts) -> str:
    """`20 complete, 15 pruned, 2 failed; 2 running, 0 waiting, 21 to begin`."""
    pause = f"{counts.paused} paused, " if counts.paused else ""
    return (
        f"{counts.complete} complete, {counts.pruned} pruned, {counts.failed} failed; "
        f"{counts.running} running, {pause}{counts.waiting} waiting, {counts.remaining} to begin"
    )


def explain_no_best(study: StudyRecord) -> str:
    """Why there is no best trial, and what to do."""
    counts, name = study.counts, shlex.quote(study.name)
    if counts.to_do:
        onwards = f"`convsearch resume {name}` goes on"
    elif can_grow(study):
        onwards = f"`convsearch resume {name} --trials {counts.budget + 10}` raises the budget"
    else:
        onwards = f"`convsearch show {name} NUMBER` says why"
    if counts.complete:
        return "no complete trial has a finite value, so that there is no best one"
    if counts.failed and counts.failed == counts.finished:
        return f"every finished trial has failed; `convsearch show {name} NUMBER` says why, and where its log is"
    if counts.finished:
        return f"no trial is complete yet: those that finished were pruned or failed; {onwards}"
    if counts.running:
        return "no trial has finished yet; those at work will be the first"
    return f"no trial has finished yet, and none is at work; {onwards}"


def _study_line(row: StudyRecord) -> tuple[str, ...]:
    counts, best = row.counts, row.best
    return (
        row.name,
        f"{counts.finished} of {counts.budget}",
        str(counts.running),
        str(counts.waiting + counts.paused),
        str(counts.failed),
        "-" if best is None else format_number(best.values[0]),
        "-" if best is None else str(best.number),
        row.question,
    )


def _given(value: object) -> str:
    """A range or choice of a study file in words."""
    if isinstance(value, Mapping):
        extra = (", log" if value.get("log") else "") + (
            f", step {format_value(value['step'])}" if value.get("step") else ""
        )
        return f"{format_value(value['low'])} to {format_value(value['high'])}{extra}"
    if isinstance(value, list):
        return ", ".join(format_value(each) for each in value)
    return "-" if value is None else format_value(value)


def _study_json(row: StudyRecord) -> dict[str, Any]:
    counts = row.counts
    return {
        "study": row.name,
        "directions": row.directions,
        "counts": {
            "budget": counts.budget,
            "complete": counts.complete,
            "pruned": counts.pruned,
            "failed": counts.failed,
            "running": counts.running,
            "waiting": counts.waiting,
            "paused": counts.paused,
            "remaining": counts.remaining,
        },
    }
