"""A stored study as one command on this machine works on it: its budget set, what broke off taken up, its workers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.progress import Say
from search.artifacts import cleanup, remote_checkpoints, study_dir
from search.artifacts.disk_space import DiskBudget
from search.artifacts.study_dir import StudyDirs
from search.errors import BusyError, SpecError, UsageError
from search.spec.study_spec import StudySpec, fixed_trials
from search.storage import leases, queries
from search.storage.lease_expiry import LeaseMonitor, has_no_live_owner
from search.storage.rdb import Storage
from search.storage.retry import Timeouts
from search.study import stored_study
from search.study.provenance import code_version, differences
from search.study.stored_study import StoredStudy
from search.trial.context import WorkerConfig
from search.workers.backend import WorkerBackend
from search.workers.live_view import View
from search.workers.pool import Pool

Show = Callable[[StoredStudy], AbstractContextManager[View]]
"""Opens the live view of a study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What a command asks for beside the spec."""

    url: str
    cache: Path
    name: str
    trials: int | None = None
    """Budget of the whole study; None is the spec's."""
    hours: float | None = None
    """Wall-clock for this run; None is what is left of the spec's `hours`, which are for all runs together."""
    disk: float | None = None
    """GB that the files of all studies in the home folder may take; None is what the disk has, but for a reserve."""
    workers: int | None = None
    """None is one a core, or one a GPU."""
    device: str | None = None
    """cpu or cuda; None is whatever there is."""
    join: bool = False
    """Add workers to a study that another process of this machine runs."""
    detach: bool = False
    """Only store the study, with its budget; others work on it."""
    engine: Literal["local", "ray"] = "local"
    """Whose workers: processes of this machine, or actors of a Ray cluster."""
    address: str | None = None
    """HOST:PORT of the Ray cluster; None is one of our own on this machine."""
    retry_failed: bool = False
    times: Timeouts = field(default_factory=Timeouts)


