"""The wall-clock run time of a study over all its runs, stored in the database: one pool counts it."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from search.storage import attr_keys
from search.storage.rdb import Storage
from search.study import stored_study

#: Interval in seconds between two writes of the run time.
SAVE_S = 5.0
#: Seconds without a write after which the counting process counts as dead: a pool writes every ten seconds.
SILENCE_S = 25.0


@dataclass(slots=True)
class RunTimeCounter:
    """Counts the run time of a study while its pool runs, or follows the count of another pool.

    The launcher counts from `since`; a joining process takes over only when no other process counts. The previous
    counter finds the new name in the database at its next write, and stops.
    """

    storage: Storage
    study_id: int
    since: float | None
    """Monotonic seconds; None for a joining process."""
    now: Callable[[], float] = time.monotonic
    is_counting: bool = field(init=False)
    total: float = field(init=False, default=0.0)
    """Run time of the study in seconds, as known to this process."""
    _name: str = field(init=False, default_factory=lambda: uuid.uuid4().hex)
    _at: float = field(init=False)
    """Time of the last update of `total`, in monotonic seconds."""
    _saved: float = field(init=False)

    def __post_init__(self) -> None:
        self.is_counting = self.since is not None
        self._saved = self._at = self.now() if self.since is None else self.since
        self.total = stored_study.seconds_run(self.storage, self.study_id)
        if self.is_counting:
            stored_study.set_attrs(self.storage, self.study_id, {attr_keys.RUN_TIME_COUNTER: self._name})

    def tick(self, stored: float) -> float:
        """Count, or follow the counting process.

        Args:
            stored: The run time in the database now, in seconds.

        Returns:
            The run time until now, in seconds.
        """
        now = self.now()
        if not self.is_counting:
            if stored != self.total:
                self.total, self._at = stored, now
            if now - self._at < SILENCE_S:
                return self.total
            self._take(stored)
        self._count(now)
        if self.is_counting and now - self._saved >= SAVE_S:
            self._save(now)
        return self.total

    def end(self) -> None:
        """Store the final run time."""
        if self.is_counting:
            now = self.now()
            self._count(now)
            self._save(now)

    def _count(self, now: float) -> None:
        if self.is_counting:
            self.total += now - self._at
            self._at = now

    def _take(self, stored: float) -> None:
        """Begin to count, unless another process has stored a run time in the meantime."""

        def take(connection: sa.Connection) -> bool:
            self.storage.lock_study(connection, self.study_id)
            attrs = stored_study.read_attrs(connection, self.study_id)
            is_unchanged = attrs[attr_keys.SECONDS_RUN] == stored
            if is_unchanged:
                stored_study.write_attrs(
                    self.storage, connection, self.study_id, {attr_keys.RUN_TIME_COUNTER: self._name}
                )
            return bool(is_unchanged)

        self.is_counting = self.storage.write(take)

    def _save(self, now: float) -> None:
        def save(connection: sa.Connection) -> bool:
            self.storage.lock_study(connection, self.study_id)
            if stored_study.read_attrs(connection, self.study_id).get(attr_keys.RUN_TIME_COUNTER) != self._name:
                return False
            stored_study.write_attrs(
                self.storage, connection, self.study_id, {attr_keys.SECONDS_RUN: round(self.total, 1)}
            )
            return True

        self._saved, self.is_counting = now, self.storage.write(save)
