"""What asks a launcher to stop, heard by a thread of its own, so that it is answered at once whatever else goes on.

Python runs signal handlers in the main thread only, and between two of its instructions: a main thread that waits for a
locked database inside SQLite answers seconds later. The byte that `signal.set_wakeup_fd` sends arrives at once.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

#: A terminal, `timeout` and systemd send them to every process of the group at once; SIGHUP, when a terminal is closed.
STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
#: GNU make hands on the SIGTERM that the whole group got already, a shell the SIGHUP: one request that comes twice, at
#: once. Nobody hands on a Ctrl-C.
ECHO_S = 1.0
#: Seconds after a request until the process exits, whatever hangs: Kubernetes kills after 30, and 20 are promised.
END_S = 18.0
#: Seconds that a listener gets at the end for signals that have arrived.
LAST_S = 1.0


@dataclass(slots=True)
class SignalListener:
    """Listens for Ctrl-C, SIGTERM and a closed terminal. The first one asks; the second one ends this process."""

    at_once: Callable[[], None]
    """Called at the second signal, or when the first one was not answered in time, just before this process ends."""
    tell: Callable[[str], None]
    """Says that the first one was heard; at once, in a thread of its own."""
    end_s: float = END_S
    first: int | None = None
    """The first signal that came."""
    _came: float = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear them inside this block, which must be the main thread's."""
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in STOPPING if is_heard(number)}
        listener = threading.Thread(target=self._listen, args=(ours,), daemon=True)
        listener.start()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(theirs)
            listener.join(LAST_S)  # it hears what came until now

    def _listen(self, pipe: int) -> None:
        while (number := self._next(pipe)) is not None:
            if self.first is None:
                self.first, self._came = number, time.monotonic()
                self._tell("stopping: trials go back to the queue with a checkpoint (Ctrl-C again: at once)")
            elif number == signal.SIGINT or time.monotonic() - self._came >= ECHO_S:
                self._leave("stopped at once")
        os.close(pipe)

    def _tell(self, text: str) -> None:
        """Say it, and wait no longer for a terminal that is held, or a pager that reads no further."""
        telling = threading.Thread(target=self.tell, args=(text,), daemon=True)
        telling.start()
        telling.join(ECHO_S / 2)  # a duplicate signal is still recognised as one

    def _next(self, pipe: int) -> int | None:
        """The next signal that asks to stop; None when we need not listen any more."""
        while True:
            left = None if self.first is None else max(0.0, self._came + self.end_s - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                self._leave(f"something hangs: stopped after {self.end_s:g} s")
            sent = os.read(pipe, 1)
            if not sent:
                return None
            if sent[0] in STOPPING:
                return sent[0]

    def _leave(self, how: str) -> NoReturn:
        try:
            say(f"\n{how}; the same command goes on\n")  # before our end lets the main thread go on, and end us too
            self.at_once()
        finally:
            os._exit(128 + (self.first or signal.SIGTERM))


def is_heard(number: int) -> bool:
    """Whether this process is meant to hear a signal: `nohup` wants it to be deaf to SIGHUP."""
    return number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN


def say(text: str) -> None:
    """Write to stderr at once, whatever another thread is writing, if anybody still listens, and reads."""
    with suppress(OSError):
        where = sys.stderr.fileno()
        if select.select([], [where], [], 0.0)[1]:
            os.write(where, text.encode())
