"""This machine's workers: start them, watch them, renew their leases, replace them, stop them.

The pool is the only one who can see at once that a worker died; it hands the dead worker's trial back to the queue,
from where the next worker takes it up at its last checkpoint. What it decides, it decides from the database alone.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import Synchronized
from types import FrameType

from data.errors import DataError
from search import lease, query, study, worker
from search.errors import AllFailed, ConvsearchError, DatabaseError, DiskError
from search.post import Post
from search.progress import View
from search.storage import Storage
from search.study import StoredStudy

#: Between two looks at the workers: a dead one is seen at once, by its sentinel; the rest can wait so long.
LOOK_S = 0.25
#: Between two looks at the database: the live view and the wish to stop are at most so old.
READ_S = 1.0
#: A worker that finished no batch for so long hangs: no batch of a network that is worth searching takes minutes.
HANG_S = 600.0
#: What a worker gets to finish its batch and write its checkpoint; Kubernetes kills after 30 s.
STOP_S = 20.0
#: After so many trials that all failed, or workers that died before their first trial, something is wrong with
#: the study or the machine, and not with a trial.
SAME_FAILURES = 5
#: Exit codes of workers that say: something around the trial is broken.
NOT_THE_TRIAL = {error.exit_code: error for error in (DataError, DatabaseError, DiskError)}
#: What asks us to stop. A terminal, `timeout` and systemd send them to every process of the group at once.
STOPPING = (signal.SIGINT, signal.SIGTERM)


class End(StrEnum):
    """Why the pool came to an end."""

    DONE = "done"
    HOURS = "its hours are spent"
    ASKED = "asked to stop"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"


@dataclass(slots=True)
class Hand:
    """One worker process, as its pool sees it."""

    token: str
    process: ForkServerProcess
    beats: "Synchronized[int]"
    seen: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When its count of batches last changed, monotonic seconds."""

    looked: float = field(default_factory=time.monotonic)

    def has_hung(self, now: float) -> bool:
        """Whether it finished no batch for too long, as far as we were awake to see it (Ctrl-Z stops us both)."""
        asleep = max(0.0, now - self.looked - 10 * LOOK_S)
        self.looked, self.moved = now, self.moved + asleep
        if self.beats.value != self.seen:
            self.seen, self.moved = self.beats.value, now
        return now - self.moved > HANG_S


