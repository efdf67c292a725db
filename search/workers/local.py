"""Workers as processes on this machine, forked from a server that has torch loaded."""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.sharedctypes import Synchronized
from typing import TypeVar

from data.progress import Say
from search import hardware
from search.console import count_workers
from search.errors import ConvsearchError, DiskError
from search.process import die_with_parent
from search.trial.context import WorkerConfig
from search.workers import worker
from search.workers.backend import WorkerBackend, WorkerHandle, WorkerSlot
from search.workers.signals import STOPPING

Result = TypeVar("Result")

#: Time limit for the stack traces of a hung worker, in seconds; a signal handler writes them within milliseconds.
STACK_S = 1.0
#: Time limit between two parts of the stack traces, in seconds. A worker that only slept continues meanwhile.
LULL_S = 0.05
#: Maximum number of fork servers that may die during the start of one worker.
SERVERS = 3
#: Maximum length of the path of a socket in bytes on macOS; Linux allows 107 (sun_path in unix(7)).
MAX_SOCKET_PATH = 103
#: Length of /pymp-xxxxxxxx/listener-xxxxxxxx, which multiprocessing appends to the folder of temporary files.
SOCKET_NAME = 32
#: Wait in seconds before a restart: a dying fork server refuses connections until its memory is freed.
DYING_S = 1.0


@dataclass(kw_only=True, slots=True)
class LocalWorkerHandle(WorkerHandle):
    """One worker process on this machine."""

    process: ForkServerProcess
    counted: "Synchronized[int]"
    stack: Connection
    """Pipe for the stack traces that it writes on `worker.STACK_SIGNAL`."""

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
        with suppress(OSError):
            os.kill(pid, worker.STACK_SIGNAL)
            os.kill(pid, signal.SIGCONT)  # a stopped process would not handle the signal
            while wait([self.stack], timeout=LULL_S if text else STACK_S) and (
                chunk := os.read(self.stack.fileno(), 65536)
            ):
                text += chunk
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
        start_server()  # it loads torch in the background
        yield

    def slots(self) -> tuple[WorkerSlot, ...]:
        placements = zip(self.devices, hardware.assign_cores(self.devices), strict=True)
        return tuple(
            WorkerSlot(index=index, device=device, core=core) for index, (device, core) in enumerate(placements)
        )

    def start(self, worker_config: WorkerConfig, slot: WorkerSlot) -> WorkerHandle:
        return start(replace(worker_config, device=slot.device, core=slot.core, workers=len(self.devices)))

    def wait(self, handles: Collection[WorkerHandle], seconds: float) -> None:
        wait([handle.process.sentinel for handle in handles if isinstance(handle, LocalWorkerHandle)], timeout=seconds)


def start(worker_config: WorkerConfig) -> LocalWorkerHandle:
    """Start a worker. If the fork server dies, which needs memory to load torch, another one is started.

    Args:
        worker_config: Configuration of the worker.

    Raises:
        ConvsearchError: `SERVERS` fork servers in a row died.
    """
    for attempt in range(SERVERS):
        time.sleep(DYING_S if attempt else 0.0)
        try:
            return _start_process(worker_config)
        except (EOFError, ConnectionError) as error:  # raised at the pipe of a dead server
            last_error = error
    raise ConvsearchError(
        f"{SERVERS} times in a row the server that workers are forked from died while it loaded torch, likely because "
        "the machine ran out of memory; use fewer --workers"
    ) from last_error


def _start_process(worker_config: WorkerConfig) -> LocalWorkerHandle:
    context = start_server()  # the server may have died since the last start
    beats = context.Value("q", 0, lock=False)
    read_end, write_end = context.Pipe(duplex=False)
    process = context.Process(
        target=worker.main, args=(worker_config, beats, write_end), name=f"worker on {worker_config.device}"
    )
    process.start()
    write_end.close()
    return LocalWorkerHandle(token=worker_config.token, process=process, counted=beats, stack=read_end)


def call(function: Callable[[], Result]) -> Result:
    """Call a function in a process that is forked from the server, which has torch loaded.

    Args:
        function: It and its result can be pickled.

    Raises:
        ConvsearchError: The process died.
    """
    context = start_server()
    read_end, write_end = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(function, write_end))
    process.start()
    write_end.close()
    try:
        result: Result = read_end.recv()
        return result
    except EOFError as error:
        process.join()
        raise ConvsearchError(f"a measurement failed: {how_it_ended(process.exitcode or 0)}") from error
    finally:
        process.kill()
        process.join()


def _send_result(function: Callable[[], object], write_end: Connection) -> None:
    die_with_parent()
    write_end.send(function())


def start_server() -> ForkServerContext:
    """Start the fork server of the workers, with stop signals blocked: they would kill it while it loads torch.

    Workers inherit the signal mask and unblock the signals when they can stop cleanly.
    """
    _make_socket_folder()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.PRELOAD])
    resource_tracker.ensure_running()  # its start unblocks these signals in this process
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
    return context


def _make_socket_folder() -> None:
    """Let multiprocessing make its folder of sockets, in /tmp if that in TMPDIR has too long a path for a socket.

    Raises:
        DiskError: There is no folder for temporary files.
    """
    try:
        folder = tempfile.gettempdir()
        if len(os.fsencode(folder)) > MAX_SOCKET_PATH - SOCKET_NAME:
            tempfile.tempdir = "/tmp"
        util.get_temp_dir()  # it keeps the folder that it makes
    except OSError as error:
        raise DiskError(f"there is no folder for temporary files ({error.strerror}); name one in TMPDIR") from error
    tempfile.tempdir = folder


def how_it_ended(exitcode: int) -> str:
    """Description of an exit code of multiprocessing; negative codes are signals."""
    if exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    likely_cause = ", perhaps because the machine ran out of memory" if exitcode == -signal.SIGKILL else ""
    return f"its process was killed by {name}{likely_cause}"
