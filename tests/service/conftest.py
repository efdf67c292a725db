"""What the tests of the whole service share: a trial that lasts some seconds, run once without any disturbance."""

from pathlib import Path

import pytest

from tests.harness import LONG, Harness


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Harness:
    """A place in which the study LONG was run from its beginning to its end."""
    harness = Harness(tmp_path_factory.mktemp("undisturbed"), images, cache)
    answer = harness.run("run", harness.write(**LONG), "--workers", "1")
    assert answer.code == 0, answer.err
    return harness
