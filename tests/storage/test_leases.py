"""Claims, leases and fenced writes on both databases, between real processes."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from search.errors import LeaseLostError, SpecError
from search.process import LeaseOwner, start_time, this_process
from search.storage import claims, leases
from search.storage.leases import LeaseMonitor, has_no_live_owner
from search.storage.rdb import Storage
from search.storage.retry import Timeouts
from search.storage.tables import LEASES, TRIALS
from tests.databases import BOTH
from tests.remote_owners import HASTY, far
from tests.storage.claimers import run_claimers, states, take

pytestmark = BOTH


def owner(token: str = "me") -> LeaseOwner:
    return this_process(token)


@pytest.mark.slow
def test_five_processes_claim_sixty_queued_trials_exactly_once(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(60)
    storage = Storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    for value in range(60):
        study.enqueue_trial({"x": value})

    claimed = run_claimers(url, study_id, 5, finish=False, meanwhile=lambda: None)

    assert Counter(claimed) == Counter(range(60))


@pytest.mark.slow
def test_four_processes_never_exceed_the_budget(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(30)
    storage = Storage(url)
    counts: list[int] = []

    claimed = run_claimers(url, study_id, 4, finish=True, meanwhile=lambda: counts.append(len(states(storage))))

    assert sorted(claimed) == list(range(30))
    assert max(counts) <= 30
    assert Counter(states(storage).values()) == {"COMPLETE": 30}


def test_queued_parameters_go_to_the_first_trials_in_order(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(3)
    storage = Storage(url, token="me")
    queue = ({"x": 0.25}, {"x": 0.75})

    trial_claims = [take(storage, study_id, owner(token), queue) for token in "abc"]

    fixed = [storage.get_trial(claim.trial_id).system_attrs.get("fixed_params") for claim in trial_claims]
    assert fixed == [{"x": 0.25}, {"x": 0.75}, None]


def test_a_release_puts_the_trial_back_in_the_queue_and_counts_no_attempt(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")
    take(storage, study_id)

    assert leases.release(storage, ["me"]) == [0]

    assert states(storage) == {0: "WAITING"}
    again = take(storage, study_id)
    assert (again.number, again.attempt) == (0, 1)


def test_a_trial_whose_process_dies_three_times_fails_with_its_reason(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")

    for attempt in (1, 2, 3):
        assert take(storage, study_id).attempt == attempt
        leases.expire_dead(storage, "me", "killed")

    assert states(storage) == {0: "FAIL"}
    attrs = storage.get_all_trials(study_id)[0].user_attrs
    assert attrs["reason"] == "its process died 3 times at the same step; last: killed"
    assert attrs["crashes"] == [f"attempt {attempt}, after 0 steps: killed" for attempt in (1, 2, 3)]
    assert claims.claim(storage, study_id, owner()) is None


def test_a_study_with_the_id_of_a_deleted_one_gets_none_of_its_workers(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")

    with pytest.raises(SpecError, match="the study was deleted while this process worked on it"):
        claims.claim(storage, study_id, owner(), uid="that of the deleted one")

    assert states(storage) == {}


def test_the_lease_of_a_deleted_trial_does_not_hinder_a_new_trial_with_its_id(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")
    left = {**asdict(owner("gone")), "trial_id": 1, "study_id": study_id, "renewals": 0}
    storage.write(lambda connection: connection.execute(sa.insert(LEASES).values(left)))

    claim = take(storage, study_id)

    assert claim.trial_id == 1
    assert storage.read(lambda connection: leases.lease_tokens(connection, study_id)) == {"me"}


def test_crashes_do_not_add_up_while_a_trial_makes_progress(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")

    for step in range(1, 8):
        claim = take(storage, study_id)
        storage.set_trial_intermediate_value(claim.trial_id, step, 0.5)
        leases.expire_dead(storage, "me", "killed")

    assert take(storage, study_id).attempt == 8


def test_crashes_do_not_add_up_while_a_final_training_makes_progress(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")

    for epochs in (0.25, 0.5, 0.75, 1.0):  # a final training has no curve
        claim = take(storage, study_id)
        storage.set_trial_user_attr(claim.trial_id, "epochs", epochs)
        leases.expire_dead(storage, "me", "killed")

    assert take(storage, study_id).attempt == 5


def test_a_repeated_claim_returns_the_same_trial(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(2)
    storage = Storage(url, token="me")

    first, second = take(storage, study_id), take(storage, study_id)

    assert first == second
    assert states(storage) == {0: "RUNNING"}


def test_retried_trials_start_again_at_attempt_one(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")
    for _ in range(3):
        take(storage, study_id)
        leases.expire_dead(storage, "me", "killed")

    assert leases.retry_failed(storage, study_id) == [0]

    assert take(storage, study_id).attempt == 1


def test_a_former_owner_cannot_write_to_its_trial(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    former_owner = Storage(url, token="former")
    claim = take(former_owner, study_id)
    leases.expire_dead(former_owner, "former", "seemed dead")
    new_owner = Storage(url, token="new")
    take(new_owner, study_id)

    for write in (
        lambda: former_owner.set_trial_intermediate_value(claim.trial_id, 1, 0.1),
        lambda: former_owner.set_trial_user_attr(claim.trial_id, "reason", "late"),
        lambda: former_owner.set_trial_system_attr(claim.trial_id, "config", {}),
        lambda: former_owner.set_trial_param(claim.trial_id, "x", 0.5, optuna.distributions.FloatDistribution(0, 1)),
        lambda: former_owner.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, [1.0]),
    ):
        with pytest.raises(LeaseLostError):
            write()

    stored = new_owner.get_trial(claim.trial_id)
    assert (stored.params, stored.intermediate_values, stored.state) == ({}, {}, TrialState.RUNNING)


def test_a_finished_trial_never_changes(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url, token="me")
    claim = take(storage, study_id)
    storage.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, [0.5])

    with pytest.raises(LeaseLostError):
        storage.set_trial_user_attr(claim.trial_id, "reason", "late")
    assert leases.expire_dead(storage, "me", "killed") == []

    assert states(storage) == {0: "COMPLETE"}


def test_the_lease_of_a_dead_local_process_expires_at_the_first_check(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url)
    child = subprocess.Popen(["sleep", "60"])
    since = start_time(child.pid)
    assert since is not None
    dead = replace(owner("child"), pid=child.pid, started=since)
    claims.claim(storage, study_id, dead)
    monitor = LeaseMonitor()

    assert monitor.expire(storage, study_id) == []
    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    assert monitor.expire(storage, study_id) == [0]
    assert states(storage) == {0: "WAITING"}


def test_a_process_with_a_reused_pid_does_not_keep_the_lease(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url)
    claims.claim(storage, study_id, replace(owner(), started=owner().started - 3600))

    assert LeaseMonitor().expire(storage, study_id) == [0]


def test_a_remote_lease_expires_after_a_whole_lease_timeout_without_renewal(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url)
    claims.claim(storage, study_id, far("far"))
    monitor = LeaseMonitor(Timeouts())

    assert monitor.expire(storage, study_id, now=1000) == []
    assert monitor.expire(storage, study_id, now=1009) == []
    leases.renew(storage, ["far"])
    assert monitor.expire(storage, study_id, now=1018) == []
    assert not any(monitor.expire(storage, study_id, now=now) for now in range(1027, 1168, 9))

    assert monitor.expire(storage, study_id, now=1169) == [0]


def test_an_unplanned_gap_between_checks_does_not_expire_a_lease(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(1)
    storage = Storage(url)
    claims.claim(storage, study_id, far("far"))
    monitor = LeaseMonitor(Timeouts())
    monitor.expire(storage, study_id, now=1000)

    assert monitor.expire(storage, study_id, now=5000) == []


def test_a_planned_pause_between_checks_counts_towards_the_lease_timeout(
    url: str, make_study: Callable[[int], int]
) -> None:
    study_id = make_study(1)
    storage = Storage(url)
    claims.claim(storage, study_id, far("far"))
    monitor = LeaseMonitor(Timeouts())
    assert not any(monitor.expire(storage, study_id, pause_s=20, now=now) for now in range(1000, 1150, 21))

    assert monitor.expire(storage, study_id, pause_s=20, now=1168) == [0]


def test_a_study_has_no_live_owner_when_no_lease_is_renewed(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(2)
    storage = Storage(url)
    claims.claim(storage, study_id, far("far"))
    messages: list[str] = []

    assert has_no_live_owner(storage, study_id, messages.append, times=HASTY)

    assert messages == ["others hold 1 of its trials; waiting up to 0 s to see whether they are alive"]
    assert states(storage) == {0: "WAITING"}


def test_a_study_has_a_live_owner_as_soon_as_one_lease_is_renewed(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(2)
    storage = Storage(url)
    for token in ("silent", "heard"):
        claims.claim(storage, study_id, far(token))

    patient = replace(HASTY, lease_timeout_s=600.0)
    assert not has_no_live_owner(storage, study_id, lambda _: leases.renew(storage, ["heard"]), times=patient)

    assert states(storage) == {0: "RUNNING", 1: "RUNNING"}


def test_lease_tokens_and_claimable_trials_are_counted(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(3)
    storage = Storage(url)
    take(storage, study_id, owner("a"))
    take(storage, study_id, owner("b"))
    leases.release(storage, ["b"])

    with storage.engine.connect() as connection:
        assert leases.lease_tokens(connection, study_id) == {"a"}
        assert claims.claimable(connection, study_id) == 2
        assert connection.execute(sa.select(sa.func.count()).select_from(LEASES)).scalar_one() == 1


@pytest.mark.parametrize(
    "give_up",
    [lambda storage: leases.expire_dead(storage, "me", "killed"), lambda storage: leases.release(storage, ["me"])],
    ids=["expiry", "release"],
)
def test_the_lease_of_a_trial_that_was_ended_elsewhere_is_cleared(
    url: str, make_study: Callable[[int], int], give_up: Callable[[Storage], list[int]]
) -> None:
    study_id = make_study(2)
    storage = Storage(url, token="me")
    claim = take(storage, study_id)
    storage.write(lambda tx: tx.execute(sa.update(TRIALS).values(state="FAIL")))

    with pytest.raises(LeaseLostError):
        storage.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, [1.0])
    assert give_up(storage) == []

    assert storage.read(lambda tx: tx.execute(sa.select(LEASES)).all()) == []
    assert states(storage) == {0: "FAIL"}


def test_expiry_with_an_old_renewal_count_keeps_a_newer_claim(url: str, make_study: Callable[[int], int]) -> None:
    study_id = make_study(2)
    storage = Storage(url, token="far")
    first = take(storage, study_id, owner("far"))
    old_renewals = storage.read(lambda tx: tx.execute(sa.select(LEASES.c.renewals)).scalar_one())
    storage.set_trial_state_values(first.trial_id, TrialState.COMPLETE, [1.0])
    take(storage, study_id, owner("far"))

    assert leases.expire_dead(storage, "far", "silent", renewals=old_renewals) == []

    assert states(storage) == {0: "COMPLETE", 1: "RUNNING"}
