"""Claim, run, tell, and again: what a worker does. How a trial ended is recorded in one transaction with its reason."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import sqlalchemy as sa
import torch
from optuna.storages import _CachedStorage
from optuna.trial import TrialState

from data.errors import DataError
from data.parts import load_search
from search import checkpoint, home, lease, objective, study
from search.errors import DatabaseError, DiskError, LeaseLost
from search.lease import Claim
from search.objective import Outcome, Pulse, Stopped, Workplace
from search.post import Post
from search.spec import queue
from search.storage import TRIAL_VALUES, TRIALS, Storage

#: The best so many finished trials of a study keep their last checkpoint, to take a model home from.
KEEP_BEST = 3


def run_trials(post: Post, beat: Callable[[], None], stopping: Callable[[], bool]) -> None:
    """Run trials until none is left to claim, or `stopping` says so; a stopped trial goes back to the queue."""

    def pulse() -> None:
        beat()
        if stopping():
            raise Stopped

    place = workplace(post)
    owner = lease.this_process(post.token)
    points = queue(place.study.spec)
    while not stopping() and (claim := lease.claim(place.storage, place.study.id, owner, points)) is not None:
        run_trial(place, claim, pulse)


def workplace(post: Post) -> Workplace:
    """Everything a worker needs, read from the database and the cache alone."""
    if post.device == "cpu":
        torch.set_num_threads(1)  # one thread a worker, one worker a core: 1.4x the images of one two-thread worker
    device = torch.device(post.device)
    storage = Storage(post.url, token=post.token)
    stored = study.load(storage, post.study)
    data = load_search(stored.spec.data, Path(post.cache))
    if data.info.fingerprint != stored.data["fingerprint"]:
        raise DataError(f"the images of {stored.name!r} are not those it was begun with; its trials would not compare")
    return Workplace(
        storage=storage,
        cached=_CachedStorage(storage),
        study=stored,
        home=home.of(post.url),
        data=replace(data, train=data.train.to(device), validation=data.validation.to(device)),
        device=device,
    )


def run_trial(place: Workplace, claim: Claim, pulse: Pulse) -> None:
    """Run one claimed trial and record how it ended; a stop puts it back to the queue, a bug fails it."""
    try:
        trial = objective.open_trial(place, claim)
        tell(place, trial, objective.run(place, claim, trial, pulse))
    except Stopped:
        lease.stop(place.storage, place.storage.token or "")
    except LeaseLost:
        return  # somebody took the trial from us, and nothing of ours was written since
    except (DiskError, DatabaseError):
        raise  # not the trial's fault: the pool puts it back, and stops
    except Exception as error:
        fail(place, claim, error)
    else:
        with suppress(OSError):  # what cannot be removed now is removed by `clean`
            tidy(place, claim.number)


def tell(place: Workplace, trial: optuna.Trial, outcome: Outcome) -> None:
    """Finish the trial: state, value, reason and constraint in one transaction."""
    with place.storage.together():
        if outcome.reason is not None:
            trial.set_user_attr("reason", outcome.reason)
        if outcome.violation > 0:
            trial.set_constraint("trainable", outcome.violation)
        if outcome.value is None:
            trial.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.study.tell(trial, outcome.value)


def fail(place: Workplace, claim: Claim, error: Exception) -> None:
    """Finish a trial that a bug broke; the whole traceback goes to the trial's log."""
    log = place.home.log(place.study.name, claim.number)
    with place.storage.together():
        place.storage.set_trial_user_attr(claim.trial_id, "reason", f"{type(error).__name__}: {error}; see {log}")
        place.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stream:
            stream.write("".join(traceback.format_exception(error)))


def tidy(place: Workplace, number: int) -> None:
    """Remove the checkpoints that nobody will need: all but those of the best trials."""
    best = best_trials(place.storage, place.study.id)
    for finished in {number, *best[KEEP_BEST:]} - set(best[:KEEP_BEST]):
        checkpoint.forget(place.home.trial(place.study.name, finished))


def best_trials(storage: Storage, study_id: int) -> list[int]:
    """The numbers of the completed trials, the best first."""
    rows = (
        sa.select(TRIALS.c.number)
        .join(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
        .order_by(TRIAL_VALUES.c.value.desc(), TRIALS.c.number)
    )
    with storage.engine.connect() as connection:
        return list(connection.execute(rows).scalars())
