"""`convsearch run`: runs a study from its spec to the last trial."""

import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, assert_never

import optuna

from data.progress import Say
from search.analysis import obstacles, selection
from search.artifacts import cleanup, remote_checkpoints, study_dir
from search.artifacts.study_dir import StudyDirs
from search.errors import DatabaseError, DiskError, UsageError
from search.service.final import known_verdict, run_verdict, verdict_study
from search.service.recipes import with_recipe
from search.service.session import RunOptions, Show, current_record, exclusive, joined, pool
from search.spec.derived_specs import single_trial_spec
from search.spec.feasibility import check_feasible
from search.spec.fit import ImageLimits
from search.spec.study_spec import StudySpec
from search.storage import leases, queries
from search.storage.rdb import Storage
from search.storage.read_only import sqlite_path
from search.storage.records import FINAL, StudyRecord, TrialRecord, is_verdict, search_name
from search.study import final_plan, stored_study
from search.study.inputs import (
    devices,
    fetch_backbones,
    fetch_images,
    prepare_data,
    with_absolute_path,
    worker_bytes,
)
from search.study.stored_study import StoredStudy
from search.tables import format_duration
from search.workers.backend import WorkerBackend
from search.workers.local import LocalBackend
from search.workers.ray_backend import RayBackend
from search.workers.stop_rules import StopReason

#: What is left of --hours for the start, the report and the model folder of a study with a recipe: seconds, and at most
#: a share.
HAND_OVER_S, HAND_OVER_SHARE = 12.0, 0.05


