"""The interface of a worker backend: slots for workers, and a handle for each worker, local or remote."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from data.progress import Say
from search.trial.context import WorkerConfig

#: Polling interval of the workers in seconds; the death of a worker is seen at once.
LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSlot:
    """A slot for one worker."""

    index: int
    """Unique on its machine."""
    device: str
    """A torch device: cpu, cuda:0, ..."""
    core: int | None = None
    """CPU core of the worker; None is any core."""
    node: str = ""
    """Ray node ID of the machine; empty for local workers."""


@dataclass(kw_only=True, slots=True)
class WorkerHandle(ABC):
    """A started worker, as its pool monitors and stops it."""

    token: str
    beat_count: int = 0
    last_beat_at: float = field(default_factory=time.monotonic)
    """Time of the last change of the batch count, monotonic seconds."""
    last_checked_at: float = field(default_factory=time.monotonic)
    """Time of the last check, monotonic seconds."""
    hang_reason: str | None = None
    """Why the pool killed the worker, if it did."""
    stack_trace: str = ""
    """Stack traces of its threads before it was killed."""

    @property
    @abstractmethod
    def exitcode(self) -> int | None:
        """Exit code of the worker: that of `worker.work`, or another one if it died; None while it works."""

    @property
    @abstractmethod
    def how_it_ended(self) -> str:
        """The cause of its death, for a log."""

    @property
    def is_placed(self) -> bool:
        """Whether the worker has its slot. A worker that waits for its slot does not reserve a trial."""
        return True

    @property
    def was_taken(self) -> bool:
        """Whether its machine is gone. Such a death does not count against the study."""
        return False

    @abstractmethod
    def beats(self) -> int | None:
        """The last known number of finished batches; None before the worker begins."""

    @abstractmethod
    def stacks(self) -> str:
        """Stack traces of its threads; empty if the worker no longer answers."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask the worker to put its trial back with a checkpoint."""

    @abstractmethod
    def kill(self, *, wait_s: float = 1.0) -> None:
        """Kill the worker.

        Args:
            wait_s: Seconds to wait for its end. A process that sleeps in the kernel, on a lost disk, dies later.
        """

    def has_hung(self, now: float, *, limit_s: float) -> bool:
        """Whether the worker finished no batch for too long.

        Time in which the pool itself was stopped does not count (Ctrl-Z stops both).

        Args:
            now: Monotonic seconds.
            limit_s: Seconds without a finished batch after which a worker counts as hung.
        """
        asleep_s = max(0.0, now - self.last_checked_at - 10 * LOOK_S)
        self.last_checked_at, self.last_beat_at = now, self.last_beat_at + asleep_s
        beats = self.beats()
        if beats is None:
            self.last_beat_at = now
        elif beats != self.beat_count:
            self.beat_count, self.last_beat_at = beats, now
        return now - self.last_beat_at > limit_s

    def end(self, why: str) -> None:
        """Kill the worker because it hangs, after recording its stack traces."""
        self.hang_reason, self.stack_trace = why, self.stacks()
        self.kill()


class WorkerBackend(ABC):
    """Provides the slots for workers and starts workers in them."""

    @property
    @abstractmethod
    def plan(self) -> str:
        """Description of the backend for the user."""

    @property
    @abstractmethod
    def local_workers(self) -> int:
        """Maximum number of workers on this machine."""

    @property
    @abstractmethod
    def max_workers(self) -> int | None:
        """Maximum number of workers on all machines together; None is one per slot."""

    @abstractmethod
    def running_backend(self, say: Say) -> AbstractContextManager[None]:
        """Make the backend ready to start workers inside the block. No worker may outlive the block.

        Args:
            say: Prints a message to the user.

        Raises:
            ConvsearchError: the backend cannot be started.
        """

    @abstractmethod
    def slots(self) -> tuple[WorkerSlot, ...]:
        """The current slots, oldest first."""

    @abstractmethod
    def start(self, worker_config: WorkerConfig, slot: WorkerSlot) -> WorkerHandle:
        """Start a worker in a slot.

        Args:
            worker_config: Configuration of the worker; the fields that depend on the slot are replaced.
            slot: A slot without a worker.

        Raises:
            ConvsearchError: the worker cannot be started.
        """

    def exclude(self, slot: WorkerSlot) -> bool:
        """Start no worker in this slot for a while, because the last one there could not work.

        Returns:
            Whether there are other slots.
        """
        return False

    @abstractmethod
    def wait(self, handles: Collection[WorkerHandle], seconds: float) -> None:
        """Wait until one of these workers has ended, for `seconds` at most."""
