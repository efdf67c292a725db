"""Leases of trials: claim, renew, release, expire. Each is one write transaction.

WAITING --claim--> RUNNING --tell--> COMPLETE | PRUNED | FAIL
   ^                  |
   +-----release------+      stopped on purpose: not an attempt; process died: one of ATTEMPTS at the same step
"""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from optuna.trial import TrialState

from search.errors import BusyError
from search.process import LeaseOwner
from search.storage.rdb import Storage, finish_statement, utc_now
from search.storage.records import PAUSED
from search.storage.tables import CURVES, LEASES, STUDY_ATTRS, TRIAL_ATTRS, TRIAL_SYSTEM_ATTRS, TRIALS
from search.storage.trial_loader import paused_ids

#: A trial whose process died this many times at the same step counts as failed: Determined's default is 5, Ray's 0; one
#: bad trial must neither stop a study nor eat its time. A trial that got further in between is not the culprit: it ran
#: on a machine that is taken away again and again.
ATTEMPTS = 3


#: Lock timeout of one claim, in seconds. A worker that is stopped while it waits holds no trial yet.
CLAIM_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A trial that is ours until it is told or released."""

    trial_id: int
    number: int
    attempt: int
    """1 for a new trial; a stop on purpose does not count."""


class Promotion(Protocol):
    """Which of the trials that pause go on."""

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """(trial id, number) of those that may go on now, the first one first."""

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """(trial id, number) of the one that goes on when nothing else is left to claim."""

    def never_promoted(self, connection: sa.Connection, study_id: int) -> list[tuple[int, str]]:
        """(trial id, reason) of those that are pruned then."""


def claim(
    storage: Storage,
    study_id: int,
    owner: LeaseOwner,
    queue: Sequence[Mapping[str, Any]] = (),
    ladder: Promotion | None = None,
) -> Claim | None:
    """Take a trial that waits, or else begin a new one if the study's budget allows; None when there is none to take.

    Trial number n of the study takes the parameters `queue[n]`, if there are that many: the points to try first, or the
    cells of a grid. So the queue needs no rows of its own, and a smaller budget leaves nothing behind. With a
    `ladder`, promotable paused trials are claimed before new ones; if nothing is claimable and no lease is held, the
    best paused trial is resumed, or the remaining ones are pruned.

    An owner works on one trial at a time. If it holds one already, the answer to that claim was lost, and the claim is
    returned again (as in Vizier, https://github.com/google/vizier, vizier_service.proto).
    """

    def take(connection: sa.Connection) -> Claim | None:
        storage.lock_study(connection, study_id, wait_s=CLAIM_S)  # others wait, for as many answers as we ask for
        found = connection.execute(_stand(study_id, owner.token)).one()
        if found.is_held:  # checked under the lock: a first attempt whose COMMIT was in flight is seen
            for trial_id, number in _held(connection, LEASES.c.token == owner.token):
                return Claim(trial_id=trial_id, number=number, attempt=_count(connection, trial_id, "attempts"))
        begun = None
        taken = _take_waiting(connection, study_id) if found.is_waiting else None
        if taken is None:
            taken = _promote(storage, connection, study_id, ladder)
        if taken is None and found.trials < int(json.loads(found.budget)):
            taken = begun = _begin(connection, study_id, found.trials, queue)
        if taken is None:
            taken = _finish(storage, connection, study_id, ladder)
        if taken is None:
            return None
        trial_id, number = taken
        attempt = 1 if begun else _count(connection, trial_id, "attempts") + 1
        connection.execute(storage.trial_attr(trial_id, "attempts", attempt))
        if not begun:
            connection.execute(sa.delete(LEASES).where(LEASES.c.trial_id == trial_id))
        # The counter starts at random, so an observer of this owner's earlier lease sees a change.
        row = asdict(owner) | {"trial_id": trial_id, "study_id": study_id, "renewals": secrets.randbits(30)}
        connection.execute(sa.insert(LEASES).values(row))
        return Claim(trial_id=trial_id, number=number, attempt=attempt)

    return storage.write(take)


def claimable(connection: sa.Connection, study_id: int, ladder: Promotion | None = None) -> int:
    """How many trials could be claimed now: those that wait and do not pause, and those that the budget still allows.

    It is 1 where none can be claimed, some are paused and no lease is held: a worker is needed to finish these.
    """
    states = sa.select(TRIALS.c.state, sa.func.count()).where(TRIALS.c.study_id == study_id).group_by(TRIALS.c.state)
    count: dict[TrialState, int] = dict(connection.execute(states).all())
    waiting = count.get(TrialState.WAITING, 0) + max(0, budget(connection, study_id) - sum(count.values()))
    if ladder is None:
        return waiting
    paused = connection.execute(paused_ids(study_id).with_only_columns(sa.func.count())).scalar_one()
    found = waiting - paused + len(ladder.promotable(connection, study_id))
    return int(found or (paused > 0 and not lease_tokens(connection, study_id)))


def budget(connection: sa.Connection, study_id: int) -> int:
    """The number of trials that the study may have, in all states together."""
    return int(json.loads(connection.execute(_budget(study_id)).scalar_one()))


def _budget(study_id: int) -> sa.Select[Any]:
    return sa.select(STUDY_ATTRS.c.value_json).where(STUDY_ATTRS.c.study_id == study_id, STUDY_ATTRS.c.key == "trials")


def lease_tokens(connection: sa.Connection, study_id: int) -> set[str]:
    """The tokens of all owners of trials of the study."""
    return set(connection.execute(sa.select(LEASES.c.token).where(LEASES.c.study_id == study_id)).scalars())


def renew(storage: Storage, tokens: Sequence[str]) -> None:
    """Say that the owners of these tokens live and move."""
    storage.execute(sa.update(LEASES).where(LEASES.c.token.in_(tokens)).values(renewals=LEASES.c.renewals + 1))


def release(storage: Storage, tokens: Collection[str]) -> list[int]:
    """Put the trials of these owners back to the queue on purpose; this was no attempt. Returns their numbers."""
    theirs = LEASES.c.token.in_(tokens)

    def put_back(connection: sa.Connection) -> list[int]:
        held = _held(connection, theirs)
        for trial_id, _ in held:
            attempts = _count(connection, trial_id, "attempts")
            connection.execute(storage.trial_attr(trial_id, "attempts", max(0, attempts - 1)))
            _requeue(connection, trial_id)
        # Also for trials finished by clients that do not use leases.
        connection.execute(sa.delete(LEASES).where(theirs))
        return [number for _, number in held]

    return storage.write(put_back)


def expire_dead(storage: Storage, token: str, why: str, *, renewals: int | None = None) -> list[int]:
    """Put the trials of a dead owner back to the queue; at the last of `ATTEMPTS` they fail. Returns their numbers.

    `renewals`: of the lease that was seen to be silent; a newer one of the same owner is left to it.
    """
    theirs = LEASES.c.token == token
    if renewals is not None:
        theirs &= LEASES.c.renewals == renewals

    def take_away(connection: sa.Connection) -> list[int]:
        held = _held(connection, theirs)
        for trial_id, _ in held:
            if _deaths(storage, connection, trial_id, why) < ATTEMPTS:
                _requeue(connection, trial_id)
                continue
            reason = f"its process died {ATTEMPTS} times at the same step; last: {why}"
            _end(storage, connection, trial_id, TrialState.FAIL, reason)
        connection.execute(sa.delete(LEASES).where(theirs))
        return [number for _, number in held]

    return storage.write(take_away)


def retry_failed(storage: Storage, study_id: int) -> list[int]:
    """Put failed trials back to the queue, with all their attempts before them. Returns their numbers.

    Raises:
        BusyError: the study is running; a worker that has read a failed trial would not see it change.
    """

    def put_back(connection: sa.Connection) -> list[int]:
        storage.lock_study(connection, study_id)
        if lease_tokens(connection, study_id):
            raise BusyError("failed trials can be tried again only while nobody runs the study; stop it first")
        failed = sa.select(TRIALS.c.trial_id, TRIALS.c.number).where(
            TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.FAIL
        )
        rows = connection.execute(failed).all()
        for trial_id, _ in rows:
            for key, value in (("attempts", 0), ("deaths", None), ("reason", None)):
                connection.execute(storage.trial_attr(trial_id, key, value))
            _requeue(connection, trial_id)
        return [number for _, number in rows]

    return storage.write(put_back)


def _stand(study_id: int, token: str) -> sa.Select[Any]:
    """Where the study stands, as far as a claim must know, in one answer."""
    count = sa.select(sa.func.count()).select_from(TRIALS).where(TRIALS.c.study_id == study_id)
    return sa.select(
        sa.exists().where(LEASES.c.token == token).label("is_held"),
        _broken_off(study_id).exists().label("is_waiting"),
        count.scalar_subquery().label("trials"),
        _budget(study_id).scalar_subquery().label("budget"),
    )


def _broken_off(study_id: int) -> sa.Select[Any]:
    """The trials that wait, and do not pause."""
    return sa.select(TRIALS.c.trial_id, TRIALS.c.number).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == TrialState.WAITING,
        TRIALS.c.trial_id.not_in(paused_ids(study_id)),
    )


def _take_waiting(connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
    row = connection.execute(_broken_off(study_id).order_by(TRIALS.c.number).limit(1)).one_or_none()
    if row is None:
        return None
    connection.execute(_running(row.trial_id))
    return row.trial_id, row.number


def _promote(
    storage: Storage, connection: sa.Connection, study_id: int, ladder: Promotion | None
) -> tuple[int, int] | None:
    best = [] if ladder is None else ladder.promotable(connection, study_id)
    if not best:
        return None
    _go_on(storage, connection, best[0][0])
    return best[0]


def _finish(
    storage: Storage, connection: sa.Connection, study_id: int, ladder: Promotion | None
) -> tuple[int, int] | None:
    """Where nothing is left to claim and nobody works: see the best trial through, then prune what pauses."""
    if ladder is None or lease_tokens(connection, study_id):
        return None
    # A trial may have been released a moment ago: on PostgreSQL each statement sees what is committed by then.
    taken = _take_waiting(connection, study_id) or _promote(storage, connection, study_id, ladder)
    if taken is not None:
        return taken
    best = ladder.last(connection, study_id)
    if best is None:
        for trial_id, reason in ladder.never_promoted(connection, study_id):
            # A pause gave its attempt back, like a stop; here it ends after all.
            attempts = _count(connection, trial_id, "attempts") + 1
            connection.execute(storage.trial_attr(trial_id, "attempts", attempts))
            _end(storage, connection, trial_id, TrialState.PRUNED, reason)
        return None
    _go_on(storage, connection, best[0])
    return best


def _go_on(storage: Storage, connection: sa.Connection, trial_id: int) -> None:
    connection.execute(storage.trial_attr(trial_id, PAUSED, None))
    connection.execute(_running(trial_id))


def _running(trial_id: int) -> sa.Executable:
    now = {"state": TrialState.RUNNING, "datetime_start": utc_now()}
    return sa.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(now)


def _begin(
    connection: sa.Connection, study_id: int, number: int, queue: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    row = {"study_id": study_id, "number": number, "state": TrialState.RUNNING, "datetime_start": utc_now()}
    made = connection.execute(sa.insert(TRIALS).values(row).returning(TRIALS.c.trial_id)).scalar_one()
    if number < len(queue):
        fixed = {"trial_id": made, "key": "fixed_params", "value_json": json.dumps(dict(queue[number]))}
        connection.execute(sa.insert(TRIAL_SYSTEM_ATTRS).values(fixed))
    return made, number


def _held(connection: sa.Connection, which: sa.ColumnElement[bool]) -> list[tuple[int, int]]:
    rows = (
        sa.select(TRIALS.c.trial_id, TRIALS.c.number)
        .join(LEASES, LEASES.c.trial_id == TRIALS.c.trial_id)
        .where(which, TRIALS.c.state == TrialState.RUNNING)
        .with_for_update(of=LEASES)  # see Storage._check_owner
    )
    return [(row.trial_id, row.number) for row in connection.execute(rows)]


def _end(storage: Storage, connection: sa.Connection, trial_id: int, state: TrialState, reason: str) -> None:
    connection.execute(storage.trial_attr(trial_id, "reason", reason))
    for statement in finish_statement(trial_id, state):
        connection.execute(statement)


def _requeue(connection: sa.Connection, trial_id: int) -> None:
    again = {"state": TrialState.WAITING, "datetime_complete": None}
    connection.execute(sa.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(again))
    connection.execute(sa.delete(LEASES).where(LEASES.c.trial_id == trial_id))


def _deaths(storage: Storage, connection: sa.Connection, trial_id: int, why: str) -> int:
    """Note one more death of a trial; how often it died in a row without getting further.

    How far it got are the steps of its curve; a verdict has none, and its epochs.
    """
    epochs = _attr(connection, trial_id, "epochs")
    steps = connection.execute(sa.select(sa.func.count()).where(CURVES.c.trial_id == trial_id)).scalar_one()
    before = _attr(connection, trial_id, "deaths")
    count = before["count"] + 1 if before and (before["steps"], before.get("epochs")) == (steps, epochs) else 1
    attempt = _count(connection, trial_id, "attempts")
    crash = f"attempt {attempt}, after {steps} steps: {why}"
    connection.execute(storage.trial_attr(trial_id, "deaths", {"steps": steps, "epochs": epochs, "count": count}))
    crashes = [*(_attr(connection, trial_id, "crashes") or []), crash]
    connection.execute(storage.trial_attr(trial_id, "crashes", crashes))
    return count


def _count(connection: sa.Connection, trial_id: int, key: str) -> int:
    return int(_attr(connection, trial_id, key) or 0)


def _attr(connection: sa.Connection, trial_id: int, key: str) -> Any:
    row = sa.select(TRIAL_ATTRS.c.value_json).where(TRIAL_ATTRS.c.trial_id == trial_id, TRIAL_ATTRS.c.key == key)
    found = connection.execute(row).scalar_one_or_none()
    return None if found is None else json.loads(found)