@contextmanager
def exclusive(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> Iterator[None]:
    """Be the one who runs the study on this machine: with its budget set and its broken-off trials taken up.

    If somebody else runs it, what was asked for is set all the same before BusyError is raised.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(study_dir.of(order.url).running(stored.name))
        except BusyError:
            if order.trials is not None:
                set_trials(storage, stored, order.trials, say)
            if order.hours is not None:
                set_hours(storage, stored, order.hours)
            raise
        requeue_dead(storage, stored, order, say)
        set_budget(storage, stored, order, say)
        announce_resume(storage, stored, order, say)
        yield


@contextmanager
def joined(stored: StoredStudy, order: RunOptions) -> Iterator[None]:
    """Work beside the one who runs the study on this machine.

    Raises:
        UsageError: nobody does.
        SpecError: it is done by other code; says what differs.
    """
    with suppress(BusyError), study_dir.of(order.url).running(stored.name):
        raise UsageError(f"nobody is running {stored.name!r} on this machine; leave out --join to run it")
    refuse_beside_other_code(stored)
    yield


def pool(
    order: RunOptions,
    storage: Storage,
    stored: StoredStudy,
    crew: WorkerBackend,
    view: View,
    *,
    since: float | None,
    threads: int = 1,
    waits: bool = True,
) -> Pool:
    """The pool of a run, whose workers have `threads` threads each; see `Pool.since` and `Pool.waits`."""
    return Pool(
        storage=storage,
        study=stored,
        worker_config=WorkerConfig(
            url=order.url,
            study=stored.name,
            token="",
            cache=str(order.cache),
            images=stored.spec.data.path,
            threads=threads,
            retry_timeout_s=order.times.retry_timeout_s,
        ),
        crew=crew,
        view=view,
        disk_budget=room_of(order, workers=crew.local_workers),
        since=since,
        waits=waits,
        times=order.times,
    )


def room_of(order: RunOptions, *, workers: int) -> DiskBudget:
    """The room that a run has for its files."""
    budget = None if order.disk is None else int(order.disk * 1e9)
    return DiskBudget(url=order.url, study=order.name, workers=workers, budget=budget)


def searching(spec: StudySpec, hours: float | None) -> float | None:
    """The part of `hours` that the search may take."""
    return hours if hours is None or spec.final is None else hours * (1 - spec.final.share)


def set_budget(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> None:
    """Store the budget that this command asks for; what it leaves open is the spec's, or theirs who work on it now."""
    known, own = storage.retry_transient(lambda: queries.study(storage.engine, stored.name)), stored.spec.budget
    hours = searching(stored.spec, own.hours)
    resets_trials = order.trials is None and known.counts.budget != possible(stored, own.trials)
    resets_hours = order.hours is None and known.hours != hours
    is_kept = (resets_trials or resets_hours) and not has_no_live_owner(storage, stored.id, say, times=order.times)
    if is_kept:
        say("other workers run this study: budget settings that are not given here stay as they are")
    if order.trials is not None or not is_kept:
        set_trials(storage, stored, order.trials or own.trials, say)
    if order.hours is not None:
        set_hours(storage, stored, order.hours)
    elif not is_kept:
        stored_study.set_attrs(storage, stored.id, hours=hours)


def set_hours(storage: Storage, stored: StoredStudy, hours: float) -> None:
    """Let the study run for `hours` more than it has run until now, the last training included."""
    part = searching(stored.spec, hours) or 0.0
    stored_study.set_attrs(storage, stored.id, hours=part + stored_study.seconds_run(storage, stored.id) / 3600)


def set_trials(storage: Storage, stored: StoredStudy, asked: int, say: Say) -> None:
    """Store how many trials the study may have, and say so where that is not what was asked for."""
    trials = stored_study.set_trials(storage, stored, possible(stored, asked))
    if trials < asked:
        say(f"the budget is {trials} trials, not {asked}: the grid has no more cells")
    if trials > asked:
        say(f"the budget is {trials} trials, not {asked}: that number was begun already, and none is thrown away")


def announce_resume(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> None:
    """Say where the study goes on, now that what broke off is back in the queue."""
    stored_study.set_attrs(storage, stored.id, stop=False, versions_now=code_version())  # an upgrade refuses no study
    far = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
    storage.retry_transient(lambda: cleanup.remove_leftovers(study_dir.of(order.url), storage.engine, stored.name, far))
    retried = leases.retry_failed(storage, stored.id) if order.retry_failed else []
    if order.retry_failed:
        say(f"{len(retried)} failed trials are tried again" if retried else "no trial has failed; nothing to retry")
    counts = storage.retry_transient(lambda: queries.study(storage.engine, stored.name)).counts
    if counts.finished or counts.waiting or counts.paused:
        pause = f", {counts.paused} pause" if counts.paused else ""
        say(f"going on: {counts.finished} of {counts.budget} trials done, {counts.waiting} taken up again{pause}")


def possible(stored: StoredStudy, asked: int) -> int:
    """The number of trials that the study can have, `asked` at the most."""
    return min(asked, len(fixed_trials(stored.spec))) if stored.spec.search.sampler == "grid" else asked


def requeue_dead(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> None:
    """Put what broke off back to the queue.

    Raises:
        SpecError: others work on the study by other code.
    """
    requeue_stopped(storage, stored, study_dir.of(order.url))
    LeaseMonitor(order.times).expire(storage, stored.id)
    wants_peace = order.retry_failed or differences(stored.versions, code_version())
    if wants_peace and not has_no_live_owner(storage, stored.id, say, times=order.times):
        refuse_beside_other_code(stored_study.load(storage, stored.name))  # they may have upgraded it meanwhile


def refuse_beside_other_code(stored: StoredStudy) -> None:
    """Let nobody work on a study by other code than those who do now.

    Raises:
        SpecError: says what differs.
    """
    apart = differences(stored.versions, code_version())
    if apart:
        raise SpecError(
            f"others work on {stored.name!r} now, by other code: {'; '.join(apart)}; install theirs here, or "
            f"`convsearch stop {stored.name}` first"
        )


def requeue_stopped(storage: Storage, stored: StoredStudy, files: StudyDirs) -> None:
    """Put those trials back to the queue that an earlier run was to put back, but could not.

    It was stopped on purpose, so that this was no attempt.
    """
    tokens = files.read_stopped_workers(stored.name)
    if tokens:
        leases.release(storage, tokens)
        files.clear_stopped_workers(stored.name)
