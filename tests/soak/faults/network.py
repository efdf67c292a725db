"""The network between a machine and its PostgreSQL server breaks, for shorter and for longer than a lease.

The machine is a network namespace of Linux at one end of a pair of virtual interfaces (veth(4)); the end at the server
is set down, so that packets vanish, and nobody is told.
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
from tests.soak.workspace import Case, Workspace, say

WORKERS = 2
#: A break of so many seconds passes: a storage call waits longer.
BRIEF_S = (3.0, 25.0)
#: Until a lease is taken away from those who are cut off: who watches them may have to wait for a lock that they hold,
#: for up to 30 s (`search.storage.engine`), and does not count what it did not see; and this machine may be busy.
EXPIRED_S = TIMES.lease_timeout_s + 30.0 + 30.0
#: Until who is cut off ends by itself: a call waits so long, and then the one that notes how long the study has run.
GIVEN_UP_S = 2 * (TIMES.retry_timeout_s + LAST_S) + 60.0
#: In a range of addresses that is kept for tests of networks (RFC 2544).
ADDRESS = "198.18.{}.{}"
#: What the log of a trial says when somebody comes to write to it whose lease was taken away.
LET_GO = " let go: "


@dataclass(frozen=True, slots=True)
class Link:
    """A network namespace and the way to it."""

    number: int
    """By which several of them are told apart."""

    @property
    def name(self) -> str:
        """Of the namespace, and of the interface on this side."""
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
    def laid(self) -> Iterator["Link"]:
        """Let it be there inside the block."""
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
            _ip("netns", "delete", self.name)  # its interface, and so the pair, goes with it


def partitions(workspace: Workspace) -> FaultResult:
    began = time.monotonic()
    what = "a machine is cut off"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return results.total(what, [], seconds=0.0, note="not done: it wants root, and ip (iproute2)")
    with Link(os.getpid()).laid() as link, serving(link.near) as server:
        reports = workspace.each("server-link", partial(_cut_again_and_again, server, link, workspace.count(12)), [0])
    note = (
        f"by ip netns and veth; in turn for {BRIEF_S[0]:.0f} to {BRIEF_S[1]:.0f} s, until its leases are over, and so "
        f"while it sleeps; a lease lasts {TIMES.lease_timeout_s:.0f} s; 2 machines with {WORKERS} workers each"
    )
    return results.total(what, reports, seconds=time.monotonic() - began, note=note)


def _cut_again_and_again(server: Server, link: Link, count: int, case: Case) -> None:
    harness = _cut_off(machines.hasty(machines.at(server, case.harness)), server, link)
    search = Search(harness=harness, name="s", trials=machines.ENDLESS, workers=WORKERS)
    lost: set[int] = set()
    with search.running():
        while case.injected < count:
            search.goes_on(case.dice.uniform(1.0, 5.0))
            cut = CUTS[case.injected % len(CUTS)]
            case.injected += 1
            lost |= cut(search, link, case)
            search.look()
            case.survived += 1
            say(f"server-link: {case.injected} of {count}; {len(search.before)} trials are done")
        search.cut_short()
        search.only_these_were_lost(lost)
    case.facts["trials"] += len(search.before)


def _cut_off(harness: Machines, server: Server, link: Link) -> Machines:
    """The same machines, the far one behind the link."""
    near, far = harness.each
    url = server.url(str(sa.make_url(harness.url).database), host=link.near).render_as_string(hide_password=False)
    return replace(harness, each=(near, replace(far, address=url, before=("ip", "netns", "exec", link.name))))


def _briefly(search: Search, link: Link, case: Case) -> set[int]:
    """The link is back before anybody's patience ends: all go on, and nobody has lost anything."""
    with _broken(link):
        time.sleep(case.dice.uniform(*BRIEF_S))
    search.wait_for_next(_far(search))
    case.facts["briefly"] += 1
    return set()


def _until_others_take_over(search: Search, link: Link, case: Case) -> set[int]:
    """Who is cut off gives up, and says so; its trials are taken up by the others; the same command goes on."""
    far = _far(search)
    pool = search.launchers[far.name]
    wait_until(lambda: search.held(far))
    with _broken(link):
        time.sleep(1.0)  # what had reached the server is carried out by now
        held, began = set(search.held(far)), time.monotonic()
        _others_take_over(search, held, case)
        code = pool.end(GIVEN_UP_S)
        longest = max(case.facts["s until who was cut off gave up, at most"], round(time.monotonic() - began))
        case.facts["s until who was cut off gave up, at most"] = longest
        assert code == DatabaseError.exit_code, f"exit code {code}: {pool.said}"
        assert "Traceback" not in pool.said, pool.said
    search.start(far)
    search.meet(far)
    case.facts["until its leases were over"] += 1
    return held


def _while_it_sleeps(search: Search, link: Link, case: Case) -> set[int]:
    """As before; but the machine sleeps meanwhile, and wakes up to write what is not its own any more."""
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


#: What is done in turn; each tells whose trials were taken away.
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
    search.wait_for_next(search.harness.each[0])


def _refusals(search: Search, number: int) -> int:
    return _far(search).dirs.log(search.name, number).read_text().count(LET_GO)


def _far(search: Search) -> machines.Machine:
    return search.harness.each[1]


def _ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True)
