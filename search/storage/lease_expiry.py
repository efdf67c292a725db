"""Lease expiry: dead processes of this machine at once, other owners when they stop renewing."""

import socket
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from data.progress import Say
from search.process import boot_id, is_dead
from search.storage.leases import expire_dead
from search.storage.rdb import Storage
from search.storage.retry import Timeouts
from search.storage.tables import LEASES


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


def _renewals(storage: Storage, study_id: int) -> dict[str, int]:
    """Number of lease renewals by owner token."""
    leases = sa.select(LEASES.c.token, LEASES.c.renewals).where(LEASES.c.study_id == study_id)
    renewals: dict[str, int] = dict(storage.read(lambda connection: connection.execute(leases).all()))
    return renewals
