"""Plotly figures of a study, for the report and the dashboard.

Each figure shows the numbers of a table next to it. Studies with thousands of trials are subsampled: the best trials,
and evenly spaced other ones.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import plotly.graph_objects as go

from search.analysis.importance import Importances
from search.display_names import shortened, visible
from search.storage.records import TrialRecord
from search.tables import format_value

#: Colour-blind-safe palette: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/.
ORANGE, SKY, GREEN, BLUE, RED, GREY = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#b0b0b0"
STATES = {"COMPLETE": BLUE, "PRUNED": GREY, "FAIL": RED, "RUNNING": ORANGE, "WAITING": SKY}
#: Maximum number of curves, and of best trials among them; more curves overlap, and each hundred adds 20 kB.
CURVES, BEST = 200, 10
#: Maximum number of points in a slice or a history.
POINTS = 1500
#: Width of the name of a class on an axis, in columns of a terminal; longer ones are shown in full under the pointer.
LABEL = 24
#: Maximum number of letters of all names for the pointer: those of 50 classes of 20 letters add 100 kB to a page.
HOVER = 50_000
#: Text under the pointer in a confusion matrix: true class and predicted class.
CELL = "true class: {}<br>predicted class: {}<br>%{{z:.1f}} %<extra></extra>"
#: Maximum number of distinct values of a numeric parameter with a categorical axis.
FEW = 8


def history(trials: Sequence[TrialRecord], *, objective: str) -> go.Figure:
    """Value of each trial over the training time spent until its end, and the best value so far."""
    done = sorted_by_end(trials)
    spent = hours_spent(done)
    judged = [(hours, trial, trial.values[0]) for hours, trial in zip(spent, done, strict=True) if _has_value(trial)]
    best, line = -math.inf, []
    for hours, _, value in judged:
        best = max(best, value)
        line.append((hours, best))
    sample = subsample(judged, POINTS)
    return _figure(
        go.Scatter(
            x=[hours for hours, _, _ in sample],
            y=[value for _, _, value in sample],
            mode="markers",
            name="trial",
            text=[hover_text(trial) for _, trial, _ in sample],
            marker={"color": SKY, "size": 7},
        ),
        go.Scatter(
            x=[hours for hours, _ in line],
            y=[value for _, value in line],
            mode="lines",
            name="best so far",
            line={"color": BLUE, "shape": "hv"},
        ),
        x="hours of training, all workers together",
        y=objective,
    )


def pareto(
    front: Sequence[TrialRecord], trials: Sequence[TrialRecord], *, objectives: Sequence[str], second: int
) -> go.Figure:
    """First objective over another one: all complete trials, and the Pareto front.

    Args:
        front: Trials on the Pareto front.
        trials: All trials of the study.
        objectives: Names of all objectives.
        second: Index of the objective on the x axis.
    """
    sample = subsample([trial for trial in trials if _has_value(trial)], POINTS)
    ranked = sorted(front, key=lambda trial: trial.values[second])
    figure = _figure(x=objectives[second], y=objectives[0])
    for rows, colour, name, mode in ((sample, SKY, "trial", "markers"), (ranked, GREEN, "front", "lines+markers")):
        figure.add_trace(
            go.Scatter(
                x=[trial.values[second] for trial in rows],
                y=[trial.values[0] for trial in rows],
                mode=mode,
                name=name,
                text=[hover_text(trial) for trial in rows],
                marker={"color": colour, "size": 7},
                line={"shape": "hv"},
            )
        )
    figure.update_layout(showlegend=True)
    return figure


def importance(importances: Importances) -> go.Figure:
    """Importance shares with their intervals, and the share that chance reaches."""
    rows = importances.importances[::-1]
    figure = _figure(
        go.Bar(
            x=[row.share for row in rows],
            y=[row.parameter for row in rows],
            orientation="h",
            marker={"color": BLUE},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, row.high - row.share) for row in rows],
                "arrayminus": [max(0.0, row.share - row.low) for row in rows],
                "color": ORANGE,
            },
        ),
        x="importance",
        y="",
        height=120 + 22 * len(rows),
    )
    figure.add_vline(x=importances.by_chance, line={"dash": "dot", "color": RED})
    return figure


def curves(trials: Sequence[TrialRecord], *, objective: str) -> go.Figure:
    """Learning curves over epochs: the best trials, other complete trials, and pruned ones."""
    drawn = [trial for trial in trials if trial.curve and trial.state != "FAIL"]
    ranked = sorted(drawn, key=lambda trial: (trial.state != "COMPLETE", -trial.curve[-1][1]))
    sample = [*ranked[:BEST], *subsample(ranked[BEST:], CURVES - BEST)]
    figure = _figure(x="epochs", y=objective)
    for trial in reversed(sample):
        figure.add_trace(_curve(trial, is_best=trial in ranked[:BEST] and trial.state == "COMPLETE"))
    return figure


def _curve(trial: TrialRecord, *, is_best: bool) -> go.Scatter:
    epochs = trial.epochs / trial.curve[-1][0]
    return go.Scatter(
        x=[step * epochs for step, _ in trial.curve],
        y=[value for _, value in trial.curve],
        mode="lines+markers" if len(trial.curve) < 3 else "lines",
        name=hover_text(trial, with_settings=False),
        showlegend=False,
        line={"color": GREEN if is_best else STATES[trial.state], "width": 2.5 if is_best else 1},
        marker={"size": 4},
    )


def slice_plot(
    key: str,
    trials: Sequence[TrialRecord],
    values: Mapping[int, float],
    *,
    objective: str,
    is_zero_or_log: bool = False,
) -> go.Figure:
    """Values over one parameter, for the trials that have it.

    Args:
        key: Name of the parameter in `TrialRecord.params`.
        trials: Trials of the study; those without the parameter or a value are left out.
        values: Value of each trial, by trial number.
        objective: Name of the objective, the label of the y axis.
        is_zero_or_log: Whether the parameter is zero or in a log range. Zero is then left of the log axis.
    """
    sample = subsample([trial for trial in trials if key in trial.params and trial.number in values], POINTS)
    settings = [trial.params[key] for trial in sample]
    is_range = all(map(_is_number, settings)) and len(set(settings)) > FEW
    shows_zero = is_range and is_zero_or_log and 0 in settings
    place_of_zero = min(value for value in settings if value) / 10 if shows_zero else 0
    settings = [value or place_of_zero for value in settings] if shows_zero else settings
    is_wide = is_range and min(settings) > 0 and max(settings) > 50 * min(settings)
    figure = _figure(
        go.Scatter(
            x=settings if is_range else [format_value(value) for value in settings],
            y=[values[trial.number] for trial in sample],
            mode="markers",
            text=[hover_text(trial) for trial in sample],
            marker={"color": [STATES[trial.state] for trial in sample], "size": 6, "opacity": 0.7},
        ),
        x=key,
        y=objective,
        height=300,
    )
    figure.update_xaxes(type="log" if is_wide else "-" if is_range else "category")
    if shows_zero:
        decades = range(math.floor(math.log10(place_of_zero)) + 1, math.ceil(math.log10(max(settings))) + 1)
        ticks = [10.0**decade for decade in decades]
        figure.update_xaxes(tickvals=[place_of_zero, *ticks], ticktext=["0", *(f"{tick:g}" for tick in ticks)])
    if not is_range:
        order = [format_value(value) for value in sorted(set(settings), key=_rank)]
        figure.update_xaxes(categoryorder="array", categoryarray=order)
    return figure


def parallel(keys: Sequence[str], trials: Sequence[TrialRecord], values: Mapping[int, float]) -> go.Figure:
    """Parallel coordinates: one line per trial over the axes of the parameters; the best tenth in colour.

    Args:
        keys: Names of the parameters, one axis each.
        trials: Trials of the study; those without a value or one of the parameters are left out.
        values: Value of each trial, by trial number.
    """
    drawn = [trial for trial in trials if trial.number in values and all(key in trial.params for key in keys)]
    ranked = sorted(drawn, key=lambda trial: -values[trial.number])
    best = {trial.number for trial in ranked[: max(1, len(ranked) // 10)]}
    positions = {key: _positions(key, drawn) for key in keys}
    figure = _figure(x="", y="")
    for trial in reversed([*ranked[:BEST], *subsample(ranked[BEST:], CURVES - BEST)]):
        figure.add_trace(
            go.Scatter(
                x=list(keys),
                y=[positions[key][format_value(trial.params[key])] for key in keys],
                mode="lines",
                showlegend=False,
                name=f"{hover_text(trial)}: {values[trial.number]:.4f}",
                line={"color": GREEN if trial.number in best else GREY, "width": 2 if trial.number in best else 0.7},
            )
        )
    figure.update_yaxes(showticklabels=False, range=[-0.05, 1.05])
    return figure


def timeline(trials: Sequence[TrialRecord]) -> go.Figure:
    """Last attempt of each trial over time, in as many lanes as trials ran at once."""
    timed = [trial for trial in trials if trial.started is not None and trial.completed is not None]
    lanes = _lanes(timed)
    figure = _figure(x="", y="", height=90 + 40 * (max(lanes, default=0) + 1))
    for state, colour in STATES.items():
        rows = [(lane, trial) for lane, trial in zip(lanes, timed, strict=True) if trial.state == state]
        if rows:
            figure.add_trace(
                go.Bar(
                    base=[_instant(trial.started) for _, trial in rows],
                    x=[
                        1000 * (_instant(trial.completed) - _instant(trial.started)).total_seconds()
                        for _, trial in rows
                    ],
                    y=[f"{lane + 1}" for lane, _ in rows],
                    orientation="h",
                    name=state.lower(),
                    text=[str(trial.number) for _, trial in rows],
                    hovertext=[hover_text(trial) for _, trial in rows],
                    marker={"color": colour, "line": {"color": "white", "width": 0.5}},
                )
            )
    figure.update_layout(barmode="overlay", xaxis_type="date", showlegend=True)
    return figure


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> go.Figure:
    """Confusion matrix in per cent of each true class.

    Args:
        counts: (classes, classes) image counts; rows are true classes, columns are predictions.
        classes: Names of the classes.
    """
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    labels = [_literal(name) for name in shortened(classes, LABEL)]
    names = [_literal(visible(name)) for name in classes]
    has_names = len(classes) * sum(map(len, names)) <= HOVER
    figure = _figure(
        go.Heatmap(
            z=shares,
            x=labels,
            y=labels,
            text=[[f"{share:.1f}" for share in row] for row in shares],
            texttemplate="%{text}" if len(classes) <= 12 else None,
            customdata=[[(true, predicted) for predicted in names] for true in names] if has_names else None,
            hovertemplate=CELL.format(*(("%{customdata[0]}", "%{customdata[1]}") if has_names else ("%{y}", "%{x}"))),
            colorscale="Blues",
            showscale=False,
        ),
        x="predicted class",
        y="true class",
        height=160 + 30 * min(20, len(classes)),
    )
    figure.update_xaxes(type="category")  # names of digits are no numbers
    figure.update_yaxes(type="category", autorange="reversed")
    return figure


def sorted_by_end(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Ended and paused trials in order of their end; a paused trial counts at the start of its last attempt."""
    begun = [trial for trial in trials if trial.started is not None and trial.state != "RUNNING"]
    return sorted(begun, key=lambda trial: _instant(trial.completed or trial.started))


