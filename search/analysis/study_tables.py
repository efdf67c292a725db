"""Tables, JSON values and CSV rows about studies."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from search.analysis import obstacles
from search.analysis.averaged import copies, cost
from search.analysis.trial_tables import trial_summary_json
from search.storage.records import Ranking, RunningTrial, StudyRecord, TrialCounts, TrialRecord
from search.tables import Table, format_duration, format_number, format_value, format_values

NO_RECIPE: Final[Mapping[str, Mapping[str, Any]]] = {}


def studies_table(rows: Sequence[StudyRecord]) -> Table:
    """One row per study."""
    if not rows:
        return Table(columns=(), rows=(), before=("there are no studies yet; `convsearch run quickstart` starts one",))
    return Table(
        columns=("study", "finished", "running", "waiting", "failed", "best", "trial", "question"),
        fixed=("finished",),
        rows=tuple(_study_line(row) for row in rows),
        after=("", f"`convsearch best {shlex.quote(rows[0].name)}` shows the best trials of a study"),
    )


def workers_table(rows: Sequence[RunningTrial]) -> Table:
    """One row per worker with a running trial."""
    if not rows:
        return Table(columns=(), rows=(), before=("no worker is running a trial",))
    return Table(
        columns=("host", "process", "study", "trial", "since", "epochs", "value"),
        rows=tuple(_worker_line(running) for running in rows),
        after=("", "since: start of this attempt, UTC; dead workers are listed until their lease expires"),
    )


def workers_json(rows: Sequence[RunningTrial]) -> dict[str, Any]:
    """JSON value of the same rows, with the attempt of each trial."""
    return {
        "workers": [
            {
                "host": running.host,
                "pid": running.pid,
                "study": running.trial.study,
                "trial": running.trial.number,
                "since": None if running.trial.started is None else running.trial.started.isoformat(),
                "attempt": running.trial.attempts,
                "epochs": running.trial.epochs,
            }
            for running in rows
        ]
    }


def _worker_line(running: RunningTrial) -> tuple[str, ...]:
    trial = running.trial
    last = trial.curve[-1:]
    return (
        running.host or "?",
        "?" if running.pid is None else str(running.pid),
        trial.study,
        str(trial.number),
        f"{trial.started:%Y-%m-%d %H:%M:%S}" if trial.started else "",
        format_value(trial.epochs),
        format_number(last[0][1]) if last else "",
    )


def best_table(ranking: Ranking, delivered: str = "") -> Table:
    """Table of the best trials; without any, the state of the study and the command to continue.

    Args:
        ranking: The best trials, or those of the Pareto front.
        delivered: Sentence about the configuration that the search delivers; empty for other studies.
    """
    study = ranking.study
    head = ((study.question,) if study.question else ()) + (f"{study.name}: {counts_line(study.counts)}",)
    head += (all_tried(study),) if study.is_exhausted else ()
    if not ranking.trials:
        return Table(columns=(), rows=(), before=(*head, *explain_no_best(study, ranking.obstructed)))
    tested = [trial.averaged["augmentation"] for trial in ranking.trials if trial.averaged is not None]
    extra = ("averaged",) if tested else ()
    rows = tuple(
        (
            str(trial.number),
            *map(format_number, trial.values),
            *("-" if trial.averaged is None else format_number(trial.averaged["value"]) for _ in extra),
            format_value(trial.epochs),
            format_duration(trial.seconds),
            format_values(trial.params),
        )
        for trial in ranking.trials
    )
    front = (
        "the Pareto front: no other trial is as good in all objectives and better in one"
        if len(study.objectives) > 1
        else ""
    )
    if ranking.front > len(rows):
        front += f"; {len(rows)} of its {ranking.front} trials (--top {ranking.front} shows all)"
    return Table(
        columns=("trial", *study.objectives, *extra, "epochs", "time", "settings" if front else "parameters"),
        fixed=("trial", *study.objectives, *extra, "time"),
        rows=rows,
        before=(*head, *((front,) if front else ()), ""),
        after=(
            "",
            *((delivered,) if delivered else ()),
            *(f"averaged: predictions over {copies(kind)}, {cost(kind)}" for kind in tested[:1]),
            *obstacles.report(study, ranking.obstructed),
            f"`convsearch show {shlex.quote(study.name)} {ranking.trials[0].number}` shows the best trial in full",
        ),
    )


def studies_json(rows: Sequence[StudyRecord]) -> dict[str, Any]:
    """JSON value of `studies --json`."""
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
    """JSON value of `best --json`."""
    return _study_json(ranking.study) | {"trials": [trial_summary_json(trial) for trial in ranking.trials]}


def best_csv(ranking: Ranking) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Columns and rows of `best --csv`; a parameter that a trial lacks is empty."""
    extra = ("averaged",) if any(trial.averaged for trial in ranking.trials) else ()
    fixed = ("trial", *ranking.study.objectives, *extra, "epochs", "seconds")
    names = tuple(dict.fromkeys(name for trial in ranking.trials for name in trial.params))
    rows: list[tuple[object, ...]] = [
        (
            trial.number,
            *trial.values,
            *((trial.averaged or {}).get("value") for _ in extra),
            trial.epochs,
            trial.seconds,
            *(trial.params.get(name) for name in names),
        )
        for trial in ranking.trials
    ]
    return (*fixed, *(f"params_{name}" if name in fixed else name for name in names)), rows


