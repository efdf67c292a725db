"""`convsearch worker` and `serve`: work on all open studies of a database, no matter which machine began them.

All work is read from the database; the agent receives no requests. A study requires the code that it was begun with (or
that `convsearch run` last ran it with) and identical images, which this machine fetches itself.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import optuna

from data.errors import DataError
from data.progress import Say
from search.artifacts import cleanup, remote_checkpoints, study_dir
from search.errors import (
    AllTrialsFailedError,
    AllTrialsImpossibleError,
    BusyError,
    ConvsearchError,
    DatabaseError,
    SpecError,
    UsageError,
)
from search.service.final import layout_of, verdict_study
from search.service.run import hours_left
from search.service.session import RunOptions, Show, pool, requeue_stopped
from search.storage import claims, leases, queries
from search.storage.leases import LeaseMonitor
from search.storage.rdb import Storage
from search.storage.records import StudySummary
from search.study import provenance, stored_study, strategy
from search.study.final_plan import name_of
from search.study.inputs import check_same_code, devices, ensure_inputs
from search.study.stored_study import StoredStudy
from search.workers.local import LocalBackend
from search.workers.stop_rules import END_OF, StopReason

#: Polling interval for work, and the pause after a database error, in seconds.
LOOK_S = 2.0
#: Retry interval for a refused study in seconds, for an agent that stays.
AGAIN_S = 60.0
#: Errors of one study, which do not prevent work on the others.
OF_A_STUDY = (AllTrialsFailedError, AllTrialsImpossibleError, DataError, SpecError, UsageError)


@dataclass(kw_only=True, slots=True)
class Agent:
    """Works on the open studies of a database, one after another, with all workers of this machine."""

    order: RunOptions
    """Options for all studies; its `name` is not used."""
    images: str | None = None
    """Path of the images of a study on this machine, if the path in its spec does not exist."""
    stays: bool
    """Wait for new work when nothing is left to do, and for a database that does not answer."""
    show: Show
    say: Say
    _refused: dict[str, ConvsearchError | DataError] = field(default_factory=dict)
    """Errors of refused studies, by study uid."""
    _retry_at: dict[str, float] = field(default_factory=dict)
    """Time of the next try, monotonic seconds, by study uid."""
    _busy_names: set[str] = field(default_factory=set)
    """Names of studies that another process on this machine runs; each is reported once."""
    _judged_uids: set[str] = field(default_factory=set)
    """Uids of searches whose final training was created, or cannot be."""
    _has_worked: bool = False
    _is_idle: bool = False
    """Whether it has reported that there is nothing to do."""
    _last_message: str = ""
    """Last message about the database."""
    _stop_reason: StopReason | None = None
    _lease_monitors: dict[str, LeaseMonitor] = field(default_factory=dict)
    """By study uid."""
    _code_version: Mapping[str, str] = field(default_factory=provenance.code_version)
    """The code that this process has loaded."""

    def run(self) -> StopReason:
        """Work until nothing is left to do or a stop is requested.

        Returns:
            Why the agent ended.

        Raises:
            DatabaseError: the database does not exist; or it does not answer, and `stays` is false.
            DiskError: the disk of this machine is full.
            ConvsearchError, DataError: all open studies were refused; this is the error of the first one.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = Storage(self.order.url, retry_timeout_s=self.order.times.retry_timeout_s)
        while self._stop_reason is None:
            try:
                if self._work_on_next(storage):
                    continue
                if not (self.stays or self._open_studies(storage)):
                    return self._finish()
                if self.stays and not self._is_idle:
                    self.say("nothing to do now; waiting for more, until Ctrl-C")
                self._is_idle = True
            except DatabaseError as error:
                if not self.stays:
                    raise
                if str(error) != self._last_message:
                    self.say(f"{error}; trying again")
                self._last_message = str(error)
            time.sleep(LOOK_S)
        return self._stop_reason

    def _open_studies(self, storage: Storage) -> list[StudySummary]:
        """The studies that may have work for this agent, now or later."""
        now = time.monotonic()
        summaries = storage.retry_transient(lambda: queries.study_summaries(storage.engine))
        # A search that is no longer over has got more hours or trials, and is judged again.
        self._judged_uids -= {summary.uid for summary in summaries if not summary.is_over}
        return [
            summary
            for summary in summaries
            if not (summary.stop or now < self._retry_at.get(summary.uid, 0.0) or self._is_done(summary))
        ]

    def _is_done(self, summary: StudySummary) -> bool:
        return summary.is_over and (not summary.has_final or summary.has_verdict or summary.uid in self._judged_uids)

    def _work_on_next(self, storage: Storage) -> bool:
        """Work on the first study that has work; returns false if none has."""
        for summary in self._open_studies(storage):
            try:
                if self._work_on_study(storage, stored_study.load(storage, summary.name), summary):
                    return True
            except OF_A_STUDY as error:
                self._refuse(summary, error)
            except DatabaseError:
                raise
            except ConvsearchError as error:  # a full disk, workers that die before they begin
                if not self.stays:
                    raise
                self._refuse(summary, error)
        return False

    def _work_on_study(self, storage: Storage, stored: StoredStudy, summary: StudySummary) -> bool:
        """Do the current work of a study; returns false if there is none."""
        check_same_code(stored, self._code_version)
        self._lease_monitors.setdefault(stored.uid, LeaseMonitor(self.order.times)).expire(storage, stored.id)
        if summary.is_over:
            return not summary.running and self._create_verdict(storage, stored)
        if not storage.read(lambda tx: claims.claimable(tx, stored.id, strategy.promotion_policy(stored.spec))):
            return False
        is_busy = bool(storage.read(lambda tx: leases.lease_tokens(tx, stored.id)))
        if is_busy and summary.is_verdict and stored.spec.budget.hours is not None:
            return False  # its trainings share its hours, planned for the cores of one machine
        remote_checkpoints.check(stored.spec.checkpoints)
        try:
            with self._locked(storage, stored):
                self._run_pool(storage, self._with_inputs(stored))
        except BusyError as error:
            if stored.name not in self._busy_names:
                self.say(str(error))
            self._busy_names.add(stored.name)
            return False
        return True

    def _run_pool(self, storage: Storage, stored: StoredStudy) -> None:
        device_names = devices(stored.spec, self.order.workers, device=self.order.device)
        threads = 1
        if stored.spec.verdict_on is not None:
            layout = layout_of(device_names, trainings=stored.spec.budget.trials)
            device_names, threads = device_names[: layout.workers], layout.threads
        backend = LocalBackend(device_names)
        if stored.uid not in self._refused:
            self.say(f"{stored.name}: {backend.plan}")
        order = replace(self.order, name=stored.name)
        since = None if storage.read(lambda tx: leases.lease_tokens(tx, stored.id)) else time.monotonic()
        with self.show(stored) as view:
            reason = pool(order, storage, stored, backend, view, since=since, threads=threads, waits=False).run()
        self._has_worked, self._is_idle = True, False
        self.say(f"{stored.name}: {'nothing is left to claim' if reason is StopReason.DONE else reason}")
        self._stop_reason = reason if reason in END_OF.values() else None  # otherwise look for other studies

    def _create_verdict(self, storage: Storage, stored: StoredStudy) -> bool:
        """Create the verdict study of a search that is over; returns whether it was created."""
        is_created = False
        if not queries.is_known(storage.engine, name_of(stored.name)):
            order = replace(self.order, name=stored.name)
            hours = hours_left(order, storage, stored, time.monotonic())
            is_created = verdict_study(order, storage, stored, self.say, hours=hours) is not None
        self._judged_uids.add(stored.uid)
        return is_created

    @contextmanager
    def _locked(self, storage: Storage, stored: StoredStudy) -> Iterator[None]:
        """Hold the lock of the study on this machine, and remove its leftover files before and after the work.

        Raises:
            BusyError: another process holds the lock.
        """
        dirs = study_dir.of(self.order.url)
        with dirs.running(stored.name):
            self._busy_names.discard(stored.name)
            requeue_stopped(storage, stored, dirs)
            remote = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
            remove_leftovers = partial(cleanup.remove_leftovers, dirs, storage.engine, stored.name, remote)
            storage.retry_transient(remove_leftovers)
            yield
            if self._stop_reason is None:  # after a stop there is no time for files of pruned paused trials
                storage.retry_transient(remove_leftovers)

    def _with_inputs(self, stored: StoredStudy) -> StoredStudy:
        """The study with its images and pretrained weights on this machine.

        Raises:
            DataError, DiskError: see `ensure_inputs`.
        """
        path = stored.spec.data.path
        if path is not None and self.images is not None and not Path(path).exists():
            stored = replace(stored, spec=stored_study.with_data_path(stored.spec, self.images))
        ensure_inputs(stored, self.order.cache, self.say)
        return stored

    def _refuse(self, summary: StudySummary, error: ConvsearchError | DataError) -> None:
        previous_error, self._refused[summary.uid] = self._refused.get(summary.uid), error
        self._retry_at[summary.uid] = time.monotonic() + AGAIN_S if self.stays else math.inf
        if str(previous_error) != str(error):
            self.say(f"{summary.name} is skipped: {error}")

    def _finish(self) -> StopReason:
        """End because nothing is left to do; raises the first refusal if no study was worked on."""
        if self._refused and not self._has_worked:
            raise next(iter(self._refused.values()))
        self.say("nothing is left to do")
        return StopReason.DONE
