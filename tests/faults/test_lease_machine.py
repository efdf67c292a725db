"""The lease protocol against a small model: claims, deaths, lease checks, former owners and budgets in any order."""

import json
import socket
import subprocess
import tempfile
from collections import defaultdict
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
from tests.faults.invariants import FINISHED
from tests.harness import DATA
from tests.service.postgres import Server
from tests.storage.claimers import take

pytestmark = BOTH

SETTINGS = settings(
    max_examples=50,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
#: A lease lasts only a few checks: short runs see it expire.
TIMES = Timeouts(retry_timeout_s=0.5, renewal_interval_s=10, lease_timeout_s=32)
#: Deaths in a row, without a new step between them, after which a trial fails.
DEATHS = 3
#: The points to try first.
QUEUE = ({"x": 0.25}, {"x": 0.75})
SPEC = study_spec.build({"data": {}, "budget": {"trials": 4, "epochs": 9}, "search": {}, "space": {"width": [8, 16]}})
OF_TRIALS = [
    table.name for table in (TRIALS, TRIAL_ATTRS, TRIAL_SYSTEM_ATTRS, TRIAL_PARAMS, TRIAL_VALUES, CURVES, LEASES)
]

#: The name of a table, and a row of it.
Row = tuple[str, dict[str, Any]]
Rows = dict[int, list[Row]]


@dataclass(kw_only=True, slots=True)
class Worker:
    """A process that claims trials with its token."""

    owner: LeaseOwner
    is_here: bool
    """Whether it is a process of this machine and this boot, whose death can be seen."""
    process: subprocess.Popen[bytes] | None = None
    renewed_at: float = 0.0
    """When it last claimed, or its lease was renewed, in seconds of real time."""

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
    """The expected stored state of a trial."""

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
    """A lease monitor with a separate clock, and the model of its expected observations."""

    zero: float
    """Reading of its clock at time 0."""
    monitor: LeaseMonitor = field(default_factory=lambda: LeaseMonitor(times=TIMES))
    checked_at: float | None = None
    silence: dict[str, float] = field(default_factory=dict)
    """By token: seconds for which it has observed no renewal by an owner."""

    def observe(self, now: float, tokens: set[str]) -> None:
        """Model one check; the gap since the last one counts as at most `renewal_interval_s`."""
        gap = 0.0 if self.checked_at is None else min(now - self.checked_at, TIMES.renewal_interval_s)
        self.checked_at = now
        self.silence = {token: self.silence[token] + gap if token in self.silence else 0.0 for token in tokens}


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedDatabase:
    """A database with one study for each run, and another study that no run may change."""

    storage: Storage
    broken: Storage
    """A storage whose leases cannot be read."""
    connection: sa.Connection
    """Reads the database without code of the product; every statement sees the commits of others."""

    def rows(self) -> Rows:
        """Every row about every trial, by its id."""
        rows: Rows = {}
        for table in OF_TRIALS:
            for row in self.connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1").mappings():
                rows.setdefault(row["trial_id"], []).append((table, dict(row)))
        return rows


def of_study(rows: Rows, study_id: int) -> dict[int, int]:
    """By number: the ids of the trials of a study."""
    trials = [row for of_trial in rows.values() for table, row in of_trial if table == TRIALS.name]
    return {row["number"]: row["trial_id"] for row in trials if row["study_id"] == study_id}


def stored_trial(rows: list[Row]) -> Trial:
    """The state of a trial, from all rows about it."""
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for table, row in rows:
        tables[table].append(row)
    (trial,) = tables[TRIALS.name]
    attrs, marks = (
        {row["key"]: json.loads(row["value_json"]) for row in tables[table.name]}
        for table in (TRIAL_ATTRS, TRIAL_SYSTEM_ATTRS)
    )
    return Trial(
        state=trial["state"],
        token=next((row["token"] for row in tables[LEASES.name]), None),
        attempts=attrs.get("attempts", 0),
        curve={row["step"]: row["intermediate_value"] for row in tables[CURVES.name]},
        value=next((row["value"] for row in tables[TRIAL_VALUES.name]), None),
        crashes=len(attrs.get("crashes", [])),
        has_reason=attrs.get("reason") is not None,
        fixed=marks.get("fixed_params"),
    )


WRITES: dict[str, Callable[[Storage, int], object]] = {
    "a parameter": lambda storage, trial_id: storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1)),
    "a step": lambda storage, trial_id: storage.set_trial_intermediate_value(trial_id, 9, 0.9),
    "a reason": lambda storage, trial_id: storage.set_trial_user_attr(trial_id, "reason", "late"),
    "a mark": lambda storage, trial_id: storage.set_trial_system_attr(trial_id, "config", {}),
    "its end": lambda storage, trial_id: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0]),
}

