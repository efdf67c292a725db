"""Shared by the tests of faults: images without a test part. A search that opened a test image would fail."""

from pathlib import Path

import pytest

from search.spec import study_spec
from search.study import inputs
from tests.harness import Harness, quiet


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A cache of decoded images without the test images (I6)."""
    folder = tmp_path_factory.mktemp("cache-without-test-images")
    tables = Harness(folder, images, folder).tables()
    inputs.prepare_data(study_spec.build(tables), folder, quiet)
    test_files = sorted(folder.glob("sets/*/test*"))
    assert test_files, "the test images lie elsewhere now"
    for path in test_files:
        path.unlink()
    return folder
