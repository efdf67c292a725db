"""`convsearch worker` and `serve`: work on every study of a database that is open, wherever it was begun.

What is to be done is read from the database: nobody sends anything here. A study is worked on only by the code that it
was begun with (or was last run with by `convsearch run`), and on the very same images, which this machine gets itself.
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
from search.console import count_workers
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
from search.storage import leases, queries
from search.storage.lease_expiry import LeaseMonitor
from search.storage.rdb import Storage
from search.storage.records import StudySummary
from search.study import provenance, stored_study, strategy
from search.study.final_plan import name_of
from search.study.inputs import check_same_code, devices, ensure_inputs
from search.study.stored_study import StoredStudy
from search.workers.local import LocalBackend
from search.workers.stop_rules import END_OF, StopReason

#: Polling interval for work, and the pause after an error of the database, in seconds.
LOOK_S = 2.0
#: Seconds after which an agent that stays tries a refused study again.
AGAIN_S = 60.0
#: What is wrong with one study, and no reason to leave the others alone.
OF_A_STUDY = (AllTrialsFailedError, AllTrialsImpossibleError, DataError, SpecError, UsageError)


@dataclass(kw_only=True, slots=True)
class Agent:
    """Works on the open studies of a database, one after the other, with all workers of this machine."""

    order: RunOptions
    """What it is to be done with; its `name` means nothing here."""
    images: str | None = None
    """Where the images of a study lie here, if its own path leads nowhere on this machine."""
    stays: bool
    """Wait for more when nothing is left to do, and for a database that is away."""
    show: Show
    say: Say
    _refused: dict[str, ConvsearchError | DataError] = field(default_factory=dict)
    """Why, by the uid of the study."""
    _again: dict[str, float] = field(default_factory=dict)
    """When it is worth another try, monotonic seconds, by the uid of the study."""
    _busy: set[str] = field(default_factory=set)
    """Names of studies that another process of this machine runs; it is said once."""
    _judged: set[str] = field(default_factory=set)
    """Uids of searches whose last training was made, or cannot be."""
    _has_worked: bool = False
    _is_idle: bool = False
    """Since it said that there is nothing to do."""
    _told: str = ""
    """What was last said of the database."""
    _end: StopReason | None = None
    _watches: dict[int, LeaseMonitor] = field(default_factory=dict)
    _here: Mapping[str, str] = field(default_factory=provenance.code_version)
    """The code that this process has loaded."""

    def run(self) -> StopReason:
        """Work until nothing is left to do, or somebody stops us.

        Raises:
            DatabaseError: there is no such database; or it went away, and we do not stay.
            DiskError: the disk of this machine is full.
            ConvsearchError, DataError: every study that is open was refused; says why.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = Storage(self.order.url, retry_timeout_s=self.order.times.retry_timeout_s)
        while self._end is None:
            try:
                if self._do_something(storage):
                    continue
                if not (self.stays or self._open(storage)):
                    return self._leave()
                if self.stays and not self._is_idle:
                    self.say("nothing to do now; waiting for more, until Ctrl-C")
                self._is_idle = True
            except DatabaseError as error:
                if not self.stays:
                    raise
                if str(error) != self._told:
                    self.say(f"{error}; trying again")
                self._told = str(error)
            time.sleep(LOOK_S)
        return self._end

    def _open(self, storage: Storage) -> list[StudySummary]:
        """The studies that may get something to do for us."""
        now = time.monotonic()
        briefs = storage.retry_transient(lambda: queries.study_summaries(storage.engine))
        self._judged -= {brief.uid for brief in briefs if not brief.is_over}  # it got more hours, or trials
        return [
            brief
            for brief in briefs
            if not (brief.stop or now < self._again.get(brief.uid, 0.0) or self._is_done(brief))
        ]

    def _is_done(self, brief: StudySummary) -> bool:
        return brief.is_over and (not brief.has_final or brief.has_verdict or brief.uid in self._judged)

    def _do_something(self, storage: Storage) -> bool:
        """Work on the first study that has something to do; false if none has."""
        for brief in self._open(storage):
            try:
                if self._attend(storage, stored_study.load(storage, brief.name), brief):
                    return True
            except OF_A_STUDY as error:
                self._refuse(brief, error)
            except DatabaseError:
                raise
            except ConvsearchError as error:  # a full disk, workers that die before they begin
                if not self.stays:
                    raise
                self._refuse(brief, error)
        return False

    def _attend(self, storage: Storage, stored: StoredStudy, brief: StudySummary) -> bool:
        """Do what there is to do for a study now; false if that is nothing."""
        check_same_code(stored, self._here)
        self._watches.setdefault(stored.id, LeaseMonitor(self.order.times)).expire(storage, stored.id)
        if brief.is_over:
            return not brief.running and self._begin_verdict(storage, stored)
        if not storage.read(lambda tx: leases.claimable(tx, stored.id, strategy.ladder(stored.spec))):
            return False
        is_busy = bool(storage.read(lambda tx: leases.lease_tokens(tx, stored.id)))
        if is_busy and brief.is_verdict and stored.spec.budget.hours is not None:
            return False  # its trainings share its hours, by the cores of one machine
        remote_checkpoints.check(stored.spec.checkpoints)
        try:
            with self._alone(storage, stored):
                self._work(storage, self._supplied(stored))
        except BusyError as error:
            if stored.name not in self._busy:
                self.say(str(error))
            self._busy.add(stored.name)
            return False
        return True

    def _work(self, storage: Storage, stored: StoredStudy) -> None:
        places = devices(stored.spec, self.order.workers, device=self.order.device)
        threads = 1
        if stored.spec.verdict_on is not None:
            layout = layout_of(places, trainings=stored.spec.budget.trials)
            places, threads = places[: layout.workers], layout.threads
        if stored.uid not in self._refused:
            self.say(f"{stored.name}: {count_workers(len(places))} on {', '.join(sorted(set(places)))}")
        own = replace(self.order, name=stored.name)
        since = None if storage.read(lambda tx: leases.lease_tokens(tx, stored.id)) else time.monotonic()
        with self.show(stored) as view:
            end = pool(
                own, storage, stored, LocalBackend(places), view, since=since, threads=threads, waits=False
            ).run()
        self._has_worked, self._is_idle = True, False
        self.say(f"{stored.name}: {'nothing is left to claim' if end is StopReason.DONE else end}")
        self._end = end if end in END_OF.values() else None  # else there may be other studies

    def _begin_verdict(self, storage: Storage, stored: StoredStudy) -> bool:
        """Make the last training of a search that is over, which is then a study like others; whether it was made."""
        is_made = False
        if not queries.is_known(storage.engine, name_of(stored.name)):
            own = replace(self.order, name=stored.name)
            hours = hours_left(own, storage, stored, time.monotonic())
            is_made = verdict_study(own, storage, stored, self.say, hours=hours) is not None
        self._judged.add(stored.uid)
        return is_made

    @contextmanager
    def _alone(self, storage: Storage, stored: StoredStudy) -> Iterator[None]:
        """Be the one who works on the study on this machine.

        Raises:
            BusyError: another process does.
        """
        files = study_dir.of(self.order.url)
        with files.running(stored.name):
            self._busy.discard(stored.name)
            requeue_stopped(storage, stored, files)
            far = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
            sweep = partial(cleanup.remove_leftovers, files, storage.engine, stored.name, far)
            storage.retry_transient(sweep)
            yield
            if self._end is None:  # else there is no time for what paused, and was pruned
                storage.retry_transient(sweep)

    def _supplied(self, stored: StoredStudy) -> StoredStudy:
        """The study with its images, and pretrained weights, on this machine.

        Raises:
            DataError, DiskError: see `equip`; or nobody has said where its images lie here.
        """
        path = stored.spec.data.path
        if path is not None and self.images is not None and not Path(path).exists():
            stored = replace(stored, spec=stored_study.with_data_path(stored.spec, str(Path(self.images).absolute())))
        elif path is not None and not Path(path).exists():
            raise DataError(f"its images are not at {path} on this machine; --data names where they are")
        ensure_inputs(stored, self.order.cache, self.say)
        return stored

    def _refuse(self, brief: StudySummary, error: ConvsearchError | DataError) -> None:
        known, self._refused[brief.uid] = self._refused.get(brief.uid), error
        self._again[brief.uid] = time.monotonic() + AGAIN_S if self.stays else math.inf
        if str(known) != str(error):
            self.say(f"{brief.name} is left alone: {error}")

    def _leave(self) -> StopReason:
        """Nothing is left to do; what was refused is the answer where nothing else was."""
        if self._refused and not self._has_worked:
            raise next(iter(self._refused.values()))
        self.say("nothing is left to do")
        return StopReason.DONE
