"""`ray start` without Ray's API server.

Without the dashboard, that server has one task: to report to Ray's makers. If usage statistics are disabled, it still
asks three clouds for their metadata, and reports that they are disabled
(ray/dashboard/modules/usage_stats/usage_stats_head.py).
"""

from typing import Any

from ray._private.node import Node
from ray.scripts import scripts


def main() -> None:
    """Entry point: the words of the command line are those of `ray`."""
    leave_out_api_server()
    scripts.main()


def leave_out_api_server() -> None:
    """Let the Ray nodes that this process starts have no API server."""
    Node.start_api_server = _start_nothing


def _start_nothing(_node: Node, **_: Any) -> None:
    """Replaces `Node.start_api_server`."""


if __name__ == "__main__":
    main()
