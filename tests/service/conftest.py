"""Shared by the tests of the whole service: a study of one trial of some seconds, run once without any fault."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import LONG, Harness
from tests.service.ray_nodes import LOOPBACK, QUICK_HEALTH_CHECKS, STORE_BYTES, Nodes


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Harness:
    """A harness in which the study LONG has been run to its end without a fault."""
    harness = Harness(tmp_path_factory.mktemp("undisturbed"), images, cache)
    answer = harness.train(**LONG)
    assert answer.code == 0, answer.err
    return harness


@pytest.fixture(scope="session")
def nodes(shared: Path) -> Iterator[Nodes]:
    """A Ray cluster whose nodes join one by one, the only one of a test run."""
    (shared / "ray").touch(exist_ok=False)  # fails if xdist does not keep the tests on Ray in one process
    os.environ.update(LOOPBACK | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})  # read when Ray is loaded

    from ray.cluster_utils import Cluster

    from search.workers import ray_head

    ray_head.leave_out_api_server()
    head = {
        "num_cpus": 0,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "_system_config": QUICK_HEALTH_CHECKS,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()
