"""`convsearch run`: from a spec to finished trials, on this machine."""

import shlex
import time
from contextlib import suppress
from dataclasses import replace

import optuna

from data.dataset import fetch
from data.progress import Say
from search.analysis import selection
from search.artifacts import cleanup, remote_checkpoints, study_dir
from search.artifacts.study_dir import StudyDirs
from search.errors import DatabaseError, DiskError, UsageError
from search.service.final import run_verdict, verdict_study
from search.service.session import RunOptions, Show, exclusive, joined, pool
from search.spec.derived_specs import single_trial_spec
from search.spec.study_spec import StudySpec
from search.storage import leases, queries
from search.storage.rdb import Storage
from search.storage.read_only import sqlite_path
from search.storage.records import FINAL, StudyRecord, TrialRecord, is_verdict, searched
from search.study import final_plan, stored_study
from search.study.inputs import devices, fetch_backbones, prepare_data, with_absolute_path, worker_bytes, writing_to
from search.study.stored_study import StoredStudy
from search.tables import format_duration
from search.workers.backend import WorkerBackend
from search.workers.local import LocalBackend
from search.workers.ray_backend import RayBackend
from search.workers.stop_rules import StopReason


def run_study(order: RunOptions, spec: StudySpec, *, show: Show, say: Say) -> StopReason:
    """Run the study until its budget is spent or somebody stops it, and say which; then its [final], if any.

    `show` opens the live view. Raises SpecError, DataError, DatabaseError, DiskError, BusyError, AllFailed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the live view says it better
    files = study_dir.of(order.url)
    check_name(order.name, spec, files)
    files.make()
    crew = crew_of(order, spec)
    storage = Storage(order.url, create=True, retry_timeout_s=order.times.retry_timeout_s)
    stored_study.check(storage, spec, name=order.name)
    spec = replace(spec, data=with_absolute_path(spec.data))
    if spec.verdict_on is not None and order.hours is not None:
        spec = more_hours(storage, spec, order)
    remote_checkpoints.check(spec.checkpoints)
    with writing_to(order.cache):
        fetch(spec.data, order.cache, say)
    fetch_backbones(spec, say)
    began = time.monotonic()  # a slow line is nobody's work; else it could use up the hours before the first trial
    stored = stored_study.open_or_create(storage, spec, name=order.name, data=prepare_data(spec, order.cache, say))
    if order.detach:
        with exclusive(storage, stored, order, say):
            ended(order, storage, stored)
            return StopReason.DETACHED
    if spec.verdict_on is not None and not order.join:
        return run_verdict(order, storage, stored, show, say, since=began)
    with joined(stored, order) if order.join else exclusive(storage, stored, order, say):
        end = None if order.join else ended(order, storage, stored)
        if end is None:
            say(crew.plan)
            if storage.read(lambda connection: leases.lease_tokens(connection, stored.id)):
                began = time.monotonic()  # until now others have counted
            with show(stored) as view:
                end = pool(order, storage, stored, crew, view, since=None if order.join else began).run()
        if end is StopReason.DONE:
            with suppress(DatabaseError, DiskError):  # what paused, what a kill left; else the next run does it
                cleanup.remove_leftovers(
                    files, storage.engine, stored.name, remote_checkpoints.of(spec.checkpoints, stored.remote_key)
                )
        if order.join or end not in (StopReason.DONE, StopReason.HOURS, StopReason.NOTHING_FOUND):
            return end
        since, hours = time.monotonic(), hours_left(order, storage, stored, began)
        if end is StopReason.NOTHING_FOUND:
            say(nothing_found(row_of(storage, stored.name), hours))
        if spec.final is None:
            return end
        own = of_this_machine(order)
        verdict = verdict_study(own, storage, stored, say, hours=hours)
        return StopReason.DONE if verdict is None else run_verdict(own, storage, verdict, show, say, since=since)


def ended(order: RunOptions, storage: Storage, stored: StoredStudy) -> StopReason | None:
    """How the search has ended before, if only its last training is left, or nothing; None if it is to go on.

    What was selected stays if a kill came between the choice and the last training. A command that asks for more
    trials, or for more hours of a search whose last training is over, gets them.
    """
    row = row_of(storage, stored.name)
    if order.trials is None and row.selection is not None and not is_judged(storage, stored):
        return StopReason.NOTHING_FOUND if row.nothing_found else StopReason.DONE
    if order.trials is None and order.hours is None and row.nothing_found:
        return StopReason.NOTHING_FOUND
    if row.nothing_found or row.selection is not None:
        compared = storage.retry_transient(lambda: selection.ended(storage.engine, row))
        stored_study.reopen_search(storage, stored, judged=compared.judged)
    return None


def is_judged(storage: Storage, stored: StoredStudy) -> bool:
    """Whether the last training of a search has ended."""
    name = final_plan.name_of(stored.name)
    is_known = storage.retry_transient(lambda: queries.is_known(storage.engine, name))
    return is_known and not row_of(storage, name).counts.to_do


def row_of(storage: Storage, name: str) -> StudyRecord:
    """A study as it is stored now."""
    return storage.retry_transient(lambda: queries.study(storage.engine, name))


def nothing_found(row: StudyRecord, hours: float | None) -> str:
    """That the search has ended, and what is left for the last training."""
    told = f"the search stopped after {row.counts.begun} trials; trial 0 leads"
    if hours is None or hours <= 0:
        return told
    left = format_duration(3600 * hours)
    if row.spec.get("final"):
        return f"{told}; {left} are left for its last training"
    return f"{told}; {left} are left: `convsearch final {shlex.quote(row.name)} --hours {hours:.4f}` trains it in them"


def crew_of(order: RunOptions, spec: StudySpec) -> WorkerBackend:
    """The backend of a search: processes of this machine, or actors of a Ray cluster.

    Raises:
        UsageError: that cannot be.
    """
    own = of_this_machine(order)
    seats = devices(spec, own.workers, device=own.device)
    if order.engine == "local":
        return LocalBackend(seats)
    if spec.verdict_on is not None:
        raise UsageError("a last training runs on this machine alone, without --engine ray")
    return RayBackend(
        address=order.address,
        devices=seats,
        workers=order.workers,
        device=order.device,
        worker_bytes=worker_bytes(spec),
        one_machine=sqlite_path(order.url) is not None,
    )


def of_this_machine(order: RunOptions) -> RunOptions:
    """The same, without what is meant for the machines of a cluster."""
    return order if order.address is None else replace(order, workers=None, device=None)


def check_name(name: str, spec: StudySpec, files: StudyDirs) -> None:
    """Refuse a name that cannot be a folder's, or is in the way of a verdict, before anything is done for it.

    Raises:
        UsageError: says which.
    """
    if is_verdict(name) and spec.verdict_on is None:
        raise UsageError(
            f"the study name {name!r} ends in {FINAL!r}, as that of the last training of {searched(name)!r} "
            "does; choose another one with --name"
        )
    files.study(name)
    if spec.final is not None:
        files.study(final_plan.name_of(name))


def more_hours(storage: Storage, spec: StudySpec, order: RunOptions) -> StudySpec:
    """A stored verdict with these hours more than it has run; it fits its trainings to them."""
    known = stored_study.load(storage, order.name)
    hours = stored_study.seconds_run(storage, known.id) / 3600 + (order.hours or 0.0)
    return replace(spec, budget=spec.budget.model_copy(update={"hours": hours}))


def hours_left(order: RunOptions, storage: Storage, stored: StoredStudy, began: float) -> float | None:
    """What is left for the last training, in hours: of this command's, if it names some, else of the study's."""
    if order.hours is not None:
        return max(0.0, order.hours - (time.monotonic() - began) / 3600)
    known = row_of(storage, stored.name)
    if known.hours is None:
        return None
    kept = 0.0 if stored.spec.final is None else stored.spec.final.share
    return max(0.0, known.hours / (1 - kept) - known.seconds_run / 3600)


def rerun_spec(stored: StoredStudy, trial: TrialRecord) -> StudySpec:
    """A study of one trial that trains this trial's configuration once more, with its seed, to the end.

    Raises:
        UsageError: the trial has no configuration yet, or is a last training, which looks at the test images once.
    """
    if stored.spec.verdict_on is not None:
        raise UsageError(
            f"{stored.name!r} is a last training, which looks at the test images once and is not run again"
        )
    if not trial.config or trial.seed is None:
        raise UsageError(
            f"trial {trial.number} of {stored.name!r} has not been drawn yet; there is nothing to run again"
        )
    question = f"Trial {trial.number} of {stored.name}, once more"
    return single_trial_spec(stored.spec, trial.config, question=question, seed=trial.seed, hours=None)
