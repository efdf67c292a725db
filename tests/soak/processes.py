"""Processes in groups of their own: commands as a shell starts them, and forks of this process, which has torch loaded.

A forked launcher or worker runs the very same code as one that a shell starts; only the seconds of loading are saved.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import Any

import psutil

from search.cli import main
from search.trial.context import WorkerConfig
from search.workers import worker
from tests.harness import CONVSEARCH, PATIENCE_S, Harness, wait_until

#: What multiprocessing starts its forkserver with.
SPAWN = util.spawnv_passfds


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """A process that leads a group of its own, and what the group says."""

    pid: int
    log: Path
    poll: Callable[[], int | None]
    """Its exit code, minus the signal's number if one killed it; None while it runs."""

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def end(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until it ends; its exit code."""
        wait_until(lambda: self.poll() is not None, patience_s=patience_s)
        code = self.poll()
        assert code is not None
        return code

    def kill(self) -> None:
        """Kill this process, and nobody else, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.end()

    def sweep(self) -> None:
        """Kill what is left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.end()


def command(harness: Harness, *words: str, environment: Mapping[str, str] | None = None) -> ProcessGroup:
    """Start `convsearch WORDS` as a shell does."""
    return start(harness, [str(CONVSEARCH), *harness.complete(words)], environment=environment)


def start(
    harness: Harness, words: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> ProcessGroup:
    """Start a program as a shell does, in a folder of its own if one is given."""
    log = _log(harness, "command")
    with log.open("w") as stream:
        process = subprocess.Popen(
            words,
            stdout=stream,
            stderr=stream,
            env=os.environ | (environment or {}),
            cwd=folder,
            start_new_session=True,
        )
    return ProcessGroup(process.pid, log, process.poll)


def launcher(
    harness: Harness, *words: str, gate: int | None = None, at_server: Callable[[int], None] | None = None
) -> ProcessGroup:
    """Fork a process that does `convsearch WORDS`.

    `gate`: it waits until something can be read from this descriptor. `at_server`: is told the process id of its
    forkserver, in the launcher, before a worker is started.
    """
    return fork(harness, _launcher, harness.complete(words), gate, at_server)


def work(harness: Harness, worker_config: WorkerConfig, prepare: Callable[[], None] | None = None) -> ProcessGroup:
    """Fork a worker that has no pool; `prepare` is called in its process first."""
    return fork(harness, _worker, worker_config, prepare)


def fork(harness: Harness, target: Callable[..., None], *args: Any) -> ProcessGroup:
    """Fork a process that does `target`, with a log in the harness's folder."""
    gc.collect()  # connections that nobody uses any more shall not be inherited
    log = _log(harness, target.__name__.strip("_"))
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(log, target, *args))
    process.start()
    assert process.pid is not None
    return ProcessGroup(process.pid, log, lambda: process.exitcode)


def alive(pid: int) -> bool:
    """Whether a process runs (one that ended and was not waited for does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _log(harness: Harness, name: str) -> Path:
    return harness.folder / f"{len(list(harness.folder.glob('*.log'))):03d}-{name}.log"


def _alone(log: Path, target: Callable[..., None], *args: Any) -> None:
    os.setsid()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(stream, standard)
    os.close(stream)
    target(*args)


def _launcher(words: list[str], gate: int | None, at_server: Callable[[int], None] | None) -> None:
    def spawn(path: bytes, args: list[str], descriptors: list[int]) -> int:
        if "multiprocessing.forkserver" not in args[-1]:
            return SPAWN(path, args, descriptors)
        server = os.fork()
        if server == 0:
            _become_server(args[-1], descriptors)
        if at_server is not None:
            at_server(server)
        return server

    util.spawnv_passfds = spawn  # type: ignore[assignment]  # it need not take all that the original takes
    if gate is not None:
        os.read(gate, 1)
    sys.exit(main.main(words))


def _become_server(program: str, descriptors: list[int]) -> None:
    """Be the forkserver: a process that has nothing open but what it was given."""
    code = 1
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in descriptors:
                with suppress(OSError):  # the one that was listed with is closed already
                    os.close(int(name))
        exec(program)  # the very line of multiprocessing.forkserver
        code = 0
    finally:
        os._exit(code)


def _worker(worker_config: WorkerConfig, prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    context = multiprocessing.get_context("fork")
    _ours, theirs = context.Pipe(duplex=False)
    worker.main(worker_config, context.Value("q", 0, lock=False), theirs)
