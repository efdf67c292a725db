"""What a worker process does: it trains the trials of a study, one after the other."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
import torch

from data.errors import DataError
from data.parts import TrainData, concat, load_train
from search.storage.leases import Claim
from search.storage.rdb import Storage
from search.study import stored_study
from search.study.stored_study import StoredStudy
from search.trial import loop, objective
from search.trial.context import TrainingContext, WorkerConfig, image_limits, open_context
from search.trial.final_training import FinalTraining
from search.trial.outcome import Outcome, TrialStopped
from search.trial.search_training import Pulse, SearchTraining
from search.trial.speed import with_epochs


def run_trials(worker_config: WorkerConfig, beat: Callable[[], None], stopping: Callable[[], bool]) -> None:
    """Run trials until none is left to claim, or `stopping` says so; a stopped trial goes back to the queue."""

    def pulse() -> None:
        beat()
        if stopping():
            raise TrialStopped

    def should_stop() -> bool:
        beat()  # waiting for the database is not hanging
        return stopping()

    context = workplace(worker_config, should_stop)
    loop.run_trials(context, partial(train, context, pulse), stopping, where=str(context.device))


def run_trial(context: TrainingContext, claim: Claim, pulse: Pulse) -> bool:
    """Run one claimed trial and record how it ended; see `shift.settle`."""
    return loop.run_claimed_trial(context, claim, partial(train, context, pulse), where=str(context.device))


def train(context: TrainingContext, pulse: Pulse, claim: Claim, trial: optuna.Trial) -> Outcome:
    """Train a trial as its study wants it: to be judged step by step, or for the last time."""
    kind = SearchTraining if context.spec.verdict_on is None else FinalTraining
    return objective.evaluate_trial(context, claim, trial, pulse, kind=kind)


def workplace(worker_config: WorkerConfig, should_stop: Callable[[], bool] = lambda: False) -> TrainingContext:
    """Everything a worker needs, read from the database and this machine's images; see `Storage.should_stop`."""
    if worker_config.device == "cpu":
        # One thread a worker, one worker a core: 1.4x the images of one two-thread worker. A verdict has all of them.
        torch.set_num_threads(worker_config.threads)
    device = torch.device(worker_config.device)
    own = open_context(worker_config, should_stop)
    stored = own.study
    if worker_config.images is not None:  # another machine may have put its own path into the study meanwhile
        stored = replace(stored, spec=stored_study.with_data_path(stored.spec, worker_config.images))
    data = load_train(stored.spec.data, Path(worker_config.cache))
    if data.info.fingerprint != stored.data["fingerprint"]:
        raise DataError(f"the images of {stored.name!r} are not those it was begun with; its trials would not compare")
    stored = _with_epochs(worker_config, own.storage, stored, data, device)
    if stored.spec.verdict_on is not None:
        data = replace(data, train=concat(data.train, data.validation))
    return TrainingContext(
        storage=own.storage,
        cached=own.cached,
        subset=own.subset,
        study=stored,
        dirs=own.dirs,
        remote=own.remote,
        data=replace(data, train=data.train.to(device), validation=data.validation.to(device)),
        device=device,
        cache=Path(worker_config.cache),
        workers=worker_config.workers,
    )


def _with_epochs(
    worker_config: WorkerConfig, storage: Storage, stored: StoredStudy, data: TrainData, device: torch.device
) -> StoredStudy:
    """The study with the epochs of a whole trial, measured by each worker that begins; the first one settles them."""
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
