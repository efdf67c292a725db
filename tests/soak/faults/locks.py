"""Another process locks the database while a study runs: twice for a minute, and twenty times for seconds."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import psutil

from tests.faults import invariants
from tests.harness import Harness, Tables, wait_until
from tests.soak import processes, results
from tests.soak.faults.kills import owners
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace, say

#: A study that outlasts all locks; at the end its budget is lowered to the begun trials.
STUDY: Tables = {"budget": {"trials": 5000, "epochs": 3, "steps_per_epoch": 3}}
LONG_S, SHORT_S = 60.0, (1.0, 3.0)


def locks(workspace: Workspace) -> FaultResult:
    """Inject at least one long lock, and 20 short ones at scale 1."""
    began = time.monotonic()
    long, short = max(1, round(2 * workspace.scale)), workspace.count(20)
    reports = workspace.run_cases("lock", partial(_lock_repeatedly, long, short), [0])
    note = f"{long} locks of {LONG_S:.0f} s, {short} of {SHORT_S[0]:.0f} to {SHORT_S[1]:.0f} s"
    return results.total("the database is locked", reports, seconds=time.monotonic() - began, note=note)


def _lock_repeatedly(long: int, short: int, case: Case) -> None:
    harness = case.harness
    durations = [LONG_S] * long + [case.rng.uniform(*SHORT_S) for _ in range(short)]
    case.rng.shuffle(durations)
    file = harness.write(**STUDY)
    launcher = processes.launcher(harness, "run", file, "--workers", "2")
    try:
        wait_until(lambda: len(owners(harness)) == 2)
        family = _family(launcher)
        for seconds in durations:
            _lock_once(case, launcher, family, seconds)
        finish(harness, [launcher], file)
    finally:
        launcher.sweep()
    _all_completed_at_first_attempt(harness)
    case.facts["trials"] += len(harness.trials())


def _lock_once(case: Case, launcher: ProcessGroup, family: set[int], seconds: float) -> None:
    time.sleep(case.rng.uniform(0.0, 2.0))
    case.injected += 1
    began = time.monotonic()
    read_end, write_end = Pipe(duplex=False)
    holder = processes.fork(case.harness, _hold, case.harness.folder / "home" / "studies.db", seconds, write_end)
    try:
        assert read_end.recv() == "locked"
        assert holder.end(seconds + 60.0) == 0, holder.said
    finally:
        holder.sweep()
    assert launcher.poll() is None, f"the launcher ended: {launcher.said}"
    assert _family(launcher) == family, f"workers died or were replaced: {launcher.said}"
    wait_until(lambda: len(owners(case.harness)) == 2)
    say(f"lock: {case.injected}, {seconds:.1f} s; {time.monotonic() - began:.1f} s until all went on")
    case.survived += 1


def _hold(file: Path, seconds: float, pipe: Connection) -> None:
    with closing(sqlite3.connect(file, timeout=60.0, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        pipe.send("locked")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def finish(harness: Harness, launchers: Sequence[ProcessGroup], file: str) -> None:
    """Lower the budget to the begun trials, as a second command can do at any time; all launchers then end."""
    second = processes.launcher(harness, "run", file, "--trials", "1")
    assert second.end() == 75, second.said
    for launcher in launchers:
        code = launcher.end()
        assert code == 0, f"exit code {code}: {launcher.said}"


def _all_completed_at_first_attempt(harness: Harness) -> None:
    invariants.check(harness, over=True)
    hurt = [trial for trial in harness.trials() if (trial.state, trial.attempts, trial.crashes) != ("COMPLETE", 1, ())]
    assert not hurt, f"the lock hurt {hurt}"


def _family(launcher: ProcessGroup) -> set[int]:
    """The ids of the launcher, its forkserver and its workers."""
    process = psutil.Process(launcher.pid)
    return {process.pid, *(child.pid for child in process.children(recursive=True))}