ANY_TOKEN = st.runner().flatmap(lambda machine: st.sampled_from(sorted(machine.workers)))
BUSY = st.runner().flatmap(lambda machine: st.sampled_from(machine.busy()))
LIVING = st.runner().flatmap(lambda machine: st.sampled_from(machine.living()))
PLACES = st.sampled_from(["here", "pid taken by another", "another boot", "elsewhere"])
#: A suspended machine, exactly one renewal interval, less than that, and a little more.
GAPS_S = st.sampled_from([3600.0, 10.0, 1.0, 13.0])
STEPS = st.integers(1, 3)
SCORES = st.sampled_from([0.25, 0.5, 0.75])


class LeaseMachine(RuleBasedStateMachine):
    """Executes events in any order, and compares the database with a model."""

    def __init__(self, shared: SharedDatabase) -> None:
        super().__init__()
        self.shared = shared
        self.study: StoredStudy = stored_study.open_or_create(shared.storage, SPEC, name="tried", data=DATA)
        self.budget = SPEC.budget.trials
        self.trials: dict[int, Trial] = {}
        self.deaths: dict[int, int] = {}
        self.workers: dict[str, Worker] = {}
        self.watchers = [Watcher(0.0), Watcher(1e6)]
        self.now = 0.0
        self.frozen: Rows = {}
        self.others = shared.rows()

    def teardown(self) -> None:
        for worker in self.workers.values():
            worker.die()
        self.shared.storage.delete_study(self.study.id)

    # -- workers start and die --------------------------------------------------------------------------------

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
            process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)  # ends with this process, however that ends
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

        for watcher in self.watchers:  # its own pool notices its death by other means
            self._check_leases(watcher, after=1, own={token})

    # -- actions of a worker, dead ones included, since their last writes may arrive late --------------------------

    @rule(token=ANY_TOKEN)
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
    @rule(token=ANY_TOKEN, kind=st.sampled_from(sorted(WRITES)), data=st.data())
    def writes_to_a_trial_of_another_owner(self, token: str, kind: str, data: st.DataObject) -> None:
        foreign = [number for number, trial in self.trials.items() if trial.token != token]
        if not foreign:
            return
        trial_id = self._id(data.draw(st.sampled_from(foreign)))
        storage = self._as(token)
        before = self.shared.rows()

        with pytest.raises(LeaseLostError):
            WRITES[kind](storage, trial_id)

        assert self.shared.rows() == before

    @precondition(lambda self: self.busy() and len(self.trials) > 1)
    @rule(token=BUSY, data=st.data())
    def writes_to_its_own_and_to_another_together(self, token: str, data: st.DataObject) -> None:
        held = self._held(token)
        other = data.draw(st.sampled_from([number for number in self.trials if number != held]))
        storage = self._as(token)
        before = self.shared.rows()

        with pytest.raises(LeaseLostError):
            complete(storage, [self._id(held), self._id(other)])

        assert self.shared.rows() == before

    # -- actions of a pool ----------------------------------------------------------------------------------

    @rule(token=ANY_TOKEN)
    def stops(self, token: str) -> None:
        expected = self._numbers({token})
        for number in expected:
            trial = self.trials[number]
            self.trials[number] = replace(trial, state="WAITING", token=None, attempts=trial.attempts - 1)

        assert leases.release(self.shared.storage, [token]) == expected

    @rule(token=ANY_TOKEN, times=st.integers(1, DEATHS))
    def is_lost_and_claims_again(self, token: str, times: int) -> None:
        for _ in range(times):
            expected = self._numbers({token})
            self._expire(expected)

            assert leases.expire_dead(self.shared.storage, token, "killed") == expected

            self.claims(token)

    @rule(watcher=st.integers(0, 1), times=st.integers(1, 5), renewed=st.lists(ANY_TOKEN, max_size=2))
    def renews_and_checks_leases_at_every_interval(self, watcher: int, times: int, renewed: list[str]) -> None:
        for token in set(renewed) & set(self.busy()):
            self._renews(token)
        leases.renew(self.shared.storage, renewed)

        gone = [self._check_leases(self.watchers[watcher], after=TIMES.renewal_interval_s) for _ in range(times)]

        for token in sorted(set().union(*gone)):  # some were only frozen, and claim again
            self.claims(token)
        self._check_leases(self.watchers[watcher], after=TIMES.renewal_interval_s)

    @rule(watcher=st.integers(0, 1), gap=GAPS_S, own=st.sets(ANY_TOKEN, max_size=3), in_vain=st.booleans())
    def checks_leases_after_a_gap(self, watcher: int, gap: float, own: set[str], in_vain: bool) -> None:
        self._check_leases(self.watchers[watcher], after=1)
        if in_vain:
            self._check_leases_in_vain(self.watchers[watcher], after=gap)

        self._check_leases(self.watchers[watcher], after=gap, own=own)

    # -- actions of a user ----------------------------------------------------------------------------------

    @precondition(lambda self: self.failed())
    @rule()
    def tries_the_failed_again(self) -> None:
        if self.busy():
            with pytest.raises(BusyError):
                leases.retry_failed(self.shared.storage, self.study.id)
            return
        failed = self.failed()
        for number in failed:
            del self.frozen[self._id(number)]
            self.trials[number] = replace(self.trials[number], state="WAITING", attempts=0, has_reason=False)
            self.deaths[number] = 0

        assert leases.retry_failed(self.shared.storage, self.study.id) == failed

    @rule(trials=st.integers(0, 6))
    def sets_the_budget(self, trials: int) -> None:
        self.budget = max(trials, len(self.trials))

        assert stored_study.set_trials(self.shared.storage, self.study, trials) == self.budget

    # -- invariants -----------------------------------------------------------------------------------------

    @invariant()
    def the_database_agrees_with_the_model(self) -> None:
        rows = self.shared.rows()
        ids = of_study(rows, self.study.id)
        stored = {number: stored_trial(rows[trial_id]) for number, trial_id in ids.items()}

        assert stored == self.trials
        self._budget_numbers_and_owners_are_in_order(stored)
        self._nothing_changed_in_finished_trials_and_other_studies(rows)
        finished = [number for number, trial in self.trials.items() if trial.state in FINISHED]
        self.frozen = {ids[number]: rows[ids[number]] for number in finished}

    def _budget_numbers_and_owners_are_in_order(self, stored: dict[int, Trial]) -> None:
        tokens = [trial.token for trial in stored.values() if trial.token is not None]
        with self.shared.storage.engine.connect() as connection:
            budget = claims.budget(connection, self.study.id)
            claimable = claims.claimable(connection, self.study.id)
            holders = leases.lease_tokens(connection, self.study.id)

        assert budget == self.budget
        assert len(stored) <= budget
        assert sorted(stored) == list(range(len(stored)))
        assert claimable == budget - len(stored) + sum(trial.state == "WAITING" for trial in stored.values())
        assert all((trial.state == "RUNNING") == (trial.token is not None) for trial in stored.values())
        assert sorted(tokens) == sorted(holders)

    def _nothing_changed_in_finished_trials_and_other_studies(self, rows: Rows) -> None:
        assert {trial_id: rows[trial_id] for trial_id in self.others} == self.others
        assert {trial_id: rows[trial_id] for trial_id in self.frozen} == self.frozen

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
        """The number that a claim must return: the held trial, otherwise the first waiting one, otherwise a new one."""
        if held := self._numbers({token}):
            return held[0]
        waiting = [number for number, trial in self.trials.items() if trial.state == "WAITING"]
        number = min(waiting, default=len(self.trials))
        if number >= self.budget:
            return None
        fixed = QUEUE[number] if number < len(QUEUE) else None
        trial = self.trials.setdefault(number, Trial(fixed=fixed))
        self.trials[number] = replace(trial, state="RUNNING", token=token, attempts=trial.attempts + 1)
        self._renews(token)
        return number

    def _expire(self, numbers: list[int]) -> None:
        for number in numbers:
            trial = self.trials[number]
            self.deaths[number] = self.deaths.get(number, 0) + 1
            fails = self.deaths[number] == DEATHS
            state, has_reason = ("FAIL", True) if fails else ("WAITING", trial.has_reason)
            crashes = trial.crashes + 1
            self.trials[number] = replace(trial, state=state, token=None, crashes=crashes, has_reason=has_reason)

    def _renews(self, token: str) -> None:
        self.workers[token].renewed_at = self.now
        for watcher in self.watchers:
            watcher.silence.pop(token, None)

    def _check_leases(self, watcher: Watcher, *, after: float, own: Collection[str] = ()) -> set[str]:
        self.now += after
        watcher.observe(self.now, set(self.busy()) - set(own))
        gone = {token for token, silence in watcher.silence.items() if self._is_gone(token, silence)}
        expected = self._numbers(gone)
        self._expire(expected)

        taken = watcher.monitor.expire(self.shared.storage, self.study.id, but=own, now=watcher.zero + self.now)

        assert sorted(taken) == expected
        return gone

    def _check_leases_in_vain(self, watcher: Watcher, *, after: float) -> None:
        self.now += after
        with pytest.raises(DatabaseError):
            watcher.monitor.expire(self.shared.broken, self.study.id, now=watcher.zero + self.now)

    def _is_gone(self, token: str, silence: float) -> bool:
        worker = self.workers[token]
        if worker.is_here and not worker.lives:
            return True
        assert silence <= self.now - worker.renewed_at, "the model itself must not observe more silence than there was"
        return silence > TIMES.lease_timeout_s

    def _as(self, token: str) -> Storage:
        """The storage as the process of this owner has it, with its token."""
        self.shared.storage.token = token
        return self.shared.storage

    def _id(self, number: int) -> int:
        query = f"SELECT trial_id FROM trials WHERE study_id = {self.study.id} AND number = {number}"
        return int(self.shared.connection.exec_driver_sql(query).scalar_one())


