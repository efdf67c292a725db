"""A worker that hangs, and timeouts after which that is noticed."""

import os
import signal
import threading

from search.storage.retry import Timeouts
from tests.harness import Harness, locked, wait_until

#: Shorter timeouts than those of the product, in the same order.
SHORT = Timeouts(retry_timeout_s=5.0, renewal_interval_s=1.0, lease_timeout_s=30.0, hang_timeout_s=12.0)


def freeze_at(harness: Harness, *, steps: int) -> threading.Thread:
    """Freeze the worker with SIGSTOP when trial 0 has `steps` steps, at a moment when the worker holds no lock."""

    def freeze() -> None:
        wait_until(lambda: harness.workers() and harness.steps() >= steps)
        with locked(harness.url):
            os.kill(harness.workers()[0], signal.SIGSTOP)

    thread = threading.Thread(target=freeze)
    thread.start()
    return thread
