"""How often the pool polls the database: once a second, less often where that would be a load."""

import time
from dataclasses import dataclass

#: Polling interval of the database in seconds: the maximum staleness of the live view and of a stop request.
READ_S = 1.0
#: The interval grows where many machines poll (together at most `TOGETHER` times a second) and where polling takes long
#: (at most 1 / `ONE_IN` of the time), up to `SELDOM_S` seconds.
TOGETHER, ONE_IN, SELDOM_S = 10.0, 20, 10.0


def pause_s(took_s: float, *, machines: int) -> float:
    """Polling interval of the database.

    Args:
        took_s: Duration of the last poll in seconds.
        machines: Number of machines that poll the same database, this one included.

    Returns:
        Seconds between two polls, from `READ_S` to `SELDOM_S`.
    """
    return min(SELDOM_S, max(READ_S, ONE_IN * took_s, machines / TOGETHER))


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
