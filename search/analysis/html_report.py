"""Renders a report as a self-contained HTML file or as Markdown.

The page loads nothing and runs only its inline scripts (a Content-Security-Policy lists their hashes). It can be
mailed, archived, and opened without a network.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from search.analysis import charts, effects, pruner_audit, test_report
from search.analysis.importance import Importances
from search.analysis.recipe_table import recipe_table
from search.analysis.report import Report
from search.display_names import isolated
from search.spec import stored_spec
from search.spec.search_space import base_name, one_of_domains
from search.tables import Table, format_duration, format_number, format_value, format_values

#: Maximum number of slice plots, and of axes in the parallel coordinates.
SLICES, AXES = 8, 8
#: Script that draws every figure of the page.
DRAW = """\
for (const box of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(box.dataset.figure).textContent);
  Plotly.newPlot(box, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}
"""


def to_html(report: Report) -> str:
    """Renders the report as one HTML page without external resources."""
    plots = figures(report)
    scripts = [get_plotlyjs(), DRAW] if plots else []
    return _template().render(
        report=report,
        figures={name: _embeddable(figure) for name, figure in plots.items()},
        scripts=scripts,
        policy=policy(scripts),
        tables=tables(report),
        notes=notes(report),
        titles=title,
    )


def policy(scripts: Sequence[str]) -> str:
    """Content-Security-Policy of the page: a browser runs these scripts and loads nothing."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def to_markdown(report: Report) -> str:
    """Renders the report as Markdown, without figures."""
    notes_by_heading = notes(report)
    lines = [f"# {report.study.name}", "", report.study.question, "", *report.answer, ""]
    for name, grid in tables(report).items():
        lines += [
            f"## {name}",
            "",
            *grid.before,
            "",
            *_markdown_table(grid),
            "",
            *(("```", *grid.after, "```") if any(grid.after) else ()),
            "",
            *notes_by_heading.get(name, ()),
            "",
        ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _markdown_table(grid: Table) -> list[str]:
    if not grid.rows:
        return []
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (grid.columns, *grid.rows)]
    return [f"| {' | '.join(row)} |" for row in (cells[0], ["---"] * len(cells[0]), *cells[1:])]


def tables(report: Report) -> dict[str, Table]:
    """All tables by heading, in page order."""
    grids: dict[str, Table] = {}
    if report.verdict is not None:
        grids["Verdict"] = test_report.final_result_table(
            replace(report.verdict, classes=tuple(map(isolated, report.verdict.classes))),
            test_report.test_set_access_lines(report.accesses, report.verdict.study),
        )
    if report.comparison is not None:
        grids["Comparison"] = report.comparison
    if report.importances.importances:
        grids["Importance"] = _importance_grid(report.importances)
    if report.insights.effects:
        grids["Associations with good trials"] = _insight_grid(report)
    if report.best:
        grids["Best trials"] = _best_grid(report)
    if report.study.recipe:
        grids["Recipe"] = recipe_table(report.study.recipe["settings"])
    grids["Trials"] = _counts_grid(report)
    grids["Cost"] = _cost_grid(report)
    grids["Where it comes from"] = _origin_grid(report)
    return grids


def notes(report: Report) -> dict[str, tuple[str, ...]]:
    """Notes below the tables, by heading."""
    pruner = report.study.spec.get("search", {}).get("pruner")
    return {
        "Importance": (
            f"PED-ANOVA on {report.importances.trials} complete trials: how much each parameter tells about "
            "membership in the best tenth. 95 % intervals by bootstrap over trials. If nothing matters, the most "
            f"important parameter reaches up to {report.importances.by_chance:.2f} in 19 of 20 studies.",
        ),
        "Associations with good trials": (effects.caveat(report.insights),),
        "Trials": pruner_audit.lines(report.audit) if pruner not in (None, "none") else (),
    }


def figures(report: Report) -> dict[str, go.Figure]:
    """All figures by name; figures without data are left out."""
    trials, objective = report.trials, report.study.objective
    plots: dict[str, go.Figure] = {}
    if report.verdict is not None and report.final_config is not None:
        plots["confusion"] = charts.confusion(report.final_config.confusion.tolist(), report.verdict.classes)
    if report.importances.importances:
        plots["importance"] = charts.importance(report.importances)
    for index, name in enumerate(report.study.objectives[1:], 1):
        if report.best:
            objectives = report.study.objectives
            plots[f"pareto-{name}"] = charts.pareto(report.best, trials, objectives=objectives, second=index)
    if any(trial.values for trial in charts.sorted_by_end(trials)):
        plots["history"] = charts.history(trials, objective=objective)
    if any(trial.curve for trial in trials):
        plots["curves"] = charts.curves(trials, objective=objective)
    values = {trial.number: trial.curve[-1][1] for trial in trials if trial.curve and trial.violation <= 0}
    keys = _keys(report)
    zero_or_log = _zero_or_log(report)
    plots |= {
        f"slice-{key}": charts.slice_plot(key, trials, values, objective=objective, is_zero_or_log=key in zero_or_log)
        for key in keys[:SLICES]
        if any(key in trial.params and trial.number in values for trial in trials)
    }
    common = [key for key in keys if all(key in trial.params for trial in trials if trial.number in values)]
    if len(common) > 1 and values:
        plots["parallel"] = charts.parallel(common[:AXES], trials, values)
    if charts.sorted_by_end(trials):
        plots["timeline"] = charts.timeline(trials)
    return plots


