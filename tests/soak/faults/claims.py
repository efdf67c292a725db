"""Sixteen processes claim a thousand trials each at the same time; every trial is claimed exactly once."""

import json
import os
import uuid
from collections import Counter
from functools import partial
from pathlib import Path

from optuna.trial import TrialState

from search.process import this_process
from search.storage import claims
from search.storage.attr_keys import FINISHED_BY
from search.storage.rdb import Storage
from search.study import stored_study
from tests.faults import invariants
from tests.harness import Harness
from tests.soak import processes, results
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

PROCESSES = 16


def many_at_once(workspace: Workspace) -> FaultResult:
    claims_each = workspace.count(1000)
    reports = workspace.run_cases("claim", partial(_claim_all, claims_each), [0])
    note = "a claim and a tell each, so twice as many transactions"
    return results.total(f"{PROCESSES} processes claim at once", reports, note=note)


def _claim_all(claims_each: int, case: Case) -> None:
    harness = case.harness
    harness.create(budget={"trials": PROCESSES * claims_each})
    gate, start = os.pipe()
    tokens = [uuid.uuid4().hex for _ in range(PROCESSES)]
    claimers = [processes.fork(harness, _claim, harness, token, claims_each, gate) for token in tokens]
    case.injected = PROCESSES * claims_each
    os.write(start, bytes(PROCESSES))
    for claimer in claimers:
        code = claimer.end(1200.0)
        assert code == 0, f"exit code {code}: {claimer.said}"
    claimed = {token: json.loads(_claimed_file(harness, token).read_text()) for token in tokens}
    count = Counter(number for numbers in claimed.values() for number in numbers)
    case.survived = sum(count[number] == 1 for number in range(case.injected))
    doubled = [number for number, times in count.items() if times > 1]
    assert not doubled, f"I3: claimed twice: {doubled}"
    assert sorted(count) == list(range(case.injected)), "I3: not every number was claimed"
    assert _finished_by(harness) == {number: token for token, numbers in claimed.items() for number in numbers}, (
        "I3: a trial was finished by a process that did not claim it"
    )
    _database_is_consistent(harness, case.injected)


def _claim(harness: Harness, token: str, claims_each: int, gate: int) -> None:
    storage = Storage(harness.url, token=token, retry_timeout_s=600.0)
    study_id = stored_study.load(storage, "s").id
    owner = this_process(token)
    os.read(gate, 1)
    numbers = []
    for _ in range(claims_each):
        claim = claims.claim(storage, study_id, owner)
        assert claim is not None, "there are trials left"
        numbers.append(claim.number)
        storage.set_trial_state_values(claim.trial_id, TrialState.PRUNED)
    _claimed_file(harness, token).write_text(json.dumps(numbers))


def _claimed_file(harness: Harness, token: str) -> Path:
    return harness.folder / f"{token}.json"


def _finished_by(harness: Harness) -> dict[int, str]:
    """By trial number: the token of the process that finished the trial, from the database."""
    query = "SELECT number, value_json FROM trials JOIN trial_system_attributes USING (trial_id) WHERE key = :key"
    return {number: json.loads(token) for number, token in invariants.rows(harness.url, query, key=FINISHED_BY)}


def _database_is_consistent(harness: Harness, trials: int) -> None:
    finished = invariants.finished(harness.url)
    assert sorted(finished) == list(range(trials)), "I1: not every trial is finished"
    ((left,),) = invariants.rows(harness.url, "SELECT COUNT(*) FROM convsearch_leases")
    ((integrity,),) = invariants.rows(harness.url, "PRAGMA integrity_check")
    assert (left, integrity) == (0, "ok"), f"I2: {left} leases are left, and the integrity check says {integrity}"
