"""Several objectives: a Pareto front instead of a best trial, pruning by the first objective, resource limits."""

from typing import Any

import optuna
import pytest

from search.errors import SpecError
from search.spec import stored_spec, study_spec
from search.storage import queries, ranking
from search.storage.ranking import _front
from search.storage.read_only import open_reader
from search.storage.records import TrialRecord
from search.trial import runner
from tests.analysis.records import trial_record
from tests.harness import Harness

SPACE: dict[str, Any] = {"width": {"low": 4, "high": 16}, "learning_rate": {"low": 0.001, "high": 0.3, "log": True}}
SEVERAL: dict[str, Any] = {"objective": ["accuracy", "parameters"], "audit": 0.0}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("pruner", ["asha", "promote"])
def test_trials_are_pruned_by_the_first_objective_and_the_rest_form_a_front(
    harness: Harness, sampler: str, pruner: str
) -> None:
    worker_config = harness.create(
        budget={"trials": 10, "epochs": 3},
        search=SEVERAL | {"sampler": sampler, "pruner": pruner, "startup_trials": 4},
        space=SPACE,
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)
    best = harness.run("best", "s", "--json", "--top", "100")

    rows = harness.trials()
    assert {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    complete = [row for row in rows if row.state == "COMPLETE"]
    assert all(row.values == (row.curve[-1][1], float(row.parameters or 0)) for row in complete)
    front = {trial["number"] for trial in best.json["trials"]}
    assert front == {row.number for row in complete if not any(dominates(other, row) for other in complete)}
    assert best.json["directions"] == ["maximize", "minimize"]
    assert all(len(row.curve) >= 1 for row in rows)


def dominates(trial: TrialRecord, other: TrialRecord) -> bool:
    better = trial.values[0] >= other.values[0] and trial.values[1] <= other.values[1]
    return better and trial.values != other.values


def test_the_front_holds_the_trials_that_no_other_trial_dominates() -> None:
    values = [(0.9, 100.0), (0.8, 50.0), (0.8, 60.0), (0.7, 70.0), (0.9, 100.0), (0.95, 400.0)]
    trials = [trial_record(number, values=pair) for number, pair in enumerate(values)]

    assert [trial.number for trial in _front(trials, ("maximize", "minimize"))] == [5, 0, 4, 1]


def test_a_partial_front_names_the_number_of_all_its_trials(harness: Harness) -> None:
    search = SEVERAL | {"sampler": "random"}
    assert harness.train(budget={"trials": 6, "epochs": 1}, search=search, space=SPACE).code == 0
    size = len(ranking.best(open_reader(harness.url), "s", top=6).trials)
    assert size > 1

    partial, complete = harness.run("best", "s", "--top", "1"), harness.run("best", "s", "--top", str(size))

    assert f"1 of its {size} trials (--top {size} shows all)" in partial.out
    assert "--top" not in complete.out


def test_every_complete_trial_keeps_its_weights(harness: Harness) -> None:
    """The front is known only at the end."""
    file = harness.write(
        budget={"trials": 8, "epochs": 3},
        search=SEVERAL | {"sampler": "random", "pruner": "asha", "reduction": 2},
        space=SPACE,
    )
    assert harness.run("run", file, "--workers", "1").code == 0
    assert harness.run("clean").code == 0

    kept = {file.trial for file in harness.dirs.checkpoints("s")}
    assert kept == {row.number for row in harness.trials() if row.state == "COMPLETE"}


def test_nsga2_runs_more_than_one_generation(harness: Harness) -> None:
    search = SEVERAL | {"sampler": "nsga2", "pruner": "none", "startup_trials": 3}
    worker_config = harness.create(budget={"trials": 9, "epochs": 1}, search=search, space=SPACE)

    runner.run_trials(worker_config, lambda: None, lambda: False)

    study = optuna.load_study(study_name="s", storage=harness.url)
    generations = [
        value for trial in study.trials for key, value in trial.system_attrs.items() if key.endswith("generation")
    ]
    assert max(generations) >= 1


def test_latency_and_seconds_are_measured(harness: Harness) -> None:
    search = SEVERAL | {"objective": ["accuracy", "latency_ms", "epoch_seconds", "macs"], "pruner": "none"}
    assert (
        harness.run("run", harness.write(budget={"trials": 2, "epochs": 1}, search=search), "--workers", "1").code == 0
    )

    for row in harness.trials():
        accuracy, latency_ms, epoch_s, macs = row.values
        assert accuracy == row.curve[-1][1]
        assert latency_ms == row.latency_ms
        assert latency_ms > 0
        assert epoch_s == pytest.approx(320 / (row.images_per_second or 0))
        assert macs == row.macs


def test_a_network_that_is_too_slow_is_not_trained(harness: Harness) -> None:
    file = harness.write(budget={"trials": 2, "epochs": 1, "max_latency_ms": 1e-6})

    answer = harness.run("run", file, "--workers", "1")

    assert answer.code == 76
    assert "[budget] max_latency_ms = 1e-06" in answer.err
    for row in harness.trials():
        assert (row.state, row.epochs, row.violation) == ("PRUNED", 0.0, 1.0)
        assert "ms for one image are more than [budget] max_latency_ms = 1e-06" in (row.reason or "")


def test_a_front_of_many_trials_has_a_report_with_importances(harness: Harness) -> None:
    space = SPACE | {"flip": [False, True, "alternating"]}
    search = SEVERAL | {"pruner": "none"}
    assert harness.train(budget={"trials": 21, "epochs": 1}, search=search, space=space).code == 0

    # a new process, with Optuna's default logging
    with harness.start("report", "s", "--to", str(harness.folder / "s.html")) as launcher:
        answer = launcher.end()

    assert answer.code == 0
    assert len(answer.err.splitlines()) == 2  # the answer in two sentences
    assert "Importance" in (harness.folder / "s.html").read_text()


def test_several_objectives_have_a_verdict_and_a_report(harness: Harness) -> None:
    search = SEVERAL | {"sampler": "random"}
    assert harness.train(budget={"trials": 6, "epochs": 1}, search=search, space=SPACE).code == 0

    verdict = harness.run(
        "final", "s", "--top", "1", "--seeds", "1", "--epochs", "1", "--no-baseline", "--workers", "1"
    )
    page = harness.run("report", "s", "--to", str(harness.folder / "s.html"))

    assert (verdict.code, page.code) == (0, 0)
    assert queries.study(open_reader(harness.url), "s.final").directions == ("maximize",)
    assert "What parameters buy: the Pareto front" in (harness.folder / "s.html").read_text()


@pytest.mark.parametrize(
    ("search", "complaint"),
    [
        ({"objective": ["macs", "accuracy"]}, "objective must begin with 'accuracy' or 'balanced_accuracy'"),
        ({"objective": []}, "objective must begin with 'accuracy' or 'balanced_accuracy'"),
        ({"objective": ["accuracy", "macs", "macs"]}, "name each once"),
        ({"objective": ["accuracy", "balanced_accuracy"]}, "may maximise one thing"),
        ({"objective": ["accuracy", "macs"], "sampler": "evolution"}, "several objectives go with sampler"),
        ({"objective": ["accuracy", "macs"], "pruner": "median"}, "several objectives go with sampler"),
        ({"objective": "speed"}, "objective must be 'accuracy'"),
        ({"objective": ["accuracy", "speed"]}, "objective must be"),
    ],
)
def test_invalid_objectives_are_refused(search: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        study_spec.build({"search": search, "budget": {"trials": 2, "epochs": 1}, "space": {"width": [8, 16]}})


def test_a_single_objective_is_stored_as_a_string() -> None:
    stored = stored_spec.dump(study_spec.build({"budget": {"trials": 2, "epochs": 1}, "space": {"width": [8, 16]}}))

    assert stored["search"]["objective"] == "accuracy"
    assert stored_spec.restore(stored).search.objectives == ("accuracy",)
