"""What the tests of faults share: images without a test part, so that a search that opened one would die of it."""

from pathlib import Path

import pytest

from search.spec import study_spec
from search.study import inputs
from tests.harness import Harness


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A cache of decoded images from which the test images were taken away (I6)."""
    folder = tmp_path_factory.mktemp("cache-without-test-images")
    tables = Harness(folder, images, folder).tables()
    inputs.prepare_data(study_spec.build(tables), folder, lambda _: None)
    tests = sorted(folder.glob("sets/*/test*"))
    assert tests, "the test images lie elsewhere now"
    for path in tests:
        path.unlink()
    return folder
