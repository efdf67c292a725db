"""Retries of transient errors with growing, jittered pauses, and the timeouts of all waits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

from search.console import echo
from search.errors import UsageError

#: Duration of a wait, in seconds, after which a message gives its reason.
NOTICE_S = 5.0
#: First and longest pause and jitter, in seconds. Jitter spreads clients that started to retry at the same moment.
FIRST_S, LONGEST_S, JITTER_S = 0.05, 2.0, 0.25

T = TypeVar("T")


def retry_transient(call: Callable[[], T], *, passes: Callable[[Exception], bool], retry_timeout_s: float) -> T:
    """Call a function, and retry it while it raises transient errors.

    Args:
        call: Function without arguments.
        passes: Whether an error is transient.
        retry_timeout_s: Duration of the retries in seconds.

    Returns:
        The result of `call`.

    Raises:
        Exception: The last error of `call`.
    """
    try:
        return call()  # the usual case, without the cost of stamina
    except Exception as error:
        if not passes(error):
            raise
    _silence_stamina()
    wait = _RetriedCall(passes)
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
    """Return the first error of the chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class _RetriedCall:
    """A retried call; prints the reason of the wait once, after `NOTICE_S`."""

    def __init__(self, passes: Callable[[Exception], bool]) -> None:
        self._passes = passes
        self._began = time.monotonic()
        self._has_reported = False

    def should_retry(self, error: Exception) -> bool:
        if not self._passes(error):
            return False
        if not self._has_reported and time.monotonic() - self._began >= NOTICE_S:
            self._has_reported = True
            lines = str(root_cause(error)).splitlines() or [type(error).__name__]
            echo(f"waiting for the database: {lines[0]}")
        return True


@cache
def _silence_stamina() -> None:
    """Replace stamina's own hook, which would log every retry."""
    set_on_retry_hooks(())


#: Lock timeout of SQLite's driver, in seconds; signals are handled only between two such waits.
BUSY_S = 1.0


#: Maximum duration of the last attempt beyond the timeout, in seconds. On PostgreSQL a dead connection is detected
#: after 15 s (tcp_user_timeout), and a new connection may take 10 s.
LAST_S = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """The timeouts of one launcher and its workers. They depend on each other and are checked together:

        a storage call waits for a busy database  <  a worker counts as hung
        a storage call waits, and three renewals  <  a lease expires

    Otherwise a temporarily locked database would be mistaken for a dead or hung worker. (River, a job queue on
    PostgreSQL, checks its timeouts for the same reason: https://riverqueue.com/docs/stuck-jobs.)
    """

    retry_timeout_s: float = 75.0
    """Duration of the retries of a storage call: covers a backup that locks the database, or a server restart."""

    renewal_interval_s: float = 10.0
    """Interval between two renewals of a lease by the pool."""

    lease_timeout_s: float = 150.0
    """A lease without renewal for this time has expired. A dead owner on the same machine is detected at once."""

    hang_timeout_s: float = 120.0
    """A worker without a finished batch for this time, or for ten median epochs if longer, counts as hung."""

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
