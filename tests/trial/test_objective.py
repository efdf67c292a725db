"""One trial from claim to end, in real trainings whose process may die at any point."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers._tpe.sampler import _split_trials
from optuna.storages import _CachedStorage

from models.cuda_graph import GraphCache
from models.train import Training, start
from search.artifacts import study_dir
from search.samplers.tpe import TrialSubset
from search.storage import leases, ranking
from search.storage.claims import Claim
from search.storage.leases import LeaseMonitor
from search.storage.rdb import Storage
from search.trial import objective, recorder, runner
from search.trial.context import WorkerConfig
from search.trial.objective import is_out_of_memory
from search.trial.outcome import TrialStopped
from search.trial.trial_training import step_boundaries
from search.workers import local
from tests.fake_cuda_graph import RefusingRecorder
from tests.harness import IDLE, RATES, Harness, equal, run_claimed, work
from tests.storage.claimers import take

#: The loss is finite while the learning rate warms up; then weight decay alone multiplies every weight by -9 a batch.
DIVERGES = {"learning_rate": 10.0, "weight_decay": 1.0, "warmup": 0.5, "scheduler": "none", "norm": "none"}


class Dying(Storage):
    """Kills its process when a given key of a trial is stored: before the write or after its transaction."""

    before: Callable[[str], bool]
    after: Callable[[str], bool]
    _kill_after_batch: bool = False

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        self._kill_after_batch |= self.after(key)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        if self.before(f"step {step}"):
            os.kill(os.getpid(), signal.SIGKILL)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    @contextmanager
    def batch(self) -> Iterator[None]:
        with super().batch():
            yield
        if self._kill_after_batch:
            os.kill(os.getpid(), signal.SIGKILL)


def work_and_die(worker_config: WorkerConfig, before: str, after: str) -> None:
    """Train the next trial until the process is killed; runs in a child process."""
    storage = Dying(worker_config.url, token=worker_config.token)
    storage.before, storage.after = before.__eq__, after.__eq__
    cached = _CachedStorage(storage)
    work(
        replace(
            runner.open_training_context(worker_config), storage=storage, cached=cached, subset=TrialSubset(cached, 1)
        )
    )


def kill_worker(worker_config: WorkerConfig, *, before: str = "", after: str = "") -> None:
    """Train the next trial in a process that dies before or after it stores a key; then expire its lease."""
    process = local.start_server().Process(target=work_and_die, args=(worker_config, before, after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    storage = Storage(worker_config.url)
    assert LeaseMonitor().expire(storage, storage.get_study_id_from_name(worker_config.study))


def stop_after(count: int) -> Callable[[], None]:
    """A pulse that requests a stop at batch number `count`, counted from 1, validation batches included."""
    batches = iter(range(1, count))

    def pulse() -> None:
        if next(batches, None) is None:
            raise TrialStopped

    return pulse


def count_into(pulses: list[None]) -> Callable[[], None]:
    return lambda: pulses.append(None)


@given(
    step_images=st.fractions(1, 50_000, max_denominator=40),
    batch_size=st.integers(1, 512),
    steps=st.integers(1, 40),
)
def test_steps_are_equal_shares_of_the_images_to_within_a_batch(
    step_images: Fraction, batch_size: int, steps: int
) -> None:
    ends = step_boundaries(step_images=step_images, batch_size=batch_size, steps=steps)

    for step, end in enumerate(ends, start=1):
        assert 0 <= end * batch_size - step * step_images < batch_size


def test_a_macs_limit_reduces_the_images_of_a_trial_and_keeps_its_steps(harness: Harness) -> None:
    macs = 3 * 8 * 9 * 64 + 8 * 4
    space = {"learning_rate": 0.05}
    unlimited = work(runner.open_training_context(harness.create("free", space=space, budget={"trials": 1})))
    half_budget = {"trials": 1, "trial_macs": macs * unlimited.epochs * 320 / 2}

    limited = work(runner.open_training_context(harness.create("half", space=space, budget=half_budget)))

    assert limited.macs == macs
    assert [step for step, _ in limited.curve] == [step for step, _ in unlimited.curve]
    assert limited.epochs == pytest.approx(unlimited.epochs / 2, rel=0.01)


def test_an_ample_macs_limit_changes_nothing(harness: Harness) -> None:
    space = {"learning_rate": 0.05}

    unlimited = work(runner.open_training_context(harness.create("free", space=space, budget={"trials": 1})))
    limited = work(
        runner.open_training_context(harness.create("limited", space=space, budget={"trials": 1, "trial_macs": 1e12}))
    )

    assert limited.curve == unlimited.curve


def test_a_trial_records_all_of_its_attributes(harness: Harness) -> None:
    worker_config = harness.create(space={"learning_rate": 0.05}, budget={"trials": 1})

    trial = work(runner.open_training_context(worker_config))

    assert trial.state == "COMPLETE"
    assert [step for step, _ in trial.curve] == [1, 2, 3]
    assert trial.values == (trial.curve[-1][1],)
    assert trial.values[0] > 0.9
    assert (trial.epochs, trial.attempts, trial.reason, trial.crashes) == (3.0, 1, None, ())
    assert trial.parameters == 3 * 8 * 9 + 2 * 8 + 8 * 4 + 4  # convolution, batch norm, classifier
    assert trial.macs == 3 * 8 * 9 * 64 + 8 * 4
    assert trial.seconds > 0
    assert trial.images_per_second
    assert trial.config["learning_rate"] == 0.05


def test_one_study_run_twice_has_the_same_parameters_curves_and_weights(harness: Harness) -> None:
    for name in ("one", "other"):
        runner.run_trials(harness.create(name, space={"dropout_conv": 0.2}), lambda: None, lambda: False)

    first, second = harness.trials("one"), harness.trials("other")

    assert [(t.params, t.curve, t.seed) for t in first] == [(t.params, t.curve, t.seed) for t in second]
    assert len({t.params["learning_rate"] for t in first}) == len({t.seed for t in first}) == 4
    best = ranking.best(Storage(harness.url).engine, "one").trials[0].number
    assert equal(harness.trained(best, name="one"), harness.trained(best, name="other"))


@pytest.mark.parametrize("batch", [1, 7, 11, 12, 23, 33], ids="stopped at batch {}".format)
def test_a_trial_stopped_at_any_batch_resumes_to_the_same_weights(harness: Harness, batch: int) -> None:
    changes: dict[str, Any] = {
        "space": {"learning_rate": 0.05, "dropout_conv": 0.2, "ema": 0.9, "scheduler": "plateau", "crop": 1},
        "budget": {"trials": 1},
    }
    uninterrupted = work(runner.open_training_context(harness.create("whole", **changes)))
    harness.create("broken", **changes)

    pulses: list[None] = []

    stopped = work(runner.open_training_context(harness.worker_config("broken")), stop_after(batch))
    ended = work(runner.open_training_context(harness.worker_config("broken")), count_into(pulses))

    assert (stopped.state, stopped.attempts) == ("WAITING", 0)
    assert (ended.state, ended.attempts, ended.crashes) == ("COMPLETE", 1, ())
    assert len(pulses) == 3 * (10 + 1) - (batch - 1)  # no batch runs twice
    assert (ended.number, ended.params, ended.curve) == (
        uninterrupted.number,
        uninterrupted.params,
        uninterrupted.curve,
    )
    assert equal(harness.trained(name="broken"), harness.trained(name="whole"))


def test_a_resumed_trial_counts_the_seconds_before_its_stop(harness: Harness) -> None:
    worker_config = harness.create(space={"learning_rate": 0.05}, budget={"trials": 1})
    stop = stop_after(12)

    def pulse_slowly() -> None:
        time.sleep(0.2)
        stop()

    work(runner.open_training_context(worker_config), pulse_slowly)

    ended = work(runner.open_training_context(harness.worker_config()))

    assert (ended.state, ended.attempts) == ("COMPLETE", 1)
    assert ended.seconds >= 11 * 0.2


#: Rungs after 2 and 6 of 8 steps, of trials that all have the same seed.
RUNGS = {"pruner": "asha", "first_rung": 2, "reduction": 3, "trial_seed": 7}


def annealed(harness: Harness, name: str, *, steps: int, anneal: bool, scheduler: str = "linear") -> WorkerConfig:
    """One trial of `steps` steps whose learning rate falls to zero or follows the loss."""
    return harness.create(
        name,
        space={"learning_rate": 0.02, "scheduler": scheduler, "ema": 0.9, "crop": 1},
        budget={"trials": 1, "epochs": steps / 2, "steps_per_epoch": 2},
        search=RUNGS | {"anneal": anneal},
    )


def test_an_annealed_trial_reaches_its_first_rung_like_a_short_trial_its_end(
    harness: Harness,
) -> None:
    short, long, plain = (
        work(runner.open_training_context(annealed(harness, name, steps=steps, anneal=anneal)))
        for name, steps, anneal in (("short", 2, False), ("long", 8, True), ("plain", 8, False))
    )

    assert len(long.curve) == 8
    assert long.curve[:2] == short.curve != plain.curve[:2]


@pytest.mark.parametrize("scheduler", ["linear", "plateau"])
@pytest.mark.parametrize("batch", [3, 20, 21, 45])
def test_a_stopped_trial_with_a_stretched_schedule_resumes_to_the_same_weights(
    harness: Harness, batch: int, scheduler: str
) -> None:
    uninterrupted = work(
        runner.open_training_context(annealed(harness, "whole", steps=8, anneal=True, scheduler=scheduler))
    )
    context = runner.open_training_context(annealed(harness, "stopped", steps=8, anneal=True, scheduler=scheduler))

    assert work(context, stop_after(batch)).state == "WAITING"
    resumed = work(context)

    assert resumed.curve == uninterrupted.curve
    assert equal(harness.trained(name="stopped")["model"], harness.trained(name="whole")["model"])


def test_augmentation_pixels_refer_to_full_size_in_a_search_on_smaller_images(harness: Harness) -> None:
    def model(crop: int, cutout: int) -> Any:
        """Model state of a trial on images of 4 x 4 pixels instead of 8 x 8."""
        name, space = f"crop-{crop}-cutout-{cutout}", {"learning_rate": 0.02, "crop": crop, "cutout": cutout}
        changes: dict[str, Any] = {"search": {"trial_seed": 7}, "budget": {"trials": 1, "epochs": 1}}
        work(runner.open_training_context(harness.create(name, data={"search_size": 4}, space=space, **changes)))
        return harness.trained(name=name)["model"]

    assert equal(model(crop=1, cutout=0), model(crop=2, cutout=0))
    assert equal(model(crop=0, cutout=1), model(crop=0, cutout=2))
    both = model(crop=2, cutout=2)
    assert not equal(both, model(crop=4, cutout=2))
    assert not equal(both, model(crop=2, cutout=4))


def test_a_report_lost_in_a_crash_is_restored_from_the_checkpoint(harness: Harness) -> None:
    changes: dict[str, Any] = {"space": {"learning_rate": 0.01}, "budget": {"trials": 1}}
    uninterrupted = work(runner.open_training_context(harness.create("whole", **changes)))
    pulses: list[None] = []

    kill_worker(harness.create("broken", **changes), before="step 2")
    (crashed,) = harness.trials("broken")
    ended = work(runner.open_training_context(harness.worker_config("broken")), count_into(pulses))

    assert (crashed.state, crashed.curve) == ("WAITING", uninterrupted.curve[:1])
    assert (ended.state, ended.curve) == ("COMPLETE", uninterrupted.curve)
    assert len(pulses) == 10 + 1  # the third step and its validation
    assert equal(harness.trained(name="broken"), harness.trained(name="whole"))


@pytest.mark.parametrize(("pruner", "first"), [("asha", 1), ("median", 5), ("hyperband", 6)])
def test_a_decision_to_prune_survives_the_death_of_its_process(harness: Harness, pruner: str, first: int) -> None:
    points = [{"learning_rate": 0.05}] * first + [{"learning_rate": IDLE}] * 6
    worker_config = harness.create(
        space={"learning_rate": RATES}, search={"pruner": pruner}, budget={"trials": len(points)}, points=points
    )
    context = runner.open_training_context(worker_config)
    for _ in range(first):
        work(context)
    pulses: list[None] = []

    kill_worker(harness.worker_config(), after="decision")
    (crashed,) = [trial for trial in harness.trials() if trial.state == "WAITING"]
    ended = work(runner.open_training_context(harness.worker_config()), count_into(pulses))

    assert (ended.number, ended.state, ended.curve) == (crashed.number, "PRUNED", crashed.curve)
    assert len(crashed.curve) == 1
    assert ended.reason is not None
    assert ("behind the baseline at step 1" if pruner == "asha" else pruner) in ended.reason
    assert pulses == []


@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband"])
def test_pruners_stop_trials_that_fall_behind_except_at_the_last_step(harness: Harness, pruner: str) -> None:
    # One in three learns; the others learn nothing and are behind at every step, including the last.
    points = [{"learning_rate": 0.05 if number % 3 == 0 else IDLE} for number in range(15)]
    worker_config = harness.create(
        space={"learning_rate": RATES},
        search={"pruner": pruner},
        budget={"trials": len(points), "epochs": 2, "steps_per_epoch": 2},
        points=points,
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)

    pruned = [trial for trial in harness.trials() if trial.state == "PRUNED"]
    complete = [trial for trial in harness.trials() if trial.state == "COMPLETE"]
    assert len(pruned) + len(complete) == len(points)
    assert {len(trial.curve) for trial in pruned} <= {1, 2, 3}
    assert {len(trial.curve) for trial in complete} == {4}
    assert IDLE in {trial.params["learning_rate"] for trial in pruned}


@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband"])
def test_a_trial_that_falls_behind_only_at_its_last_step_is_complete(harness: Harness, pruner: str) -> None:
    points = [{"learning_rate": 0.05}] * 5 + [{"learning_rate": IDLE}] * 2
    worker_config = harness.create(
        space={"learning_rate": RATES},
        search={"pruner": pruner, "first_rung": 2},
        budget={"trials": len(points), "epochs": 2},
        points=points,
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)

    assert [trial.state for trial in harness.trials()] == ["COMPLETE"] * 7


def test_a_late_divergence_is_pruned_with_its_reason_and_ranked_below_everything(harness: Harness) -> None:
    # The others stop at an earlier step than the diverged trial, so TPE by itself would rank them below it.
    idle = {"learning_rate": IDLE, "weight_decay": 0.0}
    worker_config = harness.create(
        space=DIVERGES | {"learning_rate": {"low": IDLE, "high": 10.0, "log": True}, "weight_decay": [0.0, 1.0]},
        search={"pruner": "asha"},
        budget={"epochs": 6, "steps_per_epoch": 2},
        points=[{"learning_rate": 10.0, "weight_decay": 1.0}, idle | {"learning_rate": 0.01}, idle, idle],
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)

    diverged, _, *behind = harness.trials()
    assert diverged.state == "PRUNED"
    assert diverged.reason is not None
    assert diverged.reason.startswith("diverged: the training loss must be finite")
    assert [trial.state for trial in behind] == ["PRUNED"] * 2
    assert len(diverged.curve) > max(len(trial.curve) for trial in behind)
    assert 0 not in [trial.number for trial in ranking.best(Storage(harness.url).engine, "s", top=9).trials]
    study = optuna.load_study(study_name="s", storage=harness.url)
    for n_below in range(4):  # of four trials: only the diverged one never ranks among the best three
        below, _ = _split_trials(study, study.get_trials(), n_below)
        assert 0 not in [trial.number for trial in below]


def test_a_divergence_in_the_last_update_of_a_trial_is_found_by_its_evaluation(harness: Harness) -> None:
    changes: dict[str, Any] = {"space": DIVERGES | {"warmup": 0.0}, "search": {"seed": 1}}
    budget = {"trials": 1, "epochs": 6, "steps_per_epoch": 10}  # one batch a step
    long = work(runner.open_training_context(harness.create("long", budget=budget, **changes)))
    steps = len(long.curve) + 1
    ends_there = budget | {"epochs": steps / 10}

    short = work(runner.open_training_context(harness.create("short", budget=ends_there, **changes)))

    assert f"step {steps}, batch {steps};" in (long.reason or "")
    assert (short.state, short.reason) == ("PRUNED", long.reason)


@pytest.mark.parametrize(
    ("space", "budget", "reason"),
    [
        pytest.param(
            {"conv_layers": 8, "pool_every": 2}, {}, "an image of 8 x 8 pixels allows 3 poolings", id="poolings"
        ),
        pytest.param({"width": 64}, {"max_parameters": 500}, "parameters are more than [budget] max_p", id="size"),
        pytest.param({"width": 64}, {"max_macs": 9000}, "macs are more than [budget] max_macs = 9,000", id="work"),
    ],
)
def test_an_impossible_network_is_pruned_before_training(
    harness: Harness, space: dict[str, int], budget: dict[str, int], reason: str
) -> None:
    worker_config = harness.create(space=space, budget={"trials": 1, **budget})

    trial = work(runner.open_training_context(worker_config), stop_after(1))

    assert trial.state == "PRUNED"
    assert trial.reason is not None
    assert trial.reason.startswith("impossible: ")
    assert reason in trial.reason
    assert trial.params
    assert trial.curve == ()
    assert not list(harness.dirs.study("s").glob("*/*.ckpt"))
    (frozen,) = optuna.load_study(study_name="s", storage=harness.url).get_trials()
    assert [value for value in frozen.constraints.values() if value > 0]


def test_an_error_in_a_trial_fails_it_and_its_log_has_the_traceback(harness: Harness) -> None:
    context = runner.open_training_context(harness.create())
    labels = context.data.train.labels + 4  # classes that the network does not have
    broken = replace(context, data=replace(context.data, train=replace(context.data.train, labels=labels)))

    trial = work(broken)

    assert trial.state == "FAIL"
    assert trial.reason is not None
    assert trial.reason.startswith("IndexError: ")
    assert "Traceback (most recent call last)" in harness.dirs.log("s", 0).read_text()
    assert work(context).state == "COMPLETE"


#: 19 million weights: 300 MB with their gradients and Adam's two averages.
LARGE = {"width": 1024, "growth": 1, "conv_layers": 3, "optimizer": "adam"}


def work_with_little_memory(worker_config: WorkerConfig, connection: "Connection[bool, bool]") -> None:
    """Train the next trial in a child process that may allocate 150 MB more than it has now."""
    context = runner.open_training_context(worker_config)
    claim = take(context.storage, context.study.id)
    limit = psutil.Process().memory_info().vms + 150_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send(run_claimed(context, claim))


def test_a_network_that_exceeds_memory_is_pruned_and_its_process_ends(
    harness: Harness,
) -> None:
    worker_config = harness.create(space=LARGE)
    context = local.start_server()
    ours, theirs = context.Pipe()

    process = context.Process(target=work_with_little_memory, args=(worker_config, theirs))
    process.start()
    process.join()

    (trial,) = harness.trials()
    assert not ours.recv()
    assert (trial.state, trial.attempts, trial.crashes) == ("PRUNED", 1, ())
    assert trial.reason is not None
    assert trial.reason.startswith("out of memory: ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
    ids=repr,
)
def test_out_of_memory_errors_of_python_and_torch_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_a_process_ends_after_an_unexpected_error_in_a_trial(harness: Harness) -> None:
    context = runner.open_training_context(harness.create())
    labels = context.data.train.labels + 4
    broken = replace(context, data=replace(context.data, train=replace(context.data.train, labels=labels)))

    assert not run_claimed(broken, take(context.storage, context.study.id))


def test_the_log_of_a_trial_has_every_step_and_attempt(harness: Harness) -> None:
    context = runner.open_training_context(harness.create())

    work(context, stop_after(15))
    work(context)

    log = harness.dirs.log("s", 0).read_text()
    phrases = [
        "attempt 1 in process",
        "step 1: ",
        "stopped on purpose",
        "going on after step 1",
        "step 3: ",
        "complete: ",
    ]
    positions = [log.index(words) for words in phrases]
    assert positions == sorted(positions)


def test_a_trial_without_a_cuda_graph_is_trained_with_a_note_in_its_log(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_unrecordable(*args: Any, **changes: Any) -> Training:
        training = start(*args, **changes)
        refusing_recorder = RefusingRecorder(RuntimeError("no such kernel"))
        training._recordings = GraphCache(training.model, training._optimizer, refusing_recorder)
        return training

    monkeypatch.setattr("search.trial.trial_training.start", start_unrecordable)
    context = runner.open_training_context(harness.create())
    claim = take(context.storage, context.study.id)

    outcome = objective.evaluate_trial(context, lambda: None, claim, recorder.open_trial(context, claim))

    assert outcome.value
    assert "no CUDA graph could be recorded, so training is slower: RuntimeError: no such kernel" in (
        harness.dirs.log("s", 0).read_text()
    )


def test_a_trial_with_lost_checkpoints_is_retrained_to_the_same_curve(
    harness: Harness,
) -> None:
    context = runner.open_training_context(
        harness.create(budget={"trials": 2}, points=[{"learning_rate": 0.01}] * 2, search={"trial_seed": 1})
    )
    work(context, stop_after(25))
    stopped = harness.trials()[0]
    study_dir.delete_checkpoints(harness.dirs.trial("s", 0))

    work(context)
    work(context)

    first, second = harness.trials()
    assert len(stopped.curve) == 2
    assert first.curve[:2] == stopped.curve
    assert first.curve == second.curve
    assert "2 recorded steps are trained again" in harness.dirs.log("s", 0).read_text()


def test_a_trial_claimed_by_another_owner_is_left_unchanged(harness: Harness) -> None:
    context = runner.open_training_context(harness.create())
    other_owner = Storage(harness.url, token="other")
    other_claims: list[Claim] = []

    def claim_elsewhere() -> None:
        if harness.steps() == 1 and not other_claims:
            leases.expire_dead(other_owner, context.storage.token or "", "seemed dead")
            other_claims.append(take(other_owner, context.study.id))

    trial = work(context, claim_elsewhere)

    assert [claim.number for claim in other_claims] == [0]
    assert trial.state == "RUNNING"
    assert [step for step, _ in trial.curve] == [1]


def test_only_the_best_three_trials_and_the_baseline_keep_a_checkpoint(harness: Harness) -> None:
    rates = [IDLE, 1e-8, 0.05, 0.04, 1e-7, 0.03]
    points = [{"learning_rate": rate} for rate in rates]
    worker_config = harness.create(space={"learning_rate": RATES}, budget={"trials": 6}, points=points)

    runner.run_trials(worker_config, lambda: None, lambda: False)

    kept = [number for number in range(6) if list(harness.dirs.trial("s", number).glob("*.ckpt"))]
    assert kept == [0, 2, 3, 5]  # and the baseline


def test_a_search_does_not_need_the_test_images(harness: Harness, tmp_path: Path) -> None:
    blind = replace(harness, folder=tmp_path / "blind", cache=tmp_path / "own cache")
    runner.run_trials(harness.create(), lambda: None, lambda: False)
    worker_config = blind.create()
    hidden = list(blind.cache.glob("sets/*/test*.npy"))
    for file in hidden:
        file.unlink()

    runner.run_trials(worker_config, lambda: None, lambda: False)

    assert len(hidden) == 2
    assert [trial.curve for trial in blind.trials()] == [trial.curve for trial in harness.trials()]
    assert not list(blind.cache.glob("sets/*/test*.npy"))


def test_only_the_final_training_loads_the_test_images() -> None:
    sources = sorted(Path(runner.__file__).parents[1].rglob("*.py"))

    assert [file.name for file in sources if "load_test" in file.read_text()] == ["final_training.py"]
    assert len(sources) > 30


def test_the_rows_of_a_comparison_share_the_seed_of_each_repeat(harness: Harness) -> None:
    worker_config = harness.create(
        space={"learning_rate": 0.05},
        search={"sampler": "grid", "repeats": 2},
        budget={"trials": 4, "epochs": 1},
        compare=[{"name": "base"}, {"name": "wider", "width": 12}],
    )

    runner.run_trials(worker_config, lambda: None, lambda: False)

    cells = {(trial.repeat, trial.config["width"]): trial.seed for trial in harness.trials()}
    assert sorted(cells) == [(0, 8), (0, 12), (1, 8), (1, 12)]
    assert cells[0, 8] == cells[0, 12] != cells[1, 8] == cells[1, 12]


def test_a_worker_that_should_stop_claims_no_trial(harness: Harness) -> None:
    worker_config = harness.create()

    runner.run_trials(worker_config, lambda: None, lambda: True)

    assert harness.counts().begun == 0
