"""Commands in processes that are forked from one with torch loaded.

Such a process runs the same code as one that a shell starts, without the seconds of loading. It leads a new session and
process group, and its fork server of workers is its own child, as from a shell.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import process as current
from multiprocessing import reduction, util
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from search.cli import main
from search.workers import local
from search.workers.signals import STOPPING
from tests.faults.injector import sitecustomize as injector

#: The function with which multiprocessing starts its forkserver.
SPAWN = util.spawnv_passfds


@dataclass(frozen=True, slots=True)
class ForkedCommand:
    """A forked process, with the methods of subprocess.Popen that tests use."""

    process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that killed it; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("convsearch", timeout or 0.0)
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.process.exitcode is None:
            os.kill(self.pid, number)


def start(words: Sequence[str], log: Path) -> ForkedCommand:
    """Run `convsearch WORDS` with the current environment and folder, without stdin and stdout.

    Args:
        words: The words of the command line.
        log: File for stderr.
    """
    with log.open("ab") as stderr, open(os.devnull, "wb") as nothing:
        return start_with_output(words, stdout=nothing.fileno(), stderr=stderr.fileno())


def start_with_output(words: Sequence[str], *, stdout: int, stderr: int) -> ForkedCommand:
    """Run `convsearch WORDS` with the current environment and folder, without stdin.

    Args:
        words: The words of the command line.
        stdout: Descriptor of its output.
        stderr: Descriptor of its messages.
    """
    process = local.start_server().Process(
        target=_run, args=(list(words), _Descriptors(stdout, stderr), dict(os.environ), os.getcwd())
    )
    process.start()
    return ForkedCommand(process)


@dataclass(frozen=True, slots=True)
class _Descriptors:
    """Descriptors that a process inherits when it is pickled for its start."""

    stdout: int
    stderr: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _take, (reduction.DupFd(self.stdout), reduction.DupFd(self.stderr))


def _take(stdout: Any, stderr: Any) -> _Descriptors:
    return _Descriptors(stdout.detach(), stderr.detach())


def _run(words: list[str], output: _Descriptors, environment: Mapping[str, str], folder: str) -> None:
    os.setsid()
    with open(os.devnull, "rb") as nothing:
        for descriptor, standard in ((nothing.fileno(), 0), (output.stdout, 1), (output.stderr, 2)):
            os.dup2(descriptor, standard)
    os.close(output.stdout)
    os.close(output.stderr)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    current._parent_process = None  # type: ignore[attr-defined]  # a shell is no process of multiprocessing
    if injector.PLAN in os.environ:
        injector.install(os.environ[injector.PLAN])
    launch(words)


def launch(words: list[str], *, at_server: Callable[[int], None] = lambda _: None) -> None:
    """Run a command in this process, and fork its server of workers from it; ends this process.

    Args:
        words: The words of the command line.
        at_server: Called with the process id of the server, before a worker is started.
    """

    def spawn(path: bytes, args: list[str], descriptors: list[int]) -> int:
        if "multiprocessing.forkserver" not in args[-1]:
            return SPAWN(path, args, descriptors)
        server = os.fork()
        if server == 0:
            _become_server(args[-1], descriptors)
        at_server(server)
        return server

    util.spawnv_passfds = spawn  # type: ignore[assignment]  # it accepts only the arguments of this call
    sys.exit(main.main(words))


def _become_server(program: str, descriptors: list[int]) -> None:
    """Become the forkserver: close all descriptors except the given ones, then run its program."""
    code = 1
    try:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in descriptors:
                with suppress(OSError):  # the descriptor of the listing itself is closed already
                    os.close(int(name))
        exec(program)  # the same statement as in multiprocessing.forkserver
        code = 0
    finally:
        os._exit(code)
