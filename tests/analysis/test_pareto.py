"""Several objectives: a front in place of a best trial, pruned by the first, bounded by what may be spent."""

from typing import Any

import optuna
import pytest

from search.errors import SpecError
from search.spec import stored_spec, study_spec
from search.storage import queries, ranking
from search.storage.ranking import _front
from search.storage.read_only import open_reader
from search.storage.records import TrialRecord
from tests.harness import Harness

SPACE: dict[str, Any] = {"width": {"low": 4, "high": 16}, "learning_rate": {"low": 0.001, "high": 0.3, "log": True}}
SEVERAL: dict[str, Any] = {"objective": ["accuracy", "parameters"], "audit": 0.0}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("pruner", ["asha", "promote"])
def test_weak_trials_are_pruned_by_the_first_objective_and_the_rest_has_a_front(
    harness: Harness, sampler: str, pruner: str
) -> None:
    file = harness.write(
        budget={"trials": 14, "epochs": 3},
        search=SEVERAL | {"sampler": sampler, "pruner": pruner, "startup_trials": 4},
        space=SPACE,
    )

    answer = harness.run("run", file, "--workers", "1")
    best = harness.run("best", "s", "--json", "--top", "100")

    assert answer.code == 0
    rows = harness.trials()
    assert {row.state for row in rows} == {"COMPLETE", "PRUNED"}
    complete = [row for row in rows if row.state == "COMPLETE"]
    assert all(row.values == (row.curve[-1][1], float(row.parameters or 0)) for row in complete)
    front = {each["number"] for each in best.json["trials"]}
    assert front == {row.number for row in complete if not any(dominates(other, row) for other in complete)}
    assert best.json["directions"] == ["maximize", "minimize"]
    assert all(len(row.curve) >= 1 for row in rows)


def dominates(one: TrialRecord, other: TrialRecord) -> bool:
    better = one.values[0] >= other.values[0] and one.values[1] <= other.values[1]
    return better and one.values != other.values


def test_the_front_is_what_nobody_dominates() -> None:
    values = [(0.9, 100.0), (0.8, 50.0), (0.8, 60.0), (0.7, 70.0), (0.9, 100.0), (0.95, 400.0)]
    trials = [
        TrialRecord(study="s", number=number, state="COMPLETE", values=pair) for number, pair in enumerate(values)
    ]

    assert [trial.number for trial in _front(trials, ("maximize", "minimize"))] == [5, 0, 4, 1]


def test_who_is_shown_some_of_the_front_is_told_of_the_others(harness: Harness) -> None:
    file = harness.write(budget={"trials": 6, "epochs": 1}, search=SEVERAL | {"sampler": "random"}, space=SPACE)
    assert harness.run("run", file, "--workers", "1").code == 0
    whole = len(ranking.best(open_reader(harness.url), "s", top=6).trials)
    assert whole > 1

    some, all_of_them = harness.run("best", "s", "--top", "1"), harness.run("best", "s", "--top", str(whole))

    assert f"1 of its {whole} trials (--top {whole} shows all)" in some.out
    assert "--top" not in all_of_them.out


def test_every_complete_trial_keeps_its_weights_because_the_front_is_known_at_the_end(harness: Harness) -> None:
    file = harness.write(
        budget={"trials": 8, "epochs": 3},
        search=SEVERAL | {"sampler": "random", "pruner": "asha", "reduction": 2},
        space=SPACE,
    )
    assert harness.run("run", file, "--workers", "1").code == 0
    assert harness.run("clean").code == 0

    kept = {each.trial for each in harness.dirs.checkpoints("s")}
    assert kept == {row.number for row in harness.trials() if row.state == "COMPLETE"}


def test_nsga2_breeds_generations(harness: Harness) -> None:
    search = SEVERAL | {"sampler": "nsga2", "pruner": "none", "startup_trials": 3}
    assert harness.run("run", harness.write(budget={"trials": 9, "epochs": 1}, search=search, space=SPACE)).code == 0

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
    file = harness.write(budget={"trials": 21, "epochs": 1}, search=SEVERAL | {"pruner": "none"}, space=space)
    assert harness.run("run", file, "--workers", "1").code == 0

    answer = harness.start("report", "s", "--to", str(harness.folder / "s.html")).end()  # where Optuna logs as it does

    assert answer.code == 0
    assert len(answer.err.splitlines()) == 2  # the answer in two sentences
    assert "Importance" in (harness.folder / "s.html").read_text()


def test_the_verdict_and_the_report_of_several_objectives(harness: Harness) -> None:
    file = harness.write(budget={"trials": 6, "epochs": 1}, search=SEVERAL | {"pruner": "none"}, space=SPACE)
    assert harness.run("run", file, "--workers", "1").code == 0

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
def test_objectives_that_do_not_go_together_are_refused(search: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        study_spec.build({"search": search, "budget": {"trials": 2, "epochs": 1}, "space": {"width": [8, 16]}})


def test_a_study_of_one_objective_is_stored_as_before() -> None:
    stored = stored_spec.dump(study_spec.build({"budget": {"trials": 2, "epochs": 1}, "space": {"width": [8, 16]}}))

    assert stored["search"]["objective"] == "accuracy"
    assert stored_spec.restore(stored).search.objectives == ("accuracy",)
