"""What the tests of the whole service share: a trial that lasts some seconds, run once without any disturbance."""

from pathlib import Path

import pytest

from tests.lab import LONG, Lab


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Lab:
    """A place in which the study LONG was run from its beginning to its end."""
    lab = Lab(tmp_path_factory.mktemp("undisturbed"), images, cache)
    answer = lab.run("run", lab.write(**LONG), "--workers", "1")
    assert answer.code == 0, answer.err
    return lab
