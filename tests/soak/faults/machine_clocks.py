"""The clocks of two machines are an hour apart: neither takes the other for dead, and both find out who is."""

import mmap
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.faults import invariants
from tests.harness import wait_until
from tests.service.postgres import Server, serving
from tests.soak import machines, results
from tests.soak.faults import clock
from tests.soak.faults.clock import CALM_S, HOUR
from tests.soak.faults.kills import NOTICE_S
from tests.soak.machines import FAR, NEAR, PROMISED_S, Machines, Search
from tests.soak.results import FaultResult
from tests.soak.short_timeouts import TIMES
from tests.soak.workspace import Case, Workspace, say

#: Where the clock of the far machine stands, in seconds from the truth, and on which machine all die then.
FAULTS = ((HOUR, FAR), (-HOUR, NEAR), (HOUR, NEAR), (-HOUR, FAR))
WORKERS = 2


def clocks(workspace: Workspace) -> FaultResult:
    began = time.monotonic()
    what, compiler = "two clocks are an hour apart", shutil.which("cc")
    if compiler is None:
        return results.total(what, [], seconds=0.0, note="not done: there is no C compiler (cc)")
    library = clock.build(compiler, workspace.folder)
    chosen = FAULTS[: workspace.count(len(FAULTS))]
    with serving() as server:
        reports = workspace.each("server-clock", partial(_set_again_and_again, server, library, chosen), [0])
    shown = ", ".join(f"{seconds:+d} s and all die on {name}" for seconds, name in chosen)
    note = f"the far one: {shown}; a lease lasts {TIMES.lease_timeout_s:.0f} s; 2 machines with {WORKERS} workers each"
    return results.total(what, reports, seconds=time.monotonic() - began, note=note)


def _set_again_and_again(server: Server, library: Path, chosen: Sequence[tuple[int, str]], case: Case) -> None:
    clock = case.harness.folder / "clock"
    clock.write_bytes(bytes(mmap.PAGESIZE))
    harness = _with_clock(machines.hasty(machines.at(server, case.harness)), library, clock)
    search = Search(harness=harness, name="s", trials=machines.ENDLESS, workers=WORKERS)
    dead: set[int] = set()
    with search.running():
        for seconds, name in chosen:
            clock.set_to(clock, seconds)
            case.injected += 1
            _nothing_happens(search)
            dead |= _kill_all(search, name, case)
            case.survived += 1
            say(f"server-clock: {case.injected} of {len(chosen)}; {len(search.before)} trials are done")
        search.cut_short()
        search.only_these_were_lost(dead)
        first, last = invariants.rows(harness.url, "SELECT MIN(datetime_complete), MAX(datetime_complete) FROM trials")[
            0
        ]
        assert (last - first).total_seconds() > HOUR / 2, "the clock did not move for those that write"
    case.facts["trials"] += len(search.before)


def _with_clock(harness: Machines, library: Path, clock: Path) -> Machines:
    """The same machines; the far one has a clock that can be set."""
    near, far = harness.each
    preload = {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(clock)}
    return replace(harness, each=(near, replace(far, environment={**far.environment, **preload})))


def _nothing_happens(search: Search) -> None:
    """Nobody ends and nobody is taken for dead, and trials end on both machines."""
    for machine in search.harness.each:
        search.wait_for_next(machine)
    assert search.goes_on(CALM_S), "the study ended"
    for machine in search.harness.each:
        search.wait_for_next(machine)
    search.look()


def _kill_all(search: Search, name: str, case: Case) -> set[int]:
    """Kill all processes of a machine, see that the other one finds it out, and begin again; who held a trial."""
    machine = next(each for each in search.harness.each if each.name == name)
    dead = set(search.freeze(machine))
    began = time.monotonic()
    os.killpg(search.launchers[name].pid, signal.SIGKILL)
    wait_until(lambda: not dead & search.owners().keys(), patience_s=PROMISED_S + NOTICE_S)
    is_in_time = time.monotonic() - began < PROMISED_S
    case.facts[f"found within {PROMISED_S + (0.0 if is_in_time else NOTICE_S):.0f} s"] += 1
    search.start(machine)
    search.meet(machine)
    return dead
