"""A dashboard that runs in a thread of the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from search.dashboard.server import Server

TOKEN = "a-token_that-every-test-knows"


@contextmanager
def running(server: Server) -> Iterator[int]:
    """Run a server; yields its port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
