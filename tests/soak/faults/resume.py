"""Trials of a hundred configurations, killed at random moments: each ends with the same bits as without a kill."""

import random
import time
from typing import Any

from search.artifacts import cleanup
from search.storage import leases
from search.storage.rdb import Storage
from search.trial.context import WorkerConfig
from tests.faults import invariants
from tests.harness import Harness, Tables, equal
from tests.soak import processes, results
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

#: One trial of 18 steps; the checkpoint of the best trial is kept.
BUDGET = {"trials": 1, "epochs": 6, "steps_per_epoch": 3}
#: Attempts of a case whose kill comes too late, and the factor by which the kill comes sooner in the next attempt.
TRIES, SOONER = 12, 0.8


def resumed(workspace: Workspace) -> FaultResult:
    reports = workspace.run_cases("resume", _kill_and_compare, range(workspace.count(100)))
    note = "injected are trials, killed once or twice each; survived: weights and curve are the same bits"
    return results.total("a trial is killed and resumed", reports, note=note)


def configuration(rng: random.Random) -> dict[str, Any]:
    """A random network and training with many kinds of state."""
    return {
        "activation": rng.choice(["relu", "leaky_relu", "elu", "gelu", "silu"]),
        "norm": rng.choice(["batch", "group", "none"]),
        "conv_layers": rng.choice([1, 2]),
        "residual": rng.random() < 0.5,
        "head": rng.choice(["gap", "flatten"]),
        "dropout_conv": rng.choice([0.0, 0.2]),
        "dense_layers": 1,
        "dense_units": 16,
        "dropout_dense": rng.choice([0.0, 0.3]),
        "optimizer": rng.choice(["sgd", "adam", "adamw", "rmsprop"]),
        "learning_rate": rng.choice([0.0005, 0.001, 0.003]),
        "weight_decay": rng.choice([0.0, 1e-4]),
        "decay_norms": rng.random() < 0.5,
        "scheduler": rng.choice(["none", "step", "cosine", "one_cycle", "plateau"]),
        "label_smoothing": rng.choice([0.0, 0.1]),
        "ema": rng.choice([0.0, 0.9, 0.99]),
        "clip": rng.choice([0.0, 1.0]),
        "batch_size": rng.choice([16, 32, 48]),
        "flip": rng.random() < 0.5,
        "crop": rng.choice([0, 1, 2]),
        "cutout": rng.choice([0, 2, 4]),
    }


def _kill_and_compare(case: Case) -> None:
    harness = case.harness
    study: Tables = {"budget": BUDGET, "space": configuration(case.rng), "search": {"seed": case.index}}
    worker_config = harness.create("whole", **study)
    began = time.monotonic()
    worker = processes.work(harness, worker_config)
    assert worker.end() == 0, worker.said
    seconds = time.monotonic() - began
    wanted = case.rng.choice([1, 2])
    name = next(
        f"killed{index}"
        for index in range(TRIES)
        if _kill(case, harness.create(f"killed{index}", **study), wanted, seconds * SOONER**index)
    )
    case.injected += 1
    case.facts["kills"] += wanted
    _are_the_same(harness, name)
    case.survived += 1


def _kill(case: Case, worker_config: WorkerConfig, kills: int, seconds: float) -> bool:
    """Run a trial to its end with `kills` kills; false if it ended before the last of them."""
    storage = Storage(case.harness.url)
    done = 0
    for delay in [case.rng.uniform(0.02, 0.9) * seconds / kills for _ in range(kills)]:
        worker = processes.work(case.harness, worker_config)
        time.sleep(delay)
        done += worker.poll() is None
        worker.kill()
        leases.expire_dead(storage, worker_config.token, "killed")
        worker_config = case.harness.worker_config(worker_config.study)
    last = processes.work(case.harness, worker_config)
    assert last.end() == 0, last.said
    return done == kills


def _are_the_same(harness: Harness, name: str) -> None:
    (expected,), (killed,) = harness.trials("whole"), harness.trials(name)
    assert (killed.state, killed.seed, killed.config) == (expected.state, expected.seed, expected.config), (
        "I4: another trial"
    )
    assert killed.state == "COMPLETE", f"it ended as {killed.state}: {killed.reason}"
    assert killed.curve == expected.curve, f"I4: {killed.curve} is not {expected.curve}"
    assert equal(harness.trained(name=name), harness.trained(name="whole")), "I4: other weights"
    # There is no launcher, which removes the half-written checkpoint of a killed worker when the study is over.
    cleanup.remove_leftovers(harness.dirs, Storage(harness.url).engine, name)
    invariants.check(harness, name, over=True)
