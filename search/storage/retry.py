"""Transient errors are tried again, with growing, jittered pauses; how long that and other waits last."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

from search.console import echo
from search.errors import UsageError

#: Seconds of waiting after which a message says why nothing moves.
NOTICE_S = 5.0
#: Pauses grow from the first to the longest. Jitter spreads clients that
#: started retrying at the same moment.
FIRST_S, LONGEST_S, JITTER_S = 0.05, 2.0, 0.25

T = TypeVar("T")


def retry_transient(call: Callable[[], T], *, passes: Callable[[Exception], bool], retry_timeout_s: float) -> T:
    """The result of `call`, which is called again for up to `retry_timeout_s` seconds while its error `passes`."""
    try:
        return call()  # nearly always it succeeds, and needs nothing of what follows
    except Exception as error:
        if not passes(error):
            raise
    _be_quiet()
    wait = _Wait(passes)
    for attempt in stamina.retry_context(
        on=wait.should_retry,
        attempts=None,
        timeout=retry_timeout_s,
        wait_initial=FIRST_S,
        wait_max=LONGEST_S,
        wait_jitter=JITTER_S,
    ):
        with attempt:
            return call()
    raise AssertionError("stamina ends with a result or with the last error")


def root_cause(error: BaseException) -> BaseException:
    """What was wrong at first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class _Wait:
    """One call that is tried again; after `NOTICE_S` it says once what it waits for."""

    def __init__(self, passes: Callable[[Exception], bool]) -> None:
        self._passes = passes
        self._began = time.monotonic()
        self._has_said = False

    def should_retry(self, error: Exception) -> bool:
        if not self._passes(error):
            return False
        if not self._has_said and time.monotonic() - self._began >= NOTICE_S:
            self._has_said = True
            why = str(root_cause(error)).splitlines() or [type(error).__name__]
            echo(f"waiting for the database: {why[0]}")
        return True


@cache
def _be_quiet() -> None:
    """Replace stamina's own hook, which would log every retry."""
    set_on_retry_hooks(())


#: Longest time that a driver or server waits for a lock by itself; signals are answered only between two such waits.
BUSY_S = 1.0


#: The last try may take this number of seconds beyond the timeout: on PostgreSQL a dead connection is noticed after 15
#: s (tcp_user_timeout), and a new one may take 10 s.
LAST_S = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """The waiting times of one launcher and its workers. They belong together, so they are checked together:

        a storage call waits for a busy database  <  a worker counts as hung
        a storage call waits, and three renewals  <  a lease expires

    A database that is locked for a while would otherwise look like a dead or a hung worker. (River, a job queue on
    PostgreSQL, checks its times for the same reason: https://riverqueue.com/docs/stuck-jobs.)
    """

    retry_timeout_s: float = 75.0
    """How long a storage call tries again: through a backup that locks the database, or a restart of its server."""

    renewal_interval_s: float = 10.0
    """Between two renewals of a lease, by the pool."""

    lease_timeout_s: float = 150.0
    """A lease that is not renewed for this long has expired. A dead owner on the same machine is seen at once."""

    hang_timeout_s: float = 120.0
    """A worker without a finished batch for this long hangs; or for ten median epochs, if that is longer."""

    def __post_init__(self) -> None:
        wait = self.retry_timeout_s + min(LAST_S, self.retry_timeout_s)
        if self.lease_timeout_s <= wait + 3 * self.renewal_interval_s:
            raise UsageError(
                f"a lease must last longer than the longest wait for the database and three renewals, "
                f"{wait + 3 * self.renewal_interval_s:g} s, but got {self.lease_timeout_s:g} s"
            )
        if not self.hang_timeout_s > wait:  # `not >` also refuses NaN
            raise UsageError(
                f"--hang must be more than {wait:g} s, the longest wait for a busy database, "
                f"but got {self.hang_timeout_s:g} s"
            )
