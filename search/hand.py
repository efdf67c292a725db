"""One worker process as its pool sees it: started, seen to move, asked where it stands, stopped."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.sharedctypes import Synchronized

from search import worker
from search.errors import ConvsearchError
from search.interrupts import STOPPING
from search.post import Post

#: Between two looks at the workers: a dead one is seen at once, by its sentinel; the rest can wait so long.
LOOK_S = 0.25
#: What a hung worker gets to write where it stands; it does so in a signal handler, within milliseconds.
STACK_S = 1.0
#: And between two parts of that. It works on meanwhile, if it only slept.
LULL_S = 0.05
#: So many servers may die while a worker is started.
SERVERS = 3
#: A server that is dying cannot be reached, and is not known to be dead before it has given its memory back.
DYING_S = 1.0


@dataclass(slots=True)
class Hand:
    """One worker process."""

    token: str
    process: ForkServerProcess
    beats: "Synchronized[int]"
    stack: Connection
    """Where it writes the stacks of its threads when it gets `worker.STACK_SIGNAL`."""
    seen: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When its count of batches last changed, monotonic seconds."""
    looked: float = field(default_factory=time.monotonic)
    """When we last looked."""
    hung: str | None = None
    """Why we killed it, if we did."""
    stood: str = ""
    """The stacks of its threads at that moment."""

    def has_hung(self, now: float, *, limit_s: float) -> bool:
        """Whether it finished no batch for too long, as far as we were awake to see it (Ctrl-Z stops us both)."""
        asleep = max(0.0, now - self.looked - 10 * LOOK_S)
        self.looked, self.moved = now, self.moved + asleep
        if self.beats.value != self.seen:
            self.seen, self.moved = self.beats.value, now
        return now - self.moved > limit_s

    def end(self, why: str) -> None:
        """Kill it because it hangs; first it is asked where it stands."""
        self.hung, self.stood = why, self._stacks()
        self.kill()

    def kill(self) -> None:
        """Kill it; who sleeps in the kernel, on a disk that is gone, dies when it wakes, and is not waited for."""
        self.process.kill()
        self.process.join(timeout=1.0)

    def _stacks(self) -> str:
        """The stacks of its threads; empty if it cannot tell any more."""
        pid = self.process.pid
        if pid is None:
            return ""
        text = b""
        with suppress(ProcessLookupError, EOFError, OSError):
            os.kill(pid, worker.STACK_SIGNAL)
            os.kill(pid, signal.SIGCONT)  # a process that was stopped would not hear
            while wait([self.stack], timeout=LULL_S if text else STACK_S) and (
                part := os.read(self.stack.fileno(), 65536)
            ):
                text += part
        return text.decode(errors="replace")


def start(post: Post) -> Hand:
    """Start a worker. If the server dies meanwhile, which loads torch and so needs memory, another one is tried.

    Raises:
        ConvsearchError: that one died, too.
    """
    for attempt in range(SERVERS):
        time.sleep(DYING_S if attempt else 0.0)
        try:
            return _start(post)
        except (EOFError, ConnectionError) as error:  # what multiprocessing meets at the pipe of a dead server
            died = error
    raise ConvsearchError(
        f"{SERVERS} times in a row the server that workers are forked from died while it loaded torch, likely because "
        "the machine ran out of memory; use fewer --workers"
    ) from died


def _start(post: Post) -> Hand:
    context = start_server()  # which may have died since the last one
    beats = context.Value("q", 0, lock=False)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=worker.main, args=(post, beats, theirs), name=f"worker on {post.device}")
    process.start()
    theirs.close()
    return Hand(token=post.token, process=process, beats=beats, stack=ours)


def start_server() -> ForkServerContext:
    """Start the server that workers are forked from, deaf to what stops us: while it loads torch it would die of it.

    Workers inherit its deafness, and end it when they can stop cleanly.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(worker.PRELOAD)
    resource_tracker.ensure_running()  # when it starts, it unblocks these signals in our process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def how_it_ended(exitcode: int) -> str:
    """An exit code of multiprocessing in words."""
    if exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    likely = ", perhaps because the machine ran out of memory" if exitcode == -signal.SIGKILL else ""
    return f"its process was killed by {name}{likely}"