def run_study(order: RunOptions, spec: StudySpec, *, show: Show, say: Say) -> StopReason:
    """Run the study until its budget is spent or a stop is requested; then its [final], if any.

    Args:
        order: Options of the command.
        spec: Spec of the study.
        show: Opens the live view.
        say: Prints a message to the user.

    Returns:
        Why the run ended.

    Raises:
        SpecError, DataError, DatabaseError, DiskError, BusyError, AllTrialsFailedError, AllTrialsImpossibleError: the
            study cannot be run.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the live view replaces it
    dirs = study_dir.of(order.url)
    check_name(order.name, spec, dirs)
    dirs.make()
    backend = backend_of(order, spec)
    storage = Storage(order.url, create=True, retry_timeout_s=order.times.retry_timeout_s)
    spec, fingerprint = stored_study.check(storage, spec, name=order.name)
    spec = replace(spec, data=with_absolute_path(spec.data))
    if spec.verdict_on is not None and order.hours is not None:
        spec = more_hours(storage, spec, order)
    remote_checkpoints.check(spec.checkpoints)
    fetch_images(spec, order.cache, say)
    started_at = time.monotonic()
    if spec.is_provisional:
        spec, data = prepare_recipe(order, storage, spec, say)
    else:
        data = prepare_data(spec, order.cache, say, fingerprint=fingerprint)
    if not order.join:
        refuse_infeasible(storage, spec, order.name, data, say)
    prepared_at = time.monotonic()
    fetch_backbones(spec, say)
    started_at += time.monotonic() - prepared_at  # downloads could use up the hours on a slow line
    stored = stored_study.open_or_create(storage, spec, name=order.name, data=data)
    if order.hours is not None and spec.template is not None and spec.final is not None:
        order = replace(order, hours=order.hours - min(HAND_OVER_S / 3600, HAND_OVER_SHARE * order.hours))
    if is_over(order, storage, spec):
        known_verdict(storage, stored, None)  # its images may have moved
        say(f"the last training of {order.name!r} has been tested already; a larger --hours or --trials searches on")
        return StopReason.DONE
    if order.detach:
        with exclusive(storage, stored, order, say):
            ended(order, storage, stored)
            return StopReason.DETACHED
    if spec.verdict_on is not None and not order.join:
        return run_verdict(order, storage, stored, show, say, since=started_at)
    with joined(stored, order) if order.join else exclusive(storage, stored, order, say):
        reason = None if order.join else ended(order, storage, stored)
        if reason is None:
            say(backend.plan)
            if storage.read(lambda connection: leases.lease_tokens(connection, stored.id)):
                started_at = time.monotonic()  # other workers have counted the time so far
            with show(stored) as view:
                reason = pool(order, storage, stored, backend, view, since=None if order.join else started_at).run()
        if reason is StopReason.DONE:
            with suppress(DatabaseError, DiskError):  # files of paused trials and of kills; or the next run does it
                cleanup.remove_leftovers(
                    dirs, storage.engine, stored.name, remote_checkpoints.of(spec.checkpoints, stored.remote_key)
                )
        if order.join or reason not in (StopReason.DONE, StopReason.HOURS, StopReason.NOTHING_FOUND):
            return reason
        record = current_record(storage, stored.name)
        if record.counts.finished >= record.counts.budget:  # the last trials may end after the last poll
            obstacles.check_results(storage.engine, record)
        since, hours = time.monotonic(), hours_left(order, storage, stored, started_at)
        if reason is StopReason.NOTHING_FOUND:
            say(nothing_found(current_record(storage, stored.name), hours))
        if spec.final is None:
            return reason
        local_order = of_this_machine(order)
        verdict = verdict_study(local_order, storage, stored, say, hours=hours)
        return (
            StopReason.DONE if verdict is None else run_verdict(local_order, storage, verdict, show, say, since=since)
        )


def prepare_recipe(order: RunOptions, storage: Storage, spec: StudySpec, say: Say) -> tuple[StudySpec, dict[str, Any]]:
    """The study with the recipe for its images and this machine, and the properties of its images.

    If another run has begun the study meanwhile, its recipe is that of the study.
    """
    local_order = of_this_machine(order)
    filled = with_recipe(
        spec,
        order.cache,
        devices=devices(spec, local_order.workers, device=local_order.device),
        hours=order.hours or spec.budget.hours,
        say=say,
    )
    data = prepare_data(filled, order.cache, say)
    begun, fingerprint = stored_study.check(storage, spec, name=order.name)
    if begun.is_provisional:
        return filled, data
    say(f"another run has begun {order.name!r} meanwhile: the study keeps its recipe")
    return begun, prepare_data(begun, order.cache, say, fingerprint=fingerprint)


def refuse_infeasible(storage: Storage, spec: StudySpec, name: str, data: Mapping[str, Any], say: Say) -> None:
    """Refuse a study that can train nothing, before it is stored, and report what it cannot train.

    A study that has a result goes on, whatever it can train: another version may have trained it.

    Args:
        storage: Database of the study.
        spec: Spec of the study.
        name: Name of the study.
        data: Properties of its images; see `prepare_data`.
        say: Prints a message to the user.

    Raises:
        AllTrialsImpossibleError: nothing can be trained.
    """
    if spec.verdict_on is not None or has_results(storage, name):
        return
    side = spec.data.search_size or data["image_size"]
    limits = ImageLimits(side=side, classes=len(data["classes"]), images=data["train_count"])
    for line in check_feasible(spec, limits).lines():
        say(line)


def has_results(storage: Storage, name: str) -> bool:
    """Whether a study has begun trials, and not all of them have ended without a result."""
    engine = storage.engine
    if not is_known(storage, name):
        return False
    counts = current_record(storage, name).counts
    if counts.complete or counts.begun > counts.finished:
        return True
    return counts.finished > len(storage.retry_transient(lambda: queries.obstructed(engine, name)))


def ended(order: RunOptions, storage: Storage, stored: StoredStudy) -> StopReason | None:
    """Why the search has ended already; None if it continues.

    A stored selection remains valid after a kill before the final training. A command that asks for more trials, or
    for more hours of a search whose final training is over, reopens the search, unless each configuration of its space
    has been tried.

    Args:
        order: Options of the command.
        storage: Database of the study.
        stored: The study.

    Returns:
        The reason, if at most the final training is left; otherwise None.
    """
    record = current_record(storage, stored.name)
    if record.is_exhausted:
        return StopReason.NOTHING_FOUND if record.nothing_found else StopReason.DONE
    if order.trials is None and record.selection is not None and not is_judged(storage, stored):
        return StopReason.NOTHING_FOUND if record.nothing_found else StopReason.DONE
    if order.trials is None and order.hours is None and record.nothing_found:
        return StopReason.NOTHING_FOUND
    if record.nothing_found or record.selection is not None:
        compared = storage.retry_transient(lambda: selection.ended(storage.engine, record))
        stored_study.reopen_search(storage, stored, judged=compared.judged)
    return None


def is_over(order: RunOptions, storage: Storage, spec: StudySpec) -> bool:
    """Whether a study has ended with the test of its last training, and the command asks for nothing more."""
    name, final_name = order.name, final_plan.name_of(order.name)
    is_plain = not (order.join or order.detach or order.retry_failed)
    if not is_plain or spec.final is None or spec.verdict_on is not None:
        return False
    if not (is_known(storage, name) and is_known(storage, final_name)):
        return False
    record, final = current_record(storage, name), current_record(storage, final_name)
    is_tested = final.counts.complete > 0 and not final.counts.to_do
    is_its_own = stored_study.load(storage, final_name).spec.verdict_on == record.uid
    if record.selection is None or not is_tested or not is_its_own:
        return False
    hours = order.hours or spec.budget.hours
    given = None if record.hours is None else record.hours / (1 - spec.final.share)
    has_time = given is None or (hours is not None and hours <= given * (1 + 1e-9))
    return has_time and max(order.trials or 0, spec.budget.trials if spec.has_trials else 0) <= record.counts.budget


def is_known(storage: Storage, name: str) -> bool:
    """Whether a study of this name exists."""
    return storage.retry_transient(lambda: queries.is_known(storage.engine, name))


def is_judged(storage: Storage, stored: StoredStudy) -> bool:
    """Whether the final training of a search has ended."""
    name = final_plan.name_of(stored.name)
    return is_known(storage, name) and not current_record(storage, name).counts.to_do


def nothing_found(record: StudyRecord, hours: float | None) -> str:
    """The message that the search has ended, with the hours left for the final training."""
    text = f"the search stopped after {record.counts.begun} trials; trial 0 leads"
    if hours is None or hours <= 0:
        return text
    rest = format_duration(3600 * hours)
    if record.spec.get("final"):
        return f"{text}; {rest} are left for its last training"
    return (
        f"{text}; {rest} are left: `convsearch final {shlex.quote(record.name)} --hours {hours:.4f}` trains it in them"
    )


def backend_of(order: RunOptions, spec: StudySpec) -> WorkerBackend:
    """The backend of a search: processes on this machine, or actors of a Ray cluster.

    Raises:
        UsageError: Ray cannot be used for this study or on this machine.
    """
    local_order = of_this_machine(order)
    device_names = devices(spec, local_order.workers, device=local_order.device)
    match order.engine:
        case "local":
            return LocalBackend(device_names)
        case "ray":
            if spec.verdict_on is not None:
                raise UsageError("a last training runs on this machine alone, without --engine ray")
            return RayBackend(
                address=order.address,
                devices=device_names,
                workers=order.workers,
                device=order.device,
                worker_bytes=worker_bytes(spec),
                one_machine=sqlite_path(order.url) is not None,
            )
        case _:
            assert_never(order.engine)


def of_this_machine(order: RunOptions) -> RunOptions:
    """The options without those for the machines of a cluster."""
    return order if order.address is None else replace(order, workers=None, device=None)


def check_name(name: str, spec: StudySpec, dirs: StudyDirs) -> None:
    """Refuse a name that is no valid folder name or is reserved for a verdict, before any other work.

    Raises:
        UsageError: the name is invalid; the message has the reason.
    """
    if is_verdict(name) and spec.verdict_on is None:
        raise UsageError(
            f"the study name {name!r} ends in {FINAL!r}, as that of the last training of {search_name(name)!r} "
            "does; choose another one with --name"
        )
    try:
        dirs.study(name)
        if spec.final is not None:
            dirs.study(final_plan.name_of(name))
    except UsageError as error:
        raise UsageError(f"{error}; choose another one with --name") from error


def more_hours(storage: Storage, spec: StudySpec, order: RunOptions) -> StudySpec:
    """The spec of a stored verdict with `order.hours` more than it has run; its trainings are fitted to that time."""
    verdict = stored_study.load(storage, order.name)
    hours = stored_study.seconds_run(storage, verdict.id) / 3600 + (order.hours or 0.0)
    return replace(spec, budget=spec.budget.model_copy(update={"hours": hours}))


def hours_left(order: RunOptions, storage: Storage, stored: StoredStudy, started_at: float) -> float | None:
    """Hours left for the final training: of the hours of this command, if given, otherwise of those of the study.

    Args:
        order: Options of the command.
        storage: Database of the study.
        stored: The study.
        started_at: Start of the command, monotonic seconds.

    Returns:
        Hours; None if there is no limit.
    """
    if order.hours is not None:
        return max(0.0, order.hours - (time.monotonic() - started_at) / 3600)
    record = current_record(storage, stored.name)
    if record.hours is None:
        return None
    final_share = 0.0 if stored.spec.final is None else stored.spec.final.share
    return max(0.0, record.hours / (1 - final_share) - record.seconds_run / 3600)


def rerun_spec(stored: StoredStudy, trial: TrialRecord) -> StudySpec:
    """Spec of a study of one trial that repeats a trial to the end, with its configuration and seed.

    Raises:
        UsageError: the trial has no configuration yet, or is a final training, which uses the test images once.
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
