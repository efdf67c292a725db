"""A clock for tests of times."""

from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """A clock that a test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now
