"""The loop of a worker: claim a trial, run it, record its outcome and reason in one transaction, repeat.

The caller passes the function that runs a trial; this module trains nothing and does not load torch.
"""

import os
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from traceback import format_exception

import optuna
import sqlalchemy as sa
from optuna.trial import TrialState

from search.analysis import obstacles
from search.artifacts import misclassified, study_dir
from search.artifacts.cleanup import KEEP_BEST
from search.artifacts.remote_store import RemoteStoreError
from search.errors import DatabaseError, DiskError, LeaseLostError
from search.process import this_process
from search.spec.study_spec import baseline
from search.storage import attr_keys, claims, leases, queries
from search.storage.claims import Claim
from search.storage.rdb import Storage
from search.storage.tables import TRIAL_VALUES, TRIALS
from search.study import strategy
from search.trial import recorder
from search.trial.context import TrialContext
from search.trial.outcome import Outcome, TrialPaused, TrialStopped

#: Trials just below the top k that may have been in it a moment ago: at most this number end, or pause, at once.
DRIVEN_OUT = 8

Work = Callable[[Claim, optuna.Trial], Outcome]
"""Runs a claimed trial. Raises TrialStopped or TrialPaused where it breaks off on purpose."""


def run_trials(context: TrialContext, do: Work, stopping: Callable[[], bool], *, where: str) -> None:
    """Run trials until none is left to claim, or `stopping` returns True; a stopped trial goes back to the queue.

    Args:
        context: Database and folder of the study.
        do: Runs a claimed trial.
        stopping: Checked before each claim.
        where: The device, for the trial's log.

    Raises:
        DiskError: A file could not be written.
        DatabaseError: The database failed.
        SpecError: The study was deleted.
    """
    owner = this_process(context.storage.token or "")
    points, promotion = strategy.queue(context.study), strategy.promotion_policy(context.spec)
    is_sound = True
    while is_sound and not stopping():
        claim = claims.claim(
            context.storage,
            context.study.id,
            owner,
            points,
            promotion,
            context.configurations,
            uid=context.study.uid,
        )
        if claim is None:
            return
        is_sound = run_claimed_trial(context, claim, do, where=where)


def run_claimed_trial(context: TrialContext, claim: Claim, do: Work, *, where: str) -> bool:
    """Run one claimed trial and record how it ended; a stop puts it back in the queue, a bug fails it.

    Args:
        context: Database and folder of the study.
        claim: The claimed trial.
        do: Runs it.
        where: The device, for the trial's log.

    Returns:
        Whether this process may run another trial: False after a bug, if it ran out of memory, or if the study ends
        because its first trials have no result.
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
        return True  # another process owns the trial now; this one has written nothing since
    except (DiskError, DatabaseError) as error:
        study_dir.append_log(log, f"broke off: {error}")
        raise  # not caused by the trial: the pool puts it back and stops
    except Exception as error:
        with suppress(LeaseLostError):
            fail(context, claim, error)  # the checkpoint is kept for `--retry-failed`
        return False
    study_dir.append_log(
        log, f"pruned: {outcome.reason}" if outcome.value is None else f"complete: {outcome.value:.4f}"
    )
    delete_finished_checkpoints(context, claim.number)
    return not outcome.out_of_memory and not (outcome.violation > 0 and _is_without_results(context))


def _is_without_results(context: TrialContext) -> bool:
    """Whether the study ends because its first trials have no result.

    An impossible trial takes milliseconds: this worker would begin all others before the pool sees the first.
    """
    engine, name = context.storage.engine, context.study.name
    return context.storage.retry_transient(
        lambda: bool(obstacles.of_first_trials(engine, context.spec, queries.study(engine, name)))
    )


def tell(context: TrialContext, trial: optuna.Trial, outcome: Outcome) -> None:
    """Finish the trial: store state, value, reason and constraint in one transaction."""
    with context.storage.batch():
        if outcome.reason is not None:
            trial.set_user_attr(attr_keys.REASON, outcome.reason)
        if outcome.violation > 0:
            trial.set_constraint(attr_keys.TRAINABLE, outcome.violation)
        if outcome.value is None:
            trial.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.study.tell(trial, [outcome.value, *outcome.costs])


def fail(context: TrialContext, claim: Claim, error: Exception) -> None:
    """Mark a trial as failed by a bug; the full traceback goes to the trial's log."""
    study_dir.append_log(
        context.dirs.log(context.study.name, claim.number), "failed:\n" + "".join(format_exception(error))
    )
    with context.storage.batch():
        context.storage.set_trial_user_attr(claim.trial_id, attr_keys.REASON, f"{type(error).__name__}: {error}")
        context.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)


