"""The workers of a run: start them, watch them, renew their leases, replace them, stop them.

Only the pool sees at once that a worker died. It puts the trial of the dead worker back in the queue, and the next
worker resumes the trial from its last checkpoint. All decisions are based on the database alone.
"""

import statistics
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace

from data.errors import DataError
from search.artifacts import disk_space, study_dir
from search.artifacts.disk_space import DiskBudget
from search.errors import ConvsearchError, DatabaseError, DiskError, SpecError, UsageError
from search.storage import claims, leases, queries
from search.storage.leases import LeaseMonitor
from search.storage.rdb import Storage
from search.storage.records import StudyProgress, StudyRecord
from search.storage.retry import Timeouts
from search.study import strategy
from search.study.run_time import RunTimeCounter
from search.study.stored_study import StoredStudy
from search.trial.context import WorkerConfig
from search.workers import worker
from search.workers.backend import LOOK_S, WorkerBackend, WorkerHandle, WorkerSlot
from search.workers.live_view import View
from search.workers.polling import MIN_INTERVAL_S, Every, pause_s
from search.workers.signals import SignalListener
from search.workers.stop_rules import END_OF, SAME_FAILURES, StopReason, StopRules

#: A worker counts as hung if it finishes no batch for this number of median epochs, however slow it is.
HANG_EPOCHS = 10
#: Seconds for a worker to finish its batch and write its checkpoint. The whole shutdown must take at most 20 s, because
#: Kubernetes kills after 30.
STOP_S = 12.0
#: Seconds after that for putting their trials back while the database is busy.
GIVE_BACK_S = 3.0
#: Exit codes of workers whose error has its cause outside the trial.
NOT_THE_TRIAL = {error.exit_code: error for error in (DataError, DatabaseError, DiskError, SpecError)}


