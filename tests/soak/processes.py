"""Processes in separate process groups: commands as a shell starts them, and forks of this process, which has
torch loaded.

A forked launcher or worker runs the same code as one that a shell starts, and saves only the seconds of loading.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from search.trial.context import WorkerConfig
from search.workers import worker
from tests import forks
from tests.harness import CONVSEARCH, PATIENCE_S, Harness, wait_until


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """A process that leads a process group, and the output of the group."""

    pid: int
    log: Path
    poll: Callable[[], int | None]
    """Its exit code, or minus the number of the signal that killed it; None while it runs."""

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def end(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until it ends; its exit code."""
        wait_until(lambda: self.poll() is not None, patience_s=patience_s)
        code = self.poll()
        assert code is not None
        return code

    def family(self) -> set[int]:
        """The ids of this process and its descendants: of a launcher, its forkserver and workers; empty if it ended."""
        try:
            process = psutil.Process(self.pid)
            return {process.pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.NoSuchProcess:
            return set()

    def kill(self) -> None:
        """Kill this process alone, if it still runs."""
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
    """Start a program as a shell does, in `folder` if one is given."""
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
    """Fork a process that runs `convsearch WORDS`.

    Args:
        harness: The harness of the command.
        words: The words of the command line.
        gate: A descriptor; the command begins when it can be read.
        at_server: Called in the launcher with the process id of its forkserver, before a worker is started.
    """
    return fork(harness, _launcher, harness.complete(words), gate, at_server)


def work(harness: Harness, worker_config: WorkerConfig, prepare: Callable[[], None] | None = None) -> ProcessGroup:
    """Fork a worker without a pool; `prepare` is called in its process first."""
    return fork(harness, _worker, worker_config, prepare)


def fork(harness: Harness, target: Callable[..., None], *args: Any) -> ProcessGroup:
    """Fork a process that calls `target`, with a log in the folder of the harness."""
    gc.collect()  # the fork must not inherit unused connections
    log = _log(harness, target.__name__.strip("_"))
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(log, target, *args))
    process.start()
    assert process.pid is not None
    return ProcessGroup(process.pid, log, lambda: process.exitcode)


def _log(harness: Harness, name: str) -> Path:
    return harness.folder / f"{len(list(harness.folder.glob('*.log'))):03d}-{name}.log"


def _alone(log: Path, target: Callable[..., None], *args: Any) -> None:
    """Call `target` as the leader of a new session, with its output in the log."""
    os.setsid()
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    target(*args)


def _launcher(words: list[str], gate: int | None, at_server: Callable[[int], None] | None) -> None:
    if gate is not None:
        os.read(gate, 1)
    forks.launch(words, at_server=at_server or (lambda _: None))


def _worker(worker_config: WorkerConfig, prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    context = multiprocessing.get_context("fork")
    _read_end, write_end = context.Pipe(duplex=False)
    worker.main(worker_config, context.Value("q", 0, lock=False), write_end)