def complete(storage: Storage, trial_ids: list[int]) -> None:
    """Complete several trials in one transaction."""
    with storage.batch():
        for trial_id in trial_ids:
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])


def fill(storage: Storage) -> None:
    """Create a study with trials in several states."""
    stored = stored_study.open_or_create(storage, SPEC, name="beside it", data=DATA)
    for end in FINISHED:
        claim = take(storage, stored.id)
        storage.set_trial_state_values(claim.trial_id, TrialState[end])
    leases.retry_failed(storage, stored.id)
    claims.claim(storage, stored.id, this_process("neighbour"))


@pytest.fixture
def shared(request: pytest.FixtureRequest, url: str) -> Iterator[SharedDatabase]:
    with databases(request, url) as (main_url, broken_url):
        storage = Storage(main_url, token="neighbour", create=True, retry_timeout_s=TIMES.retry_timeout_s)
        fill(storage)
        broken = Storage(broken_url, create=True, retry_timeout_s=TIMES.retry_timeout_s)
        broken.write(lambda connection: LEASES.drop(connection))
        engine = sa.create_engine(main_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield SharedDatabase(storage=storage, broken=broken, connection=connection)
        for opened in (storage.engine, broken.engine, engine):
            opened.dispose()


@contextmanager
def databases(request: pytest.FixtureRequest, url: str) -> Iterator[tuple[str, str]]:
    """The URLs of two new databases; SQLite files lie in /dev/shm if possible: the test writes thousands of times."""
    if not url.startswith("sqlite"):
        server: Server = request.getfixturevalue("server")
        yield url, server.url(server.make_database()).render_as_string(hide_password=False)
        return
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield f"sqlite:///{folder}/studies.db", f"sqlite:///{folder}/broken.db"


@pytest.mark.timeout(900)  # when it fails, Hypothesis looks for a shorter way to fail, for up to five minutes
def test_the_lease_protocol_agrees_with_its_model_after_events_in_any_order(shared: SharedDatabase) -> None:
    # Hypothesis accepts any function that makes a machine.
    machine = cast("type[LeaseMachine]", partial(LeaseMachine, shared))

    run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.fixture
def machine(shared: SharedDatabase) -> Iterator[LeaseMachine]:
    """A state machine whose rules a test calls. One owner, on another computer, holds a trial."""
    driven = LeaseMachine(shared)
    driven.begins(["elsewhere", "here", "here"], busy=1)
    yield driven
    driven.teardown()


def test_a_new_claim_of_a_silent_owner_renews_its_lease(machine: LeaseMachine) -> None:
    machine.renews_and_checks_leases_at_every_interval(watcher=0, times=5, renewed=[])

    machine.the_database_agrees_with_the_model()
    assert machine.busy() == ["0 elsewhere"]


def test_a_monitor_that_slept_grants_an_unseen_owner_exactly_one_lease(machine: LeaseMachine) -> None:
    watcher = machine.watchers[0]
    machine._check_leases(watcher, after=0, own={"0 elsewhere"})
    machine._check_leases(watcher, after=3600)

    for _ in range(4):
        machine._check_leases(watcher, after=TIMES.renewal_interval_s)

    machine.the_database_agrees_with_the_model()
    assert machine.busy() == []
