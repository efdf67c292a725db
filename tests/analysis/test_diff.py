"""A comparison of two trials or two studies shows the differences, and nothing else."""

import optuna
import pytest

from tests.harness import Harness

SPACE = {"activation": ["relu", "gelu"]}


@pytest.fixture
def ended(harness: Harness) -> Harness:
    """A small finished study."""
    assert harness.train(budget={"trials": 2, "epochs": 1}, space=SPACE).code == 0
    return harness


def test_a_comparison_of_two_trials_lists_the_parameters_that_differ(ended: Harness) -> None:
    first, second = ended.trials()
    answer = ended.run("compare", "s", "0", "1", "--json")
    table = ended.run("compare", "s", "0", "1")

    differing = {key for key in first.config if first.config[key] != second.config[key]}
    assert answer.json["differences"].keys() == differing
    assert answer.json["values"] == [list(first.values), list(second.values)]
    assert "trial 0" in table.out
    assert f"{first.values[0]:.4f}" in table.out
    assert "batch_size" not in table.out


def test_a_comparison_of_two_plain_optuna_trials_lists_only_their_parameters(harness: Harness) -> None:
    harness.dirs.make()
    plain = optuna.create_study(study_name="plain", storage=harness.url)
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)

    answer = harness.run("compare", "plain", "0", "1", "--json")

    assert answer.json["differences"] == {"x": [trial.params["x"] for trial in plain.trials]}


def test_a_comparison_of_two_studies_includes_settings_that_may_change_on_resume(ended: Harness) -> None:
    assert ended.run("run", ended.write("u", budget={"trials": 1, "epochs": 1}), "--workers", "1").code == 0

    differences = ended.run("compare", "s", "u", "--json").json["differences"]

    assert "[budget] trials: 2 -> 1" in differences


def test_a_comparison_of_two_studies_lists_the_settings_that_differ(ended: Harness) -> None:
    file = ended.write("t", budget={"trials": 2, "epochs": 2}, space=SPACE)
    assert ended.run("run", file, "--workers", "1").code == 0

    answer = ended.run("compare", "s", "t", "--json")
    table = ended.run("compare", "s", "t")

    assert answer.json["differences"] == ["[budget] epochs: 1.0 -> 2.0"]
    assert "[budget] epochs: 1.0 -> 2.0" in table.out


def test_an_invalid_comparison_is_refused_with_the_valid_forms(ended: Harness) -> None:
    three = ended.run("compare", "s", "0", "1", "2")
    unknown = ended.run("compare", "s", "nobody")
    alone = ended.run("compare", "s")

    assert [three.code, unknown.code, alone.code] == [2, 2, 2]
    assert "compare a study alone, with another study's name, or the numbers of two of its trials" in three.err
    assert "there is no study 'nobody'" in unknown.err
    assert "it has no [[compare]] rows" in alone.err


def test_why_lists_the_reason_for_every_stopped_trial(harness: Harness) -> None:
    search = {"pruner": "asha", "sampler": "random", "audit": 0.0}
    assert harness.train(budget={"trials": 6, "epochs": 3}, search=search).code == 0

    answer = harness.run("why", "s", "--json")
    single = harness.run("why", "s", str(answer.json["trials"][0]["number"]))

    pruned = [row for row in harness.trials() if row.state == "PRUNED"]
    assert [(trial["number"], trial["reason"]) for trial in answer.json["trials"]] == [
        (row.number, row.reason) for row in pruned
    ]
    assert "at step 1" in " ".join(single.out.split())


def test_why_lists_stopped_plain_optuna_trials_without_a_reason(harness: Harness) -> None:
    harness.dirs.make()
    plain = optuna.create_study(study_name="plain", storage=harness.url)
    for state in (optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL):
        plain.add_trial(optuna.trial.create_trial(state=state))

    answer = harness.run("why", "plain")
    trial = harness.run("show", "plain", "0", "--json")

    assert answer.out.count("no reason is recorded") == 2
    assert trial.json["command"] is None


def test_why_reports_that_no_trial_was_stopped(harness: Harness) -> None:
    assert harness.train(budget={"trials": 2, "epochs": 1}).code == 0

    assert harness.run("why", "s").out == "no trial was pruned or failed\n"
