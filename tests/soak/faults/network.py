"""The network between a machine and its PostgreSQL server breaks, for less and for more than the time of a lease.

The machine is a network namespace of Linux at one end of a pair of virtual interfaces (veth(4)); the end at the server
is set down: packets are lost without an error.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import sqlalchemy as sa

from search.errors import DatabaseError
from search.storage.retry import LAST_S
from tests.harness import wait_until
from tests.service.postgres import Server, serving
from tests.soak import machines, results
from tests.soak.machines import LOOK_S, PROMISED_S, Machines, Search
from tests.soak.results import FaultResult
from tests.soak.short_timeouts import TIMES
from tests.soak.workspace import ENDLESS, Case, Workspace, say

WORKERS = 2
#: Shortest and longest seconds of a break that storage calls outlast.
BRIEF_S = (3.0, 25.0)
#: Maximum seconds until the leases of a machine that is cut off expire: the other pool may first wait up to 30 s for a
#: lock that the machine holds (`search.storage.engine`), a time that it does not count; 30 s more for a busy machine.
EXPIRED_S = TIMES.lease_timeout_s + 30.0 + 30.0
#: Maximum seconds until a pool that is cut off ends: a call waits, and then the call that records the running time.
GIVEN_UP_S = 2 * (TIMES.retry_timeout_s + LAST_S) + 60.0
#: From the address range reserved for network tests (RFC 2544).
ADDRESS = "198.18.{}.{}"
#: Line in the log of a trial when a process without the lease tries to write to the trial.
LET_GO = " let go: "


@dataclass(frozen=True, slots=True)
class Link:
    """A network namespace and its link to this one."""

    number: int
    """Distinguishes several links."""

    @property
    def name(self) -> str:
        """The name of the namespace, and of the interface on this side."""
        return f"soak{self.number}"

    @property
    def near(self) -> str:
        return ADDRESS.format(self.number % 256, 1)

    @property
    def far(self) -> str:
        return ADDRESS.format(self.number % 256, 2)

    def up(self) -> None:
        _ip("link", "set", self.name, "up")

    def down(self) -> None:
        _ip("link", "set", self.name, "down")

    @contextmanager
    def created(self) -> Iterator["Link"]:
        """Create the namespace and the link; both are deleted after the block."""
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self.name, "type", "veth", "peer", "name", "far", "netns", self.name)
            _ip("address", "add", f"{self.near}/30", "dev", self.name)
            _ip("-netns", self.name, "address", "add", f"{self.far}/30", "dev", "far")
            for interface in ("lo", "far"):
                _ip("-netns", self.name, "link", "set", interface, "up")
            self.up()
            yield self
        finally:
            _ip("netns", "delete", self.name)  # deletes its interface, and thereby the pair


def partitions(workspace: Workspace) -> FaultResult:
    fault = "a machine is cut off"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return results.total(fault, [], note="not done: it needs root and ip (iproute2)")
    with Link(os.getpid()).created() as link, serving(link.near) as server:
        reports = workspace.run_cases("server-link", partial(_cut_repeatedly, server, link, workspace.count(12)), [0])
    note = (
        f"by ip netns and veth; in turn for {BRIEF_S[0]:.0f} to {BRIEF_S[1]:.0f} s, until its leases are over, and so "
        f"while it sleeps; a lease lasts {TIMES.lease_timeout_s:.0f} s; 2 machines with {WORKERS} workers each"
    )
    return results.total(fault, reports, note=note)


def _cut_repeatedly(server: Server, link: Link, count: int, case: Case) -> None:
    harness = _behind_link(machines.with_short_timeouts(machines.create(server, case.harness)), server, link)
    search = Search(harness=harness, name="s", trials=ENDLESS, workers=WORKERS)
    lost: set[int] = set()
    with search.running():
        while case.injected < count:
            search.goes_on(case.rng.uniform(1.0, 5.0))
            cut = CUTS[case.injected % len(CUTS)]
            case.injected += 1
            lost |= cut(search, link, case)
            search.check_running()
            case.survived += 1
            say(f"server-link: {case.injected} of {count}; {len(search.before)} trials are done")
        search.cut_short()
        search.only_these_lost_trials(lost)
    case.facts["trials"] += len(search.before)


def _behind_link(harness: Machines, server: Server, link: Link) -> Machines:
    """The same machines; the far one reaches the server through the link."""
    near, far = harness.machines
    url = server.url(str(sa.make_url(harness.url).database), host=link.near).render_as_string(hide_password=False)
    return replace(harness, machines=(near, replace(far, address=url, prefix=("ip", "netns", "exec", link.name))))


def _briefly(search: Search, link: Link, case: Case) -> set[int]:
    """The link is back before any timeout: all workers go on, and no trial is lost."""
    with _broken(link):
        time.sleep(case.rng.uniform(*BRIEF_S))
    search.wait_for_next(_far(search))
    case.facts["briefly"] += 1
    return set()


def _until_others_take_over(search: Search, link: Link, case: Case) -> set[int]:
    """The pool that is cut off ends with a message, the other one takes its trials, and the same command goes on."""
    far = _far(search)
    pool = search.launchers[far.name]
    wait_until(lambda: search.held(far))
    with _broken(link):
        time.sleep(1.0)  # the server has executed what it received
        held, began = set(search.held(far)), time.monotonic()
        _others_take_over(search, held, case)
        code = pool.end(GIVEN_UP_S)
        longest = max(case.facts["s until the cut-off pool gave up, at most"], round(time.monotonic() - began))
        case.facts["s until the cut-off pool gave up, at most"] = longest
        assert code == DatabaseError.exit_code, f"exit code {code}: {pool.said}"
        assert "Traceback" not in pool.said, pool.said
    search.start(far)
    search.wait_for_workers(far)
    case.facts["until its leases were over"] += 1
    return held


def _while_it_sleeps(search: Search, link: Link, case: Case) -> set[int]:
    """The same with a frozen machine, which wakes up and tries to write to trials that it has lost."""
    far = _far(search)
    held = search.freeze(far)
    refused = {number: _refusals(search, number) for number in held.values()}
    with _broken(link):
        _others_take_over(search, set(held), case)
    os.killpg(search.launchers[far.name].pid, signal.SIGCONT)
    for number, before in refused.items():
        wait_until(partial(lambda number, before: _refusals(search, number) > before, number, before))
    search.wait_for_next(far)
    case.facts["asleep"] += 1
    case.facts["late writes refused"] += len(held)
    return set(held)


#: The cuts, in turn; each returns the ids of the processes that lost a trial.
CUTS: tuple[Callable[[Search, Link, Case], set[int]], ...] = (_briefly, _until_others_take_over, _while_it_sleeps)


@contextmanager
def _broken(link: Link) -> Iterator[None]:
    link.down()
    try:
        yield
    finally:
        link.up()


def _others_take_over(search: Search, held: set[int], case: Case) -> None:
    began = time.monotonic()
    wait_until(lambda: not held & search.owners().keys(), patience_s=EXPIRED_S, look_s=LOOK_S)
    took = time.monotonic() - began
    limits = (PROMISED_S, PROMISED_S + 30.0, EXPIRED_S)
    case.facts[f"taken over within {next(limit for limit in limits if took <= limit):.0f} s"] += 1
    search.wait_for_next(search.harness.machines[0])


def _refusals(search: Search, number: int) -> int:
    return _far(search).dirs.log(search.name, number).read_text().count(LET_GO)


def _far(search: Search) -> machines.Machine:
    return search.harness.machines[1]


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)
