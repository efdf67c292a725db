"""Claim, run, tell, and again: what a worker does. How a trial ended is recorded in one transaction with its reason."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from traceback import format_exception

import optuna
import sqlalchemy as sa
import torch
from optuna.storages import _CachedStorage
from optuna.trial import TrialState

from data.errors import DataError
from data.parts import load_search, together
from search import checkpoint, gallery, home, lease, logbook, objective, query, study
from search.care import KEEP_BEST
from search.errors import DatabaseError, DiskError, LeaseLost
from search.lease import Claim
from search.owner import this_process
from search.post import Post
from search.rows import TRAINABLE
from search.run import Pulse, Run
from search.sampler import Excerpt
from search.spec import queue
from search.storage import TRIAL_VALUES, TRIALS, Storage
from search.verdict import VerdictRun
from search.workplace import Outcome, Paused, Stopped, Workplace

#: So many trials behind the best ones may just have been among them: as many as end, or pause, at one moment.
DRIVEN_OUT = 8


def run_trials(post: Post, beat: Callable[[], None], stopping: Callable[[], bool]) -> None:
    """Run trials until none is left to claim, or `stopping` says so; a stopped trial goes back to the queue."""

    def pulse() -> None:
        beat()
        if stopping():
            raise Stopped

    def gives_up() -> bool:
        beat()  # who waits for the database moves
        return stopping()

    place = workplace(post, gives_up)
    owner = this_process(post.token)
    points, ladder = queue(place.study.spec), study.ladder(place.study.spec)
    is_sound = True
    while is_sound and not stopping():
        claim = lease.claim(place.storage, place.study.id, owner, points, ladder)
        if claim is None:
            return
        is_sound = run_trial(place, claim, pulse)


def workplace(post: Post, gives_up: Callable[[], bool] = lambda: False) -> Workplace:
    """Everything a worker needs, read from the database and this machine's images; see `Storage.gives_up`."""
    if post.device == "cpu":
        # One thread a worker, one worker a core: 1.4x the images of one two-thread worker. A verdict has all of them.
        torch.set_num_threads(post.threads)
    device = torch.device(post.device)
    storage = Storage(post.url, token=post.token, patience_s=post.patience_s, gives_up=gives_up)
    stored = study.load(storage, post.study)
    if post.images is not None:  # another machine may have put its own path into the study meanwhile
        stored = replace(stored, spec=study.moved(stored.spec, post.images))
    data = load_search(stored.spec.data, Path(post.cache))
    if data.info.fingerprint != stored.data["fingerprint"]:
        raise DataError(f"the images of {stored.name!r} are not those it was begun with; its trials would not compare")
    if stored.spec.verdict_on is not None:
        data = replace(data, train=together(data.train, data.validation))
    cached = _CachedStorage(storage)
    return Workplace(
        storage=storage,
        cached=cached,
        excerpt=Excerpt(cached, stored.id, several=len(stored.spec.search.objectives) > 1),
        study=stored,
        home=home.of(post.url),
        data=replace(data, train=data.train.to(device), validation=data.validation.to(device)),
        device=device,
        cache=Path(post.cache),
        workers=post.workers,
    )


def run_trial(place: Workplace, claim: Claim, pulse: Pulse) -> bool:
    """Run one claimed trial and record how it ended; a stop puts it back to the queue, a bug fails it.

    Returns whether this process can be trusted with another one: who ran out of memory or met a bug cannot.
    """
    log = place.home.log(place.study.name, claim.number)
    logbook.note(log, f"attempt {claim.attempt} in process {os.getpid()} on {socket.gethostname()}, {place.device}")
    try:
        trial = objective.open_trial(place, claim)
        kind = Run if place.study.spec.verdict_on is None else VerdictRun
        outcome = objective.run(place, claim, trial, pulse, kind=kind)
        tell(place, trial, outcome)
    except Paused as pause:
        lease.stop(place.storage, [place.storage.token or ""])
        logbook.note(log, f"paused at step {pause.step}, until {pause.until}")
        shed(place, claim.number, pause.step)
        return True
    except Stopped:
        lease.stop(place.storage, [place.storage.token or ""])
        logbook.note(log, "stopped on purpose; back to the queue")
        return True
    except LeaseLost as error:
        logbook.note(log, f"let go: {error}")
        return True  # somebody took the trial from us, and nothing of ours was written since
    except (DiskError, DatabaseError) as error:
        logbook.note(log, f"broke off: {error}")
        raise  # not the trial's fault: the pool puts it back, and stops
    except Exception as error:
        with suppress(LeaseLost):
            fail(place, claim, error)  # its checkpoint stays, for `--retry-failed`
        return False
    logbook.note(log, f"pruned: {outcome.reason}" if outcome.value is None else f"complete: {outcome.value:.4f}")
    tidy(place, claim.number)
    return not outcome.exhausted


