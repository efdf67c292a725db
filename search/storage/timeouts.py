"""How long to wait for what. The times belong together, so they are checked together.

    a storage call waits for a busy database  <  a worker counts as hung
    a storage call waits, and three renewals  <  a lease expires

Else a database that is locked for a while would look like a dead or a hung worker (River, a job queue on PostgreSQL,
checks its times against each other for the same reason: https://riverqueue.com/docs/stuck-jobs).
"""

from dataclasses import dataclass

from search.errors import UsageError

#: Longest time that a driver or server waits for a lock by itself; signals are answered only between two such waits.
BUSY_S = 1.0
#: The last try may take so long beyond the patience: on PostgreSQL a dead connection is noticed after 15 s
#: (tcp_user_timeout), and a new one may take 10 s.
LAST_S = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """The waiting times of one launcher and its workers."""

    retry_timeout_s: float = 75.0
    """How long a storage call tries again: through a backup that locks the database, or a restart of its server."""

    renewal_interval_s: float = 10.0
    """Between two renewals of a lease, by the pool."""

    lease_timeout_s: float = 150.0
    """After so much silence the owner of a lease is gone. On the same machine a dead owner is seen at once."""

    hang_timeout_s: float = 120.0
    """After so long without a finished batch a worker hangs; or ten median epochs, if that is longer."""

    def __post_init__(self) -> None:
        wait = self.retry_timeout_s + min(LAST_S, self.retry_timeout_s)
        if self.lease_timeout_s <= wait + 3 * self.renewal_interval_s:
            raise UsageError(
                f"a lease must last longer than the longest wait for the database and three renewals, "
                f"{wait + 3 * self.renewal_interval_s:g} s, but got {self.lease_timeout_s:g} s"
            )
        if not self.hang_timeout_s > wait:  # neither is a number that is none
            raise UsageError(
                f"--hang must be more than {wait:g} s, the longest wait for a busy database, "
                f"but got {self.hang_timeout_s:g} s"
            )
