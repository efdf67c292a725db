"""Transient errors are retried; permanent errors are raised at once."""

import pytest

from search.storage import retry
from search.storage.retry import retry_transient


class Flaky:
    """Fails the first `failures` calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError("the server is starting up")
        return "done"


def is_connection(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_a_call_is_retried_until_it_succeeds() -> None:
    call = Flaky(3)

    assert retry_transient(call, passes=is_connection, retry_timeout_s=30) == "done"
    assert call.calls == 4


def test_a_permanent_error_is_raised_at_once() -> None:
    call = Flaky(3)

    with pytest.raises(ConnectionError):
        retry_transient(call, passes=lambda _: False, retry_timeout_s=30)
    assert call.calls == 1


def test_the_last_error_is_raised_after_the_retry_timeout() -> None:
    call = Flaky(1_000_000)

    with pytest.raises(ConnectionError, match="starting up"):
        retry_transient(call, passes=is_connection, retry_timeout_s=0.2)
    assert call.calls > 1


def test_a_long_wait_prints_its_reason_once(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "NOTICE_S", 0.1)

    retry_transient(Flaky(6), passes=is_connection, retry_timeout_s=30)

    assert capfd.readouterr().err == "waiting for the database: the server is starting up\n"


def test_a_short_wait_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    retry_transient(Flaky(2), passes=is_connection, retry_timeout_s=30)

    assert capfd.readouterr().err == ""
