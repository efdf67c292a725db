"""Being a driver of a Ray cluster: reach it, join it, ask for its machines.

Ray is an extra, and loaded where it is used.
"""

import logging
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from search.errors import ClusterError, UsageError

#: Connection timeout in seconds; Ray's own is a minute.
REACH_S = 5.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a Ray cluster; its actors end when this process does, however it ends.

    Raises:
        ClusterError: nobody answers there, or not to us.
    """
    check_reachable(address)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # It would print on stdout what it thinks of a worker that died; we say that in the log of its trial.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    answer = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises what it meets: ConnectionError, RuntimeError, ValueError, its own
        raise ClusterError(f"the Ray cluster at {address} cannot be used: {last_line(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, answer)  # Ray would have us leave at once
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """See that somebody answers there.

    Raises:
        ClusterError: nobody does.
    """
    try:
        socket.create_connection(host_and_port(address), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT.

    Raises:
        UsageError: it is something else.
    """
    name, _, port = address.rpartition(":")
    if not name or not port.isdecimal():
        raise UsageError(f"--address must be HOST:PORT, as `ray start --head` says it, but got {address!r}")
    return name.strip("[]"), int(port)


def alive_nodes() -> dict[str, Mapping[str, Any]]:
    """The machines of the cluster that live, by the number that Ray gave them."""
    import ray

    try:
        return {str(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}
    except Exception as error:  # Ray raises what it meets
        raise ClusterError(f"the Ray cluster does not answer: {last_line(error)}; the same command goes on") from error


def is_ready(answer: Any) -> bool:
    import ray

    return bool(ray.wait([answer], timeout=0)[0])


def last_line(error: BaseException) -> str:
    """The last line of what went wrong, without Ray's guesses at causes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(" Some common causes")[0] if lines else type(error).__name__
