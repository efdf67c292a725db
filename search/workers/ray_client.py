"""A driver of a Ray cluster: connects to it and lists its machines.

Ray is an optional dependency and is imported where it is used.
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
    """Connect to a Ray cluster as a driver. Its actors end with this process, even if the process is killed.

    Args:
        address: HOST:PORT of the cluster.

    Raises:
        ClusterError: the cluster does not answer, or refuses the connection.
    """
    check_reachable(address)
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # Ray would print the death of a worker on stdout; the log of the trial has it.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    previous_handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own types
        raise ClusterError(f"the Ray cluster at {address} cannot be used: {last_line(error)}") from error
    finally:
        signal.signal(signal.SIGTERM, previous_handler)  # Ray's handler would exit at once
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Check that the address accepts a connection within `REACH_S` seconds.

    Raises:
        ClusterError: the connection failed.
    """
    try:
        socket.create_connection(host_and_port(address), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {error}") from error


def host_and_port(address: str) -> tuple[str, int]:
    """Split HOST:PORT; the brackets of an IPv6 address are removed.

    Raises:
        UsageError: `address` has another form.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--address must be HOST:PORT, as `ray start --head` says it, but got {address!r}")
    return host.strip("[]"), int(port)


def alive_nodes() -> dict[str, Mapping[str, Any]]:
    """The live machines of the cluster, by Ray node ID.

    Raises:
        ClusterError: the cluster does not answer.
    """
    import ray

    try:
        return {str(node["NodeID"]): node for node in ray.nodes() if node["Alive"]}
    except Exception as error:  # Ray raises errors of many types
        raise ClusterError(f"the Ray cluster does not answer: {last_line(error)}; the same command goes on") from error


def is_ready(answer: Any) -> bool:
    import ray

    return bool(ray.wait([answer], timeout=0)[0])


def last_line(error: BaseException) -> str:
    """The last line of an error message, without Ray's list of possible causes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(" Some common causes")[0] if lines else type(error).__name__
