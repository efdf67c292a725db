"""What a pool tells its worker: plain values that travel to another process."""

from dataclasses import dataclass, field

from search.storage.timeouts import Timeouts


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What a pool tells its worker."""

    url: str = field(repr=False)  # it may hold a password
    study: str
    token: str
    """What the worker signs its leases with; its pool renews and ends them by it."""
    cache: str
    """Folder of the decoded images."""
    images: str | None = None
    """Where they are decoded from on this machine; None is where the study says."""
    device: str = ""
    """As torch names it: cpu, cuda:0, ..."""
    threads: int = 1
    """That compute for it."""
    workers: int = 1
    """That work at the same time, this one included."""
    core: int | None = None
    """The one it runs on; None is any."""
    retry_timeout_s: float = Timeouts().retry_timeout_s
    """How long a storage call tries again."""
