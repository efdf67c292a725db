"""Contradictory timeouts are refused."""

import pytest

from search.errors import UsageError
from search.storage.retry import Timeouts


def test_the_default_timeouts_are_consistent() -> None:
    times = Timeouts()

    assert times.retry_timeout_s > 60  # outlasts a database that is locked for a minute
    assert times.lease_timeout_s > times.retry_timeout_s + 3 * times.renewal_interval_s


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"lease_timeout_s": 130.0}, "three renewals, 130 s, but got 130 s"),
        ({"renewal_interval_s": 20.0}, "three renewals, 160 s, but got 150 s"),
        ({"retry_timeout_s": 100.0}, "a lease must last longer"),
        ({"hang_timeout_s": 100.0}, "--hang must be more than 100 s"),
    ],
)
def test_contradictory_timeouts_are_refused_with_the_rule(times: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Timeouts(**times)
