"""Leases of trials: renew, release, and expire those of dead owners.

The lease of a process of this machine that has died expires at once; other leases expire when they are not renewed.
"""

import json
import socket
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from data.progress import Say
from search.errors import BusyError
from search.process import boot_id, is_dead
from search.storage import attr_keys
from search.storage.rdb import Storage, finish_statement
from search.storage.retry import Timeouts
from search.storage.tables import CURVES, LEASES, TRIAL_ATTRS, TRIALS

#: A trial fails after its process has died this many times at the same step. Determined's default is 5, Ray's 0. A bad
#: trial must neither stop a study nor use up its time. A trial that progressed between two deaths is not the cause: its
#: machine is taken away repeatedly.
ATTEMPTS = 3


def lease_tokens(connection: sa.Connection, study_id: int) -> set[str]:
    """Return the tokens of all owners of trials of the study."""
    return set(connection.execute(sa.select(LEASES.c.token).where(LEASES.c.study_id == study_id)).scalars())


def renew(storage: Storage, tokens: Sequence[str]) -> None:
    """Renew the leases of the owners with these tokens: they are alive and make progress."""
    storage.execute(sa.update(LEASES).where(LEASES.c.token.in_(tokens)).values(renewals=LEASES.c.renewals + 1))


def release(storage: Storage, tokens: Collection[str]) -> list[int]:
    """Return the trials of these owners to the queue; a deliberate stop does not count as an attempt.

    Args:
        storage: Storage of the trials.
        tokens: Tokens of the owners.

    Returns:
        Numbers of the released trials.
    """
    of_owners = LEASES.c.token.in_(tokens)

    def put_back(connection: sa.Connection) -> list[int]:
        held = held_trials(connection, of_owners)
        for trial_id, _ in held:
            attempts = int_attr(connection, trial_id, attr_keys.ATTEMPTS)
            connection.execute(storage.trial_attr(trial_id, attr_keys.ATTEMPTS, max(0, attempts - 1)))
            _requeue(connection, trial_id)
        # Includes the leases of trials that were finished by clients without leases.
        connection.execute(sa.delete(LEASES).where(of_owners))
        return [number for _, number in held]

    return storage.write(put_back)


def expire_dead(storage: Storage, token: str, why: str, *, renewals: int | None = None) -> list[int]:
    """Return the trials of a dead owner to the queue; they fail at the last of `ATTEMPTS`.

    Args:
        storage: Storage of the trials.
        token: Token of the owner.
        why: Cause of death, which is stored with the trials.
        renewals: Renewal counter of the lease that was not renewed. A newer lease of the same owner is kept. None
            expires any lease of the owner.

    Returns:
        Numbers of the trials.
    """
    of_owner = LEASES.c.token == token
    if renewals is not None:
        of_owner &= LEASES.c.renewals == renewals

    def requeue_or_fail(connection: sa.Connection) -> list[int]:
        held = held_trials(connection, of_owner)
        for trial_id, _ in held:
            if _record_death(storage, connection, trial_id, why) < ATTEMPTS:
                _requeue(connection, trial_id)
                continue
            reason = f"its process died {ATTEMPTS} times at the same step; last: {why}"
            end_trial(storage, connection, trial_id, "FAIL", reason)
        connection.execute(sa.delete(LEASES).where(of_owner))
        return [number for _, number in held]

    return storage.write(requeue_or_fail)


def retry_failed(storage: Storage, study_id: int) -> list[int]:
    """Return failed trials to the queue and reset their attempts.

    Args:
        storage: Storage of the study.
        study_id: Id of the study.

    Returns:
        Numbers of the trials.

    Raises:
        BusyError: The study is running; a worker that has read a failed trial would not see it change.
    """

    def put_back(connection: sa.Connection) -> list[int]:
        storage.lock_study(connection, study_id)
        if lease_tokens(connection, study_id):
            raise BusyError("failed trials can be retried only while the study is not running; stop it first")
        failed = sa.select(TRIALS.c.trial_id, TRIALS.c.number).where(
            TRIALS.c.study_id == study_id, TRIALS.c.state == "FAIL"
        )
        rows = connection.execute(failed).all()
        for trial_id, _ in rows:
            for key, value in ((attr_keys.ATTEMPTS, 0), (attr_keys.DEATHS, None), (attr_keys.REASON, None)):
                connection.execute(storage.trial_attr(trial_id, key, value))
            _requeue(connection, trial_id)
        return [number for _, number in rows]

    return storage.write(put_back)


