"""Workers as processes of this machine, forked from a server that has torch loaded."""

import multiprocessing
import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.sharedctypes import Synchronized

from data.progress import Say
from search import hardware
from search.console import count_workers
from search.errors import ConvsearchError
from search.trial.context import WorkerConfig
from search.workers import worker
from search.workers.backend import WorkerBackend, WorkerHandle, WorkerSlot
from search.workers.signals import STOPPING

#: What a hung worker gets to write where it stands; it does so in a signal handler, within milliseconds.
STACK_S = 1.0
#: And between two parts of that. It works on meanwhile, if it only slept.
LULL_S = 0.05
#: Fork servers that may die while a worker is started.
SERVERS = 3
#: Wait in seconds before a restart: a dying fork server refuses connections until its memory is freed.
DYING_S = 1.0


@dataclass(kw_only=True, slots=True)
class LocalWorkerHandle(WorkerHandle):
    """One worker process of this machine."""

    process: ForkServerProcess
    counted: "Synchronized[int]"
    stack: Connection
    """Where it writes the stacks of its threads when it gets `worker.STACK_SIGNAL`."""

    @property
    def exitcode(self) -> int | None:
        return self.process.exitcode

    @property
    def how_it_ended(self) -> str:
        return how_it_ended(self.process.exitcode or 0)

    def beats(self) -> int:
        return self.counted.value

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self, *, wait_s: float = 1.0) -> None:
        self.process.kill()
        if wait_s:
            self.process.join(timeout=wait_s)

    def stacks(self) -> str:
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


@dataclass(frozen=True, slots=True)
class LocalBackend(WorkerBackend):
    """The workers of this machine, one for each device."""

    devices: tuple[str, ...]

    @property
    def plan(self) -> str:
        return f"{count_workers(len(self.devices))} on {', '.join(sorted(set(self.devices)))}"

    @property
    def local_workers(self) -> int:
        return len(self.devices)

    @property
    def max_workers(self) -> int | None:
        return len(self.devices)

    @contextmanager
    def running_backend(self, _: Say) -> Iterator[None]:
        start_server()  # it loads torch meanwhile
        yield

    def slots(self) -> tuple[WorkerSlot, ...]:
        places = zip(self.devices, hardware.assign_cores(self.devices), strict=True)
        return tuple(WorkerSlot(index=index, device=device, core=core) for index, (device, core) in enumerate(places))

    def start(self, worker_config: WorkerConfig, seat: WorkerSlot) -> WorkerHandle:
        return start(replace(worker_config, device=seat.device, core=seat.core, workers=len(self.devices)))

    def wait(self, hands: Collection[WorkerHandle], seconds: float) -> None:
        wait([each.process.sentinel for each in hands if isinstance(each, LocalWorkerHandle)], timeout=seconds)


def start(worker_config: WorkerConfig) -> LocalWorkerHandle:
    """Start a worker. If the server dies meanwhile, which loads torch and so needs memory, another one is tried.

    Raises:
        ConvsearchError: that one died, too.
    """
    for attempt in range(SERVERS):
        time.sleep(DYING_S if attempt else 0.0)
        try:
            return _start(worker_config)
        except (EOFError, ConnectionError) as error:  # what multiprocessing meets at the pipe of a dead server
            died = error
    raise ConvsearchError(
        f"{SERVERS} times in a row the server that workers are forked from died while it loaded torch, likely because "
        "the machine ran out of memory; use fewer --workers"
    ) from died


def _start(worker_config: WorkerConfig) -> LocalWorkerHandle:
    context = start_server()  # which may have died since the last one
    beats = context.Value("q", 0, lock=False)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=worker.main, args=(worker_config, beats, theirs), name=f"worker on {worker_config.device}"
    )
    process.start()
    theirs.close()
    return LocalWorkerHandle(token=worker_config.token, process=process, counted=beats, stack=ours)


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
