"""A worker process: one thread that runs trials until there is none left to claim, or a signal comes.

This file loads no torch, so that the pool can name `main` as what a process shall do; the process itself is forked from
a server that has torch loaded already, and so is at work within a second.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import Synchronized
from types import FrameType

import optuna

from data.errors import DataError
from search import process
from search.console import echo
from search.errors import ConvsearchError, DatabaseError
from search.process import die_with_parent
from search.trial.context import WorkerConfig
from search.workers.signals import STOPPING

#: What the server that workers are forked from loads in advance; torch would load the last at the first optimizer.
PRELOAD = ["search.workers.preload", "search.trial.runner", "torch._dynamo"]
#: Exit status of a process that SIGTERM ended, as a shell reports it.
TERMINATED = 128 + signal.SIGTERM
#: Makes a worker write the stacks of its threads, even from within a loop in C.
STACK_SIGNAL = signal.SIGUSR1


@dataclass(slots=True)
class Signals:
    """SIGTERM asks for a stop between two batches. Ctrl-C and the end of a terminal reach the whole group; only the
    pool answers them.
    """

    stop: bool = False

    def listen(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # see hand.start_server

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop = True


def main(worker_config: WorkerConfig, beats: "Synchronized[int]", stack: Connection) -> None:
    """The life of a worker process. `beats` counts its batches, so that the pool sees that it moves; if it does not,
    the pool asks for its `stack`.
    """
    faulthandler.register(STACK_SIGNAL, file=stack.fileno())
    signals = Signals()
    signals.listen()
    die_with_pool()
    code, why = work(worker_config, beating(beats), lambda: signals.stop)
    if why:
        echo(f"convsearch: {why}")
    sys.exit(code)


def work(worker_config: WorkerConfig, beat: Callable[[], None], stopping: Callable[[], bool]) -> tuple[int, str]:
    """The work of a worker process; returns its exit code and a message."""
    process.pin_and_tune(worker_config.core)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    from search.trial.runner import run_trials

    try:
        run_trials(worker_config, beat, stopping)
    except (ConvsearchError, DataError) as error:
        if stopping() and isinstance(error, DatabaseError):
            return TERMINATED, ""  # there was no time to wait for it; the pool puts the trial back
        return error.exit_code, str(error)
    return (TERMINATED if stopping() else 0), ""


def beating(beats: "Synchronized[int]") -> Callable[[], None]:
    """A function that counts up `beats`; its only writer is this process, so that it needs no lock."""

    def beat() -> None:
        beats.value += 1

    return beat


def die_with_pool() -> None:
    """Be killed when the pool or the server dies, so that no orphan trains on.

    The pool is followed by a thread, which works everywhere; the server, which Linux ends with the pool, by Linux.
    """
    pool = multiprocessing.parent_process()
    if pool is not None:
        threading.Thread(target=_follow, args=(pool.sentinel,), daemon=True).start()
    die_with_parent()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
