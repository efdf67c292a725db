"""Another process locks the database while a study runs: twice for a minute, and twenty times for seconds."""

import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection, Pipe

from tests.faults import invariants
from tests.harness import Harness, Tables, locked, wait_until
from tests.soak import processes, results
from tests.soak.faults.kills import owners
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import ENDLESS, Case, Workspace, say

#: A study that outlasts all locks.
STUDY: Tables = {"budget": {"trials": ENDLESS, "epochs": 3, "steps_per_epoch": 3}}
LONG_S, SHORT_S = 60.0, (1.0, 3.0)


def locks(workspace: Workspace) -> FaultResult:
    """Inject at least one long lock, and 20 short ones at scale 1."""
    long, short = max(1, round(2 * workspace.scale)), workspace.count(20)
    reports = workspace.run_cases("lock", partial(_lock_repeatedly, long, short), [0])
    note = f"{long} locks of {LONG_S:.0f} s, {short} of {SHORT_S[0]:.0f} to {SHORT_S[1]:.0f} s"
    return results.total("the database is locked", reports, note=note)


def _lock_repeatedly(long: int, short: int, case: Case) -> None:
    harness = case.harness
    durations = [LONG_S] * long + [case.rng.uniform(*SHORT_S) for _ in range(short)]
    case.rng.shuffle(durations)
    file = harness.write(**STUDY)
    launcher = processes.launcher(harness, "run", file, "--workers", "2")
    try:
        wait_until(lambda: len(owners(harness)) == 2)
        family = launcher.family()
        for seconds in durations:
            _lock_once(case, launcher, family, seconds)
        finish(harness, [launcher], file)
    finally:
        launcher.sweep()
    invariants.check(harness, over=True)
    invariants.all_completed_at_first_attempt(harness)
    case.facts["trials"] += len(harness.trials())


def _lock_once(case: Case, launcher: ProcessGroup, family: set[int], seconds: float) -> None:
    time.sleep(case.rng.uniform(0.0, 2.0))
    case.injected += 1
    began = time.monotonic()
    read_end, write_end = Pipe(duplex=False)
    holder = processes.fork(case.harness, _hold, case.harness.url, seconds, write_end)
    try:
        assert read_end.recv() == "locked"
        assert holder.end(seconds + 60.0) == 0, holder.said
    finally:
        holder.sweep()
    assert launcher.poll() is None, f"the launcher ended: {launcher.said}"
    assert launcher.family() == family, f"workers died or were replaced: {launcher.said}"
    wait_until(lambda: len(owners(case.harness)) == 2)
    say(f"lock: {case.injected}, {seconds:.1f} s; {time.monotonic() - began:.1f} s until all went on")
    case.survived += 1


def _hold(url: str, seconds: float, pipe: Connection) -> None:
    with locked(url, "EXCLUSIVE"):
        pipe.send("locked")
        time.sleep(seconds)


def finish(harness: Harness, launchers: Sequence[ProcessGroup], file: str) -> None:
    """Lower the budget to the begun trials, as a second command can do at any time; all launchers then end."""
    second = processes.launcher(harness, "run", file, "--trials", "1")
    assert second.end() == 75, second.said
    for launcher in launchers:
        code = launcher.end()
        assert code == 0, f"exit code {code}: {launcher.said}"
