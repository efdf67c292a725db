"""Both backends fulfil the contract of `WorkerBackend`: processes of this machine, and actors of a Ray cluster."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from search.storage import queries
from search.trial.context import WorkerConfig
from search.workers import worker
from search.workers.backend import WorkerBackend, WorkerHandle
from search.workers.local import LocalBackend
from tests.harness import Harness, Tables, quiet, reader, wait_until

#: A study whose trials end after all tests.
ENDLESS: Tables = {"budget": {"trials": 2, "epochs": 5000, "steps_per_epoch": 3}}
SHORT: Tables = {"budget": {"trials": 2, "epochs": 1}}


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request: pytest.FixtureRequest) -> Iterator[WorkerBackend]:
    """A running backend with one slot."""
    if request.param == "local":
        local = LocalBackend(("cpu",))
        with local.running_backend(quiet):
            yield local
        return
    nodes = request.getfixturevalue("nodes")
    ray = nodes.backend()
    nodes.only()
    with ray.running_backend(quiet):
        wait_until(lambda: len(ray.slots()) == 1)
        yield ray


@contextmanager
def working(backend: WorkerBackend, worker_config: WorkerConfig) -> Iterator[WorkerHandle]:
    """A worker in the slot of the backend; killed at the end of the block."""
    (slot,) = backend.slots()
    handle = backend.start(worker_config, slot)
    try:
        yield handle
    finally:
        handle.kill()
        wait_until(lambda: handle.exitcode is not None)


def wait_for_batches(handle: WorkerHandle) -> None:
    """Wait until the worker has finished three batches."""
    wait_until(lambda: (handle.beats() or 0) >= 3)


def test_a_worker_runs_trials_until_the_budget_is_spent_and_exits_with_0(
    backend: WorkerBackend, harness: Harness
) -> None:
    worker_config = harness.create(**SHORT)

    with working(backend, worker_config) as handle:
        wait_until(lambda: handle.exitcode is not None)

        assert handle.exitcode == 0
        assert handle.token == worker_config.token
    assert [trial.state for trial in harness.trials()] == ["COMPLETE"] * 2


def test_a_worker_reports_finished_batches_and_its_stacks_until_it_is_killed(
    backend: WorkerBackend, harness: Harness
) -> None:
    with working(backend, harness.create(**ENDLESS)) as handle:
        wait_for_batches(handle)
        (pid,) = harness.workers()
        before = handle.beats() or 0
        wait_until(lambda: (handle.beats() or 0) > before)
        stacks = handle.stacks()
        is_running = handle.is_placed and handle.exitcode is None

        handle.kill()
        wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

        assert is_running
        assert "run_trials" in stacks  # the function that runs
        assert handle.exitcode not in (None, 0)


def test_a_terminated_worker_ends_the_wait_and_puts_its_trial_back_with_a_checkpoint(
    backend: WorkerBackend, harness: Harness
) -> None:
    with working(backend, harness.create(**ENDLESS)) as handle:
        wait_for_batches(handle)
        backend.wait([handle], 0.05)
        is_running = handle.exitcode is None

        handle.terminate()
        began = time.monotonic()
        while handle.exitcode is None:
            backend.wait([handle], 60.0)
        waited_s = time.monotonic() - began

        assert is_running
        assert waited_s < 60.0
        assert handle.exitcode == worker.TERMINATED
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("WAITING", 0)]
    assert len(list(harness.dirs.checkpoints("s"))) > 0
    assert harness.workers() == ()


def test_a_killed_worker_ends_with_another_code_and_a_cause_and_keeps_its_lease(
    backend: WorkerBackend, harness: Harness
) -> None:
    with working(backend, harness.create(**ENDLESS)) as handle:
        wait_for_batches(handle)
        (pid,) = harness.workers()

        psutil.Process(pid).kill()
        wait_until(lambda: handle.exitcode is not None)

        assert handle.exitcode not in (0, worker.TERMINATED)
        assert handle.how_it_ended
        assert not handle.was_taken
    assert queries.study(reader(harness.url), "s").counts.running == 1  # the pool expires the lease


def test_a_worker_that_cannot_work_exits_with_the_code_of_its_error(backend: WorkerBackend, harness: Harness) -> None:
    images = shutil.copytree(harness.images, harness.folder / "copy")
    (images / "train" / "grey" / "000.png").unlink()  # a set of its own, to be forgotten
    missing = replace(harness.create(**SHORT, data={"path": str(images)}), images=str(harness.folder / "missing"))
    harness.forget_images()

    with working(backend, missing) as handle:
        wait_until(lambda: handle.exitcode is not None)

        assert handle.exitcode == 65
