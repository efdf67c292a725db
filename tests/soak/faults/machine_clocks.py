"""The clocks of two machines are an hour apart: no living worker is declared dead, and dead ones are detected."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tests.faults import invariants
from tests.harness import wait_until
from tests.service.postgres import Server, serving
from tests.soak import machines, results
from tests.soak.faults import clock
from tests.soak.faults.clock import CALM_S, HOUR, NO_COMPILER, WallClock
from tests.soak.faults.kills import NOTICE_S
from tests.soak.machines import FAR, NEAR, PROMISED_S, Machines, Search
from tests.soak.results import FaultResult
from tests.soak.short_timeouts import TIMES
from tests.soak.workspace import ENDLESS, Case, Workspace, say

#: Offsets of the clock of the far machine in seconds, each with the machine whose processes are then killed.
FAULTS = ((HOUR, FAR), (-HOUR, NEAR), (HOUR, NEAR), (-HOUR, FAR))
WORKERS = 2


def clocks(workspace: Workspace) -> FaultResult:
    fault, wall_clock = "two clocks are an hour apart", clock.preload(workspace.harness("server-clock-preload").folder)
    if wall_clock is None:
        return results.total(fault, [], note=NO_COMPILER)
    chosen = FAULTS[: workspace.count(len(FAULTS))]
    with serving() as server:
        reports = workspace.run_cases("server-clock", partial(_set_repeatedly, server, wall_clock, chosen), [0])
    shown = ", ".join(f"{seconds:+d} s and all die on {name}" for seconds, name in chosen)
    note = f"the far one: {shown}; a lease lasts {TIMES.lease_timeout_s:.0f} s; 2 machines with {WORKERS} workers each"
    return results.total(fault, reports, note=note)


def _set_repeatedly(server: Server, wall_clock: WallClock, chosen: Sequence[tuple[int, str]], case: Case) -> None:
    harness = _with_clock(machines.with_short_timeouts(machines.create(server, case.harness)), wall_clock)
    search = Search(harness=harness, name="s", trials=ENDLESS, workers=WORKERS)
    dead: set[int] = set()
    with search.running():
        for seconds, name in chosen:
            wall_clock.set_to(seconds)
            case.injected += 1
            _study_goes_on(search)
            dead |= _kill_all(search, name, case)
            case.survived += 1
            say(f"server-clock: {case.injected} of {len(chosen)}; {len(search.before)} trials are done")
        search.cut_short()
        search.only_these_lost_trials(dead)
        times = "SELECT MIN(datetime_complete), MAX(datetime_complete) FROM trials"
        ((first, last),) = invariants.rows(harness.url, times)
        assert (last - first).total_seconds() > HOUR / 2, "the clock did not move for the writers"
    case.facts["trials"] += len(search.before)


def _with_clock(harness: Machines, wall_clock: WallClock) -> Machines:
    """The same machines; the clock of the far one can be set."""
    near, far = harness.machines
    environment = {**far.environment, **wall_clock.environment}
    return replace(harness, machines=(near, replace(far, environment=environment)))


def _study_goes_on(search: Search) -> None:
    """Check that no process ends or is declared dead, and that trials end on both machines."""
    for machine in search.harness.machines:
        search.wait_for_next(machine)
    assert search.goes_on(CALM_S), "the study ended"
    for machine in search.harness.machines:
        search.wait_for_next(machine)
    search.check_running()


def _kill_all(search: Search, name: str, case: Case) -> set[int]:
    """Kill a machine, wait until the other one notices, and restart it; returns the ids of its dead lease owners."""
    machine = next(machine for machine in search.harness.machines if machine.name == name)
    dead = set(search.freeze(machine))
    began = time.monotonic()
    os.killpg(search.launchers[name].pid, signal.SIGKILL)
    wait_until(lambda: not dead & search.owners().keys(), patience_s=PROMISED_S + NOTICE_S)
    is_in_time = time.monotonic() - began < PROMISED_S
    case.facts[f"found within {PROMISED_S + (0.0 if is_in_time else NOTICE_S):.0f} s"] += 1
    search.start(machine)
    search.wait_for_workers(machine)
    return dead
