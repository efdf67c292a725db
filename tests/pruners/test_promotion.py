"""Trials that pause at rungs, and go on when they are among the best there."""

import signal
from typing import Any

import optuna
import pytest
from optuna.storages import _CachedStorage
from optuna.trial import TrialState

from search.process import this_process
from search.pruners import promotion
from search.pruners.promotion import AshaPromotion
from search.samplers.tpe import TrialSubset
from search.storage import claims
from search.storage.rdb import Storage
from search.storage.read_only import open_reader
from search.study import stored_study, strategy
from search.trial import runner
from tests.harness import Harness, equal, work

#: Without a baseline, which does not pause and stops others (tests/service/test_baseline.py): here they are all alike.
PROMOTE: dict[str, Any] = {
    "pruner": "promote",
    "first_rung": 1,
    "reduction": 2,
    "sampler": "random",
    "baseline": False,
}
BUDGET: dict[str, Any] = {"trials": 8, "epochs": 4}


def steps(harness: Harness, name: str = "s") -> list[int]:
    return [len(trial.curve) for trial in harness.trials(name)]


def promoted(curves: list[list[float]]) -> list[int]:
    """The steps of each trial by algorithm 2 of Li et al. 2020 with the delay of Li et al. 2022, for one worker, rungs
    after 1 and 2 of 4 steps, a reduction of 2, and three trials at a rung before one goes on: written down once more,
    in another way than in `search`.
    """
    following = {0: 1, 1: 2, 2: 4}
    steps = [0] * len(curves)

    def best_half(rung: int) -> list[int]:
        there = [number for number, done in enumerate(steps) if done >= rung]
        return sorted(there, key=lambda number: (-curves[number][rung - 1], number))[: len(there) // 2]

    def is_due(rung: int) -> bool:
        return sum(done >= rung for done in steps) >= 3 and sum(done >= rung for done in steps) >= 2 * (
            sum(done > rung for done in steps) + 1
        )

    while True:
        waiting = [number for rung in (2, 1) if is_due(rung) for number in best_half(rung) if steps[number] == rung]
        waiting += [number for number, done in enumerate(steps) if done == 0]
        if not waiting:
            return steps
        number = waiting[0]
        steps[number] = following[steps[number]]


def test_the_best_half_of_each_rung_goes_on_and_nobody_else(harness: Harness) -> None:
    whole = harness.run(
        "run", harness.write("whole", search=PROMOTE | {"pruner": "none"}, budget=BUDGET), "--workers", "1"
    )
    answer = harness.run("run", harness.write(search=PROMOTE, budget=BUDGET), "--workers", "1")

    assert (whole.code, answer.code) == (0, 0)
    trials = harness.trials()
    assert steps(harness) == promoted([[value for _, value in trial.curve] for trial in harness.trials("whole")])
    assert {1, 4} <= set(steps(harness))
    for trial in trials:
        assert (trial.attempts, trial.paused) == (1, None)
        assert (trial.state == "COMPLETE") == (len(trial.curve) == 4)
        assert trial.state == "COMPLETE" or " at step " in (trial.reason or "")
    kept = {trial.number for trial in trials if any(harness.dirs.trial("s", trial.number).glob("*.ckpt"))}
    assert kept <= {trial.number for trial in trials if trial.state == "COMPLETE"}
    pruned = next(trial.number for trial in trials if trial.state == "PRUNED")
    assert "pruned: rank" in harness.run("show", "s", str(pruned)).out


def test_a_finished_study_that_gets_more_trials_promotes_the_best_of_them(harness: Harness) -> None:
    assert harness.run("run", harness.write(search=PROMOTE, budget=BUDGET), "--workers", "1").code == 0

    answer = harness.run("resume", "s", "--trials", "16", "--workers", "1")

    assert answer.code == 0
    assert len(steps(harness)) == 16
    assert max(steps(harness)[8:]) > 1


def test_a_trial_that_paused_ends_bit_for_bit_like_one_that_did_not(harness: Harness) -> None:
    paused, whole = (
        harness.write("paused", search=PROMOTE, budget=BUDGET),
        harness.write("whole", search=PROMOTE | {"pruner": "none"}, budget=BUDGET),
    )
    assert [harness.run("run", file, "--workers", "1").code for file in (paused, whole)] == [0, 0]

    best = max((trial for trial in harness.trials("paused") if trial.values), key=lambda trial: trial.values)
    same = harness.trials("whole")[best.number]

    assert best.curve == same.curve
    assert equal(harness.trained(best.number, name="paused"), harness.trained(best.number, name="whole"))
    assert best.attempts == 1
    assert "paused at step" in harness.dirs.log("paused", best.number).read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_study_that_is_killed_while_trials_pause_goes_on_to_its_exact_end(harness: Harness, workers: str) -> None:
    file = harness.write(search=PROMOTE, budget={"trials": 8, "epochs": 40, "steps_per_epoch": 1})

    launcher = harness.start("run", file, "--workers", workers)
    launcher.until(lambda: "s" in harness.dirs.studies() and len(steps(harness)) >= 3)
    launcher.signal(signal.SIGKILL)
    launcher.end()
    paused = sum(trial.paused is not None for trial in harness.trials())
    again = harness.run("run", file, "--workers", workers)

    assert again.code == 0
    assert paused > 0
    counts = harness.counts()
    assert (counts.complete + counts.pruned, counts.waiting, counts.running) == (8, 0, 0)
    assert counts.complete >= 1


def test_the_sampler_learns_from_trials_that_pause(harness: Harness) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET)
    storage = Storage(worker_config.url)
    stored = stored_study.load(storage, "s")
    place = runner.workplace(worker_config)
    for _ in range(2):
        claim = claims.claim(
            place.storage, stored.id, this_process(worker_config.token), (), strategy.ladder(stored.spec)
        )
        assert claim is not None
        runner.run_trial(place, claim, lambda: None)

    seen = TrialSubset(_CachedStorage(storage), stored.id).read()

    assert [trial.state for trial in storage.get_all_trials(stored.id)] == [TrialState.WAITING, TrialState.WAITING]
    assert [(trial.state, len(trial.intermediate_values)) for trial in seen] == [(TrialState.PRUNED, 1)] * 2


