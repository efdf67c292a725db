"""Which owners of trials are gone: dead ones of this machine at once, all others by their silence."""

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
    """Sees which owners are gone: dead ones of this machine at once, all others when nobody renewed their lease.

    A lease is aged by our own monotonic clock, and only between looks that succeeded, so neither a clock that jumps nor
    a database that does not answer expires anybody (client-go's leader election judges leases in the same way).
    """

    times: Timeouts = field(default_factory=Timeouts)
    machines: int = 0
    """With such owners, at the last look."""
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
        """Take the trials of owners that are gone from them; returns their numbers.

        `but`: tokens that the caller watches by itself. `pause_s`: for how long it meant not to look. `now`: monotonic
        seconds.
        """
        now = time.monotonic() if now is None else now
        others = sa.select(LEASES).where(LEASES.c.study_id == study_id, LEASES.c.token.not_in(but))
        rows = storage.read(lambda connection: connection.execute(others).all())
        self.machines = len({row.host for row in rows})
        looked, self._looked = self._looked, now
        # Our own planned pause is excluded. Up to half of the gap can be the scans themselves.
        blind = 0.0 if looked is None else max(0.0, now - looked - max(self.times.renewal_interval_s, 2 * pause_s))
        numbers: list[int] = []
        seen: dict[str, tuple[int, float]] = {}
        for row in rows:
            renewals, since = self._seen.get(row.token, (None, now))
            # A gap between two of our looks is our own blindness, not the owner's silence.
            seen[row.token] = (row.renewals, now if row.renewals != renewals else since + blind)
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
    """Whether the study has no live owner, after expired leases were removed.

    Of owners that cannot be looked at that is known as soon as one was heard, or all were silent for a whole lease: so
    long they are waited for.
    """
    watch = LeaseMonitor(times or Timeouts())
    watch.expire(storage, study_id)
    first = held = _renewals(storage, study_id)
    if held:
        limit = watch.times.lease_timeout_s
        say(f"others hold {len(held)} of its trials; waiting up to {limit:.0f} s to see whether they are alive")
    while held and held.items() <= first.items():
        time.sleep(watch.times.renewal_interval_s / 2)
        watch.expire(storage, study_id)
        held = _renewals(storage, study_id)
    return not held


def _renewals(storage: Storage, study_id: int) -> dict[str, int]:
    """How often each owner has renewed its lease."""
    leases = sa.select(LEASES.c.token, LEASES.c.renewals).where(LEASES.c.study_id == study_id)
    found: dict[str, int] = dict(storage.read(lambda connection: connection.execute(leases).all()))
    return found
