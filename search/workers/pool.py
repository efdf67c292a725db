"""The workers of a run: start them, watch them, renew their leases, replace them, stop them.

Only the pool sees at once that a worker died; it hands the dead worker's trial back to the queue,
from where the next worker takes it up at its last checkpoint. What it decides, it decides from the database alone.
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
from search.errors import (
    ConvsearchError,
    DatabaseError,
    DiskError,
    SpecError,
)
from search.storage import leases, queries
from search.storage.lease_expiry import LeaseMonitor
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
from search.workers.signals import SignalListener
from search.workers.stop_rules import END_OF, SAME_FAILURES, StopReason, StopRules

#: Polling interval of the database in seconds: the maximum staleness of the live view and of a stop request.
READ_S = 1.0
#: It grows where many machines poll (together at most `TOGETHER` times a second) and where polling takes long (at most
#: 1 / `ONE_IN` of the time), up to `SELDOM_S` seconds.
TOGETHER, ONE_IN, SELDOM_S = 10.0, 20, 10.0
#: A worker hangs if it finishes no batch during this number of median epochs, even if it is a slow one.
HANG_EPOCHS = 10
#: What a worker gets to finish its batch and write its checkpoint. All together must be over within 20 s: Kubernetes
#: kills after 30.
STOP_S = 12.0
#: And what the database then gets to take their trials back, should it be busy.
GIVE_BACK_S = 3.0
#: Exit codes of workers that say: something around the trial is broken.
NOT_THE_TRIAL = {error.exit_code: error for error in (DataError, DatabaseError, DiskError, SpecError)}


@dataclass(kw_only=True, slots=True)
class Pool:
    """Runs one study until its budget is spent or somebody wants it to stop."""

    storage: Storage
    study: StoredStudy
    worker_config: WorkerConfig
    """What every worker is told; the token and what depends on its place are filled in for each."""
    crew: WorkerBackend
    view: View
    disk_budget: DiskBudget
    """For the files of the study."""
    since: float | None
    """From when on the study's time is counted, monotonic seconds: what comes before the workers, as images that are
    decoded, belongs to it. None for a pool that joins another one: time is counted once (see `Clock`)."""
    waits: bool = True
    """Stay while others work on the study, though there is nothing to claim: one may die, and its trial come back."""
    times: Timeouts = field(default_factory=Timeouts)
    _hands: dict[WorkerSlot, WorkerHandle] = field(default_factory=dict)
    _end: StopReason | None = None
    _known: StudyRecord | None = None
    """The study at the last look."""
    _reads: "Every" = field(default_factory=lambda: Every(READ_S))
    _clock: RunTimeCounter = field(init=False)
    _watch: LeaseMonitor = field(init=False)
    _interrupts: SignalListener = field(init=False)
    _epochs_s: list[float] = field(default_factory=list)
    """Seconds of an epoch, of each finished trial."""
    _deaths: int = 0
    _lost: int = 0
    """Consecutive workers that could not reach the database."""
    _is_warned: bool = False
    _rules: StopRules = field(init=False)
    _deadline: float | None = None
    """Until when a storage call may be tried again although we were asked to stop, monotonic seconds."""

    def __post_init__(self) -> None:
        self._watch = LeaseMonitor(self.times)
        self._rules = StopRules(storage=self.storage, study=self.study, say=self.view.say)
        self._interrupts = SignalListener(at_once=self._let_go, tell=self.view.say)

    def run(self) -> StopReason:
        """Run trials until there are none left, or somebody stops us. Ctrl-C once stops cleanly, twice at once.

        Raises:
            AllFailed: every trial so far has failed.
            AllImpossible: none of the first trials can be trained.
            DataError, DatabaseError, DiskError, SpecError: workers met that, wherever they can be, and no trial is to
                blame.
            ConvsearchError: workers die before they begin a trial.
        """
        before, self.storage.should_stop = self.storage.should_stop, self._gives_up
        with self._interrupts.listening():
            try:
                with self.crew.running_backend(self.view.say):
                    end = self._run()
            except DatabaseError:
                if (why := self._why_stop()) is None:
                    raise
                end = why  # we were asked to stop while the database did not answer
            finally:
                with suppress(DatabaseError, DiskError):
                    self.view.update(self._progress())
                self.storage.should_stop = before  # the hurry was ours
        return self._why_stop() or end  # somebody may have asked while the workers were ending

    def _run(self) -> StopReason:
        self._clock = RunTimeCounter(self.storage, self.study.id, self.since)
        every_renewal, every_room = Every(self.times.renewal_interval_s), Every(disk_space.CHECK_INTERVAL_S)
        try:
            while (end := self._why_stop()) is None:
                if self._reap():
                    self._reads.seconds = READ_S
                self._kill_hung()
                if self._hands and every_renewal.is_due():
                    leases.renew(self.storage, self._tokens())
                if every_room.is_due():
                    self._see_room()
                if self._reads.is_due():
                    began = time.monotonic()
                    self._look()
                    found = self._claimable()
                    self._reads.seconds = pause_s(time.monotonic() - began, machines=1 + self._watch.machines)
                    if self._why_stop() is None and not self._fill(*found):
                        self._end = StopReason.DONE
                if self._why_stop() is None:  # else a worker just started would begin a trial meanwhile
                    self.crew.wait(self._hands.values(), LOOK_S)
        finally:
            self._stop_all()
            with suppress(DatabaseError, DiskError):  # within the seconds that are left
                self._clock.end()
        return end

    def _why_stop(self) -> StopReason | None:
        first = self._interrupts.first
        return self._end if first is None else END_OF[first]

    def _gives_up(self) -> bool:
        if self._deadline is not None:
            return time.monotonic() > self._deadline
        return self._why_stop() is not None

    # -- what the database says ------------------------------------------------------------------------------

    def _look(self) -> None:
        self._watch.expire(self.storage, self.study.id, but=self._tokens(), pause_s=self._reads.seconds)
        progress = self._progress()
        self._lost = 0 if progress.finished else self._lost
        self._epochs_s += [trial.seconds / trial.epochs for trial in progress.finished if trial.epochs > 0]
        has_found_nothing = self._rules.check(progress)
        self.view.update(replace(progress, compared=self._rules.status))
        if progress.study.stop:
            self._end = self._end or StopReason.ASKED
        if has_found_nothing or progress.study.nothing_found:  # which another machine may have noticed
            self._end = self._end or StopReason.NOTHING_FOUND
        if self._is_out_of_time(progress.study, self._clock.tick(progress.study.seconds_run)):
            self._end = self._end or StopReason.HOURS

    def _is_out_of_time(self, row: StudyRecord, run_s: float) -> bool:
        """Whether the study's hours are spent; a verdict ends by itself when they are, with its look at the test."""
        if row.hours is None or self.study.spec.verdict_on is not None:
            return False
        return run_s >= row.hours * 3600

    def _see_room(self) -> None:
        """End the run before the disk is full; say so, once, when that comes near."""
        warning = self.disk_budget.check()
        if warning and not self._is_warned:
            self._is_warned = True
            self.view.say(warning)

    def _progress(self) -> StudyProgress:
        name, seen, tokens, known = self.study.name, self.view.seen, self._tokens(), self._known
        progress = self.storage.retry_transient(
            lambda: queries.progress(self.storage.engine, name, seen=seen, tokens=tokens, known=known)
        )
        self._known = progress.study
        return progress

    # -- the workers -----------------------------------------------------------------------------------------

    def _claimable(self) -> tuple[int, set[str]]:
        """How many trials can be claimed, and the tokens of all lease owners."""
        ladder = strategy.ladder(self.study.spec)
        return self.storage.read(
            lambda connection: (
                leases.claimable(connection, self.study.id, ladder),
                leases.lease_tokens(connection, self.study.id),
            )
        )

    def _fill(self, open_trials: int, busy: set[str]) -> bool:
        """Start workers as long as there are trials for them; whether anybody works on the study.

        That can take seconds, while a server loads torch or Ray finds a place.
        """
        open_trials -= sum(each.token not in busy and each.is_placed for each in self._hands.values())
        seats = self.crew.slots() if open_trials > 0 else ()
        most = self.crew.max_workers
        for seat in seats:
            if seat in self._hands or open_trials <= 0 or (most is not None and len(self._hands) >= most):
                continue
            open_trials -= 1
            self._hands[seat] = self.crew.start(replace(self.worker_config, token=uuid.uuid4().hex), seat)
        return bool(self._hands or open_trials > 0 or (busy and self.waits))

    def _tokens(self) -> list[str]:
        return [each.token for each in list(self._hands.values())]

    def _reap(self) -> bool:
        """Handle the workers that ended; whether one is to be replaced because there is more to do.

        If that fails on its way, the worker is still there to be stopped with all others.
        """
        has_failed = False
        for seat, each in list(self._hands.items()):
            if (code := each.exitcode) is not None:
                self._settle(seat, each, code)
                del self._hands[seat]
                has_failed |= code != 0
        return has_failed

    def _settle(self, seat: WorkerSlot, each: WorkerHandle, code: int) -> None:
        if code == 0:
            self._deaths = 0
        elif code == worker.TERMINATED:  # by somebody else; it may not have reached the database
            leases.release(self.storage, [each.token])
        elif code in NOT_THE_TRIAL:
            if not self.crew.exclude(seat):
                self._go_on_without(code)
            leases.release(self.storage, [each.token])  # others take its trial up
        else:
            self._give_back(seat, each, each.hang_reason or each.how_it_ended)

    def _go_on_without(self, code: int) -> None:
        """Raise what a worker met, unless it is the database, which we reach: it may have lost its place in a queue."""
        self._lost += 1
        if code != DatabaseError.exit_code or self._lost >= SAME_FAILURES:
            raise NOT_THE_TRIAL[code]("a worker could not go on, for the reason it gave above")

    def _give_back(self, seat: WorkerSlot, each: WorkerHandle, why: str) -> None:
        """Put the trial of a worker that ended badly back to the queue."""
        if self._why_stop() is not None:
            leases.release(self.storage, [each.token])
            return
        trials = leases.expire_dead(self.storage, each.token, why)
        for number in trials:
            log = study_dir.of(self.worker_config.url).log(self.study.name, number)
            study_dir.append_log(log, f"broke off: {why}\n{each.stack_trace}")
        if not trials and not each.was_taken and self.crew.exclude(seat):
            return
        self._deaths = 0 if trials or each.was_taken else self._deaths + 1
        if self._deaths >= SAME_FAILURES:
            raise ConvsearchError(f"{self._deaths} workers in a row died before they began a trial; the last: {why}")

    def _kill_hung(self) -> None:
        now, limit_s = time.monotonic(), self._hang_s()
        for each in self._hands.values():
            is_alive = each.hang_reason is None and each.exitcode is None
            if is_alive and each.has_hung(now, limit_s=limit_s):
                each.end(f"no batch was finished for {limit_s:.0f} s; more may be allowed with --hang")

    def _hang_s(self) -> float:
        """Seconds without a finished batch after which a worker hangs."""
        epoch_s = statistics.median(self._epochs_s) if self._epochs_s else 0.0
        return max(self.times.hang_timeout_s, HANG_EPOCHS * epoch_s)

    def _stop_all(self) -> None:
        """Ask every worker to put its trial back with a checkpoint; kill those that do not in time."""
        for each in self._hands.values():
            each.terminate()
        deadline = time.monotonic() + STOP_S
        while (alive := [each for each in self._hands.values() if each.exitcode is None]) and (
            time.monotonic() < deadline
        ):
            self.crew.wait(alive, LOOK_S)
        for each in self._hands.values():
            each.kill()
        self._deadline = time.monotonic() + GIVE_BACK_S
        self._hand_over()
        self._hands.clear()

    def _let_go(self) -> None:
        """Be gone at once; trials then go on from their last step's checkpoint."""
        for each in list(self._hands.values()):
            each.kill(wait_s=0.0)
        give_back = threading.Thread(target=self._hand_over, daemon=True)
        give_back.start()
        give_back.join(timeout=0.5)  # a locked database must not keep us

    def _hand_over(self) -> None:
        """Put the trials of all workers back. If the database cannot take them now, the next run does it."""
        if not self._hands:
            return
        place, tokens = study_dir.of(self.worker_config.url), self._tokens()
        place.record_stopped_workers(self.study.name, tokens)
        with suppress(DatabaseError, DiskError):  # what stopped us is what to tell
            leases.release(self.storage, tokens)
            place.clear_stopped_workers(self.study.name)


def pause_s(took_s: float, *, machines: int) -> float:
    """Polling interval in seconds: the last poll took `took_s`, and `machines` machines poll the same database."""
    return min(SELDOM_S, max(READ_S, ONE_IN * took_s, machines / TOGETHER))


@dataclass(slots=True)
class Every:
    """Says when a period has passed; at first it has."""

    seconds: float
    _last: float | None = None

    def is_due(self) -> bool:
        now = time.monotonic()
        if self._last is not None and now - self._last < self.seconds:
            return False
        self._last = now
        return True