def spec_table(
    stored: Mapping[str, Any],
    configurations: int | None = None,
    *,
    bases: Sequence[str] = (),
    recipe: Mapping[str, Mapping[str, Any]] = NO_RECIPE,
) -> Table:
    """Table of `validate`: all settings of a spec, sampled parameters before fixed ones.

    Args:
        stored: The spec, as dumped by `stored_spec.dump`.
        configurations: Number of configurations of a search in a finite space; None for other studies.
        bases: Paths of the base of its file, the base of this one, and so on.
        recipe: The settings of its recipe, key -> value and reason.
    """
    space = stored["space"]
    drawn = {key: value for key, value in space.items() if isinstance(value, list | dict) and key != "when"}
    lines = [("base", ", ".join(bases))] if bases else []
    lines += [
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
    if configurations is not None:
        lines.append(("[space] configurations", _configurations_text(configurations, stored["budget"]["trials"])))
    lines += [("[[try]]", format_values(point)) for point in stored["try"]]
    lines += [(f"recipe {key}", f"{format_value(made['value'])}: {made['reason']}") for key, made in recipe.items()]
    lines += [("[[compare]]", format_values(row)) for row in stored["compare"]]
    return Table(
        columns=("", ""), rows=tuple(lines), before=(*((stored["question"],) if stored["question"] else ()), "")
    )


def next_commands(row: StudyRecord, *, is_judged: bool = False) -> tuple[str, ...]:
    """Commands that continue a study after a run, one per line.

    Args:
        row: The study.
        is_judged: Whether its last training has ended, too.
    """
    name, counts = shlex.quote(row.name), row.counts
    lines = []
    is_spent = row.nothing_found or (is_judged and row.hours is not None and bool(counts.to_do))
    if is_spent and (is_judged or not row.spec.get("final")):
        lines.append(f"search on:       convsearch resume {name} --hours 1")
    elif counts.to_do:
        lines.append(f"go on:           convsearch resume {name}")
    if counts.failed:
        lines.append(f"try failed ones: convsearch resume {name} --retry-failed")
    elif counts.finished >= counts.budget and can_grow(row):
        lines.append(f"more trials:     convsearch resume {name} --trials {2 * counts.budget}")
    if is_judged and not row.recipe:  # a run on images writes both
        lines.append(f"as a page:       convsearch report {name}")
        lines.append(f"as a model:      convsearch export {name}")
    return (*lines, "in a browser:    convsearch dashboard")


def can_grow(row: StudyRecord) -> bool:
    """Whether a larger budget gives new configurations: a grid and a finite space have a fixed number of them."""
    is_grid = row.spec.get("search", {}).get("sampler") == "grid"
    is_spent = row.configurations is not None
    return not (is_grid or is_spent) and any(map(_is_drawn, row.spec.get("space", {}).values()))


def _is_drawn(stored: object) -> bool:
    """Whether an entry of a stored [space] is sampled, as [space.when] is."""
    if isinstance(stored, Mapping):
        return "low" not in stored or stored["low"] != stored["high"]
    return isinstance(stored, list) and len(stored) > 1


def all_tried(row: StudyRecord) -> str:
    """`all 16 configurations of 'grid' are tried`: the state of an exhausted search."""
    if row.configurations == 1:
        return f"the only configuration of {row.name!r} is tried"
    return f"all {row.configurations} configurations of {row.name!r} are tried"


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


def explain_no_best(study: StudyRecord, trials: Sequence[TrialRecord] = ()) -> tuple[str, ...]:
    """Explains why there is no best trial, with the settings to change or the command to continue.

    Args:
        study: The study.
        trials: Its trials, or those that ended without a result.
    """
    if obstacles.are_all(study, trials):
        return obstacles.report(study, trials)
    return (*obstacles.report(study, trials), _explain_state(study))


def _explain_state(study: StudyRecord) -> str:
    counts, name = study.counts, shlex.quote(study.name)
    if counts.to_do:
        command = f"`convsearch resume {name}` goes on"
    elif can_grow(study):
        command = f"`convsearch resume {name} --trials {counts.budget + 10}` raises the budget"
    else:
        command = f"`convsearch show {name} NUMBER` shows the reason"
    if counts.complete:
        return "no complete trial has a finite value, so there is no best one"
    if counts.failed and counts.failed == counts.finished:
        return f"every finished trial has failed; `convsearch show {name} NUMBER` shows the reason and the log file"
    if counts.finished:
        return f"no trial is complete yet: those that finished were pruned or failed; {command}"
    if counts.running:
        return "no trial has finished yet; the first ones are running"
    if study.selection is not None:
        return "no trial was trained to its end in the hours of the search"
    return f"no trial has finished yet, and none is running; {command}"


def _study_line(row: StudyRecord) -> tuple[str, ...]:
    counts, best = row.counts, row.best
    return (
        row.name,
        f"{counts.finished} of {counts.budget}" + (", all configurations" if row.is_exhausted else ""),
        str(counts.running),
        str(counts.waiting + counts.paused),
        str(counts.failed),
        "-" if best is None else format_number(best.values[0]),
        "-" if best is None else str(best.number),
        row.question,
    )


def _configurations_text(configurations: int, trials: int) -> str:
    if trials <= configurations:
        return f"{configurations}; none is tried twice"
    return f"{configurations}; each is tried once, so at most {configurations} of {trials:,} trials run"


def _given(value: object) -> str:
    """Text of a range, a choice or a single value of a study file."""
    if isinstance(value, Mapping):
        extra = (", log" if value.get("log") else "") + (
            f", step {format_value(value['step'])}" if value.get("step") else ""
        )
        return f"{format_value(value['low'])} to {format_value(value['high'])}{extra}"
    if isinstance(value, list):
        return (" or " if any(isinstance(option, Mapping) for option in value) else ", ").join(map(_given, value))
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
    } | ({} if row.configurations is None else {"configurations": row.configurations})