def tell(place: Workplace, trial: optuna.Trial, outcome: Outcome) -> None:
    """Finish the trial: state, value, reason and constraint in one transaction."""
    with place.storage.together():
        if outcome.reason is not None:
            trial.set_user_attr("reason", outcome.reason)
        if outcome.violation > 0:
            trial.set_constraint(TRAINABLE, outcome.violation)
        if outcome.value is None:
            trial.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.study.tell(trial, [outcome.value, *outcome.costs])


def fail(place: Workplace, claim: Claim, error: Exception) -> None:
    """Finish a trial that a bug broke; the whole traceback goes to the trial's log."""
    logbook.note(place.home.log(place.study.name, claim.number), "failed:\n" + "".join(format_exception(error)))
    with place.storage.together():
        place.storage.set_trial_user_attr(claim.trial_id, "reason", f"{type(error).__name__}: {error}")
        place.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)


def tidy(place: Workplace, number: int) -> None:
    """Remove the checkpoints that nobody will need: this trial's, or those of whom it drove out of the best.

    Those of a verdict stay, all of them: which configuration is best is known at its end. So do those of complete
    trials with several objectives: who is on the front is, too.
    """
    if place.study.spec.verdict_on is not None:
        return
    if len(place.study.spec.search.objectives) > 1:
        _forget_if_pruned(place, number)
        return
    ranked = best_trials(place.storage, place.study.id, top=KEEP_BEST + DRIVEN_OUT)
    for finished in {number, *ranked[KEEP_BEST:]} - set(ranked[:KEEP_BEST]):
        with suppress(OSError):  # what cannot be removed now is removed when the study goes on
            checkpoint.forget(place.home.trial(place.study.name, finished))
            gallery.forget(place.home.trial(place.study.name, finished))


def _forget_if_pruned(place: Workplace, number: int) -> None:
    if query.trial(place.storage.engine, place.study.name, number).state == "PRUNED":
        with suppress(OSError):
            checkpoint.forget(place.home.trial(place.study.name, number))


def shed(place: Workplace, number: int, rung: int) -> None:
    """Remove the checkpoints of trials that pause too far behind to go on soon: this one's, or those it drove back."""
    ladder = study.ladder(place.study.spec)
    if ladder is None:
        return

    def forget(connection: sa.Connection) -> None:
        place.storage.lock_study(connection, place.study.id)  # so that nobody goes on with one of them meanwhile
        behind = ladder.behind(connection, place.study.id, rung)
        for each in {number, *behind[:DRIVEN_OUT]}.intersection(behind):
            with suppress(OSError):  # what cannot be removed now is removed when the trial is over
                checkpoint.forget(place.home.trial(place.study.name, each))

    place.storage.write(forget)


def best_trials(storage: Storage, study_id: int, *, top: int) -> list[int]:
    """The numbers of the best completed trials, the best first."""
    rows = (
        sa.select(TRIALS.c.number)
        .join(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE, TRIAL_VALUES.c.objective == 0)
        .order_by(TRIAL_VALUES.c.value.desc(), TRIALS.c.number)
        .limit(top)
    )
    return storage.read(lambda connection: list(connection.execute(rows).scalars()))
