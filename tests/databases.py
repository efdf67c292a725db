"""Marks for tests that run on both databases."""

import pytest

#: Lets the storages of a test end with it; in production a storage and its connection live as long as their process.
SHORT_STORAGES = pytest.mark.filterwarnings(
    "ignore:.*Connection object at .* was deleted while still open:ResourceWarning"
)
#: Runs a test, or all tests of a file, on both databases; the test takes the fixture `url`.
BOTH = [pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True), SHORT_STORAGES]