@dataclass(kw_only=True, slots=True)
class Pool:
    """Runs one study until its budget is spent or a stop is requested."""

    storage: Storage
    study: StoredStudy
    worker_config: WorkerConfig
    """Configuration of all workers; the token and the fields that depend on the slot are set for each worker."""
    backend: WorkerBackend
    view: View
    disk_budget: DiskBudget
    """Disk space for the files of the study."""
    since: float | None
    """Start of the run time of the study, monotonic seconds. It includes work before the workers start, such as
    decoding images. None for a pool that joins another one: time is counted once (see `RunTimeCounter`)."""
    waits: bool = True
    """Stay while others work on the study, even with nothing to claim: one may die and free its trial."""
    times: Timeouts = field(default_factory=Timeouts)
    _handles: dict[WorkerSlot, WorkerHandle] = field(default_factory=dict)
    _stop_reason: StopReason | None = None
    _last_record: StudyRecord | None = None
    """The study at the last poll."""
    _poll_timer: Every = field(default_factory=lambda: Every(MIN_INTERVAL_S))
    _clock: RunTimeCounter = field(init=False)
    _lease_monitor: LeaseMonitor = field(init=False)
    _signals: SignalListener = field(init=False)
    _epochs_s: list[float] = field(default_factory=list)
    """Seconds per epoch of each finished trial."""
    _deaths: int = 0
    _database_failures: int = 0
    """Consecutive workers that could not reach the database."""
    _has_warned: bool = False
    _stop_rules: StopRules = field(init=False)
    _storage_deadline: float | None = None
    """Deadline for retries of storage calls after a stop request, monotonic seconds."""

    def __post_init__(self) -> None:
        self._lease_monitor = LeaseMonitor(self.times)
        self._stop_rules = StopRules(storage=self.storage, study=self.study, say=self.view.say)
        self._signals = SignalListener(at_once=self._kill_all, tell=self.view.say)

    def run(self) -> StopReason:
        """Run trials until none is left or a stop is requested. The first Ctrl-C stops cleanly, the second at once.

        Returns:
            Why the pool ended.

        Raises:
            AllTrialsFailedError: every trial so far has failed.
            AllTrialsImpossibleError: the first trials all ended without a result.
            DataError, DatabaseError, DiskError, SpecError: workers failed with it in every slot, and the trials are
                not the cause; or the study was deleted (SpecError).
            ConvsearchError: workers die before they begin a trial.
        """
        previous_should_stop, self.storage.should_stop = self.storage.should_stop, self._should_give_up
        with self._signals.listening():
            try:
                with self.backend.running_backend(self.view.say):
                    reason = self._run()
            except DatabaseError:
                if (stop_reason := self._reason_to_stop()) is None:
                    raise
                reason = stop_reason  # a stop was requested while the database did not answer
            finally:
                with suppress(DatabaseError, DiskError):
                    self.view.update(self._progress())
                self.storage.should_stop = previous_should_stop  # only this run had a deadline
        return self._reason_to_stop() or reason  # a request may arrive while the workers end

    def _run(self) -> StopReason:
        self._clock = RunTimeCounter(self.storage, self.study.id, self.since)
        renewal_timer, disk_timer = Every(self.times.renewal_interval_s), Every(disk_space.CHECK_INTERVAL_S)
        try:
            while (reason := self._reason_to_stop()) is None:
                if self._reap():
                    self._poll_timer.seconds = MIN_INTERVAL_S
                self._kill_hung()
                if self._handles and renewal_timer.is_due():
                    leases.renew(self.storage, self._tokens())
                if disk_timer.is_due():
                    self._check_disk_space()
                if self._poll_timer.is_due():
                    started_at = time.monotonic()
                    self._poll()
                    claimable = self._claimable()
                    self._poll_timer.seconds = pause_s(
                        time.monotonic() - started_at, machines=1 + self._lease_monitor.machines
                    )
                    if self._reason_to_stop() is None and not self._start_workers(*claimable):
                        self._stop_reason = StopReason.DONE
                if self._reason_to_stop() is None:  # otherwise a new worker would begin a trial
                    self.backend.wait(self._handles.values(), LOOK_S)
        finally:
            self._stop_all()
            with suppress(DatabaseError, DiskError):  # within the remaining seconds
                self._clock.end()
        return reason

    def _reason_to_stop(self) -> StopReason | None:
        signal_number = self._signals.first
        return self._stop_reason if signal_number is None else END_OF[signal_number]

    def _should_give_up(self) -> bool:
        if self._storage_deadline is not None:
            return time.monotonic() > self._storage_deadline
        return self._reason_to_stop() is not None

    # -- state of the database ------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._lease_monitor.expire(self.storage, self.study.id, but=self._tokens(), pause_s=self._poll_timer.seconds)
        progress = self._progress()
        self._database_failures = 0 if progress.finished else self._database_failures
        self._epochs_s += [trial.seconds / trial.epochs for trial in progress.finished if trial.epochs > 0]
        has_found_nothing = self._stop_rules.check(progress)
        self.view.update(replace(progress, compared=self._stop_rules.status))
        if progress.study.stop:
            self._stop_reason = self._stop_reason or StopReason.ASKED
        if has_found_nothing or progress.study.nothing_found:  # or another machine found out
            self._stop_reason = self._stop_reason or StopReason.NOTHING_FOUND
        if self._is_out_of_time(progress.study, self._clock.tick(progress.study.seconds_run)):
            self._stop_reason = self._stop_reason or StopReason.HOURS

    def _is_out_of_time(self, record: StudyRecord, run_s: float) -> bool:
        """Whether the hours of the study are spent. A verdict then ends by itself, with its test evaluation."""
        if record.hours is None or self.study.spec.verdict_on is not None:
            return False
        return run_s >= record.hours * 3600

    def _check_disk_space(self) -> None:
        """End the run before the disk is full; warn once when the space gets low."""
        warning = self.disk_budget.check()
        if warning and not self._has_warned:
            self._has_warned = True
            self.view.say(warning)

    def _progress(self) -> StudyProgress:
        name, seen, tokens, last_record = self.study.name, self.view.seen, self._tokens(), self._last_record
        try:
            progress = self.storage.retry_transient(
                lambda: queries.progress(self.storage.engine, name, seen=seen, tokens=tokens, known=last_record)
            )
        except UsageError as error:  # there is no study of this name
            raise SpecError(f"the study {name!r} was deleted while it ran") from error
        if progress.study.uid != self.study.uid:
            raise SpecError(f"the study {name!r} was deleted while it ran, and another one has its name now")
        self._last_record = progress.study
        return progress

    # -- the workers -----------------------------------------------------------------------------------------

    def _claimable(self) -> tuple[int, set[str]]:
        """The number of trials that can be claimed, and the tokens of all lease owners."""
        promotion = strategy.promotion_policy(self.study.spec)
        return self.storage.read(
            lambda connection: (
                claims.claimable(connection, self.study.id, promotion),
                leases.lease_tokens(connection, self.study.id),
            )
        )

    def _start_workers(self, open_trials: int, busy_tokens: set[str]) -> bool:
        """Start workers while there are trials for them.

        This can take seconds, while a server loads torch or Ray places an actor.

        Args:
            open_trials: Number of trials that can be claimed.
            busy_tokens: Tokens of all lease owners.

        Returns:
            Whether any worker works on the study, or will.
        """
        open_trials -= sum(handle.token not in busy_tokens and handle.is_placed for handle in self._handles.values())
        slots = self.backend.slots() if open_trials > 0 else ()
        max_workers = self.backend.max_workers
        for slot in slots:
            if (
                slot in self._handles
                or open_trials <= 0
                or (max_workers is not None and len(self._handles) >= max_workers)
            ):
                continue
            open_trials -= 1
            self._handles[slot] = self.backend.start(replace(self.worker_config, token=uuid.uuid4().hex), slot)
        return bool(self._handles or open_trials > 0 or (busy_tokens and self.waits))

    def _tokens(self) -> list[str]:
        return [handle.token for handle in list(self._handles.values())]

    def _reap(self) -> bool:
        """Handle the workers that ended; returns whether one of them failed and must be replaced.

        A worker leaves `_handles` only after it was handled: on an error it is stopped with all others.
        """
        has_failed = False
        for slot, handle in list(self._handles.items()):
            if (code := handle.exitcode) is not None:
                self._handle_exit(slot, handle, code)
                del self._handles[slot]
                has_failed |= code != 0
        return has_failed

    def _handle_exit(self, slot: WorkerSlot, handle: WorkerHandle, code: int) -> None:
        if code == 0:
            self._deaths = 0
        elif code == worker.TERMINATED:  # by another process; it may not have reached the database
            leases.release(self.storage, [handle.token])
        elif code in NOT_THE_TRIAL:
            if not self.backend.exclude(slot):
                self._raise_if_fatal(code)
            leases.release(self.storage, [handle.token])  # another worker resumes its trial
        else:
            self._requeue_trials(slot, handle, handle.hang_reason or handle.how_it_ended)

    def _raise_if_fatal(self, code: int) -> None:
        """Raise the error of a worker.

        A database error must be repeated: the pool reaches the database, and the worker may have lost its place in a
        queue.
        """
        self._database_failures += 1
        if code != DatabaseError.exit_code or self._database_failures >= SAME_FAILURES:
            raise NOT_THE_TRIAL[code]("a worker could not go on, for the reason it gave above")

    def _requeue_trials(self, slot: WorkerSlot, handle: WorkerHandle, why: str) -> None:
        """Put the trial of a worker that failed back in the queue."""
        if self._reason_to_stop() is not None:
            leases.release(self.storage, [handle.token])
            return
        trials = leases.expire_dead(self.storage, handle.token, why)
        for number in trials:
            log = study_dir.of(self.worker_config.url).log(self.study.name, number)
            study_dir.append_log(log, f"broke off: {why}\n{handle.stack_trace}")
        if not trials and not handle.was_taken and self.backend.exclude(slot):
            return
        self._deaths = 0 if trials or handle.was_taken else self._deaths + 1
        if self._deaths >= SAME_FAILURES:
            raise ConvsearchError(f"{self._deaths} workers in a row died before they began a trial; the last: {why}")

    def _kill_hung(self) -> None:
        now, limit_s = time.monotonic(), self._hang_limit_s()
        for handle in self._handles.values():
            is_alive = handle.hang_reason is None and handle.exitcode is None
            if is_alive and handle.has_hung(now, limit_s=limit_s):
                handle.end(f"no batch was finished for {limit_s:.0f} s; more may be allowed with --hang")

    def _hang_limit_s(self) -> float:
        """Seconds without a finished batch after which a worker counts as hung."""
        epoch_s = statistics.median(self._epochs_s) if self._epochs_s else 0.0
        return max(self.times.hang_timeout_s, HANG_EPOCHS * epoch_s)

    def _stop_all(self) -> None:
        """Ask every worker to put its trial back with a checkpoint; kill workers that exceed the time limit."""
        for handle in self._handles.values():
            handle.terminate()
        deadline = time.monotonic() + STOP_S
        while (alive := [handle for handle in self._handles.values() if handle.exitcode is None]) and (
            time.monotonic() < deadline
        ):
            self.backend.wait(alive, LOOK_S)
        for handle in self._handles.values():
            handle.kill()
        self._storage_deadline = time.monotonic() + GIVE_BACK_S
        self._release_trials()
        self._handles.clear()

    def _kill_all(self) -> None:
        """Kill all workers at once; their trials resume from the checkpoint of the last step."""
        for handle in list(self._handles.values()):
            handle.kill(wait_s=0.0)
        release = threading.Thread(target=self._release_trials, daemon=True)
        release.start()
        release.join(timeout=0.5)  # a locked database must not delay the exit

    def _release_trials(self) -> None:
        """Put the trials of all workers back. If the database does not answer, the next run does it."""
        if not self._handles:
            return
        dirs, tokens = study_dir.of(self.worker_config.url), self._tokens()
        dirs.record_stopped_workers(self.study.name, tokens)
        with suppress(DatabaseError, DiskError):  # the reason for the stop is what to report
            leases.release(self.storage, tokens)
            dirs.clear_stopped_workers(self.study.name)
