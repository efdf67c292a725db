"""A worker process: one thread that runs trials until none is left to claim, or a signal arrives.

This file does not import torch, because the pool imports it for the process target `main`. The process is forked from a
server that has torch loaded, and so starts to work within a second.
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

#: Module that loads all that a worker needs; only the fork server and Ray actors import it.
PRELOAD = "search.workers.preload"
#: Exit status of a process that SIGTERM ended, as a shell reports it.
TERMINATED = 128 + signal.SIGTERM
#: Makes a worker write the stacks of its threads, even from within a loop in C.
STACK_SIGNAL = signal.SIGUSR1


@dataclass(slots=True)
class Signals:
    """SIGTERM requests a stop between two batches. Ctrl-C and a closed terminal reach the whole group; only the pool
    answers them.
    """

    stop: bool = False

    def listen(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # see local.start_server

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self.stop = True


def main(worker_config: WorkerConfig, beats: "Synchronized[int]", stack: Connection) -> None:
    """Entry point of a worker process; exits with the code of `work`.

    Args:
        worker_config: Configuration of the worker.
        beats: Counter of finished batches, by which the pool detects a hang.
        stack: Pipe for the stack traces that the pool requests from a hung worker.
    """
    faulthandler.register(STACK_SIGNAL, file=stack.fileno())
    signals = Signals()
    signals.listen()
    die_with_pool()
    code, message = work(worker_config, beating(beats), lambda: signals.stop)
    if message:
        echo(f"convsearch: {message}")
    sys.exit(code)


def work(worker_config: WorkerConfig, beat: Callable[[], None], stopping: Callable[[], bool]) -> tuple[int, str]:
    """Run trials until none is left to claim, or a stop is requested.

    Args:
        worker_config: Configuration of the worker.
        beat: Called after each batch.
        stopping: Whether a stop was requested.

    Returns:
        The exit code of the worker, and an error message, which may be empty.
    """
    process.pin_and_tune(worker_config.core)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    from search.trial.runner import run_trials

    try:
        run_trials(worker_config, beat, stopping)
    except (ConvsearchError, DataError) as error:
        if stopping() and isinstance(error, DatabaseError):
            return TERMINATED, ""  # a stop cannot wait for the database; the pool puts the trial back
        return error.exit_code, str(error)
    return (TERMINATED if stopping() else 0), ""


def beating(beats: "Synchronized[int]") -> Callable[[], None]:
    """A function that increments `beats`. Only this process writes the counter, so it needs no lock."""

    def beat() -> None:
        beats.value += 1

    return beat


def die_with_pool() -> None:
    """Kill this process when the pool or the fork server dies, because an orphan would train on.

    A thread watches the pool, on any platform. Linux watches the fork server, which it also ends with the pool.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()
    die_with_parent()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
