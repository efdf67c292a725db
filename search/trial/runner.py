"""The work of a worker process: it trains the trials of a study, one after the other."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from data.errors import DataError
from data.parts import TrainData, concat, load_train
from search.storage.rdb import Storage
from search.study import stored_study
from search.study.configurations import TriedConfigurations
from search.study.stored_study import StoredStudy
from search.trial import loop, objective
from search.trial.context import TrainingContext, WorkerConfig, image_limits, open_context
from search.trial.outcome import TrialStopped
from search.trial.speed import with_epochs


def run_trials(worker_config: WorkerConfig, beat: Callable[[], None], stopping: Callable[[], bool]) -> None:
    """Run trials until none is left to claim, or `stopping` returns True; a stopped trial goes back to the queue.

    Args:
        worker_config: The configuration from the pool.
        beat: Heartbeat, called before each batch and while the worker waits for the database.
        stopping: Whether the worker was asked to stop.
    """

    def pulse() -> None:
        beat()
        if stopping():
            raise TrialStopped

    def should_stop() -> bool:
        beat()  # a worker that waits for the database does not hang
        return stopping()

    context = open_training_context(worker_config, should_stop)
    loop.run_trials(context, partial(objective.evaluate_trial, context, pulse), stopping, where=str(context.device))


def open_training_context(
    worker_config: WorkerConfig, should_stop: Callable[[], bool] = lambda: False
) -> TrainingContext:
    """Load the study from the database, and its images on this machine.

    Args:
        worker_config: The configuration from the pool.
        should_stop: See `Storage.should_stop`.

    Raises:
        DataError: The images differ from those that the study was begun with.
    """
    if worker_config.device == "cpu":
        # Search: one worker per core with one thread each, 1.4x as fast as one two-thread worker. Verdict: all threads.
        torch.set_num_threads(worker_config.threads)
    device = torch.device(worker_config.device)
    context = open_context(worker_config, should_stop)
    stored = context.study
    if worker_config.images is not None:  # another machine may have stored its path in the study
        stored = replace(stored, spec=stored_study.with_data_path(stored.spec, worker_config.images))
    data = load_train(stored.spec.data, Path(worker_config.cache), fingerprint=stored.data["fingerprint"])
    if data.info.fingerprint != stored.data["fingerprint"]:
        raise DataError(
            f"the images of {stored.name!r} differ from those it was begun with; its trials could not be compared"
        )
    stored = _with_epochs(worker_config, context.storage, stored, data, device)
    if stored.spec.verdict_on is not None:
        data = replace(data, train=concat(data.train, data.validation))
    return TrainingContext(
        storage=context.storage,
        cached=context.cached,
        subset=context.subset,
        configurations=TriedConfigurations(stored),
        study=stored,
        dirs=context.dirs,
        remote=context.remote,
        data=replace(data, train=data.train.to(device), validation=data.validation.to(device)),
        device=device,
        cache=Path(worker_config.cache),
        workers=worker_config.workers,
    )


def _with_epochs(
    worker_config: WorkerConfig, storage: Storage, stored: StoredStudy, data: TrainData, device: torch.device
) -> StoredStudy:
    """The study with the epochs of a complete trial: each new worker measures, the first result is stored for all."""
    if stored.spec.budget.epochs is not None:
        return stored
    measured = with_epochs(
        stored.spec,
        image_limits(data),
        validation=len(data.validation),
        search_s=stored_study.search_seconds_left(storage, stored.id),
        workers=worker_config.workers,
        device=device,
        data=data,
    )
    return stored_study.settle_epochs(storage, stored, float(measured.budget.epochs or 0.0))
