"""Stop signals of a launcher, received by a separate thread, which answers at once even if the main thread is busy.

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

#: A terminal, `timeout` and systemd send these to every process of the group at once; SIGHUP when a terminal is closed.
STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
#: A second signal within this number of seconds is a duplicate: GNU make forwards the SIGTERM that the whole group has
#: received, a shell the SIGHUP. Ctrl-C is never forwarded.
ECHO_S = 1.0
#: Seconds from a stop request to the exit, even if something hangs: Kubernetes kills after 30, and 20 are promised.
END_S = 18.0
#: Seconds for the listener to handle signals that arrived before the end.
LAST_S = 1.0


@dataclass(slots=True)
class SignalListener:
    """Listens for Ctrl-C, SIGTERM and a closed terminal. The first requests a stop; the second ends this process."""

    at_once: Callable[[], None]
    """Called just before this process ends, at the second signal or if the first was not answered in time."""
    tell: Callable[[str], None]
    """Reports the first signal to the user, in a separate thread."""
    end_s: float = END_S
    """Seconds from the first signal to the exit."""
    first: int | None = None
    """Number of the first signal received."""
    _received_at: float = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen inside this block, which must run in the main thread."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        previous_wakeup_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in STOPPING if is_heard(number)}
        listener = threading.Thread(target=self._listen, args=(read_end,), daemon=True)
        listener.start()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_wakeup_fd)
            os.close(write_end)
            listener.join(LAST_S)  # it handles the signals received so far

    def _listen(self, pipe: int) -> None:
        while (number := self._next_signal(pipe)) is not None:
            if self.first is None:
                self.first, self._received_at = number, time.monotonic()
                self._announce("stopping: trials go back to the queue with a checkpoint (Ctrl-C again: at once)")
            elif number == signal.SIGINT or time.monotonic() - self._received_at >= ECHO_S:
                self._exit_now("stopped at once")
        os.close(pipe)

    def _announce(self, text: str) -> None:
        """Print the text, without waiting for a stopped terminal or a pager that no longer reads."""
        thread = threading.Thread(target=self.tell, args=(text,), daemon=True)
        thread.start()
        thread.join(ECHO_S / 2)  # a duplicate signal is still recognised as one

    def _next_signal(self, pipe: int) -> int | None:
        """The next stop signal; None when listening ends."""
        while True:
            remaining_s = None if self.first is None else max(0.0, self._received_at + self.end_s - time.monotonic())
            if not select.select([pipe], [], [], remaining_s)[0]:
                self._exit_now(f"something hangs: stopped after {self.end_s:g} s")
            received = os.read(pipe, 1)
            if not received:
                return None
            if received[0] in STOPPING:
                return received[0]

    def _exit_now(self, how: str) -> NoReturn:
        try:
            say(f"\n{how}; the same command goes on\n")  # first: `at_once` may let the main thread end the process
            self.at_once()
        finally:
            os._exit(128 + (self.first or signal.SIGTERM))


def is_heard(number: int) -> bool:
    """Whether this process handles a signal: under `nohup` it ignores SIGHUP."""
    return number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN


def say(text: str) -> None:
    """Write to stderr at once, even while another thread writes; does nothing if stderr is closed or full."""
    with suppress(OSError):
        stderr_fd = sys.stderr.fileno()
        if select.select([], [stderr_fd], [], 0.0)[1]:
            os.write(stderr_fd, text.encode())
