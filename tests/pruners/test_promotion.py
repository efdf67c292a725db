"""Trials pause at rungs and resume when they are among the best there."""

import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import _CachedStorage
from optuna.trial import TrialState

from search.process import this_process
from search.pruners import promotion
from search.pruners.promotion import AshaPromotion
from search.samplers.tpe import TrialSubset
from search.storage import claims, leases
from search.storage.rdb import Storage
from search.study import stored_study, strategy
from search.trial import runner
from tests.harness import IDLE, RATES, Harness, equal, reader, run_claimed, work
from tests.storage.claimers import take

#: All trials pause: there is no baseline, which does not pause and stops others (tests/service/test_baseline.py).
PROMOTE: dict[str, Any] = {
    "pruner": "promote",
    "first_rung": 1,
    "reduction": 2,
    "sampler": "random",
    "baseline": False,
}
BUDGET: dict[str, Any] = {"trials": 8, "epochs": 4}
#: Keeps the tests that read two studies in one process.
ONE_PROCESS = pytest.mark.xdist_group("test_promotion_both")


def steps(harness: Harness, name: str = "s") -> list[int]:
    return [len(trial.curve) for trial in harness.trials(name)]


def promoted(curves: list[list[float]]) -> list[int]:
    """The steps of each trial by algorithm 2 of Li et al. 2020 with the delay of Li et al. 2022, for one worker, rungs
    after 1 and 2 of 4 steps, a reduction of 2, and at least three trials at a rung before one is promoted: an
    implementation that is independent of the one in `search`.
    """
    following = {0: 1, 1: 2, 2: 4}
    steps = [0] * len(curves)

    def best_half(rung: int) -> list[int]:
        reached = [number for number, done in enumerate(steps) if done >= rung]
        return sorted(reached, key=lambda number: (-curves[number][rung - 1], number))[: len(reached) // 2]

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


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Harness:
    """A finished study "s", and "whole" with the same trials, which do not pause."""
    harness = Harness(tmp_path_factory.mktemp("both"), images, cache)
    assert harness.train("whole", search=PROMOTE | {"pruner": "none"}, budget=BUDGET).code == 0
    assert harness.run("run", harness.write(search=PROMOTE, budget=BUDGET), "--workers", "1").code == 0
    return harness


@ONE_PROCESS
def test_exactly_the_best_half_of_each_rung_is_promoted(both: Harness) -> None:
    trials = both.trials()

    assert steps(both) == promoted([[value for _, value in trial.curve] for trial in both.trials("whole")])
    assert {1, 4} <= set(steps(both))
    for trial in trials:
        assert (trial.attempts, trial.paused) == (1, None)
        assert (trial.state == "COMPLETE") == (len(trial.curve) == 4)
        assert trial.state == "COMPLETE" or " at step " in (trial.reason or "")
    kept = {trial.number for trial in trials if any(both.dirs.trial("s", trial.number).glob("*.ckpt"))}
    assert set() < kept <= {trial.number for trial in trials if trial.state == "COMPLETE"}
    pruned = next(trial.number for trial in trials if trial.state == "PRUNED")
    assert "pruned: rank" in both.run("show", "s", str(pruned)).out


def test_a_finished_study_with_more_trials_promotes_the_best_of_them(harness: Harness) -> None:
    assert harness.train(search=PROMOTE, budget=BUDGET).code == 0

    answer = harness.run("resume", "s", "--trials", "12", "--workers", "1")

    assert answer.code == 0
    assert len(steps(harness)) == 12
    assert max(steps(harness)[8:]) > 1


@ONE_PROCESS
def test_a_paused_trial_ends_bit_for_bit_like_an_uninterrupted_one(both: Harness) -> None:
    best = max((trial for trial in both.trials() if trial.values), key=lambda trial: trial.values)
    same = both.trials("whole")[best.number]

    assert best.curve == same.curve
    assert equal(both.trained(best.number), both.trained(best.number, name="whole"))
    assert best.attempts == 1
    assert "paused at step" in both.dirs.log("s", best.number).read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_study_killed_while_trials_pause_resumes_and_finishes(harness: Harness, workers: str) -> None:
    file = harness.write(search=PROMOTE, budget={"trials": 8, "epochs": 12, "steps_per_epoch": 1})

    with harness.start("run", file, "--workers", workers) as launcher:
        launcher.until(lambda: len(steps(harness)) >= 3)
        launcher.signal(signal.SIGKILL)
        launcher.end()
    paused = sum(trial.paused is not None for trial in harness.trials())
    again = harness.run("run", file, "--workers", workers)

    assert again.code == 0
    assert paused > 0
    counts = harness.counts()
    assert (counts.complete + counts.pruned, counts.waiting, counts.running) == (8, 0, 0)
    assert counts.complete >= 1


def test_the_sampler_learns_from_paused_trials(harness: Harness) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET)
    storage = Storage(worker_config.url)
    stored = stored_study.load(storage, "s")
    context = runner.open_training_context(worker_config)
    for _ in range(2):
        run_claimed(context, take(context.storage, stored.id, promotion=strategy.promotion_policy(stored.spec)))

    subset = TrialSubset(_CachedStorage(storage), stored.id).read()

    assert [trial.state for trial in storage.get_all_trials(stored.id)] == [TrialState.WAITING, TrialState.WAITING]
    assert [(trial.state, len(trial.intermediate_values)) for trial in subset] == [(TrialState.PRUNED, 1)] * 2


