"""The lease protocol beside a small model of it: claims, deaths, looks, zombies and budgets in any order."""

import json
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from search.errors import BusyError, DatabaseError, LeaseLostError
from search.process import LeaseOwner, start_time, this_process
from search.spec import study_spec
from search.storage import claims, leases
from search.storage.leases import LeaseMonitor
from search.storage.rdb import Storage
from search.storage.retry import Timeouts
from search.storage.tables import CURVES, LEASES, TRIAL_ATTRS, TRIAL_PARAMS, TRIAL_SYSTEM_ATTRS, TRIAL_VALUES, TRIALS
from search.study import stored_study
from search.study.stored_study import StoredStudy
from tests.databases import BOTH
from tests.service.postgres import Server

pytestmark = BOTH

SETTINGS = settings(
    max_examples=50,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
#: Few looks make a lease, so that short runs see it end.
TIMES = Timeouts(retry_timeout_s=0.5, renewal_interval_s=10, lease_timeout_s=32)
#: Deaths in a row, without a new step between them, after which a trial fails.
DEATHS = 3
#: The points to try first.
QUEUE = ({"x": 0.25}, {"x": 0.75})
DATA = {"fingerprint": "f" * 64, "classes": ["cat", "dog"]}
SPEC = study_spec.build({"data": {}, "budget": {"trials": 4, "epochs": 9}, "search": {}, "space": {"width": [8, 16]}})
OF_TRIALS = [
    table.name for table in (TRIALS, TRIAL_ATTRS, TRIAL_SYSTEM_ATTRS, TRIAL_PARAMS, TRIAL_VALUES, CURVES, LEASES)
]
FINISHED = ("COMPLETE", "PRUNED", "FAIL")

Rows = dict[int, list[tuple[object, ...]]]


@dataclass(kw_only=True, slots=True)
class Worker:
    """One that claims trials with a token of its own."""

    owner: LeaseOwner
    is_here: bool
    """Whether it is a process of this machine and this boot, which can be seen to live or not."""
    process: subprocess.Popen[bytes] | None = None
    spoke_at: float = 0.0
    """When it last claimed, or its lease was renewed, in seconds of the time that really passed."""

    @property
    def token(self) -> str:
        return self.owner.token

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def die(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()


@dataclass(slots=True)
class Trial:
    """What must be stored of a trial."""

    state: str = "RUNNING"
    token: str | None = None
    attempts: int = 0
    curve: dict[int, float] = field(default_factory=dict)
    value: float | None = None
    crashes: int = 0
    has_reason: bool = False
    fixed: dict[str, float] | None = None


@dataclass(slots=True)
class Watcher:
    """Somebody who looks for owners that are gone, by a clock of its own, and what it must think of them."""

    zero: float
    """What its clock shows when no time has passed."""
    watch: LeaseMonitor = field(default_factory=lambda: LeaseMonitor(times=TIMES))
    looked_at: float | None = None
    silence: dict[str, float] = field(default_factory=dict)
    """For how long it observed each owner elsewhere to say nothing."""

    def listen(self, now: float, tokens: set[str]) -> None:
        """One look: a gap since the last one counts no more than the usual pause between two signs of life."""
        gap = 0.0 if self.looked_at is None else min(now - self.looked_at, TIMES.renewal_interval_s)
        self.looked_at = now
        self.silence = {token: self.silence[token] + gap if token in self.silence else 0.0 for token in tokens}


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """A database that all runs share, one study each, with a study beside it that nobody may touch."""

    storage: Storage
    blind: Storage
    """One whose leases cannot be read."""
    bare: sa.Engine
    """Looks at the database without any of our code."""

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        with self.bare.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(text)]

    def rows(self) -> Rows:
        """Every row about every trial, by its id."""
        found: Rows = {}
        for table in OF_TRIALS:
            for trial_id, *row in self.ask(f"SELECT trial_id, * FROM {table} ORDER BY 1, 2, 3, 4"):
                found.setdefault(trial_id, []).append((table, *row))
        return found

    def trials(self, study_id: int) -> dict[int, tuple[int, Trial]]:
        """What is stored of each trial of a study, with its id, by its number."""
        return {
            number: (trial_id, self._trial(trial_id, state))
            for trial_id, number, state in self.ask(
                f"SELECT trial_id, number, state FROM trials WHERE study_id = {study_id} ORDER BY number"
            )
        }

    def _trial(self, trial_id: int, state: str) -> Trial:
        def pairs(columns: str, table: str) -> dict[Any, Any]:
            return dict(self.ask(f"SELECT {columns} FROM {table} WHERE trial_id = {trial_id}"))

        attrs = {key: json.loads(text) for key, text in pairs("key, value_json", TRIAL_ATTRS.name).items()}
        fixed = pairs("key, value_json", TRIAL_SYSTEM_ATTRS.name).get("fixed_params")
        return Trial(
            state=state,
            token=pairs("trial_id, token", LEASES.name).get(trial_id),
            attempts=attrs.get("attempts", 0),
            curve=pairs("step, intermediate_value", CURVES.name),
            value=pairs("objective, value", TRIAL_VALUES.name).get(0),
            crashes=len(attrs.get("crashes", [])),
            has_reason=attrs.get("reason") is not None,
            fixed=None if fixed is None else json.loads(fixed),
        )


WRITES: dict[str, Callable[[Storage, int], object]] = {
    "a parameter": lambda storage, trial_id: storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1)),
    "a step": lambda storage, trial_id: storage.set_trial_intermediate_value(trial_id, 9, 0.9),
    "a reason": lambda storage, trial_id: storage.set_trial_user_attr(trial_id, "reason", "a zombie"),
    "a mark": lambda storage, trial_id: storage.set_trial_system_attr(trial_id, "config", {}),
    "its end": lambda storage, trial_id: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0]),
}

