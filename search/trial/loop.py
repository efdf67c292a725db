"""Claim, do, tell, and again: the loop of a worker. How a trial ended is recorded in one transaction with its reason.

The caller says what is done with a trial; nothing is trained here, and torch is not loaded.
"""

import os
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from traceback import format_exception

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from search.artifacts import misclassified, study_dir
from search.artifacts.cleanup import KEEP_BEST
from search.artifacts.remote_store import RemoteStoreError
from search.errors import DatabaseError, DiskError, LeaseLostError
from search.process import this_process
from search.spec.study_spec import baseline
from search.storage import leases, queries
from search.storage.leases import Claim
from search.storage.rdb import Storage
from search.storage.records import TRAINABLE
from search.storage.tables import TRIAL_VALUES, TRIALS
from search.study import strategy
from search.trial import recorder
from search.trial.context import TrialContext
from search.trial.outcome import Outcome, TrialPaused, TrialStopped

#: Trials just below the top k that may have been in it a moment ago: as many as end, or pause, at one moment.
DRIVEN_OUT = 8

Work = Callable[[Claim, optuna.Trial], Outcome]
"""What is done with a claimed trial. Raises Stopped or Paused where it breaks off on purpose."""


def run_trials(context: TrialContext, do: Work, stopping: Callable[[], bool], *, where: str) -> None:
    """Do trials until none is left to claim, or `stopping` says so; a stopped trial goes back to the queue."""
    owner = this_process(context.storage.token or "")
    points, ladder = strategy.queue(context.study), strategy.ladder(context.spec)
    is_sound = True
    while is_sound and not stopping():
        claim = leases.claim(context.storage, context.study.id, owner, points, ladder)
        if claim is None:
            return
        is_sound = run_claimed_trial(context, claim, do, where=where)


def run_claimed_trial(context: TrialContext, claim: Claim, do: Work, *, where: str) -> bool:
    """Do one claimed trial and record how it ended; a stop puts it back to the queue, a bug fails it.

    `where`: the device, for its log. Returns whether this process can be trusted with another one: a process that ran
    out of memory or met a bug cannot.
    """
    log = context.dirs.log(context.study.name, claim.number)
    study_dir.append_log(log, f"attempt {claim.attempt} in process {os.getpid()} on {socket.gethostname()}, {where}")
    try:
        trial = recorder.open_trial(context, claim)
        outcome = do(claim, trial)
        tell(context, trial, outcome)
    except TrialPaused as pause:
        leases.release(context.storage, [context.storage.token or ""])
        study_dir.append_log(log, f"paused at step {pause.step}, until {pause.until}")
        delete_paused_checkpoints(context, claim.number, pause.step)
        return True
    except TrialStopped:
        leases.release(context.storage, [context.storage.token or ""])
        study_dir.append_log(log, "stopped on purpose; back to the queue")
        return True
    except LeaseLostError as error:
        study_dir.append_log(log, f"let go: {error}")
        return True  # somebody took the trial from us, and nothing of ours was written since
    except (DiskError, DatabaseError) as error:
        study_dir.append_log(log, f"broke off: {error}")
        raise  # not the trial's fault: the pool puts it back, and stops
    except Exception as error:
        with suppress(LeaseLostError):
            fail(context, claim, error)  # its checkpoint stays, for `--retry-failed`
        return False
    study_dir.append_log(
        log, f"pruned: {outcome.reason}" if outcome.value is None else f"complete: {outcome.value:.4f}"
    )
    delete_finished_checkpoints(context, claim.number)
    return not outcome.out_of_memory


def tell(context: TrialContext, trial: optuna.Trial, outcome: Outcome) -> None:
    """Finish the trial: state, value, reason and constraint in one transaction."""
    with context.storage.batch():
        if outcome.reason is not None:
            trial.set_user_attr("reason", outcome.reason)
        if outcome.violation > 0:
            trial.set_constraint(TRAINABLE, outcome.violation)
        if outcome.value is None:
            trial.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.study.tell(trial, [outcome.value, *outcome.costs])


def fail(context: TrialContext, claim: Claim, error: Exception) -> None:
    """Finish a trial that a bug broke; the whole traceback goes to the trial's log."""
    study_dir.append_log(
        context.dirs.log(context.study.name, claim.number), "failed:\n" + "".join(format_exception(error))
    )
    with context.storage.batch():
        context.storage.set_trial_user_attr(claim.trial_id, "reason", f"{type(error).__name__}: {error}")
        context.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)


def delete_finished_checkpoints(context: TrialContext, number: int) -> None:
    """Remove checkpoints that are no longer needed: this trial's, or those of trials it drove out of the best.

    Those of a verdict stay, all of them: which configuration is best is known at its end. So do those of complete
    trials with several objectives: trials on the front are, too.
    """
    if context.spec.verdict_on is not None:
        return
    if len(context.spec.search.objectives) > 1:
        _forget_if_pruned(context, number)
        return
    ranked = best_trials(context.storage, context.study.id, top=KEEP_BEST + DRIVEN_OUT)
    unneeded = {number, *ranked[KEEP_BEST:]} - {*ranked[:KEEP_BEST], baseline(context.spec)}
    delete_trial_checkpoints(context, unneeded)
    for finished in unneeded:
        with suppress(OSError):
            misclassified.delete(context.dirs.trial(context.study.name, finished))


def _forget_if_pruned(context: TrialContext, number: int) -> None:
    if queries.trial(context.storage.engine, context.study.name, number).state == "PRUNED":
        delete_trial_checkpoints(context, {number})


def delete_paused_checkpoints(context: TrialContext, number: int, rung: int) -> None:
    """Remove the checkpoints of trials that pause too far behind to go on soon: this one's, or those it drove back."""
    ladder = strategy.ladder(context.spec)
    if ladder is None:
        return

    def forget_behind(connection: sa.Connection) -> None:
        context.storage.lock_study(connection, context.study.id)  # so that nobody goes on with one of them meanwhile
        behind = ladder.without_checkpoint(connection, context.study.id, rung)
        for each in {number, *behind[:DRIVEN_OUT]}.intersection(behind):
            with suppress(OSError):  # what cannot be removed now is removed when the trial is over
                study_dir.delete_checkpoints(
                    context.dirs.trial(context.study.name, each)
                )  # a far store is too slow to lock others out for

    context.storage.write(forget_behind)


def delete_trial_checkpoints(context: TrialContext, numbers: Collection[int]) -> None:
    """Remove the checkpoints of trials, here and where other machines find them; what remains goes with the study."""
    for number in numbers:
        with suppress(OSError):  # what cannot be removed now is removed when the study goes on, too
            study_dir.delete_checkpoints(context.dirs.trial(context.study.name, number))
    if context.remote is not None:
        with suppress(RemoteStoreError):
            context.remote.delete(numbers)


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
