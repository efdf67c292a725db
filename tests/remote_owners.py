"""Lease owners on other machines, and short timeouts for commands that wait for them."""

from dataclasses import replace

from search.process import LeaseOwner, this_process
from search.storage.retry import Timeouts

#: Short timeouts, for commands that give up quickly.
HASTY = Timeouts(retry_timeout_s=0.01, renewal_interval_s=0.1, lease_timeout_s=0.5, hang_timeout_s=1.0)


def far(token: str) -> LeaseOwner:
    """A worker of another machine; this machine cannot check whether its process lives."""
    return replace(this_process(token), host="elsewhere", boot="another")
