"""A Ray cluster of several nodes on this machine."""

from dataclasses import dataclass, field
from typing import Any

import psutil

from search.workers.ray_backend import RayBackend
from tests.harness import wait_until

#: Environment of a Ray cluster of several nodes that only this machine reaches; see `search.workers.ray_backend.OWN`.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
STORE_BYTES = 80_000_000
#: Ray notices a dead node after about a second (by default after a quarter of a minute or more). A busy node is not
#: taken for a dead one: a check fails at once only if nothing listens, otherwise after ten seconds without an answer.
QUICK_HEALTH_CHECKS = {"health_check_period_ms": 300, "health_check_failure_threshold": 3}


@dataclass(frozen=True, slots=True)
class Nodes:
    """A cluster of several nodes on this machine; its head node has no room for workers."""

    cluster: Any
    joined: list[psutil.Process] = field(default_factory=list)
    """The raylet processes of all nodes that ever joined."""

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def join(self, **variables: str) -> psutil.Process:
        """Add a node with room for one worker and these environment variables; its raylet process."""
        node = self.cluster.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, include_log_monitor=False, env_vars=variables
        )
        self.joined.append(psutil.Process(node.all_processes["raylet"][0].process.pid))
        return self.joined[-1]

    def only(self) -> psutil.Process:
        """The only node with room: one that an earlier test left alive, or a new one; all others are killed."""
        kept = next(filter(is_running, self.joined), None)
        self.clear(kept)
        return kept or self.join()

    def clear(self, kept: psutil.Process | None = None) -> None:
        """Kill all nodes with room, except `kept`, and wait until Ray has noticed that they are dead."""
        for node in self.joined:
            if node != kept:
                die(node)
        wait_until(lambda: len(self.alive()) == (1 if kept is None else 2))

    def backend(self) -> RayBackend:
        """A backend on the cluster, with workers on CPUs."""
        return RayBackend(
            address=self.address, devices=("cpu",), workers=None, device="cpu", worker_bytes=1, one_machine=False
        )

    def alive(self) -> list[dict[str, Any]]:
        """The nodes that Ray takes for alive, the head included."""
        return [node for node in self.cluster.global_state.node_table() if node["Alive"]]


def is_running(node: psutil.Process) -> bool:
    return node.is_running() and node.status() != psutil.STATUS_ZOMBIE


def die(node: psutil.Process) -> None:
    """Kill all processes of a node if it still runs."""
    if node.is_running():
        for process in (node, *node.children(recursive=True)):
            process.kill()