@pytest.mark.parametrize("checkpoints", [0, 2])
def test_a_paused_trial_without_a_checkpoint_ends_bit_for_bit_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, checkpoints: int
) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET)
    harness.create("whole", search=PROMOTE | {"pruner": "none"}, budget=BUDGET)
    monkeypatch.setattr(promotion, "CHECKPOINTS_PER_RUNG", checkpoints)
    context, owner = runner.open_training_context(worker_config), this_process(worker_config.token)
    asha_promotion = strategy.promotion_policy(context.study.spec)
    kept: list[int] = []
    while (claim := claims.claim(context.storage, context.study.id, owner, (), asha_promotion)) is not None:
        run_claimed(context, claim)
        pausing = [trial for trial in harness.trials() if trial.paused is not None]
        kept += [sum(any(harness.dirs.trial("s", trial.number).glob("*.ckpt")) for trial in pausing)]
    best = max((trial for trial in harness.trials() if trial.values), key=lambda trial: trial.values)
    for _ in range(best.number + 1):
        work(runner.open_training_context(harness.worker_config("whole")))

    assert checkpoints <= max(kept) <= 2 * checkpoints  # at each of two rungs
    logs = [harness.dirs.log("s", trial.number).read_text() for trial in harness.trials() if len(trial.curve) > 1]
    assert any("are trained again" in log for log in logs) == (checkpoints == 0)
    assert best.curve == harness.trials("whole")[best.number].curve
    assert equal(harness.trained(best.number), harness.trained(best.number, name="whole"))


def test_failed_trials_do_not_end_a_study_while_others_pause(harness: Harness) -> None:
    changes: dict[str, Any] = {"search": PROMOTE, "budget": BUDGET | {"trials": 7}}
    worker_config = harness.create(**changes)
    context = runner.open_training_context(worker_config)
    for number in range(7):
        claim = take(context.storage, context.study.id)
        if number < 2:
            run_claimed(context, claim)
        else:
            context.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)

    answer = harness.run("run", harness.write(**changes), "--workers", "1")

    assert answer.code == 0
    assert (harness.counts().failed, harness.counts().complete) == (5, 1)


def test_at_the_end_the_best_paused_trial_completes_and_the_others_are_pruned(harness: Harness) -> None:
    worker_config = harness.create(search=PROMOTE | {"reduction": 4}, budget=BUDGET | {"trials": 2})
    asha_promotion = AshaPromotion(rungs=(1,), reduction=4, steps=3)
    context = runner.open_training_context(worker_config)
    owner = this_process(worker_config.token)
    for _ in range(2):
        run_claimed(context, take(context.storage, context.study.id, promotion=asha_promotion))
    best = max(harness.trials(), key=lambda trial: trial.curve[-1][1])
    with reader(worker_config.url).connect() as connection:
        assert claims.claimable(connection, context.study.id, asha_promotion) == 1

    last = take(context.storage, context.study.id, promotion=asha_promotion)
    run_claimed(context, last)
    no_claim = claims.claim(context.storage, context.study.id, owner, (), asha_promotion)

    assert (last.number, no_claim) == (best.number, None)
    assert sorted(trial.state for trial in harness.trials()) == ["COMPLETE", "PRUNED"]
    assert {trial.reason for trial in harness.trials()} == {
        None,
        "rank 2 of 2 at step 1 when nothing was left to begin",
    }
    with reader(worker_config.url).connect() as connection:
        assert claims.claimable(connection, context.study.id, asha_promotion) == 0