@dataclass(kw_only=True, slots=True)
class Pool:
    """Runs one study on this machine until its budget is spent or somebody wants it to stop."""

    storage: Storage
    study: StoredStudy
    post: Post
    """What every worker is told; token and device are filled in for each."""
    devices: tuple[str, ...]
    """One worker for each."""
    view: View
    counts_time: bool = True
    """False for a pool that joins another one: the study's time is counted once."""
    _hands: dict[int, Hand] = field(default_factory=dict)
    """By index into `devices`."""
    _end: End | None = None
    _signals: int = 0
    _watch: lease.Watch = field(default_factory=lease.Watch)
    _deaths: int = 0

    def run(self) -> End:
        """Run trials until there are none left, or somebody stops us. Ctrl-C once stops cleanly, twice at once.

        Raises:
            AllFailed: every trial so far has failed.
            DataError, DatabaseError, DiskError: a worker met that, and its trial is not to blame.
            ConvsearchError: workers die before they begin a trial.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(worker.PRELOAD)
        handlers = {name: signal.signal(name, self._on_signal) for name in STOPPING}
        try:
            start_server()
            return self._run(context)
        finally:
            self._stop_all()
            with suppress(DatabaseError):
                self.view.update(query.progress(self.storage.engine, self.study.name, seen=self.view.seen))
            for name, handler in handlers.items():
                signal.signal(name, handler)

    def _run(self, context: multiprocessing.context.ForkServerContext) -> End:
        clock = Clock(self.storage, self.study.id) if self.counts_time else None
        every_read, every_renewal = Every(READ_S), Every(lease.RENEWAL_S)
        try:
            while self._end is None:
                self._reap()
                self._kill_hung()
                if self._hands and every_renewal.is_due():
                    lease.renew(self.storage, self._tokens())
                if every_read.is_due():
                    if clock is not None:
                        clock.tick()
                    self._look()
                    if self._end is None and not self._fill(context):
                        self._end = End.DONE
                wait([hand.process.sentinel for hand in self._hands.values()], timeout=LOOK_S)
        finally:
            if clock is not None:
                with suppress(DatabaseError, DiskError):
                    clock.save()
        return self._end

    # -- what the database says ------------------------------------------------------------------------------

    def _look(self) -> None:
        self._watch.expire(self.storage, self.study.id, but=self._tokens())
        progress = query.progress(self.storage.engine, self.study.name, seen=self.view.seen)
        self.view.update(progress)
        if progress.study.stop:
            self._end = self._end or End.ASKED
        if progress.study.hours is not None and progress.study.seconds_run >= progress.study.hours * 3600:
            self._end = self._end or End.HOURS
        counts = progress.study.counts
        enough = min(SAME_FAILURES, counts.budget)
        if counts.failed >= enough and counts.complete + counts.pruned == 0:
            raise AllFailed(self._why_all_failed())

    def _why_all_failed(self) -> str:
        failed = [trial for trial in query.trials(self.storage.engine, self.study.name) if trial.state == "FAIL"]
        return (
            f"all {len(failed)} finished trials failed, the last one with: {failed[-1].reason}; "
            f"mend that, then `convsearch resume {self.study.name} --retry-failed`"
        )

    # -- the workers -----------------------------------------------------------------------------------------

    def _fill(self, context: multiprocessing.context.ForkServerContext) -> bool:
        """Start workers as long as there are trials for them; whether anybody works on the study."""
        with self.storage.engine.connect() as connection:
            open_trials = lease.claimable(connection, self.study.id)
            busy = lease.holders(connection, self.study.id)
        open_trials -= sum(hand.token not in busy for hand in self._hands.values())
        for index, device in enumerate(self.devices):
            if index in self._hands or open_trials <= 0:
                continue
            open_trials -= 1
            self._hands[index] = self._start(context, device)
        return bool(self._hands or busy)  # who joined us may die, and its trial come back

    def _tokens(self) -> list[str]:
        return [hand.token for hand in self._hands.values()]

    def _start(self, context: multiprocessing.context.ForkServerContext, device: str) -> Hand:
        token = uuid.uuid4().hex
        beats = context.Value("q", 0, lock=False)
        process = context.Process(
            target=worker.main, args=(replace(self.post, token=token, device=device), beats), name=f"worker on {device}"
        )
        process.start()
        return Hand(token=token, process=process, beats=beats)

    def _reap(self) -> None:
        for index, hand in list(self._hands.items()):
            if hand.process.exitcode is None:
                continue
            del self._hands[index]
            if hand.process.exitcode == 0:
                self._deaths = 0
                continue
            if hand.process.exitcode in NOT_THE_TRIAL:
                lease.stop(self.storage, hand.token)
                raise NOT_THE_TRIAL[hand.process.exitcode]("a worker could not go on, for the reason it gave above")
            self._give_back(hand, how_it_ended(hand.process.exitcode))

    def _give_back(self, hand: Hand, why: str) -> None:
        """Put the trial of a worker that ended badly back to the queue."""
        if self._end is not None:
            lease.stop(self.storage, hand.token)
            return
        trials = lease.lost(self.storage, hand.token, why)
        self._deaths = 0 if trials else self._deaths + 1
        if self._deaths >= SAME_FAILURES:
            raise ConvsearchError(f"{self._deaths} workers in a row died before they began a trial; the last: {why}")

    def _kill_hung(self) -> None:
        now = time.monotonic()
        for index, hand in list(self._hands.items()):
            if not hand.has_hung(now):
                continue
            hand.process.kill()
            hand.process.join()
            del self._hands[index]
            self._give_back(hand, f"no batch was finished for {HANG_S:.0f} s")

    def _stop_all(self) -> None:
        """Ask every worker to put its trial back with a checkpoint; kill those that do not in time."""
        for hand in self._hands.values():
            hand.process.terminate()
        deadline = time.monotonic() + STOP_S
        while any(hand.process.is_alive() for hand in self._hands.values()) and time.monotonic() < deadline:
            alive = [hand.process.sentinel for hand in self._hands.values() if hand.process.is_alive()]
            wait(alive, timeout=LOOK_S)
        for hand in self._hands.values():
            if hand.process.is_alive():
                hand.process.kill()
                hand.process.join()
            with suppress(DatabaseError, DiskError):  # what stopped us is what to tell
                lease.stop(self.storage, hand.token)
        self._hands.clear()

    # -- signals ---------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """First signal: stop cleanly. Second one: out at once; trials then go on from their last step's checkpoint."""
        self._signals += 1
        self._end = self._end or (End.INTERRUPTED if number == signal.SIGINT else End.TERMINATED)
        if self._signals == 1:
            say("\nstopping: trials go back to the queue with a checkpoint (Ctrl-C again: at once)\n")
            return
        for hand in self._hands.values():
            hand.process.kill()
        give_back = threading.Thread(target=self._hand_over, daemon=True)
        give_back.start()
        give_back.join(timeout=0.5)  # a locked database must not keep us; the next run sees that we are dead
        say("\nstopped at once; the same command goes on\n")
        os._exit(128 + number)

    def _hand_over(self) -> None:
        for hand in list(self._hands.values()):
            lease.stop(self.storage, hand.token)


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


class Clock:
    """The wall-clock time for which a study has been run, kept in the database over all its runs."""

    def __init__(self, storage: Storage, study_id: int, *, save_s: float = 5.0) -> None:
        self.total = study.seconds_run(storage, study_id)
        self._save: Callable[[], None] = lambda: study.set_attrs(storage, study_id, seconds_run=round(self.total, 1))
        self._every = Every(save_s)
        self._last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.total += now - self._last
        self._last = now
        if self._every.is_due():
            self._save()

    def save(self) -> None:
        self.tick()
        self._save()


def start_server() -> None:
    """Start the server that workers are forked from, deaf to what stops us: while it loads torch it would die of it.

    Workers inherit its deafness, and end it when they can stop cleanly.
    """
    resource_tracker.ensure_running()  # when it starts, it unblocks these signals in our process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(exitcode: int) -> str:
    """An exit code of multiprocessing in words."""
    if exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    likely = ", likely because the machine ran out of memory" if exitcode == -signal.SIGKILL else ""
    return f"its process was killed by {name}{likely}"


def say(text: str) -> None:
    """Write to stderr at once, also from within a signal handler."""
    os.write(sys.stderr.fileno(), text.encode())
