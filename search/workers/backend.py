"""The interface of a worker backend: slots for workers, and a handle of each worker, wherever its process is."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from data.progress import Say
from search.trial.context import WorkerConfig

#: Polling interval of the workers in seconds; a dead one is seen at once.
LOOK_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSlot:
    """A place for one worker."""

    index: int
    """Unlike that of any other on its machine."""
    device: str
    """As torch names it: cpu, cuda:0, ..."""
    core: int | None = None
    """The one it runs on; None is any."""
    node: str = ""
    """The machine, if there are several."""


@dataclass(kw_only=True, slots=True)
class WorkerHandle(ABC):
    """One worker as its pool sees it: started, seen to move, asked where it stands, stopped."""

    token: str
    beat_count: int = 0
    last_beat_at: float = field(default_factory=time.monotonic)
    """When its count of batches last changed, monotonic seconds."""
    last_checked_at: float = field(default_factory=time.monotonic)
    """When we last looked."""
    hang_reason: str | None = None
    """Why we killed it, if we did."""
    stack_trace: str = ""
    """The stacks of its threads at that moment."""

    @property
    @abstractmethod
    def exitcode(self) -> int | None:
        """How it ended, as `worker.work` has it, or any other code if it died; None while it works."""

    @property
    @abstractmethod
    def how_it_ended(self) -> str:
        """Its death in words."""

    @property
    def is_placed(self) -> bool:
        """Whether it has its slot; a worker still waiting for one does not reserve a trial."""
        return True

    @property
    def was_taken(self) -> bool:
        """Whether its machine is gone, so that its death says nothing about the study."""
        return False

    @abstractmethod
    def beats(self) -> int | None:
        """Its count of batches, as far as it is known; None as long as it has not begun to work."""

    @abstractmethod
    def stacks(self) -> str:
        """The stacks of its threads; empty if it cannot tell any more."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask it to put its trial back with a checkpoint."""

    @abstractmethod
    def kill(self, *, wait_s: float = 1.0) -> None:
        """Kill it. A process that sleeps in the kernel, on a lost disk, dies when it wakes; it is not waited for."""

    def has_hung(self, now: float, *, limit_s: float) -> bool:
        """Whether it finished no batch for too long, as far as we were awake to see it (Ctrl-Z stops us both)."""
        asleep = max(0.0, now - self.last_checked_at - 10 * LOOK_S)
        self.last_checked_at, self.last_beat_at = now, self.last_beat_at + asleep
        beats = self.beats()
        if beats is None:
            self.last_beat_at = now
        elif beats != self.beat_count:
            self.beat_count, self.last_beat_at = beats, now
        return now - self.last_beat_at > limit_s

    def end(self, why: str) -> None:
        """Kill it because it hangs; first it is asked where it stands."""
        self.hang_reason, self.stack_trace = why, self.stacks()
        self.kill()


class WorkerBackend(ABC):
    """Where workers can be, and how they are started there."""

    @property
    @abstractmethod
    def plan(self) -> str:
        """What it is, in words."""

    @property
    @abstractmethod
    def local_workers(self) -> int:
        """How many workers this machine may have."""

    @property
    @abstractmethod
    def max_workers(self) -> int | None:
        """No more workers than these at once, wherever they are; None is as many as there are places."""

    @abstractmethod
    def running_backend(self, say: Say) -> AbstractContextManager[None]:
        """Be ready to start workers inside the block; none may live on behind it.

        Raises:
            ConvsearchError: that cannot be.
        """

    @abstractmethod
    def slots(self) -> tuple[WorkerSlot, ...]:
        """The places that there are now, those that were there before in front."""

    @abstractmethod
    def start(self, worker_config: WorkerConfig, seat: WorkerSlot) -> WorkerHandle:
        """Start a worker at a place. `worker_config` tells it all but what depends on the place.

        Raises:
            ConvsearchError: it cannot be started.
        """

    def exclude(self, seat: WorkerSlot) -> bool:
        """Start no worker there for a while, because the last one could not work; whether there are other slots."""
        return False

    @abstractmethod
    def wait(self, hands: Collection[WorkerHandle], seconds: float) -> None:
        """Wait until one of these has ended, or the time is over."""
