"""What asks a launcher to stop, heard by a thread of its own, so that it is answered at once whatever else goes on.

Python runs signal handlers in the main thread only, and between two of its instructions: a main thread that waits for a
locked database inside SQLite answers seconds later. The byte that `signal.set_wakeup_fd` sends arrives at once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

#: A terminal, `timeout` and systemd send them to every process of the group at once.
STOPPING = (signal.SIGINT, signal.SIGTERM)
#: GNU make hands on the SIGTERM that the whole group got already, so that one request comes twice, at once.
ECHO_S = 1.0


@dataclass(slots=True)
class Interrupts:
    """Listens for Ctrl-C and SIGTERM. The first one asks; the second one ends this process."""

    at_once: Callable[[], None]
    """Called at the second signal, just before this process ends."""
    first: int | None = None
    """The first signal that came."""
    _came: float = 0.0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear them inside this block, which must be the main thread's."""
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in STOPPING}
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(theirs)

    def _listen(self, pipe: int) -> None:
        while sent := os.read(pipe, 1):
            if sent[0] not in STOPPING:
                continue
            if self.first is None:
                self.first, self._came = sent[0], time.monotonic()
                say("\nstopping: trials go back to the queue with a checkpoint (Ctrl-C again: at once)\n")
                continue
            if sent[0] == signal.SIGTERM and time.monotonic() - self._came < ECHO_S:
                continue
            try:
                self.at_once()
                say("\nstopped at once; the same command goes on\n")
            finally:
                os._exit(128 + sent[0])
        os.close(pipe)


def say(text: str) -> None:
    """Write to stderr at once, whatever another thread is writing, if anybody still listens."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), text.encode())
