"""A search begins with a known point and delivers it unless another trial beats it; real processes and trainings."""

import json
import signal
from typing import Any

import pytest

from search.errors import AllTrialsImpossibleError
from search.storage import attr_keys, queries
from search.storage.rdb import Storage
from search.storage.records import StudyRecord
from search.study import stored_study
from tests.faults.commands import start_with_faults
from tests.faults.injector.sitecustomize import Fault
from tests.harness import IDLE, Harness, reader, toml

#: A search in which no trial can beat the known point.
HOPELESS: dict[str, Any] = {
    "points": [{"learning_rate": 0.05}],
    "space": {"learning_rate": [0.05, {"low": IDLE, "high": 4 * IDLE}]},
    "search": {"pruner": "asha", "sampler": "random", "patience": 3},
    "budget": {"trials": 300, "epochs": 3, "hours": 1.0},
}
FINAL: dict[str, Any] = {"epochs": 1}


def row(harness: Harness, name: str = "s") -> StudyRecord:
    return queries.study(reader(harness.url), name)


def test_a_search_without_an_improvement_stops_and_every_output_names_the_baseline(harness: Harness) -> None:
    answer = harness.run("run", harness.write(**HOPELESS, final=FINAL), "--workers", "1")

    assert answer.code == 0
    assert "the search stopped after" in answer.err
    assert "trial 0 leads" in answer.err
    assert "are left for its last training" in answer.err
    assert 4 <= harness.counts().begun < 300
    assert row(harness).nothing_found
    (compared,) = row(harness, "s.final").spec["compare"]
    assert compared["name"] == "trial 0"
    reason = row(harness, "s.final").selection
    assert reason is not None
    assert reason["trial"] == 0
    sentence = f"{reason['reason'][0].upper()}{reason['reason'][1:]}."
    assert "Trial 0, the baseline, is delivered: of" in sentence
    assert sentence in answer.out
    assert sentence in harness.run("best", "s").out
    assert harness.run("best", "s", "--json").json["selection"] == reason
    assert sentence in harness.run("report", "s", "--markdown").out
    assert (
        harness.run("export", "s", "--to", str(harness.folder / "model"), "--json").json["card"]["verdict"][
            "configuration"
        ]
        == "trial 0"
    )


def test_a_search_that_found_nothing_goes_on_only_with_a_larger_budget(harness: Harness) -> None:
    file = harness.write(**HOPELESS)
    first = harness.train(**HOPELESS)
    begun = harness.counts().begun
    again = harness.run("run", file, "--workers", "1")
    unchanged = harness.counts().begun
    more = harness.run("run", file, "--workers", "1", "--trials", "400")

    assert (first.code, again.code, more.code) == (0, 0, 0)
    assert "the search stopped after" in again.err
    assert unchanged == begun
    assert begun < harness.counts().begun < 400
    assert "`convsearch final s --hours" in first.err


def test_a_challenger_that_beats_the_baseline_is_delivered_and_the_search_goes_on(harness: Harness) -> None:
    changes: dict[str, Any] = {
        "points": [{"learning_rate": IDLE}, {"learning_rate": 0.05}],
        "space": {"learning_rate": [0.05, {"low": IDLE, "high": 2 * IDLE}]},
        "search": {"pruner": "asha", "sampler": "random", "patience": 2},
        "budget": {"trials": 6, "epochs": 3, "hours": 1.0},
        "final": FINAL,
    }

    answer = harness.run("run", harness.write(**changes), "--workers", "1")

    assert answer.code == 0
    assert harness.counts().begun == 6
    assert not row(harness).nothing_found
    selected = row(harness, "s.final").selection
    assert selected is not None
    assert selected["trial"] != 0
    assert harness.trials()[selected["trial"]].config["learning_rate"] == 0.05
    assert f"Trial {selected['trial']} is delivered: it beats trial 0, the baseline, by" in answer.out


