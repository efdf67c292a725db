"""The report: one self-contained file with the same numbers as every other command."""

import base64
import csv
import hashlib
import io
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.importance import get_param_importances

from search.analysis import charts
from search.analysis.html_report import policy, to_html, to_markdown
from search.analysis.importance import importances
from search.analysis.report import build_report, reasons
from search.storage import queries
from search.storage.read_only import open_reader
from tests.analysis.records import trial_record
from tests.harness import Harness

BUDGET: dict[str, Any] = {"trials": 12, "epochs": 2}
SEARCH: dict[str, Any] = {"pruner": "asha", "sampler": "random", "reduction": 2}
SPACE: dict[str, Any] = {
    "learning_rate": {"low": 0.001, "high": 0.3, "log": True},
    "activation": ["relu", "gelu"],
    "width": {"low": 4, "high": 12},
}
#: Keeps the tests that read one search in one process.
SEARCHED = pytest.mark.xdist_group("test_report_searched")
FINAL = ("--top", "2", "--seeds", "2", "--epochs", "1", "--no-baseline")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Harness:
    """A finished search with a verdict."""
    harness = Harness(tmp_path_factory.mktemp("searched"), images, cache)
    assert harness.train(budget=BUDGET, search=SEARCH, space=SPACE).code == 0
    assert harness.run("final", "s", *FINAL, "--workers", "1").code == 0
    return harness