ANYBODY = st.runner().flatmap(lambda machine: st.sampled_from(sorted(machine.workers)))
BUSY = st.runner().flatmap(lambda machine: st.sampled_from(machine.busy()))
LIVING = st.runner().flatmap(lambda machine: st.sampled_from(machine.living()))
PLACES = st.sampled_from(["here", "pid taken by another", "another boot", "elsewhere"])
#: Less than the pause between two renewals, as long, a little longer, and a closed lid.
GAPS_S = st.sampled_from([3600.0, 10.0, 1.0, 13.0])
STEPS = st.integers(1, 3)
SCORES = st.sampled_from([0.25, 0.5, 0.75])


class LeaseMachine(RuleBasedStateMachine):
    """Does anything in any order, and holds a model of what must come of it."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.study: StoredStudy = stored_study.open_or_create(desk.storage, SPEC, name="tried", data=DATA)
        self.budget = SPEC.budget.trials
        self.trials: dict[int, Trial] = {}
        self.deaths: dict[int, int] = {}
        self.workers: dict[str, Worker] = {}
        self.watchers = [Watcher(0.0), Watcher(1e6)]
        self.now = 0.0
        self.frozen: Rows = {}
        self.others = desk.rows()

    def teardown(self) -> None:
        for worker in self.workers.values():
            worker.die()
        self.desk.storage.delete_study(self.study.id)

    # -- workers come and go --------------------------------------------------------------------------------

    @initialize(places=st.lists(PLACES, min_size=3, max_size=3), busy=st.integers(0, 3))
    def begins(self, places: list[str], busy: int) -> None:
        for place in places:
            self.joins(place)
        for token in list(self.workers)[:busy]:
            self.claims(token)

    @precondition(lambda self: len(self.workers) < 6)
    @rule(place=PLACES)
    def joins(self, place: str) -> None:
        token = f"{len(self.workers)} {place}"
        owner = this_process(token)
        process = None
        if place == "here":
            process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # ends with us, whatever becomes of us
            owner = replace(owner, pid=process.pid, started=start_time(process.pid) or 0.0)
        if place == "pid taken by another":
            owner = replace(owner, started=owner.started - 3600)
        if place == "another boot":
            owner = replace(owner, boot="another")
        if place == "elsewhere":
            owner = replace(owner, host=f"not {socket.gethostname()}")
        is_here = place in ("here", "pid taken by another")
        self.workers[token] = Worker(owner=owner, is_here=is_here, process=process)

    @precondition(lambda self: self.living())
    @rule(token=LIVING)
    def dies(self, token: str) -> None:
        self.workers[token].die()

        for watcher in self.watchers:  # its own pool looks after it by other means
            self._look(watcher, after=1, own={token})

    # -- what a worker does, dead ones included: its last words may arrive late ----------------------------------

    @rule(token=ANYBODY)
    def claims(self, token: str) -> None:
        expected = self._take(token)

        claim = claims.claim(self._as(token), self.study.id, self.workers[token].owner, QUEUE)

        assert (None if claim is None else claim.number) == expected
        if claim is not None:
            assert claim.trial_id == self._id(claim.number)
            assert claim.attempt == self.trials[claim.number].attempts

    @precondition(lambda self: self.busy())
    @rule(token=BUSY, step=STEPS, score=SCORES)
    def reports(self, token: str, step: int, score: float) -> None:
        number = self._held(token)
        if step not in self.trials[number].curve:
            self.deaths[number] = 0
        self.trials[number].curve[step] = score

        self._as(token).set_trial_intermediate_value(self._id(number), step, score)

    @precondition(lambda self: self.busy())
    @rule(token=BUSY, state=st.sampled_from(FINISHED), score=SCORES, goes_on=st.booleans())
    def tells(self, token: str, state: str, score: float, goes_on: bool) -> None:
        number = self._held(token)
        value = score if state == "COMPLETE" else None
        self.trials[number] = replace(self.trials[number], state=state, token=None, value=value, has_reason=True)
        trial_id = self._id(number)
        storage = self._as(token)

        with storage.batch():
            storage.set_trial_user_attr(trial_id, "reason", "told")
            storage.set_trial_state_values(trial_id, TrialState[state], None if value is None else [value])

        if goes_on:
            self.claims(token)

    @precondition(lambda self: self.trials)
    @rule(token=ANYBODY, kind=st.sampled_from(sorted(WRITES)), data=st.data())
    def writes_to_what_it_does_not_own(self, token: str, kind: str, data: st.DataObject) -> None:
        strange = [number for number, trial in self.trials.items() if trial.token != token]
        if not strange:
            return
        trial_id = self._id(data.draw(st.sampled_from(strange)))
        storage = self._as(token)
        before = self.desk.rows()

        with pytest.raises(LeaseLostError):
            WRITES[kind](storage, trial_id)

        assert self.desk.rows() == before

    @precondition(lambda self: self.busy() and len(self.trials) > 1)
    @rule(token=BUSY, data=st.data())
    def writes_to_its_own_and_to_another_together(self, token: str, data: st.DataObject) -> None:
        own = self._held(token)
        other = data.draw(st.sampled_from([number for number in self.trials if number != own]))
        storage = self._as(token)
        before = self.desk.rows()

        with pytest.raises(LeaseLostError):
            complete(storage, [self._id(own), self._id(other)])

        assert self.desk.rows() == before

    # -- what a pool does -----------------------------------------------------------------------------------

    @rule(token=ANYBODY)
    def stops(self, token: str) -> None:
        expected = self._numbers({token})
        for number in expected:
            trial = self.trials[number]
            self.trials[number] = replace(trial, state="WAITING", token=None, attempts=trial.attempts - 1)

        assert leases.release(self.desk.storage, [token]) == expected

    @rule(token=ANYBODY, times=st.integers(1, DEATHS))
    def is_lost_and_claims_again(self, token: str, times: int) -> None:
        for _ in range(times):
            expected = self._numbers({token})
            self._bury(expected)

            assert leases.expire_dead(self.desk.storage, token, "killed") == expected

            self.claims(token)

    @rule(watcher=st.integers(0, 1), times=st.integers(1, 5), renewed=st.lists(ANYBODY, max_size=2))
    def renews_and_looks_at_every_renewal(self, watcher: int, times: int, renewed: list[str]) -> None:
        for token in set(renewed) & set(self.busy()):
            self._speaks(token)
        leases.renew(self.desk.storage, renewed)

        gone = [self._look(self.watchers[watcher], after=TIMES.renewal_interval_s) for _ in range(times)]

        for token in sorted(set().union(*gone)):  # some only seemed to be gone, and wake up
            self.claims(token)
        self._look(self.watchers[watcher], after=TIMES.renewal_interval_s)

    @rule(watcher=st.integers(0, 1), gap=GAPS_S, own=st.sets(ANYBODY, max_size=3), in_vain=st.booleans())
    def looks_after(self, watcher: int, gap: float, own: set[str], in_vain: bool) -> None:
        self._look(self.watchers[watcher], after=1)
        if in_vain:
            self._look_in_vain(self.watchers[watcher], after=gap)

        self._look(self.watchers[watcher], after=gap, own=own)

    # -- what a person does ---------------------------------------------------------------------------------

    @precondition(lambda self: self.failed())
    @rule()
    def tries_the_failed_again(self) -> None:
        if self.busy():
            with pytest.raises(BusyError):
                leases.retry_failed(self.desk.storage, self.study.id)
            return
        failed = self.failed()
        for number in failed:
            del self.frozen[self._id(number)]
            self.trials[number] = replace(self.trials[number], state="WAITING", attempts=0, has_reason=False)
            self.deaths[number] = 0

        assert leases.retry_failed(self.desk.storage, self.study.id) == failed

    @rule(trials=st.integers(0, 6))
    def sets_the_budget(self, trials: int) -> None:
        self.budget = max(trials, len(self.trials))

        assert stored_study.set_trials(self.desk.storage, self.study, trials) == self.budget

    # -- what always holds ----------------------------------------------------------------------------------

    @invariant()
    def what_is_stored_is_what_the_model_says(self) -> None:
        stored = self.desk.trials(self.study.id)

        assert {number: trial for number, (_, trial) in stored.items()} == self.trials

    @invariant()
    def budget_numbers_and_owners_are_in_order(self) -> None:
        found = self.desk.trials(self.study.id)
        stored = [trial for _, trial in found.values()]
        with self.desk.storage.engine.connect() as connection:
            budget = claims.budget(connection, self.study.id)
            claimable = claims.claimable(connection, self.study.id)
            holders = leases.lease_tokens(connection, self.study.id)

        assert budget == self.budget
        assert len(stored) <= budget
        assert list(found) == list(range(len(stored)))
        assert claimable == budget - len(stored) + sum(trial.state == "WAITING" for trial in stored)
        assert all((trial.state == "RUNNING") == (trial.token is not None) for trial in stored)
        assert sorted(trial.token for trial in stored if trial.token is not None) == sorted(holders)

    @invariant()
    def nothing_changes_in_finished_trials_and_other_studies(self) -> None:
        rows = self.desk.rows()

        assert {trial_id: rows[trial_id] for trial_id in self.others} == self.others
        assert {trial_id: rows[trial_id] for trial_id in self.frozen} == self.frozen
        finished = [number for number, trial in self.trials.items() if trial.state in FINISHED]
        self.frozen = {self._id(number): rows[self._id(number)] for number in finished}

    # -- the model --------------------------------------------------------------------------------------------

    def busy(self) -> list[str]:
        """The tokens that hold a trial."""
        return sorted(trial.token for trial in self.trials.values() if trial.token is not None)

    def living(self) -> list[str]:
        """The tokens of processes that run on this machine."""
        return sorted(token for token, worker in self.workers.items() if worker.lives)

    def failed(self) -> list[int]:
        return [number for number, trial in self.trials.items() if trial.state == "FAIL"]

    def _numbers(self, tokens: set[str]) -> list[int]:
        return [number for number, trial in self.trials.items() if trial.token in tokens]

    def _held(self, token: str) -> int:
        (number,) = self._numbers({token})
        return number

    def _take(self, token: str) -> int | None:
        """What the claim must be: what the owner holds, else what waits and is the first, else a new trial."""
        if held := self._numbers({token}):
            return held[0]
        waiting = [number for number, trial in self.trials.items() if trial.state == "WAITING"]
        number = min(waiting, default=len(self.trials))
        if number >= self.budget:
            return None
        fixed = QUEUE[number] if number < len(QUEUE) else None
        trial = self.trials.setdefault(number, Trial(fixed=fixed))
        self.trials[number] = replace(trial, state="RUNNING", token=token, attempts=trial.attempts + 1)
        self._speaks(token)
        return number

    def _bury(self, numbers: list[int]) -> None:
        for number in numbers:
            trial = self.trials[number]
            self.deaths[number] = self.deaths.get(number, 0) + 1
            fails = self.deaths[number] == DEATHS
            state, has_reason = ("FAIL", True) if fails else ("WAITING", trial.has_reason)
            crashes = trial.crashes + 1
            self.trials[number] = replace(trial, state=state, token=None, crashes=crashes, has_reason=has_reason)

    def _speaks(self, token: str) -> None:
        self.workers[token].spoke_at = self.now
        for watcher in self.watchers:
            watcher.silence.pop(token, None)

    def _look(self, watcher: Watcher, *, after: float, own: Collection[str] = ()) -> set[str]:
        self.now += after
        watcher.listen(self.now, set(self.busy()) - set(own))
        gone = {token for token, silence in watcher.silence.items() if self._is_gone(token, silence)}
        expected = self._numbers(gone)
        self._bury(expected)

        taken = watcher.watch.expire(self.desk.storage, self.study.id, but=own, now=watcher.zero + self.now)

        assert sorted(taken) == expected
        return gone

    def _look_in_vain(self, watcher: Watcher, *, after: float) -> None:
        self.now += after
        with pytest.raises(DatabaseError):
            watcher.watch.expire(self.desk.blind, self.study.id, now=watcher.zero + self.now)

    def _is_gone(self, token: str, silence: float) -> bool:
        worker = self.workers[token]
        if worker.is_here and not worker.lives:
            return True
        assert silence <= self.now - worker.spoke_at, "the model itself must not observe more silence than there was"
        return silence > TIMES.lease_timeout_s

    def _as(self, token: str) -> Storage:
        """The storage as the process of this owner has it: its token is all that tells it apart."""
        self.desk.storage.token = token
        return self.desk.storage

    def _id(self, number: int) -> int:
        which = f"study_id = {self.study.id} AND number = {number}"
        return int(self.desk.ask(f"SELECT trial_id FROM trials WHERE {which}")[0][0])


def complete(storage: Storage, trial_ids: list[int]) -> None:
    """Tell several trials in one transaction."""
    with storage.batch():
        for trial_id in trial_ids:
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])


def fill(storage: Storage) -> None:
    """A study with one trial of each kind."""
    stored = stored_study.open_or_create(storage, SPEC, name="beside it", data=DATA)
    for end in FINISHED:
        claim = claims.claim(storage, stored.id, this_process("neighbour"))
        assert claim is not None
        storage.set_trial_state_values(claim.trial_id, TrialState[end])
    leases.retry_failed(storage, stored.id)
    claims.claim(storage, stored.id, this_process("neighbour"))


@pytest.fixture
def desk(request: pytest.FixtureRequest, url: str) -> Iterator[Desk]:
    with databases(request, url) as (own, other):
        storage = Storage(own, token="neighbour", create=True, retry_timeout_s=TIMES.retry_timeout_s)
        fill(storage)
        blind = Storage(other, create=True, retry_timeout_s=TIMES.retry_timeout_s)
        blind.write(lambda connection: LEASES.drop(connection))
        bare = sa.create_engine(own, isolation_level="AUTOCOMMIT")
        yield Desk(storage=storage, blind=blind, bare=bare)
        for engine in (storage.engine, blind.engine, bare):
            engine.dispose()


@contextmanager
def databases(request: pytest.FixtureRequest, url: str) -> Iterator[tuple[str, str]]:
    """Two new ones; as files in memory where there is a file system of it: the machine writes thousands of times."""
    if not url.startswith("sqlite"):
        server: Server = request.getfixturevalue("server")
        yield url, server.url(server.make_database()).render_as_string(hide_password=False)
        return
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield f"sqlite:///{folder}/studies.db", f"sqlite:///{folder}/blind.db"


@pytest.mark.timeout(900)  # when it fails, Hypothesis looks for a shorter way to fail, for up to five minutes
def test_whatever_happens_in_whatever_order_the_lease_protocol_keeps_its_promises(desk: Desk) -> None:
    machine = cast("type[LeaseMachine]", partial(LeaseMachine, desk))  # any function that makes a machine will do

    run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.fixture
def machine(desk: Desk) -> Iterator[LeaseMachine]:
    """One to be driven by hand; it has one owner, elsewhere, that holds a trial."""
    driven = LeaseMachine(desk)
    driven.begins(["elsewhere", "here", "here"], busy=1)
    yield driven
    driven.teardown()


def test_a_new_claim_of_an_owner_that_was_silent_is_a_sign_of_life(machine: LeaseMachine) -> None:
    machine.renews_and_looks_at_every_renewal(watcher=0, times=5, renewed=[])

    machine.what_is_stored_is_what_the_model_says()
    assert machine.busy() == ["0 elsewhere"]


def test_a_watcher_that_slept_grants_an_owner_that_it_never_saw_one_lease_and_no_more(machine: LeaseMachine) -> None:
    watcher = machine.watchers[0]
    machine._look(watcher, after=0, own={"0 elsewhere"})
    machine._look(watcher, after=3600)

    for _ in range(4):
        machine._look(watcher, after=TIMES.renewal_interval_s)

    machine.what_is_stored_is_what_the_model_says()
    assert machine.busy() == []
