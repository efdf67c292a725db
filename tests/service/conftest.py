"""Shared by the tests of the whole service: a study of one trial of some seconds, run once without any fault."""

from pathlib import Path

import pytest

from tests.harness import LONG, Harness


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Harness:
    """A harness in which the study LONG has been run to its end without a fault."""
    harness = Harness(tmp_path_factory.mktemp("undisturbed"), images, cache)
    answer = harness.run("run", harness.write(**LONG), "--workers", "1")
    assert answer.code == 0, answer.err
    return harness
