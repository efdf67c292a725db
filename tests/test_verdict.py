"""The last training of a study: on all training images, in the time there is, with one look at the test images."""

import signal
from typing import Any

import pytest

from search import spec
from search.errors import SpecError
from search.final import spec_of
from search.launch import searching
from tests.lab import Lab

FINAL: dict[str, Any] = {"epochs": 2}
BUDGET: dict[str, Any] = {"trials": 2, "epochs": 1}


def test_the_best_trial_is_trained_on_all_training_images_and_tested_once(lab: Lab) -> None:
    file = lab.write(budget=BUDGET, final=FINAL)

    answer = lab.run("run", file, "--workers", "1")
    again = lab.run("run", file, "--workers", "1")
    resumed = lab.run("resume", "s")

    assert [answer.code, again.code, resumed.code] == [0, 0, 0]
    best = max(lab.trials(), key=lambda trial: trial.values)
    (verdict,) = lab.trials("s.final")
    assert verdict.config == best.config
    assert verdict.curve == ()
    assert verdict.epochs == 2
    batches = -(-2 * 400 // 32)  # train and validation images, in batches of 32
    assert lab.trained(name="s.final")["batch"] == batches
    assert verdict.test is not None
    assert verdict.test["images"] == sum(map(sum, verdict.test["confusion"])) == 40
    assert verdict.values == (verdict.test["right"] / 40,)
    assert f"verdict: {verdict.values[0]:.4f} on 40 test images, {verdict.test['right']} right" in answer.out
    assert "verdict" in again.out
    assert lab.trials("s.final") == (verdict,)
    assert "nothing to resume" in resumed.err


def test_a_verdict_that_is_broken_off_goes_on_and_ends_as_if_it_had_not_been(lab: Lab) -> None:
    long = {"epochs": 40}
    whole = lab.write("whole", budget=BUDGET, final=long)
    broken = lab.write("broken", budget=BUDGET, final=long)
    assert lab.run("run", whole, "--workers", "1").code == 0

    launcher = lab.start("run", broken, "--workers", "1")
    launcher.until(lambda: "broken.final" in launcher.said and any(t.epochs > 1 for t in lab.trials("broken.final")))
    launcher.signal(signal.SIGINT)
    stopped = launcher.end()
    between = lab.trials("broken.final")
    resumed = lab.run("resume", "broken", "--workers", "1")

    assert (stopped.code, resumed.code) == (130, 0)
    assert [(trial.state, trial.test) for trial in between] == [("WAITING", None)]
    (one,), (other,) = lab.trials("whole.final"), lab.trials("broken.final")
    assert (one.values, one.test and one.test["confusion"]) == (other.values, other.test and other.test["confusion"])
    assert lab.trained(name="whole.final")["model"].keys() == lab.trained(name="broken.final")["model"].keys()


def test_a_verdict_ends_in_the_time_that_it_has(lab: Lab) -> None:
    file = lab.write(budget=BUDGET | {"hours": 20 / 3600}, final={"share": 0.6})

    answer = lab.run("run", file, "--workers", "1")

    assert answer.code == 0
    (verdict,) = lab.trials("s.final")
    assert verdict.state == "COMPLETE"
    assert verdict.seconds < 20
    assert verdict.epochs > 2


def test_without_a_complete_trial_there_is_no_verdict_and_it_says_so(lab: Lab) -> None:
    file = lab.write(budget=BUDGET | {"max_parameters": 1}, final=FINAL)

    answer = lab.run("run", file, "--workers", "1")

    assert answer.code == 0
    assert "no trial is complete, so that none can be trained for the last time" in answer.err


def test_the_hours_of_a_study_are_shared_between_the_search_and_its_last_training(lab: Lab) -> None:
    wanted = spec.build(lab.tables(budget=BUDGET | {"hours": 10.0}, final={"share": 0.25}))

    assert searching(wanted, 10.0) == 7.5
    assert searching(spec.build(lab.tables()), 10.0) == 10.0
    assert searching(wanted, None) is None


def test_the_last_training_is_planned_by_the_speed_of_the_trial(lab: Lab) -> None:
    assert lab.run("run", lab.write(budget=BUDGET), "--workers", "1").code == 0
    trial = lab.trials()[0]
    wanted = spec.build(lab.tables(budget=BUDGET | {"hours": 10.0}, final={"share": 0.25}))
    speed = trial.images_per_second or 0.0

    planned = spec_of(wanted, trial, hours=10 / 3600, images=int(speed), cores=1)
    short = spec_of(wanted, trial, hours=0.0, images=int(speed), cores=1)

    assert planned.budget.epochs == pytest.approx(10, abs=0.5)
    assert planned.verdict_on == "s"
    assert spec.restore(spec.dump(planned)) == planned
    assert short.budget.steps == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"final": {}}, "[final] needs epochs, or [budget] hours to fit into"),
        ({"final": {"epochs": 0}}, "[final] epochs"),
        ({"final": {"share": 1.0, "epochs": 1}}, "[final] share"),
        ({"final": {"epoch": 1}}, "did you mean"),
        ({"final": {"epochs": 1}, "compare": [{"name": "base"}], "space": {"learning_rate": 0.1}}, "[[compare]]"),
    ],
    ids=["no-end", "no-epochs", "all-of-the-time", "misspelt", "comparison"],
)
def test_a_final_that_cannot_be_is_refused(lab: Lab, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.build(lab.tables(**changes))

    assert complaint in str(caught.value)
