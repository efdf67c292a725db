"""Workers of other machines, of whom only their leases are there, and how long who watches them waits."""

from dataclasses import replace

from search.process import LeaseOwner, this_process
from search.storage.retry import Timeouts

#: Of a command that waits for nobody for long.
HASTY = Timeouts(retry_timeout_s=0.01, renewal_interval_s=0.1, lease_timeout_s=0.5, hang_timeout_s=1.0)


def far(token: str) -> LeaseOwner:
    """A worker of another machine, so that nobody here can look whether it lives."""
    return replace(this_process(token), host="elsewhere", boot="another")
