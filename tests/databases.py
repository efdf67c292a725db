"""The databases that a test runs on."""

import pytest

#: What makes a test, or all of a file, one of both databases; it takes the fixture `url`.
BOTH = [
    pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True),
    # A process keeps its storage, and psycopg its connection, until it ends; here a storage ends with its test.
    pytest.mark.filterwarnings("ignore:.*Connection object at .* was deleted while still open:ResourceWarning"),
]