def test_paused_trials_wait_while_another_worker_holds_a_trial(harness: Harness) -> None:
    worker_config = harness.create(search=PROMOTE | {"reduction": 4}, budget=BUDGET | {"trials": 3})
    asha_promotion = AshaPromotion(rungs=(1,), reduction=4, steps=3)
    context = runner.open_training_context(worker_config)
    owner, other = this_process(worker_config.token), this_process("other")
    for _ in range(2):
        run_claimed(context, take(context.storage, context.study.id, promotion=asha_promotion))
    held = take(context.storage, context.study.id, other, promotion=asha_promotion)
    best = max(harness.trials()[:2], key=lambda trial: trial.curve[-1][1])

    while_held = claims.claim(context.storage, context.study.id, owner, (), asha_promotion)
    paused = [trial.paused is not None for trial in harness.trials()]
    Storage(worker_config.url, token=other.token).set_trial_state_values(held.trial_id, TrialState.FAIL)
    afterwards = take(context.storage, context.study.id, promotion=asha_promotion)

    assert while_held is None
    assert paused == [True, True, False]
    assert afterwards.number == best.number


def test_a_resumed_trial_that_is_released_waits_in_the_queue_and_is_not_paused(harness: Harness) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET | {"trials": 1})
    context = runner.open_training_context(worker_config)
    asha_promotion = strategy.promotion_policy(context.study.spec)
    run_claimed(context, take(context.storage, context.study.id, promotion=asha_promotion))
    (paused,) = harness.trials()

    take(context.storage, context.study.id, promotion=asha_promotion)
    released = leases.release(context.storage, [worker_config.token])

    assert paused.paused == 1
    assert (released, harness.trials()[0].paused) == ([0], None)
    assert take(context.storage, context.study.id).number == 0


def test_the_best_trials_are_promoted_beside_a_baseline_that_does_not_pause(harness: Harness) -> None:
    rates = [0.02, *[IDLE] * 3, 0.03, 0.04, 0.05, 0.02, 0.03]
    worker_config = harness.create(
        search=PROMOTE | {"baseline": True, "reduction": 3},
        space={"learning_rate": RATES},
        points=[{"learning_rate": rate} for rate in rates],
        budget={"trials": len(rates), "epochs": 4},
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)

    baseline, *others = harness.trials()
    assert (baseline.state, len(baseline.curve)) == ("COMPLETE", 4)
    behind = [trial.number for trial in others if "behind the baseline at step 1" in (trial.reason or "")]
    assert 1 <= len(behind) < len(others)
    assert max(len(trial.curve) for trial in others) > 1  # stopped trials do not use up promotions


@pytest.mark.parametrize(("baseline", "due"), [(0, [4]), (None, [])])
def test_a_trial_better_than_its_rung_and_the_baseline_is_promoted_at_once(
    harness: Harness, baseline: int | None, due: list[int]
) -> None:
    worker_config = harness.create(search=PROMOTE, budget=BUDGET)
    storage, theirs = Storage(worker_config.url), optuna.storages.RDBStorage(worker_config.url)  # it writes no leases
    study_id = stored_study.load(storage, "s").id
    for curve in ([0.5, 0.5], [0.4], [0.6, 0.6], [0.3], [0.7]):
        trial_id = theirs.create_new_trial(study_id)
        for step, value in enumerate(curve, 1):
            theirs.set_trial_intermediate_value(trial_id, step, value)
        if len(curve) == 1:
            theirs.set_trial_user_attr(trial_id, "paused", 1)
            theirs.set_trial_state_values(trial_id, TrialState.WAITING)

    asha_promotion = AshaPromotion(rungs=(1,), reduction=3, steps=2, baseline=baseline)

    # Of five trials at the rung one is promoted: trial 2. Trial 4 is better than trial 2 and the baseline.
    assert [
        number for _, number in storage.read(lambda connection: asha_promotion.promotable(connection, study_id))
    ] == due