@pytest.mark.parametrize("following", [0, 2])
def test_who_pauses_far_behind_loses_its_checkpoint_and_still_ends_bit_for_bit_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, following: int
) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET)
    harness.create("whole", search=PROMOTE | {"pruner": "none"}, budget=BUDGET)
    monkeypatch.setattr(promotion, "CHECKPOINTS_PER_RUNG", following)
    place, owner = runner.workplace(worker_config), this_process(worker_config.token)
    rungs = strategy.ladder(place.study.spec)
    kept: list[int] = []
    while (claim := claims.claim(place.storage, place.study.id, owner, (), rungs)) is not None:
        runner.run_trial(place, claim, lambda: None)
        pausing = [trial for trial in harness.trials() if trial.paused is not None]
        kept += [sum(any(harness.dirs.trial("s", trial.number).glob("*.ckpt")) for trial in pausing)]
    best = max((trial for trial in harness.trials() if trial.values), key=lambda trial: trial.values)
    for _ in range(best.number + 1):
        work(runner.workplace(harness.worker_config("whole")))

    assert following <= max(kept) <= 2 * following  # of two rungs
    logs = [harness.dirs.log("s", trial.number).read_text() for trial in harness.trials() if len(trial.curve) > 1]
    assert any("are trained again" in log for log in logs) == (following == 0)
    assert best.curve == harness.trials("whole")[best.number].curve
    assert equal(harness.trained(best.number), harness.trained(best.number, name="whole"))


