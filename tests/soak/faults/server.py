"""A PostgreSQL server crashes, freezes or changes its time zone while two machines run a study: no trial is lost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from tests.faults import invariants
from tests.service.postgres import Server, serving
from tests.soak import machines, results
from tests.soak.machines import Search
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace, say

#: Trials of a study, and the fewest at a small scale; studies follow one another until all faults are injected.
TRIALS, FEWEST = 500, 40
#: Number of workers on each of the two machines.
WORKERS = 4
#: Maximum seconds for which a crashed server is away, and seconds for which it is frozen.
AWAY_S, FROZEN_S = 5.0, 60.0
#: Time zones more than half a day apart, and one with an offset of half an hour.
ZONES = ("America/New_York", "Pacific/Kiritimati", "Asia/Kolkata", "UTC")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault that is injected repeatedly."""

    name: str
    part: str
    inject: Callable[[Server, Search, Case], None]
    pauses: tuple[float, float]
    """Shortest and longest pause between two injections, in seconds."""
    count: int
    note: str


def crashes(workspace: Workspace) -> FaultResult:
    return _row(
        workspace,
        Fault(
            name="the server crashes",
            part="server-crash",
            inject=_crash,
            pauses=(5.0, 40.0),
            count=40,
            note=f"pg_ctl stop -m immediate, every 5 to 40 s; then away for up to {AWAY_S:.0f} s",
        ),
    )


def freezes(workspace: Workspace) -> FaultResult:
    return _row(
        workspace,
        Fault(
            name="the server freezes",
            part="server-frozen",
            inject=_freeze,
            pauses=(2.0, 20.0),
            count=5,
            note=f"SIGSTOP of all its processes for {FROZEN_S:.0f} s",
        ),
    )


def zones(workspace: Workspace) -> FaultResult:
    return _row(
        workspace,
        Fault(
            name="sessions differ in time zone",
            part="server-zone",
            inject=_change_zone,
            pauses=(5.0, 15.0),
            count=12,
            note=f"in turn {', '.join(ZONES)}; each time half of the sessions are ended, and begin again",
        ),
    )


def _row(workspace: Workspace, fault: Fault) -> FaultResult:
    trials = max(FEWEST, workspace.count(TRIALS))
    with serving() as server:
        body = partial(_inject_repeatedly, server, fault, workspace.count(fault.count), trials)
        reports = workspace.run_cases(fault.part, body, [0])
    note = f"{fault.note}; studies of {trials} trials, 2 machines with {WORKERS} workers each"
    return results.total(fault.name, reports, note=note)


def _inject_repeatedly(server: Server, fault: Fault, count: int, trials: int, case: Case) -> None:
    harness = machines.create(server, case.harness)
    while case.injected < count:
        name = f"s{case.facts['studies']}"
        search = Search(harness=harness, name=name, trials=trials, workers=WORKERS)
        with search.running():
            while case.injected < count and search.goes_on(case.rng.uniform(*fault.pauses)):
                case.injected += 1
                fault.inject(server, search, case)
                search.check_running()
                case.survived += 1
                say(f"{fault.part}: {case.injected} of {count}; {len(search.before)} of {trials} trials are done")
            search.end()
            invariants.all_completed_at_first_attempt(search.harness, search.name)
        case.facts["studies"] += 1
        case.facts["trials"] += trials


def _crash(server: Server, _: Search, case: Case) -> None:
    server.stop()
    time.sleep(case.rng.uniform(0.0, AWAY_S))
    server.start()


def _freeze(server: Server, _search: Search, _case: Case) -> None:
    with server.frozen():
        time.sleep(FROZEN_S)


def _change_zone(server: Server, search: Search, case: Case) -> None:
    """Set another zone for new sessions and end half of the old ones; sessions of both kinds then run."""
    database = str(sa.make_url(search.harness.url).database)
    server.set(database, "timezone", ZONES[case.injected % len(ZONES)])
    old = server.sessions(database)
    ended = case.rng.sample(old, len(old) // 2)
    server.end_sessions(ended)
    search.goes_on(2.0)
    now = set(server.sessions(database))
    is_mixed = now & set(old) and now - set(old)
    case.facts["times sessions of both kinds were at work" if is_mixed else "times none was left of one kind"] += 1