def test_workers_continue_a_search_that_found_nothing_after_its_budget_is_raised(harness: Harness) -> None:
    file = harness.write(**HOPELESS)
    assert harness.train(**HOPELESS).code == 0
    begun = harness.counts().begun
    idle = harness.run("worker", "--workers", "1")
    unchanged = harness.counts().begun

    detached = harness.run("run", file, "--trials", "400", "--detach")
    worked = harness.run("worker", "--workers", "1")

    assert (idle.code, detached.code, worked.code) == (0, 0, 0)
    assert unchanged == begun
    assert harness.counts().begun > begun


def test_a_worker_skips_a_study_without_trainable_trials_and_works_on_others(harness: Harness) -> None:
    hopeless = harness.write("hopeless", budget={"trials": 50, "epochs": 1, "max_latency_ms": 1e-6})
    good = harness.write("sound", budget={"trials": 2, "epochs": 1})
    assert [harness.run("run", file, "--detach").code for file in (hopeless, good)] == [0, 0]

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 0
    assert "hopeless is skipped: 'hopeless' has no result: all 11 finished trials" in answer.err
    assert harness.counts("sound").complete == 2


def test_every_output_names_the_selected_trial_even_if_the_verdict_ranks_another_first(harness: Harness) -> None:
    assert harness.train(**HOPELESS).code == 0

    verdict = harness.run("final", "s", "--top", "2", "--seeds", "1", "--epochs", "1", "--json", "--workers", "1")

    assert verdict.code == 0
    assert verdict.json["selection"]["trial"] == 0
    assert (
        harness.run("export", "s", "--to", str(harness.folder / "m"), "--json")
        .json["card"]["verdict"]["configuration"]
        .startswith("trial 0")
    )
    assert harness.run("best", "s", "--json").json["selection"]["trial"] == 0


def test_a_study_of_an_older_version_keeps_settings_that_its_new_file_omits(
    harness: Harness,
) -> None:
    older = harness.tables(search={"sampler": "random", "pruner": "asha"})
    file = harness.folder / "s.toml"
    file.write_text(toml(older))
    assert harness.run("run", str(file), "--workers", "1", "--trials", "2").code == 0
    forget(harness, "baseline", "patience", "rung_updates")
    newer = {**older, "budget": {}, "data": {**older["data"]}}
    del newer["data"]["validation"]
    file.write_text(toml(newer))

    answer = harness.run("run", str(file), "--workers", "1", "--trials", "4")

    assert answer.code == 0
    stored = row(harness).spec
    assert (stored["budget"]["epochs"], stored["data"]["validation"]) == (3.0, 80)
    assert (stored["search"]["baseline"], stored["search"]["rung_updates"]) == (False, 0)
    assert harness.counts().finished == 4


def forget(harness: Harness, *keys: str) -> None:
    """Remove keys of [search] from a stored study, which leaves it as an older version stored it."""
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    spec = dict(row(harness).spec)
    spec["search"] = {key: value for key, value in spec["search"].items() if key not in keys}
    stored_study.set_attrs(storage, stored.id, {attr_keys.SPEC: spec})


@pytest.mark.parametrize("pruner", ["asha", "promote", "median", "hyperband"])
def test_the_baseline_is_trained_to_its_end_however_bad_it_is(harness: Harness, pruner: str) -> None:
    changes: dict[str, Any] = {
        "points": [{"learning_rate": IDLE}, *[{"learning_rate": 0.05}] * 6],
        "space": {"learning_rate": [IDLE, 0.05]},
        "search": {"pruner": pruner, "reduction": 2},
        "budget": {"trials": 7, "epochs": 4},
    }

    assert harness.run("run", harness.write(**changes), "--workers", "1").code == 0

    baseline = harness.trials()[0]
    assert (baseline.state, len(baseline.curve)) == ("COMPLETE", 4)
    assert baseline.config["learning_rate"] == IDLE


