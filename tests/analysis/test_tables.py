"""Output for people and programs. The tests build their rows, in the form that `search.storage.queries` returns."""

import io
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from search import tables
from search.analysis import study_tables, trial_tables
from search.spec import stored_spec, study_file, study_spec
from search.storage.records import Ranking, StudyRecord, TrialCounts, TrialRecord
from tests.harness import Harness

TRIAL = TrialRecord(
    study="s",
    number=12,
    state="COMPLETE",
    values=(0.81234,),
    params={"optimizer": "sgd", "learning_rate": 0.031234567, "norm": True},
    config={"optimizer": "sgd", "learning_rate": 0.031234567, "norm": True},
    curve=((1, 0.5), (2, math.nan)),
    attempts=2,
    epochs=10.0,
    seconds=61.25,
    started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)
STUDY = StudyRecord(
    name="s",
    question="Which?",
    directions=("maximize",),
    counts=TrialCounts(budget=60, complete=20, pruned=15, failed=2, running=2),
    best=TRIAL,
    spec={"search": {"objective": "accuracy"}, "space": {"optimizer": ["adam", "sgd"], "width": 16}},
)
LONG = replace(TRIAL, params={f"a_rather_long_parameter_name_{index}": 0.123456789 for index in range(30)})


def test_best_as_json_has_the_documented_keys() -> None:
    answer = json.loads(tables.to_json(study_tables.best_json(Ranking(study=STUDY, trials=(TRIAL,)))))

    counts = {"budget": 60, "complete": 20, "pruned": 15, "failed": 2, "running": 2, "waiting": 0}
    counts |= {"paused": 0, "remaining": 21}
    assert answer == {
        "schema": 1,
        "study": "s",
        "directions": ["maximize"],
        "counts": counts,
        "trials": [
            {
                "number": 12,
                "state": "COMPLETE",
                "values": [0.81234],
                "params": {"optimizer": "sgd", "learning_rate": 0.031234567, "norm": True},
                "epochs": 10.0,
                "seconds": 61.25,
            }
        ],
    }


def test_show_as_json_adds_curve_reason_and_command_with_null_for_non_finite() -> None:
    answer = json.loads(tables.to_json(trial_tables.trial_json(replace(TRIAL, values=(math.inf,), reason="late"))))

    assert answer["curve"] == [[1, 0.5], [2, None]]
    assert answer["values"] == [None]
    assert (answer["attempts"], answer["reason"]) == (2, "late")
    assert answer["command"] == "convsearch run s --again 12"
    assert answer["started"] == "2026-01-02T03:04:05+00:00"


def test_a_paused_trial_is_distinguished_from_an_interrupted_one() -> None:
    paused = replace(TRIAL, state="WAITING", paused=3)

    assert "paused at step 3, until it is among the best there" in tables.to_text(
        trial_tables.trial_table(paused), width=80
    )
    assert trial_tables.trial_json(paused)["paused"] == 3
    assert "2 running, 4 paused, 1 waiting, 16 to begin" in study_tables.counts_line(
        replace(STUDY.counts, paused=4, waiting=1)
    )


def test_studies_as_json_has_the_best_trial_of_each_study() -> None:
    answer = study_tables.studies_json([STUDY, replace(STUDY, name="t", best=None)])

    assert [(study["study"], study["best"] and study["best"]["number"]) for study in answer["studies"]] == [
        ("s", 12),
        ("t", None),
    ]


@pytest.mark.parametrize(
    "grid",
    [
        pytest.param(study_tables.best_table(Ranking(study=STUDY, trials=(LONG, TRIAL))), id="best"),
        pytest.param(trial_tables.trial_table(LONG), id="show"),
        pytest.param(study_tables.studies_table([replace(STUDY, question="why " * 60, name="n" * 64)]), id="studies"),
        pytest.param(
            study_tables.spec_table(stored_spec.dump(study_spec.load(study_file.find("cifar10")))), id="validate"
        ),
    ],
)
@pytest.mark.parametrize("ruled", [True, False])
def test_a_table_fits_80_columns_and_loses_no_words(grid: tables.Table, ruled: bool) -> None:
    shown = tables.to_text(grid, width=80, ruled=ruled)

    assert max(map(len, shown.splitlines())) <= 80
    letters = "".join(shown.split())
    for row in grid.rows:
        assert all(word in letters for word in row[-1].split() if len(word) < 20)


def test_piped_output_has_one_line_per_trial_and_no_escape_codes() -> None:
    stream = io.StringIO()

    tables.write_table(study_tables.best_table(Ranking(study=STUDY, trials=(LONG, TRIAL))), stream, {"TERM": "xterm"})

    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert [line.split()[0] for line in lines if "0.8123" in line] == ["12", "12"]
    assert max(map(len, lines)) > 1000