def test_a_study_with_trials_that_pause_is_not_given_up_for_those_that_failed(harness: Harness) -> None:
    changes: dict[str, Any] = {"search": PROMOTE, "budget": BUDGET | {"trials": 7}}
    worker_config = harness.create(**changes)
    place, owner = runner.workplace(worker_config), this_process(worker_config.token)
    for number in range(7):
        claim = claims.claim(place.storage, place.study.id, owner, ())
        assert claim is not None
        if number < 2:
            runner.run_trial(place, claim, lambda: None)
        else:
            place.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)

    answer = harness.run("run", harness.write(**changes), "--workers", "1")

    assert answer.code == 0
    assert (harness.counts().failed, harness.counts().complete) == (5, 1)


def test_when_nothing_else_is_left_the_best_is_seen_through_and_the_others_are_pruned(harness: Harness) -> None:
    worker_config = harness.create(search=PROMOTE | {"reduction": 4}, budget=BUDGET | {"trials": 2})
    ladder = AshaPromotion(rungs=(1,), reduction=4, steps=3)
    place = runner.workplace(worker_config)
    owner = this_process(worker_config.token)
    for _ in range(2):
        claim = claims.claim(place.storage, place.study.id, owner, (), ladder)
        assert claim is not None
        runner.run_trial(place, claim, lambda: None)
    best = max(harness.trials(), key=lambda trial: trial.curve[-1][1])
    with open_reader(worker_config.url).connect() as connection:
        assert claims.claimable(connection, place.study.id, ladder) == 1

    last = claims.claim(place.storage, place.study.id, owner, (), ladder)
    assert last is not None
    runner.run_trial(place, last, lambda: None)
    nothing = claims.claim(place.storage, place.study.id, owner, (), ladder)

    assert (last.number, nothing) == (best.number, None)
    assert sorted(trial.state for trial in harness.trials()) == ["COMPLETE", "PRUNED"]
    assert {trial.reason for trial in harness.trials()} == {
        None,
        "rank 2 of 2 at step 1 when nothing was left to begin",
    }
    with open_reader(worker_config.url).connect() as connection:
        assert claims.claimable(connection, place.study.id, ladder) == 0


def test_beside_a_baseline_that_does_not_pause_the_best_of_the_others_go_on(harness: Harness) -> None:
    rates = [0.02, *[1e-9] * 3, 0.03, 0.04, 0.05, 0.02, 0.03]
    worker_config = harness.create(
        search=PROMOTE | {"baseline": True, "reduction": 3},
        space={"learning_rate": {"low": 1e-9, "high": 0.1, "log": True}},
        points=[{"learning_rate": rate} for rate in rates],
        budget={"trials": len(rates), "epochs": 4},
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)

    known, *others = harness.trials()
    assert (known.state, len(known.curve)) == ("COMPLETE", 4)
    behind = [trial.number for trial in others if "behind the baseline at step 1" in (trial.reason or "")]
    assert 1 <= len(behind) < len(others)
    assert max(len(trial.curve) for trial in others) > 1  # those that were stopped take nobody's turn


@pytest.mark.parametrize(("baseline", "due"), [(0, [4]), (None, [])])
def test_whoever_leads_a_rung_and_its_baseline_goes_on_at_once(
    harness: Harness, baseline: int | None, due: list[int]
) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET)
    storage, theirs = Storage(worker_config.url), optuna.storages.RDBStorage(worker_config.url)  # which knows no leases
    study_id = stored_study.load(storage, "s").id
    for curve in ([0.5, 0.5], [0.4], [0.6, 0.6], [0.3], [0.7]):
        trial_id = theirs.create_new_trial(study_id)
        for step, value in enumerate(curve, 1):
            theirs.set_trial_intermediate_value(trial_id, step, value)
        if len(curve) == 1:
            theirs.set_trial_user_attr(trial_id, "paused", 1)
            theirs.set_trial_state_values(trial_id, TrialState.WAITING)

    rungs = AshaPromotion(rungs=(1,), reduction=3, steps=2, baseline=baseline)

    # Of five at the rung one goes on, and that one was trial 2; trial 4 is better than that and the baseline.
    assert [number for _, number in storage.read(lambda connection: rungs.promotable(connection, study_id))] == due
