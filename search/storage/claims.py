"""Claims: a worker takes a waiting trial, a paused one that is promoted, or a new one, in one write transaction.

WAITING --claim--> RUNNING --tell--> COMPLETE | PRUNED | FAIL
   ^                  |
   +-----release------+      a deliberate stop is no attempt; a death counts towards `leases.ATTEMPTS`
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from search.errors import SpecError
from search.process import LeaseOwner
from search.storage import attr_keys
from search.storage.leases import end_trial, held_trials, int_attr, lease_tokens
from search.storage.rdb import Storage, utc_now
from search.storage.tables import LEASES, STUDY_ATTRS, TRIAL_SYSTEM_ATTRS, TRIALS
from search.storage.trial_loader import paused_ids

#: Lock timeout of one claim, in seconds. A worker that is stopped while it waits holds no trial yet.
CLAIM_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A trial that its owner holds until it is finished or released."""

    trial_id: int
    number: int
    attempt: int
    """1 for a new trial; a deliberate stop does not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceSize:
    """The size of a finite search space."""

    trials: int
    """Number of trials of the study after which each configuration has been tried."""
    configurations: int
    undrawn: int = 0
    """Number of trials that have begun and will draw their configuration."""


class Space(Protocol):
    """Knows when every configuration of a search has been tried."""

    def size(self, connection: sa.Connection, *, beyond: int) -> SpaceSize | None:
        """The size of the space; None if more than `beyond` trials are possible."""


class Promotion(Protocol):
    """Selects the paused trials that are resumed."""

    def promotable(self, connection: sa.Connection, study_id: int) -> list[tuple[int, int]]:
        """(trial id, number) of the trials that can be resumed now, in this order."""

    def last(self, connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
        """(trial id, number) of the trial that is resumed when nothing else is claimable; None if no trial is."""

    def never_promoted(self, connection: sa.Connection, study_id: int) -> list[tuple[int, str]]:
        """(trial id, reason) of the trials that are pruned when `last` returns None."""


def claim(
    storage: Storage,
    study_id: int,
    owner: LeaseOwner,
    queue: Sequence[Mapping[str, Any]] = (),
    promotion: Promotion | None = None,
    space: Space | None = None,
    *,
    uid: str | None = None,
) -> Claim | None:
    """Claim a waiting trial, or create a new one if the study's budget and its search space allow.

    With a `promotion`, promotable paused trials are claimed before new ones. If nothing is claimable and no lease is
    held, the best paused trial is resumed, or the remaining ones are pruned.

    An owner works on one trial at a time. If the owner holds a trial already, the answer to that claim was lost, and
    the claim is returned again (as in Vizier, https://github.com/google/vizier, vizier_service.proto).

    Args:
        storage: Storage of the study.
        study_id: Id of the study.
        owner: Process that holds the lease.
        queue: Parameters of the first trials: trial number n takes `queue[n]`. The entries are the points to try first,
            or the cells of a grid. The queue is not stored, and a smaller budget leaves no rows behind.
        promotion: Policy for paused trials. Without it they stay paused.
        space: The search space. Once each of its configurations has been tried, the budget is the number of trials.
        uid: Uid of the study, which its id must still belong to: SQLite gives the ids of deleted studies again.

    Returns:
        The claim, or None if no trial is claimable.

    Raises:
        SpecError: The study was deleted.
    """

    def take(connection: sa.Connection) -> Claim | None:
        storage.lock_study(connection, study_id, wait_s=CLAIM_S)  # other claims wait for all round trips below
        status = connection.execute(_claim_status(study_id, owner.token)).one()
        if uid is not None and status.uid != json.dumps(uid):
            raise SpecError("the study was deleted while this process worked on it")
        if status.is_held:  # checked under the lock, where a first attempt with a COMMIT in flight is visible
            for trial_id, number in held_trials(connection, LEASES.c.token == owner.token):
                return Claim(
                    trial_id=trial_id, number=number, attempt=int_attr(connection, trial_id, attr_keys.ATTEMPTS)
                )
        created = None
        claimed = _take_waiting(connection, study_id) if status.is_waiting else None
        if claimed is None:
            claimed = _promote(storage, connection, study_id, promotion)
        is_open = claimed is None and status.trials < int(json.loads(status.budget))
        if is_open and _has_room(storage, connection, study_id, status.trials, space):
            claimed = created = _create_trial(connection, study_id, status.trials, queue)
        if claimed is None:
            claimed = _finish_paused(storage, connection, study_id, promotion)
        if claimed is None:
            return None
        trial_id, number = claimed
        attempt = 1 if created else int_attr(connection, trial_id, attr_keys.ATTEMPTS) + 1
        connection.execute(storage.trial_attr(trial_id, attr_keys.ATTEMPTS, attempt))
        # A random initial counter makes this lease differ from the owner's earlier one for an observer. It replaces an
        # older lease of this trial, or of one that had its id in a study that was deleted without convsearch.
        lease = asdict(owner) | {"study_id": study_id, "renewals": secrets.randbits(30)}
        connection.execute(storage.upsert(LEASES, {"trial_id": trial_id}, lease))
        return Claim(trial_id=trial_id, number=number, attempt=attempt)

    return storage.write(take)


def claimable(connection: sa.Connection, study_id: int, promotion: Promotion | None = None) -> int:
    """Return the number of trials that can be claimed now.

    Args:
        connection: Connection in a transaction.
        study_id: Id of the study.
        promotion: Policy for paused trials. Without it, every waiting trial counts.

    Returns:
        Waiting trials that are not paused, promotable ones, and those that the budget still allows. The number is 1 if
        none of these exist, some trials are paused and no lease is held: a worker is needed to finish the paused ones.
    """
    states = sa.select(TRIALS.c.state, sa.func.count()).where(TRIALS.c.study_id == study_id).group_by(TRIALS.c.state)
    count: dict[str, int] = dict(connection.execute(states).all())
    waiting = count.get("WAITING", 0) + max(0, budget(connection, study_id) - sum(count.values()))
    if promotion is None:
        return waiting
    paused = connection.execute(paused_ids(study_id).with_only_columns(sa.func.count())).scalar_one()
    available = waiting - paused + len(promotion.promotable(connection, study_id))
    return int(available or (paused > 0 and not lease_tokens(connection, study_id)))


def budget(connection: sa.Connection, study_id: int) -> int:
    """Return the maximum number of trials of the study, in all states together."""
    return int(json.loads(connection.execute(_study_attr(study_id, attr_keys.BUDGET)).scalar_one()))


def _study_attr(study_id: int, key: str) -> sa.Select[Any]:
    """Select an attribute of a study, as JSON."""
    return sa.select(STUDY_ATTRS.c.value_json).where(STUDY_ATTRS.c.study_id == study_id, STUDY_ATTRS.c.key == key)


def _claim_status(study_id: int, token: str) -> sa.Select[Any]:
    """Select the status of the study that a claim needs, in one round trip."""
    count = sa.select(sa.func.count()).select_from(TRIALS).where(TRIALS.c.study_id == study_id)
    return sa.select(
        _study_attr(study_id, attr_keys.UID).scalar_subquery().label("uid"),
        sa.exists().where(LEASES.c.token == token).label("is_held"),
        _select_waiting(study_id).exists().label("is_waiting"),
        count.scalar_subquery().label("trials"),
        _study_attr(study_id, attr_keys.BUDGET).scalar_subquery().label("budget"),
    )


def _select_waiting(study_id: int) -> sa.Select[Any]:
    """Select the waiting trials that are not paused."""
    return sa.select(TRIALS.c.trial_id, TRIALS.c.number).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == "WAITING",
        TRIALS.c.trial_id.not_in(paused_ids(study_id)),
    )


def _take_waiting(connection: sa.Connection, study_id: int) -> tuple[int, int] | None:
    row = connection.execute(_select_waiting(study_id).order_by(TRIALS.c.number).limit(1)).one_or_none()
    if row is None:
        return None
    connection.execute(_start_statement(row.trial_id))
    return row.trial_id, row.number


def _promote(
    storage: Storage, connection: sa.Connection, study_id: int, promotion: Promotion | None
) -> tuple[int, int] | None:
    best = [] if promotion is None else promotion.promotable(connection, study_id)
    if not best:
        return None
    _resume(storage, connection, best[0][0])
    return best[0]


def _finish_paused(
    storage: Storage, connection: sa.Connection, study_id: int, promotion: Promotion | None
) -> tuple[int, int] | None:
    """Resume the best paused trial, or prune the paused ones, if nothing is claimable and no lease is held."""
    if promotion is None or lease_tokens(connection, study_id):
        return None
    # Another owner may just have released a trial: on PostgreSQL each statement sees what is committed by then.
    claimed = _take_waiting(connection, study_id) or _promote(storage, connection, study_id, promotion)
    if claimed is not None:
        return claimed
    best = promotion.last(connection, study_id)
    if best is None:
        for trial_id, reason in promotion.never_promoted(connection, study_id):
            # The pause did not count as an attempt, like a stop; the end of the trial does.
            attempts = int_attr(connection, trial_id, attr_keys.ATTEMPTS) + 1
            connection.execute(storage.trial_attr(trial_id, attr_keys.ATTEMPTS, attempts))
            end_trial(storage, connection, trial_id, "PRUNED", reason)
        return None
    _resume(storage, connection, best[0])
    return best


def _has_room(storage: Storage, connection: sa.Connection, study_id: int, trials: int, space: Space | None) -> bool:
    """Whether the search space allows a new trial. If it never will, the budget ends with the trials."""
    size = None if space is None else space.size(connection, beyond=trials)
    if size is None:
        return True
    if not size.undrawn:  # a given point that is changed to fit may lie outside of the space, and takes nothing of it
        for key, value in ((attr_keys.BUDGET, trials), (attr_keys.CONFIGURATIONS, size.configurations)):
            keys: dict[str, object] = {"study_id": study_id, "key": key}
            connection.execute(storage.upsert(STUDY_ATTRS, keys, {"value_json": json.dumps(value)}))
    return False


def _resume(storage: Storage, connection: sa.Connection, trial_id: int) -> None:
    connection.execute(storage.trial_attr(trial_id, attr_keys.PAUSED, None))
    connection.execute(_start_statement(trial_id))


def _start_statement(trial_id: int) -> sa.Executable:
    values = {"state": "RUNNING", "datetime_start": utc_now()}
    return sa.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(values)


def _create_trial(
    connection: sa.Connection, study_id: int, number: int, queue: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    row = {"study_id": study_id, "number": number, "state": "RUNNING", "datetime_start": utc_now()}
    trial_id = connection.execute(sa.insert(TRIALS).values(row).returning(TRIALS.c.trial_id)).scalar_one()
    if number < len(queue):
        fixed = {"trial_id": trial_id, "key": attr_keys.FIXED_PARAMS, "value_json": json.dumps(dict(queue[number]))}
        connection.execute(sa.insert(TRIAL_SYSTEM_ATTRS).values(fixed))
    return trial_id, number