def _keys(report: Report) -> list[str]:
    """Sampled parameters, the most important first."""
    drawn_keys = dict.fromkeys(key for trial in report.trials for key in trial.params)
    rows = report.importances.importances or report.insights.effects
    ranked = [base_name(row.parameter) for row in rows]
    return [
        *dict.fromkeys(key for key in ranked if key in drawn_keys),
        *(key for key in drawn_keys if key not in ranked),
    ]


def _zero_or_log(report: Report) -> frozenset[str]:
    """The parameters that are zero or in a log range."""
    space = stored_spec.restore(report.study.spec).space
    return frozenset(
        base_name(name)
        for name, domain in one_of_domains(space).items()
        if 0 in domain and any(range_.log for range_ in domain.ranges.values())
    )


def _embeddable(figure: go.Figure) -> str:
    """The figure as JSON that is safe inside an HTML script element."""
    return str(figure.to_json()).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _importance_grid(importances: Importances) -> Table:
    return Table(
        columns=("parameter", "importance", "low", "high"),
        rows=tuple(
            (row.parameter, f"{row.share:.3f}", f"{row.low:.3f}", f"{row.high:.3f}") for row in importances.importances
        ),
    )


def _insight_grid(report: Report) -> Table:
    objective = report.study.objective
    sentences = [
        effects.sentence(effect, report.insights, objective=objective) for effect in report.insights.significant
    ]
    return Table(
        columns=("parameter", "value", "trials", "others", "difference", "low", "high"),
        rows=tuple(
            (
                effect.parameter,
                effect.group,
                str(effect.n),
                str(effect.others),
                f"{effect.difference:+.4f}",
                f"{effect.interval.low:+.4f}",
                f"{effect.interval.high:+.4f}",
            )
            for effect in report.insights.effects
        ),
        before=tuple(f"{line}." for line in sentences) or ("No difference exceeds chance.",),
    )


def _best_grid(report: Report) -> Table:
    first, *others = (trial.params for trial in report.best)
    shared = {
        key: value for key, value in first.items() if others and all(params.get(key) == value for params in others)
    }
    extra = ("averaged",) if any(trial.averaged for trial in report.best) else ()
    weights = () if "parameters" in report.study.objectives else ("parameters",)
    return Table(
        columns=("trial", *report.study.objectives, *extra, "epochs", "trained", *weights, "settings"),
        rows=tuple(
            (
                str(trial.number),
                *map(format_number, trial.values),
                *("-" if trial.averaged is None else format_number(trial.averaged["value"]) for _ in extra),
                format_value(trial.epochs),
                format_duration(trial.seconds),
                *("-" if trial.parameters is None else f"{trial.parameters:,}" for _ in weights),
                format_values({key: value for key, value in trial.params.items() if key not in shared}) or "-",
            )
            for trial in report.best
        ),
        before=(f"All of them have {format_values(shared)}.",) if shared else (),
    )


def _counts_grid(report: Report) -> Table:
    counts = report.study.counts
    rows = [("complete", str(counts.complete)), *((reason, str(count)) for reason, count in report.reasons)]
    open_ones = {
        "running": counts.running,
        "waiting": counts.waiting,
        "paused": counts.paused,
        "to begin": counts.remaining,
    }
    rows += [(state, str(count)) for state, count in open_ones.items() if count]
    return Table(columns=("state", "trials"), rows=tuple(rows))


def _cost_grid(report: Report) -> Table:
    cost = report.spent
    rows = [
        ("training, all workers together", format_duration(cost.seconds)),
        ("on the clock", format_duration(cost.wall_s)),
    ]
    if cost.saved_s:
        rows.append(("saved by pruning, against training every trial to its end", format_duration(cost.saved_s)))
    rows += [
        (f"until {report.study.objective} {level:g} (trial {trial})", format_duration(seconds))
        for level, trial, seconds in cost.reached
    ]
    return Table(columns=("item", "time"), rows=tuple(rows))


def _origin_grid(report: Report) -> Table:
    study = report.study
    data = {key: study.data.get(key) for key in ("fingerprint", "image_size") if study.data.get(key) is not None}
    counts = study.data.get("train_counts")
    rows = [
        *((key, str(value)) for key, value in study.versions.items()),
        *((key, str(value)) for key, value in data.items()),
    ]
    if counts:
        rows.append(("training images", f"{sum(counts):,} of {len(counts)} classes, validation among them"))
    rows += [("images", note) for note in study.data.get("notes", ())]
    for table in ("data", "budget", "search", "final"):
        settings = {
            key: value for key, value in (study.spec.get(table) or {}).items() if key != "path" and value is not None
        }
        rows.append((f"[{table}]", format_values(settings)))
    return Table(columns=("item", "value"), rows=tuple(row for row in rows if row[1]))


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["numeric"] = lambda cell: bool(re.fullmatch(r"[-+]?[\d.,]+( s)?|-", cell))
    return environment.get_template("html_report.html")


def title(name: str) -> str:
    """Title of a figure, by its name in `figures`."""
    fixed: dict[str, Any] = {
        "confusion": "Confusion: per cent of each true class, by predicted class",
        "importance": "Importance (bars: intervals; dotted: the level that chance reaches)",
        "history": "Best so far, over hours of training",
        "curves": "Learning curves: the best (green), others, pruned (grey)",
        "parallel": "All parameters side by side: the best tenth (green)",
        "timeline": "Workers over time",
    }
    if name.startswith("pareto-"):
        return f"What {name.removeprefix('pareto-')} buy: the Pareto front (green)"
    return str(fixed.get(name) or f"By {name.removeprefix('slice-')}")
