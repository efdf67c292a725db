"""How often the pool polls the database: once a second, less often where that would be a load."""

import time
from dataclasses import dataclass

#: Interval between two polls in seconds. The first is the maximum staleness of the live view and of a stop request.
MIN_INTERVAL_S, MAX_INTERVAL_S = 1.0, 10.0
#: Maximum polls per second of all machines together.
MAX_POLLS_PER_S = 10.0
#: Maximum share of the time that a machine spends on polling.
MAX_SHARE = 1 / 20


def pause_s(took_s: float, *, machines: int) -> float:
    """Polling interval of the database.

    Args:
        took_s: Duration of the last poll in seconds.
        machines: Number of machines that poll the same database, this one included.

    Returns:
        Seconds between two polls, from `MIN_INTERVAL_S` to `MAX_INTERVAL_S`.
    """
    return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, took_s / MAX_SHARE, machines / MAX_POLLS_PER_S))


@dataclass(slots=True)
class Every:
    """A timer that is due once every `seconds`, and at the first call."""

    seconds: float
    _last_due: float | None = None

    def is_due(self) -> bool:
        now = time.monotonic()
        if self._last_due is not None and now - self._last_due < self.seconds:
            return False
        self._last_due = now
        return True