class Page(HTMLParser):
    """URLs and scripts that a page makes a browser load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[tuple[str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self._script: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.references += [
            (key, value or "") for key, value in attrs if key in ("src", "href", "action") or key.startswith("on")
        ]
        self._script = attributes if tag == "script" else None
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts.append((self._script, data))
            self._script = None


@SEARCHED
def test_the_page_loads_nothing_and_may_run_only_its_inline_scripts(searched: Harness) -> None:
    page = Page(to_html(build_report(open_reader(searched.url), "s")))

    assert page.references == []
    inline = [text for attrs, text in page.scripts if "type" not in attrs]
    assert len(inline) == 2
    for text in inline:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in page.policy
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in page.policy
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            assert {"data", "layout"} <= json.loads(text).keys()


@SEARCHED
def test_the_page_is_written_to_the_given_path_and_stays_below_6_mb(searched: Harness) -> None:
    path = searched.folder / "out" / "s.html"

    answer = searched.run("report", "s", "--to", str(path))

    assert (answer.code, answer.out) == (0, f"{path}\n")
    assert path.stat().st_size < 6_000_000
    assert "The best of 12 trials is trial" in answer.err


@SEARCHED
def test_the_report_has_the_same_numbers_as_best_and_final(searched: Harness) -> None:
    text = searched.run("report", "s", "--markdown").out
    best = searched.run("best", "s", "--json").json
    verdict = searched.run("final", "s", *FINAL, "--json").json

    first = best["trials"][0]
    assert f"| {first['number']} | {first['values'][0]:.4f} |" in text
    assert f"{verdict['standings'][0]['test']:.4f}" in text
    counts = best["counts"]
    assert f"| complete | {counts['complete']} |" in text
    pruned = [int(count) for count in re.findall(r"\| pruned: [^|]*\| (\d+) \|", text)]
    assert sum(pruned) == counts["pruned"]


def test_importances_of_a_stored_study_equal_those_of_optuna_and_have_an_interval(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.analysis.importance.RESAMPLES", 40)
    harness.dirs.make()
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name="s", storage=harness.url, direction="maximize", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 0.1), n_trials=30)

    importance = importances(open_reader(harness.url), "s").importances

    assert {row.parameter: row.share for row in importance} == pytest.approx(get_param_importances(study))
    assert importance[0].parameter == "x"
    assert all(row.low <= row.high for row in importance)


@SEARCHED
def test_the_csv_has_one_row_per_trial(searched: Harness) -> None:
    rows = list(csv.DictReader(io.StringIO(searched.run("report", "s", "--csv").out)))

    assert [int(row["trial"]) for row in rows] == list(range(12))
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    assert all((row["state"] == "pruned") == bool(row["reason"]) for row in rows)
    assert all(0 <= float(row["last_value"]) <= 1 for row in rows)


def test_markup_in_a_question_is_escaped(harness: Harness) -> None:
    harness.create("s")
    engine = open_reader(harness.url)
    report = build_report(engine, "s")
    study = queries.study(engine, "s")
    evil = "</script><script>alert(1)</script>"

    text = to_html(replace(report, study=replace(study, question=evil)))

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


@SEARCHED
def test_names_of_classes_are_text_in_full_and_move_nothing(searched: Harness) -> None:
    report = build_report(open_reader(searched.url), "s")
    assert report.verdict is not None
    names = ("سبز 2", "red|pipe <b>x</b>", "a\u202eb", "cat")

    page, markdown = (
        write(replace(report, verdict=replace(report.verdict, classes=names))) for write in (to_html, to_markdown)
    )

    for text in (page, markdown):
        assert "\u2068سبز 2\u2069" in text  # the numbers beside it stay where they are
        assert r"a\u202eb" in text
        assert "\u202e" not in text
    assert "red|pipe &lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page


def test_a_plain_optuna_study_has_no_report_and_the_dashboard_is_named(harness: Harness) -> None:
    harness.dirs.make()
    optuna.create_study(study_name="plain", storage=harness.url).optimize(lambda trial: 1.0, n_trials=1)

    answer = harness.run("report", "plain")

    assert answer.code == 2
    assert "the study 'plain' was not made by convsearch" in answer.err
    assert "`convsearch dashboard` shows it" in answer.err


def test_a_study_name_cannot_move_the_report_out_of_its_folder(harness: Harness) -> None:
    harness.create("s")
    with closing(sqlite3.connect(harness.url.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE studies SET study_name = '../s'")

    answer = harness.run("report", "../s")

    assert answer.code == 2
    assert "a study's name must be up to 64 letters" in answer.err


def test_a_study_without_trials_has_a_report(harness: Harness) -> None:
    harness.create("s")

    page = harness.run("report", "s", "--to", str(harness.folder / "s.html"))
    text = harness.run("report", "s", "--markdown")

    assert (page.code, text.code) == (0, 0)
    assert "There is no answer yet: no trial has finished yet, and none is running; `convsearch resume s`" in text.out


def test_the_report_of_a_study_stopped_early_shows_the_curves_so_far(harness: Harness) -> None:
    file = harness.write(budget={"trials": 2, "epochs": 4000})
    harness.run_until(file, lambda: any(trial.epochs >= 2 for trial in harness.trials()))

    page = to_html(build_report(open_reader(harness.url), "s"))

    assert 'data-figure="figure-curves"' in page
    assert "There is no answer yet" in page


@SEARCHED
@pytest.mark.parametrize("kind", ["--markdown", "--csv"])
def test_markdown_and_csv_reports_can_be_written_to_a_file(searched: Harness, kind: str) -> None:
    path = searched.folder / "new" / "report.txt"

    written, printed = searched.run("report", "s", kind, "--to", str(path)), searched.run("report", "s", kind)

    assert written.out == f"{path}\n"
    assert path.read_text() == printed.out


def test_the_report_of_a_comparison_shows_its_effects(harness: Harness) -> None:
    answer = harness.train(
        space={"learning_rate": 0.05},
        compare=[{"name": "base"}, {"name": "gelu", "activation": "gelu"}],
        search={"repeats": 2},
        budget={"epochs": 1, "trials": 4},
    )
    assert answer.code == 0

    text = harness.run("report", "s", "--markdown").out

    assert "## Comparison" in text
    assert "difference to 'base' over repeats of the same seed" in text


def test_reasons_are_grouped_without_trial_specific_numbers() -> None:
    outcomes = [
        ("PRUNED", "rank 3 of 7 at step 1; the best 2 went on"),
        ("PRUNED", "rank 9 of 12 at step 1; the best 4 went on"),
        ("PRUNED", "impossible: 9 macs are more than 8"),
        ("FAIL", "ValueError: a bug"),
        ("COMPLETE", None),
    ]
    trials = [trial_record(number, state=state, reason=reason) for number, (state, reason) in enumerate(outcomes)]

    assert reasons(trials) == (
        ("pruned: fell behind at step 1", 2),
        ("pruned: impossible", 1),
        ("fail: ValueError: a bug", 1),
    )


def test_the_policy_of_a_page_without_scripts_allows_none() -> None:
    assert "script-src 'none'" in policy([])


def test_an_unwritable_path_is_refused_with_the_option_to_change(harness: Harness) -> None:
    harness.create("s")
    (harness.folder / "file").touch()

    answer = harness.run("report", "s", "--to", str(harness.folder / "file" / "s.html"))

    assert answer.code == 74
    assert "name another one with --to" in answer.err


def test_zero_has_its_own_place_on_a_log_axis() -> None:
    rates = [0.0, *(10.0 ** (-6 + number / 3) for number in range(12))]
    trials = [trial_record(number, params={"weight_decay": rate}) for number, rate in enumerate(rates)]
    values = {trial.number: 0.5 for trial in trials}

    figure = charts.slice_plot("weight_decay", trials, values, objective="accuracy", is_zero_or_log=True)

    axis = figure.layout.xaxis
    assert axis.type == "log"
    assert axis.ticktext == ("0", "1e-06", "1e-05", "0.0001", "0.001", "0.01")
    assert figure.data[0].x[0] == axis.tickvals[0] == pytest.approx(1e-7)