def test_a_baseline_that_does_not_fit_is_changed_and_the_change_is_reported(harness: Harness) -> None:
    changes: dict[str, Any] = {
        "points": [{"batch_size": 512, "conv_layers": 5}],
        "space": {"batch_size": [64, 128, 512], "conv_layers": {"low": 1, "high": 5}, "learning_rate": 0.05},
        "budget": {"trials": 3, "epochs": 1},
        "search": {"sampler": "random"},
    }

    answer = harness.run("run", harness.write(**changes), "--workers", "1")

    assert answer.code == 0
    message = (
        "trial 0, the baseline, could not be trained as it was given; it has conv_layers 5 -> 3, batch_size 512 -> 128"
    )
    assert message in answer.err
    baseline = harness.trials()[0]
    assert baseline.state == "COMPLETE"
    assert (baseline.params["batch_size"], baseline.params["conv_layers"]) == (128, 3)
    assert [trial.state for trial in harness.trials()] == ["COMPLETE"] * 3
    assert "conv_layers 5 -> 3" in harness.run("show", "s", "0").out


def test_a_study_that_can_train_nothing_is_not_stored_and_its_corrected_file_runs_under_the_same_name(
    harness: Harness,
) -> None:
    file = harness.write(budget={"trials": 50, "epochs": 1, "max_parameters": 10})

    answer = harness.run("run", file, "--workers", "1")
    unknown = harness.run("best", "s")
    corrected = harness.run("run", harness.write(budget={"trials": 50, "epochs": 1}), "--detach")

    assert answer.code == AllTrialsImpossibleError.exit_code == 76
    assert "none of 200 random configurations of [space] can be trained: " in answer.err
    assert "parameters are more than [budget] max_parameters = 10; raise it, or lower [space] width" in answer.err
    assert (unknown.code, corrected.code) == (2, 0)


def test_a_search_whose_every_batch_is_too_large_says_so_before_it_begins(harness: Harness) -> None:
    answer = harness.run("run", harness.write(space={"batch_size": [512, 1024]}), "--detach")

    assert answer.code == 0
    assert "a batch of 512 to 1024 is more than the 320 images of a step; lower [space] batch_size" in answer.err
    assert "each trial has the nearest values that can: batch_size 512 to 1024 -> 320" in answer.err


def test_hours_alone_determine_the_number_and_the_length_of_the_trials(harness: Harness) -> None:
    tables = harness.tables(search={"sampler": "random", "pruner": "asha", "patience": 1000})
    tables["budget"] = {"hours": 20 / 3600}
    file = harness.folder / "s.toml"
    file.write_text(toml(tables))

    # That the hours end a run is shown elsewhere.
    harness.run_until(str(file), lambda: "COMPLETE" in {trial.state for trial in harness.trials()})

    stored = row(harness).spec["budget"]
    assert stored["evaluations"] == 9
    assert stored["epochs"] * 320 / 32 >= 216
    assert harness.counts().budget == 1000
    assert harness.trials()[0].state == "COMPLETE"
    again = harness.run("run", str(file), "--detach")
    assert again.code == 0
    assert row(harness).spec["budget"] == stored
    assert json.dumps(row(harness).spec["data"]["validation"]) == "80"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Fault(process="launcher", function="search.study.stored_study:set_attrs", moment="after", nth=5),
            id="some write",
        ),
        pytest.param(
            Fault(process="launcher", function="search.service.final:keep", moment="after", nth=1), id="choice stored"
        ),
        pytest.param(
            Fault(process="launcher", function="search.service.final:keep", moment="before", nth=2), id="verdict made"
        ),
        pytest.param(
            Fault(process="launcher", function="search.service.final:keep", moment="after", nth=2), id="all stored"
        ),
    ],
)
def test_a_run_killed_between_selection_and_final_training_selects_the_same_trial(
    harness: Harness, fault: Fault
) -> None:
    words = ("run", harness.write(**HOPELESS, final=FINAL), "--workers", "1")
    with start_with_faults(harness, (fault,), *words) as killed:
        code = killed.end().code
    begun, chosen = harness.counts().begun, row(harness).selection

    answer = harness.run(*words)

    assert code == -signal.SIGKILL
    assert answer.code == 0
    assert "verdict:" in answer.out
    made = row(harness, "s.final").selection
    assert made is not None
    assert made["trial"] == 0
    if chosen is not None:
        assert made == chosen
        assert harness.counts().begun == begun
