"""The n-th call of the database driver fails, for every n in a study of ten trials."""

import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search.errors import DatabaseError, DiskError
from search.process import this_process
from search.storage import claims, leases
from search.storage.rdb import Storage
from search.trial import runner
from search.trial.context import WorkerConfig
from tests.faults import invariants
from tests.harness import Harness, Tables, run_claimed
from tests.soak import processes, results
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

TRIALS = 10
STUDY: Tables = {"budget": {"trials": TRIALS, "epochs": 1}}
#: Messages and error codes of SQLite (https://www.sqlite.org/rescode.html).
BUSY = ("database is locked", sqlite3.SQLITE_BUSY)
IO = ("disk I/O error", sqlite3.SQLITE_IOERR)
#: Exit codes of a worker that reports why it cannot go on.
CLEAN = (DatabaseError.exit_code, DiskError.exit_code)


@dataclass(frozen=True, slots=True)
class Fault:
    """Counts the calls of this process and its forks; call number `at` fails, or none if `at` is 0."""

    at: int
    text: str
    code: int
    count: Any
    """An integer that forks share."""

    def call(self) -> None:
        self.count.value += 1
        if self.count.value != self.at:
            return
        error = sqlite3.OperationalError(self.text)
        error.sqlite_errorcode = self.code
        raise error

    def arm(self) -> None:
        """Make every connection that this process opens later go through `call`."""
        for module in (sqlite3, sqlite3.dbapi2):
            module.connect = partial(sqlite3.connect, factory=_connection(self.call))  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class RecordedStudy:
    """Copies of a ten-trial study before each of its trials; a late fault needs no run of the early trials."""

    homes: tuple[Path, ...]
    """Copies of its folder: with no trial, with one, ..."""
    ends: tuple[int, ...]
    """Numbers of calls of a worker when it has opened the study, when its first trial is over, ..."""

    def before(self, call: int) -> tuple[Path, int]:
        """The last copy before a call, and the number of the call for a worker that begins with this copy."""
        opening, *trials = self.ends
        done = next(number for number, end in enumerate(trials) if call <= end)
        return self.homes[done], call - (self.ends[done] - opening)


def locked(workspace: Workspace) -> FaultResult:
    """A lock that is gone at the next try has no effect. Every second call fails, beginning with the first."""
    return _row(workspace, "a call finds a lock", "call-locked", _survive_a_lock, first=1)


def broken(workspace: Workspace) -> FaultResult:
    """A disk that fails once: the worker ends with a message; its pool requeues the trial, and the next worker goes on.

    Every second call fails, beginning with the second.
    """
    return _row(workspace, "a call finds a broken disk", "call-broken", _survive_a_broken_disk, first=2)


def _row(
    workspace: Workspace, fault: str, part: str, body: Callable[[RecordedStudy, Case], None], *, first: int
) -> FaultResult:
    recorded = _record(workspace.harness("calls"), workspace.folder / f"{part}-homes")
    calls = range(first, recorded.ends[-1] + 1, 2)
    reports = workspace.run_cases(
        part, partial(body, recorded), [calls[index - 1] for index in workspace.sample(len(calls))]
    )
    note = f"every second one of {recorded.ends[-1]} calls"
    return results.total(fault, reports, note=note)


def _record(harness: Harness, folder: Path) -> RecordedStudy:
    """Run the study once without a fault, and copy its folder before each trial."""
    shutil.rmtree(harness.dirs.root, ignore_errors=True)
    fault, ends = _fault(0, BUSY), multiprocessing.get_context("fork").Array("q", TRIALS + 2, lock=False)
    worker = processes.fork(harness, _keep_homes, harness, harness.create(**STUDY), fault, ends, folder)
    assert worker.end() == 0, worker.said
    return RecordedStudy(tuple(folder / str(done) for done in range(TRIALS + 1)), tuple(ends))


def _keep_homes(harness: Harness, worker_config: WorkerConfig, fault: Fault, ends: Any, folder: Path) -> None:
    """Do as `runner.run_trials`, and copy the folder before each trial."""
    fault.arm()
    context = runner.open_training_context(worker_config)
    owner = this_process(worker_config.token)
    for done in range(TRIALS + 1):
        ends[done] = fault.count.value
        shutil.copytree(harness.dirs.root, folder / str(done))
        claim = claims.claim(context.storage, context.study.id, owner)
        assert (claim is None) == (done == TRIALS)
        if claim is not None:
            run_claimed(context, claim)
    ends[TRIALS + 1] = fault.count.value


def _survive_a_lock(recorded: RecordedStudy, case: Case) -> None:
    _run(recorded, case, BUSY, (0,))
    _is_over(case.harness)
    invariants.all_completed_at_first_attempt(case.harness)
    case.survived += 1


def _survive_a_broken_disk(recorded: RecordedStudy, case: Case) -> None:
    harness = case.harness
    worker_config = _run(recorded, case, IO, (0, *CLEAN))
    leases.release(Storage(harness.url), [worker_config.token])  # as its pool does
    invariants.check(harness, ended=True)
    before = invariants.finished(harness.url)
    _ended(processes.work(harness, harness.worker_config()), (0,))
    _is_over(harness, before)
    case.survived += 1


def _run(recorded: RecordedStudy, case: Case, kind: tuple[str, int], codes: tuple[int, ...]) -> WorkerConfig:
    """Run a worker in which a call fails; the case has the number of the call in the whole study."""
    home, number = recorded.before(case.index)
    shutil.copytree(home, case.harness.dirs.root)
    worker_config, fault = case.harness.worker_config(), _fault(number, kind)
    worker = processes.work(case.harness, worker_config, fault.arm)
    code = _ended(worker, codes)
    assert fault.count.value >= fault.at, f"there were only {fault.count.value} calls"
    case.injected += 1
    case.facts[f"exit {code}"] += 1
    return worker_config


def _ended(worker: ProcessGroup, codes: tuple[int, ...]) -> int:
    code = worker.end()
    assert code in codes, f"exit code {code}: {worker.said}"
    assert "Traceback" not in worker.said, worker.said
    return code


def _is_over(harness: Harness, before: dict[int, str] | None = None) -> None:
    invariants.check(harness, before=before, over=True)
    states = [trial.state for trial in harness.trials()]
    assert states == ["COMPLETE"] * TRIALS, f"the trials ended as {states}"


def _fault(at: int, kind: tuple[str, int]) -> Fault:
    return Fault(at, *kind, multiprocessing.get_context("fork").Value("q", 0, lock=False))


def _connection(call: Callable[[], None]) -> type[sqlite3.Connection]:
    """A connection class that calls `call` before every execute and commit."""

    class Cursor(sqlite3.Cursor):
        def execute(self, *args: Any) -> "Cursor":
            call()
            super().execute(*args)
            return self

        def executemany(self, *args: Any) -> "Cursor":
            call()
            super().executemany(*args)
            return self

    class Connection(sqlite3.Connection):
        def cursor(self, *_: Any, **__: Any) -> Any:
            return super().cursor(Cursor)

        def commit(self) -> None:
            call()
            super().commit()

    return Connection
