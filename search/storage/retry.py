"""Try again what failed for a reason that passes, with growing, jittered pauses; say so when that takes long."""

import time
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

from search.console import echo

#: After so many seconds of waiting a person wants to know why nothing moves.
NOTICE_S = 5.0
#: Pauses grow from the first to the longest. Jitter on the way there parts those who began to knock together.
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
