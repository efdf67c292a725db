"""Marks for tests that run on both databases."""

import pytest

#: Runs a test, or all tests of a file, on both databases; the test takes the fixture `url`.
BOTH = [
    pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True),
    # In production a storage and its psycopg connection live as long as the process; here a storage ends with its test.
    pytest.mark.filterwarnings("ignore:.*Connection object at .* was deleted while still open:ResourceWarning"),
]
