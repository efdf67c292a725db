"""A Ray cluster of several nodes on this machine."""

from dataclasses import dataclass
from typing import Any

import psutil

#: Environment of a Ray cluster of several nodes that only this machine reaches; see `search.workers.ray_backend.OWN`.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
STORE_BYTES = 80_000_000
#: Ray notices a dead node after five seconds (by default after a quarter of a minute or more).
QUICK_HEALTH_CHECKS = {"health_check_period_ms": 500, "health_check_failure_threshold": 10}


@dataclass(frozen=True, slots=True)
class Nodes:
    """A cluster of several nodes on this machine; its head node has no room for workers."""

    cluster: Any

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def join(self, **variables: str) -> psutil.Process:
        """Add a node with room for one worker and these environment variables; its raylet process."""
        node = self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, env_vars=variables)
        return psutil.Process(node.all_processes["raylet"][0].process.pid)


def die(node: psutil.Process) -> None:
    """Kill all processes of a node if it still runs."""
    if node.is_running():
        for process in (node, *node.children(recursive=True)):
            process.kill()