def delete_finished_checkpoints(context: TrialContext, number: int) -> None:
    """Delete checkpoints that are no longer needed: this trial's, or those of trials that are no longer among the best.

    A verdict keeps all of its checkpoints: its best configuration is known only at its end. With several objectives all
    complete trials keep theirs: the Pareto front, too, is known only at the end.
    """
    if context.spec.verdict_on is not None:
        return
    if len(context.spec.search.objectives) > 1:
        _delete_if_pruned(context, number)
        return
    ranked = best_trials(context.storage, context.study.id, top=KEEP_BEST + DRIVEN_OUT)
    unneeded = {number, *ranked[KEEP_BEST:]} - {*ranked[:KEEP_BEST], baseline(context.spec)}
    delete_trial_checkpoints(context, unneeded)
    for finished in unneeded:
        with suppress(OSError):
            misclassified.delete(context.dirs.trial(context.study.name, finished))


def _delete_if_pruned(context: TrialContext, number: int) -> None:
    if queries.trial(context.storage.engine, context.study.name, number).state == "PRUNED":
        delete_trial_checkpoints(context, {number})


def delete_paused_checkpoints(context: TrialContext, number: int, rung: int) -> None:
    """Delete the checkpoints of paused trials that rank too low to go on soon: this one's, or those it has passed."""
    promotion = strategy.promotion_policy(context.spec)
    if promotion is None:
        return

    def delete_low_ranked(connection: sa.Connection) -> None:
        context.storage.lock_study(connection, context.study.id)  # no worker may claim one of these trials meanwhile
        low_ranked = promotion.without_checkpoint(connection, context.study.id, rung)
        for paused in {number, *low_ranked[:DRIVEN_OUT]}.intersection(low_ranked):
            with suppress(OSError):  # the end of the trial removes the files that cannot be removed now
                # Not the remote checkpoints: a remote store is too slow to be called under a lock.
                study_dir.delete_checkpoints(context.dirs.trial(context.study.name, paused))

    context.storage.write(delete_low_ranked)


def delete_trial_checkpoints(context: TrialContext, numbers: Collection[int]) -> None:
    """Delete the local and the remote checkpoints of trials; deleting the study removes those that are left."""
    for number in numbers:
        with suppress(OSError):  # resuming the study also removes the files that cannot be removed now
            study_dir.delete_checkpoints(context.dirs.trial(context.study.name, number))
    if context.remote is not None:
        with suppress(RemoteStoreError):
            context.remote.delete(numbers)


def best_trials(storage: Storage, study_id: int, *, top: int) -> list[int]:
    """The numbers of the best `top` complete trials, the best first."""
    query = (
        sa.select(TRIALS.c.number)
        .join(TRIAL_VALUES, TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id)
        .where(TRIALS.c.study_id == study_id, TRIALS.c.state == "COMPLETE", TRIAL_VALUES.c.objective == 0)
        .order_by(TRIAL_VALUES.c.value.desc(), TRIALS.c.number)
        .limit(top)
    )
    return storage.read(lambda connection: list(connection.execute(query).scalars()))