def hours_spent(trials: Sequence[TrialRecord]) -> list[float]:
    """Cumulative training hours of all workers at the end of each trial."""
    spent, total = [], 0.0
    for trial in trials:
        total += trial.seconds / 3600
        spent.append(total)
    return spent


def subsample(items: Sequence[Any], limit: int) -> list[Any]:
    """All items, or `limit` evenly spaced ones from first to last."""
    if len(items) <= limit:
        return list(items)
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def hover_text(trial: TrialRecord, *, with_settings: bool = True) -> str:
    """Hover text of a trial: number and state, and by default its parameters."""
    heading = f"trial {trial.number}, {trial.state.lower()}"
    if not with_settings:
        return heading
    return "<br>".join((heading, *(f"{key} = {format_value(value)}" for key, value in trial.params.items())))


def _literal(text: str) -> str:
    """A text that Plotly shows as it is; it knows some elements and entities of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _figure(*traces: Any, x: str, y: str, height: int = 420) -> go.Figure:
    figure = go.Figure(data=list(traces))
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title=x,
        yaxis_title=y,
        showlegend=False,
        hovermode="closest",
    )
    return figure


def _positions(key: str, trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Position of each value of a parameter on its axis, from 0 to 1, evenly spaced in order."""
    values = sorted({trial.params[key] for trial in trials}, key=_rank)
    return {format_value(value): index / max(1, len(values) - 1) for index, value in enumerate(values)}


def _lanes(trials: Sequence[TrialRecord]) -> list[int]:
    """The first free lane for each trial."""
    lanes: dict[int, int] = {}
    free: list[datetime] = []
    for index in sorted(range(len(trials)), key=lambda index: _instant(trials[index].started)):
        begins, ends = _instant(trials[index].started), _instant(trials[index].completed)
        lane = next((lane for lane, until in enumerate(free) if until <= begins), len(free))
        free[lane : lane + 1] = [ends]
        lanes[index] = lane
    return [lanes[index] for index in range(len(trials))]


def _instant(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment


def _rank(value: Any) -> tuple[bool, Any]:
    """Sort key of a value: numbers first, by size; then booleans and strings, alphabetically."""
    return (False, value) if _is_number(value) else (True, str(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_value(trial: TrialRecord) -> bool:
    return trial.state == "COMPLETE" and bool(trial.values) and math.isfinite(trial.values[0])