def held_trials(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[tuple[int, int]]:
    rows = (
        sa.select(TRIALS.c.trial_id, TRIALS.c.number)
        .join(LEASES, LEASES.c.trial_id == TRIALS.c.trial_id)
        .where(condition, TRIALS.c.state == "RUNNING")
        .with_for_update(of=LEASES)  # see Storage._check_owner
    )
    return [(row.trial_id, row.number) for row in connection.execute(rows)]


def end_trial(storage: Storage, connection: sa.Connection, trial_id: int, state: str, reason: str) -> None:
    connection.execute(storage.trial_attr(trial_id, attr_keys.REASON, reason))
    for statement in finish_statement(trial_id, state):
        connection.execute(statement)


def int_attr(connection: sa.Connection, trial_id: int, key: str) -> int:
    return int(_attr(connection, trial_id, key) or 0)


@dataclass(slots=True)
class LeaseMonitor:
    """Expires the leases of dead processes of this machine at once, and other leases when they are not renewed.

    The age of a lease is measured by the local monotonic clock, and only between successful scans. Neither a clock jump
    nor an unreachable database expires a lease (client-go's leader election works in the same way).
    """

    times: Timeouts = field(default_factory=Timeouts)
    machines: int = 0
    """Number of hosts that held leases at the last scan, without the excluded tokens."""
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    _looked: float | None = None

    def expire(
        self,
        storage: Storage,
        study_id: int,
        *,
        but: Collection[str] = (),
        pause_s: float = 0.0,
        now: float | None = None,
    ) -> list[int]:
        """Scan the leases of a study once, and expire those of owners that are gone.

        Args:
            storage: Storage of the study.
            study_id: Id of the study.
            but: Tokens to exclude, because the caller monitors them.
            pause_s: Planned pause between two scans, in seconds.
            now: Monotonic time in seconds; None for the current time.

        Returns:
            Numbers of the trials that lost their owner.
        """
        now = time.monotonic() if now is None else now
        others = sa.select(LEASES).where(LEASES.c.study_id == study_id, LEASES.c.token.not_in(but))
        rows = storage.read(lambda connection: connection.execute(others).all())
        self.machines = len({row.host for row in rows})
        last, self._looked = self._looked, now
        # The planned pause is excluded, twice: the scans can take up to half of the gap.
        blind_s = 0.0 if last is None else max(0.0, now - last - max(self.times.renewal_interval_s, 2 * pause_s))
        numbers: list[int] = []
        seen: dict[str, tuple[int, float]] = {}
        for row in rows:
            renewals, since = self._seen.get(row.token, (None, now))
            # A gap between two scans was not observed, so it does not age a lease.
            seen[row.token] = (row.renewals, now if row.renewals != renewals else since + blind_s)
            why = self._gone(row, age=now - seen[row.token][1])
            if why:
                numbers += expire_dead(storage, row.token, why, renewals=row.renewals)
        self._seen = seen
        return numbers

    def _gone(self, row: sa.Row[Any], *, age: float) -> str | None:
        if row.host == socket.gethostname() and row.boot == boot_id() and is_dead(row.pid, row.started):
            return f"process {row.pid} is gone"
        if age <= self.times.lease_timeout_s:
            return None
        return f"process {row.pid} on {row.host} has not been heard of for {age:.0f} s"


def has_no_live_owner(storage: Storage, study_id: int, say: Say, *, times: Timeouts | None = None) -> bool:
    """Expire leases and return whether the study has no live owner left.

    Processes of other machines cannot be inspected. The call waits until one of them renews its lease, or until all
    leases have expired.

    Args:
        storage: Storage of the study.
        study_id: Id of the study.
        say: Receives the message that the call waits.
        times: Renewal interval and timeout of leases; None for the defaults.

    Returns:
        True if no lease is held any more.
    """
    monitor = LeaseMonitor(times or Timeouts())
    monitor.expire(storage, study_id)
    first = held = _renewals(storage, study_id)
    if held:
        limit = monitor.times.lease_timeout_s
        say(f"others hold {len(held)} of its trials; waiting up to {limit:.0f} s to see whether they are alive")
    while held and held.items() <= first.items():
        time.sleep(monitor.times.renewal_interval_s / 2)
        monitor.expire(storage, study_id)
        held = _renewals(storage, study_id)
    return not held


def _requeue(connection: sa.Connection, trial_id: int) -> None:
    values = {"state": "WAITING", "datetime_complete": None}
    connection.execute(sa.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(values))
    connection.execute(sa.delete(LEASES).where(LEASES.c.trial_id == trial_id))


def _record_death(storage: Storage, connection: sa.Connection, trial_id: int, why: str) -> int:
    """Record the death of a trial's process and return the number of consecutive deaths without progress.

    Progress is measured by the steps of the curve and by the epochs; a verdict has no curve.
    """
    epochs = _attr(connection, trial_id, attr_keys.EPOCHS)
    steps = connection.execute(sa.select(sa.func.count()).where(CURVES.c.trial_id == trial_id)).scalar_one()
    last = _attr(connection, trial_id, attr_keys.DEATHS)
    count = last["count"] + 1 if last and (last["steps"], last.get("epochs")) == (steps, epochs) else 1
    attempt = int_attr(connection, trial_id, attr_keys.ATTEMPTS)
    crash = f"attempt {attempt}, after {steps} steps: {why}"
    connection.execute(
        storage.trial_attr(trial_id, attr_keys.DEATHS, {"steps": steps, "epochs": epochs, "count": count})
    )
    crashes = [*(_attr(connection, trial_id, attr_keys.CRASHES) or []), crash]
    connection.execute(storage.trial_attr(trial_id, attr_keys.CRASHES, crashes))
    return count


def _attr(connection: sa.Connection, trial_id: int, key: str) -> Any:
    row = sa.select(TRIAL_ATTRS.c.value_json).where(TRIAL_ATTRS.c.trial_id == trial_id, TRIAL_ATTRS.c.key == key)
    text = connection.execute(row).scalar_one_or_none()
    return None if text is None else json.loads(text)


def _renewals(storage: Storage, study_id: int) -> dict[str, int]:
    """Number of lease renewals by owner token."""
    leases = sa.select(LEASES.c.token, LEASES.c.renewals).where(LEASES.c.study_id == study_id)
    renewals: dict[str, int] = dict(storage.read(lambda connection: connection.execute(leases).all()))
    return renewals
