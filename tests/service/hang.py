"""A worker that hangs, and timeouts after which that is noticed."""

import os
import signal
import sqlite3
import threading

from search.storage.retry import Timeouts
from tests.harness import Harness, wait_until

#: Shorter timeouts than those of the product, in the same order.
SHORT = Timeouts(retry_timeout_s=5.0, renewal_interval_s=1.0, lease_timeout_s=30.0, hang_timeout_s=12.0)


def freeze_at(harness: Harness, *, steps: int) -> threading.Thread:
    """Freeze the worker with SIGSTOP when trial 0 has `steps` steps, at a moment when the worker holds no lock."""

    def freeze() -> None:
        wait_until(lambda: harness.dirs.study("s").exists() and harness.workers() and harness.steps() >= steps)
        database = sqlite3.connect(harness.url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        os.kill(harness.workers()[0], signal.SIGSTOP)
        database.close()

    thread = threading.Thread(target=freeze)
    thread.start()
    return thread