def test_a_table_shows_the_counts_the_best_and_the_next_command() -> None:
    shown = tables.to_text(study_tables.best_table(Ranking(study=STUDY, trials=(TRIAL,))), width=80)

    assert shown == (
        "Which?\n"
        "s: 37 of 60 trials finished: 20 complete, 15 pruned, 2 failed; 2 running, 0\n"
        "waiting, 21 to begin\n"
        "\n"
        "trial  accuracy  epochs    time  parameters\n"
        "   12    0.8123      10  61.2 s  optimizer=sgd learning_rate=0.03123 norm=true\n"
        "\n"
        "`convsearch show s 12` shows the best trial in full\n"
    )


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        pytest.param(TrialCounts(budget=9), "none is running; `convsearch resume s` goes on", id="not begun"),
        pytest.param(TrialCounts(budget=9, running=2), "the first ones are running", id="running"),
        pytest.param(TrialCounts(budget=9, failed=3), "`convsearch show s NUMBER` shows the reason", id="all failed"),
        pytest.param(
            TrialCounts(budget=9, pruned=3), "were pruned or failed; `convsearch resume s` goes on", id="pruned"
        ),
        pytest.param(
            TrialCounts(budget=3, pruned=3), "`convsearch resume s --trials 13` raises the budget", id="spent"
        ),
        pytest.param(TrialCounts(budget=9, complete=3), "no complete trial has a finite value", id="infinite"),
    ],
)
def test_a_study_without_a_best_trial_shows_the_reason_and_the_next_step(counts: TrialCounts, words: str) -> None:
    ranking = Ranking(study=replace(STUDY, counts=counts, best=None), trials=())

    assert words in tables.to_text(study_tables.best_table(ranking), width=None)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"search": {"sampler": "grid"}, "space": {"width": [16, 32]}}, id="grid"),
        pytest.param({"space": {"width": 16}}, id="one configuration"),
        pytest.param({"space": {"width": [16], "crop": {"low": 2, "high": 2}}}, id="ranges of one value"),
    ],
)
def test_no_more_trials_are_offered_when_the_space_is_exhausted(spec: dict[str, Any]) -> None:
    study = replace(STUDY, counts=TrialCounts(budget=1, pruned=1), best=None, spec=spec)
    shown = tables.to_text(study_tables.best_table(Ranking(study=study, trials=())), width=None)

    assert study_tables.next_commands(study) == ("in a browser:    convsearch dashboard",)
    assert "were pruned or failed; `convsearch show s NUMBER` shows the reason" in shown


def test_a_final_training_offers_no_command_that_repeats_it() -> None:
    row = replace(TRIAL, study="s.final")

    assert "again" not in tables.to_text(trial_tables.trial_table(row), width=None)
    assert trial_tables.trial_json(row, None)["command"] is None


def test_stored_text_cannot_control_the_terminal() -> None:
    shown = tables.to_text(trial_tables.trial_table(replace(TRIAL, reason="\x1b[2J\rgone [bold]x[/bold]")), width=80)

    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "gone [bold]x[/bold]" in shown


@pytest.mark.parametrize(
    ("counts", "best", "lines"),
    [
        pytest.param(
            TrialCounts(budget=1, complete=1), TRIAL, ("more trials:     convsearch resume s --trials 2",), id="done"
        ),
        pytest.param(
            TrialCounts(budget=2, waiting=1), None, ("go on:           convsearch resume s",), id="broken off"
        ),
        pytest.param(
            TrialCounts(budget=1, failed=1), None, ("try failed ones: convsearch resume s --retry-failed",), id="bad"
        ),
    ],
)
def test_the_next_commands_are_named_after_a_run(
    counts: TrialCounts, best: TrialRecord | None, lines: tuple[str, ...]
) -> None:
    commands = study_tables.next_commands(replace(STUDY, counts=counts, best=best))

    assert commands == (*lines, "in a browser:    convsearch dashboard")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.06, "4.1 s"), (99.96, "1 min 40 s"), (200.4, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_a_duration_is_written_for_people(seconds: float, text: str) -> None:
    assert tables.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.81236, "0.8124"), (0.0, "0.0000"), (1234567.0, "1.235e+06"), (0.00001, "1e-05"), (math.nan, "nan")],
)
def test_a_value_is_written_with_four_places_or_digits(value: float, text: str) -> None:
    assert tables.format_number(value) == text


def test_csv_has_a_column_per_parameter_and_leaves_missing_values_empty() -> None:
    other = replace(TRIAL, number=3, values=(-0.5,), params={"optimizer": "adam", "dropout": 0.25, "ema": -1})

    shown = tables.to_csv(*study_tables.best_csv(Ranking(study=STUDY, trials=(TRIAL, other))))

    assert shown == (
        "trial,accuracy,epochs,seconds,optimizer,learning_rate,norm,dropout,ema\n"
        "12,0.81234,10.0,61.25,sgd,0.031234567,true,,\n"
        "3,-0.5,10.0,61.25,adam,,,0.25,-1\n"
    )


def test_csv_of_several_objectives_has_a_column_each_and_unique_names() -> None:
    study = replace(STUDY, directions=("maximize", "minimize"))
    trial = replace(TRIAL, values=(0.5, 3.0), params={"epochs": 7})

    shown = tables.to_csv(*study_tables.best_csv(Ranking(study=study, trials=(trial,))))

    assert shown == "trial,accuracy,value_1,epochs,seconds,params_epochs\n12,0.5,3.0,10.0,61.25,7\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\t=1", r"'\t=1"),
        ("\r=1", r"'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-1", "-1"),
        ("-1.5e-3", "-1.5e-3"),
        (-1, "-1"),
        (-1.5e-7, "-1.5e-07"),
        (math.inf, "inf"),
        (True, "true"),
        (None, ""),
        ('a,"b"', '"a,""b"""'),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\x1b[2J"),
    ],
    ids=ascii,
)
def test_a_csv_cell_is_never_evaluated_as_a_formula(value: object, cell: str) -> None:
    assert tables.to_csv(("a", "b"), [(value, 1)]) == f"a,b\n{cell},1\n"


def test_best_prints_csv_and_refuses_csv_with_json(harness: Harness) -> None:
    assert harness.train(budget={"trials": 1, "epochs": 1}).code == 0

    answer, both = harness.run("best", "s", "--csv", "--top", "3"), harness.run("best", "s", "--csv", "--json")

    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("trial,accuracy,epochs,seconds,learning_rate\n0,")
    assert answer.out.count("\n") == 2
    assert (both.code, both.out) == (2, "")
    assert "--csv and --json exclude each other" in both.err
