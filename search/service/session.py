"""One command's session on a stored study: sets the budget, requeues interrupted trials, creates the pool."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.progress import Say
from data.text import counted
from search.analysis import obstacles
from search.analysis.study_tables import all_tried
from search.artifacts import cleanup, remote_checkpoints, study_dir
from search.artifacts.disk_space import DiskBudget
from search.artifacts.study_dir import StudyDirs
from search.errors import BusyError, SpecError, UsageError
from search.spec.study_spec import StudySpec, fixed_trials
from search.storage import attr_keys, leases, queries
from search.storage.claims import SpaceSize
from search.storage.leases import LeaseMonitor, has_no_live_owner
from search.storage.rdb import Storage
from search.storage.records import StudyRecord
from search.storage.retry import Timeouts
from search.study import stored_study
from search.study.configurations import TriedConfigurations
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
    """Options of a command, in addition to the spec."""

    url: str
    cache: Path
    name: str
    trials: int | None = None
    """Trial budget of the whole study; None is that of the spec."""
    hours: float | None = None
    """Wall-clock hours for this run; None is the rest of `hours` in the spec, which count for all runs together."""
    disk: float | None = None
    """Limit in GB for the files of all studies in the home folder; None is the free disk space minus a reserve."""
    workers: int | None = None
    """Number of workers; None is one per core, or one per GPU."""
    device: str | None = None
    """cpu or cuda; None is cuda if there is a GPU, otherwise cpu."""
    join: bool = False
    """Add workers to a study that another process on this machine runs."""
    detach: bool = False
    """Only store the study and its budget; other processes work on it."""
    engine: Literal["local", "ray"] = "local"
    """Backend of the workers: processes on this machine, or actors of a Ray cluster."""
    address: str | None = None
    """HOST:PORT of the Ray cluster; None starts a private one on this machine."""
    retry_failed: bool = False
    times: Timeouts = field(default_factory=Timeouts)


@contextmanager
def exclusive(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> Iterator[None]:
    """Hold the lock of the study on this machine, with its budget set and its interrupted trials requeued.

    If another process holds the lock, the requested budget is stored nevertheless.

    Args:
        storage: Database of the study.
        stored: The study.
        order: Options of the command.
        say: Prints a message to the user.

    Raises:
        BusyError: another process on this machine runs the study.
        SpecError: other workers run the study with other code.
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
        prepare_resume(storage, stored, order, say)
        yield


@contextmanager
def joined(stored: StoredStudy, order: RunOptions) -> Iterator[None]:
    """Work on a study that another process on this machine runs.

    Args:
        stored: The study.
        order: Options of the command.

    Raises:
        UsageError: no process on this machine runs it.
        SpecError: that process has other code; the message lists the differences.
    """
    with suppress(BusyError), study_dir.of(order.url).running(stored.name):
        raise UsageError(f"{stored.name!r} is not running on this machine; leave out --join to run it")
    refuse_beside_other_code(stored)
    yield


def pool(
    order: RunOptions,
    storage: Storage,
    stored: StoredStudy,
    backend: WorkerBackend,
    view: View,
    *,
    since: float | None,
    threads: int = 1,
    waits: bool = True,
) -> Pool:
    """Create the pool of a run.

    Args:
        order: Options of the command.
        storage: Database of the study.
        stored: The study.
        backend: Starts the workers.
        view: Shows the progress.
        since: Start of the run time, monotonic seconds; see `Pool.since`.
        threads: Threads per worker.
        waits: See `Pool.waits`.
    """
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
        backend=backend,
        view=view,
        disk_budget=disk_budget(order, workers=backend.local_workers),
        since=since,
        waits=waits,
        times=order.times,
    )


def disk_budget(order: RunOptions, *, workers: int) -> DiskBudget:
    """The disk budget of a run with `workers` workers on this machine."""
    budget = None if order.disk is None else int(order.disk * 1e9)
    return DiskBudget(url=order.url, study=order.name, workers=workers, budget=budget)


def current_record(storage: Storage, name: str) -> StudyRecord:
    """The current record of a study."""
    return storage.retry_transient(lambda: queries.study(storage.engine, name))


def searching(spec: StudySpec, hours: float | None) -> float | None:
    """The part of `hours` for the search; the rest is for the final training, if the spec has one."""
    return hours if hours is None or spec.final is None else hours * (1 - spec.final.share)


def set_budget(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> None:
    """Store the budget of this command.

    Values that the command omits come from the spec, or stay unchanged while other workers run the study.
    """
    record, spec_budget = current_record(storage, stored.name), stored.spec.budget
    search_hours = searching(stored.spec, spec_budget.hours)
    possible_trials = possible(stored, spec_budget.trials, space_size(storage, stored, spec_budget.trials))
    resets_trials = order.trials is None and record.counts.budget != possible_trials
    resets_hours = order.hours is None and record.hours != search_hours
    is_kept = (resets_trials or resets_hours) and not has_no_live_owner(storage, stored.id, say, times=order.times)
    if is_kept:
        say("other workers run this study: budget settings that are not given here stay as they are")
    if order.trials is not None or not is_kept:
        set_trials(storage, stored, order.trials or spec_budget.trials, say)
    if order.hours is not None:
        set_hours(storage, stored, order.hours)
    elif not is_kept:
        stored_study.set_attrs(storage, stored.id, {attr_keys.HOURS: search_hours})


def set_hours(storage: Storage, stored: StoredStudy, hours: float) -> None:
    """Allow the study `hours` more than it has run so far, the final training included."""
    search_hours = searching(stored.spec, hours) or 0.0
    stored_study.set_attrs(
        storage, stored.id, {attr_keys.HOURS: search_hours + stored_study.seconds_run(storage, stored.id) / 3600}
    )


def set_trials(storage: Storage, stored: StoredStudy, asked: int, say: Say) -> None:
    """Store the trial budget; print a message if it differs from the number asked for."""
    size = space_size(storage, stored, asked)
    configurations = None if size is None else size.configurations
    trials = stored_study.set_trials(storage, stored, possible(stored, asked, size), configurations=configurations)
    if trials < asked:
        say(f"the budget is {counted(trials, 'trial')}, not {asked}: {why_no_more(configurations)}")
    if trials > asked:
        say(f"the budget is {trials} trials, not {asked}: that number was begun already, and none is thrown away")


def prepare_resume(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> None:
    """Clear the stop request, remove leftover files, retry failed trials if asked for, and print the progress."""
    # The version of this code replaces the stored one: upgrades are allowed.
    stored_study.set_attrs(storage, stored.id, {attr_keys.STOP: False, attr_keys.CURRENT_VERSIONS: code_version()})
    remote = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
    storage.retry_transient(
        lambda: cleanup.remove_leftovers(study_dir.of(order.url), storage.engine, stored.name, remote)
    )
    retried = leases.retry_failed(storage, stored.id) if order.retry_failed else []
    if order.retry_failed:
        say(f"{len(retried)} failed trials are tried again" if retried else "no trial has failed; nothing to retry")
    record = current_record(storage, stored.name)
    counts = record.counts
    _allow_more_obstacles(storage, stored, record)
    if record.is_exhausted:
        say(f"{all_tried(record)}; nothing is left to search")
    elif counts.finished or counts.waiting or counts.paused:
        pause = f", {counts.paused} pause" if counts.paused else ""
        say(f"going on: {counts.finished} of {counts.budget} trials done, {counts.waiting} taken up again{pause}")


def _allow_more_obstacles(storage: Storage, stored: StoredStudy, record: StudyRecord) -> None:
    """Let a study without any result go on: this machine, its workers or the code may be others than before."""
    if record.counts.complete or not record.counts.to_do:
        return
    if storage.retry_transient(lambda: obstacles.of_first_trials(storage.engine, stored.spec, record)):
        stored_study.set_attrs(storage, stored.id, {attr_keys.OBSTRUCTED_BEFORE: record.counts.begun})


def possible(stored: StoredStudy, asked: int, size: SpaceSize | None) -> int:
    """The number of trials that the study can have: `asked`, limited by the cells of a grid or by a finite space."""
    if stored.spec.search.sampler == "grid":
        return min(asked, len(fixed_trials(stored.spec)))
    return asked if size is None else min(asked, size.trials)


def space_size(storage: Storage, stored: StoredStudy, asked: int) -> SpaceSize | None:
    """The size of a finite search space; None if it allows more than `asked` trials, or more than there are."""
    beyond = max(asked, current_record(storage, stored.name).counts.begun)
    return storage.read(lambda connection: TriedConfigurations(stored).size(connection, beyond=beyond))


def why_no_more(configurations: int | None) -> str:
    """Why a study can have no more trials: the number of configurations of a finite space, or None for a grid."""
    if configurations is None:
        return "the grid has no more cells"
    return (
        f"[space] has {counted(configurations, 'configuration')} to try, and a search tries each once "
        "(sampler = 'grid' has repeats)"
    )


def requeue_dead(storage: Storage, stored: StoredStudy, order: RunOptions, say: Say) -> None:
    """Put interrupted trials back in the queue.

    Raises:
        SpecError: other workers run the study with other code.
    """
    requeue_stopped(storage, stored, study_dir.of(order.url))
    LeaseMonitor(order.times).expire(storage, stored.id)
    needs_exclusive = order.retry_failed or differences(stored.versions, code_version())
    if needs_exclusive and not has_no_live_owner(storage, stored.id, say, times=order.times):
        refuse_beside_other_code(stored_study.load(storage, stored.name))  # may have been upgraded


def refuse_beside_other_code(stored: StoredStudy) -> None:
    """Refuse to work on a study with other code than its current workers.

    Raises:
        SpecError: the code differs; the message lists the differences.
    """
    changes = differences(stored.versions, code_version())
    if changes:
        raise SpecError(
            f"others work on {stored.name!r} now, by other code: {'; '.join(changes)}; install theirs here, or "
            f"`convsearch stop {stored.name}` first"
        )


def requeue_stopped(storage: Storage, stored: StoredStudy, dirs: StudyDirs) -> None:
    """Put trials back in the queue that an earlier run could not release.

    That run was stopped on purpose, so this does not count as an attempt.
    """
    tokens = dirs.read_stopped_workers(stored.name)
    if tokens:
        leases.release(storage, tokens)
        dirs.clear_stopped_workers(stored.name)
