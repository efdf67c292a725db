"""Disk space for the files of all studies, checked to end a run cleanly before it is used up.

The limit is `--disk`, or the free space of the file system minus a reserve, whichever is reached first. A run checks it
before it begins and then every CHECK_INTERVAL_S seconds. It ends when its workers may write more until the next check
than the space that is left.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from shutil import disk_usage

from search.artifacts import cleanup, files, study_dir
from search.console import count_workers
from search.errors import ConvsearchError, DiskError

#: Interval of checks in seconds, the minimum of RabbitMQ (https://www.rabbitmq.com/docs/disk-alarms).
CHECK_INTERVAL_S = 10.0
#: Space reserved for other programs and for the database, which cannot even roll back on a full disk: ten times the
#: limit of RabbitMQ; on a small file system the share that ext4 reserves for root (mke2fs -m).
RESERVE_BYTES, RESERVE_SHARE = 500_000_000, 0.05
#: Least amount that workers may write until the next check: rows, logs, and first checkpoints of unknown size.
MIN_BYTES = 64_000_000
#: Maximum number of checkpoints of a worker: the last two, and a half-written one (checkpoint.KEEP).
OF_A_WORKER = 3
#: Checkpoints that a finished trial keeps if it is among the best.
OF_THE_BEST = 2
#: Thresholds of the warning: this share of the budget is used, or less than this multiple of the need is left.
TIGHT_SHARE, TIGHT_TIMES = 0.8, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskUsage:
    """Result of one check, in bytes."""

    used: int
    """Size of all studies in the home folder and of their database."""
    checkpoints: int
    """Number of checkpoints of this study."""
    largest: int
    """Size of the largest checkpoint; 0 before the first."""
    free: int
    """Free space of the file system."""
    total: int
    """Size of the file system."""
    workers: int
    budget: int | None
    """Limit of all studies together; None means everything except the reserve."""

    @property
    def reserve(self) -> int:
        """Space that stays free on the file system."""
        return min(RESERVE_BYTES, int(self.total * RESERVE_SHARE))

    @property
    def left(self) -> int:
        """Bytes that may still be written; negative if the limit is exceeded."""
        on_disk = self.free - self.reserve
        return on_disk if self.budget is None else min(on_disk, self.budget - self.used)

    @property
    def is_capped(self) -> bool:
        """Whether the budget is reached before the file system is full."""
        return self.budget is not None and self.budget - self.used <= self.free - self.reserve

    @property
    def needed(self) -> int:
        """Bytes that may be written until the next check."""
        missing = max(0, cleanup.KEEP_BEST * OF_THE_BEST - self.checkpoints)
        return max(MIN_BYTES, (self.workers * OF_A_WORKER + missing) * self.largest)

    @property
    def is_full(self) -> bool:
        """Whether a run must end, or must not begin."""
        return self.left < self.needed

    @property
    def is_tight(self) -> bool:
        """Whether the space is used up, or will be soon."""
        used_up = self.budget is not None and self.used >= TIGHT_SHARE * self.budget
        return used_up or self.left < TIGHT_TIMES * self.needed

    @property
    def enough(self) -> float:
        """Smallest budget in GB that gives no warning, rounded up for messages."""
        return math.ceil(max(self.used / TIGHT_SHARE, self.used + TIGHT_TIMES * self.needed) / 1e8) / 10


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskBudget:
    """Disk space of one run."""

    url: str
    """URL of the database; the files lie beside it."""
    study: str
    workers: int
    budget: int | None = None
    """Bytes that all studies in the home folder may use together; None means everything except the reserve."""

    def check(self) -> str | None:
        """Check the free space.

        Returns:
            A warning if little is left, otherwise None.

        Raises:
            DiskError: the space is used up; with the figures and the remedy.
        """
        usage = self.measure()
        if usage.is_full:
            raise DiskError(
                f"{self._describe(usage)}, and a run of {count_workers(usage.workers)} may write "
                f"{text(usage.needed)} until the next check; nothing is lost: {self._remedy(usage)}, then "
                f"`convsearch resume {self.study}` goes on"
            )
        if not usage.is_tight:
            return None
        return (
            f"the disk: {self._describe(usage)}; the run ends when fewer than {text(usage.needed)} are left: "
            f"{self._remedy(usage)}"
        )

    def measure(self) -> DiskUsage:
        """Measure the files and the file system. 1,000 trials take some 30 ms on two busy cores."""
        dirs = study_dir.of(self.url)
        prefix = f"{dirs.study(self.study)}/"
        used, checkpoints, largest = 0, 0, 0
        for file in dirs.files():
            size = files.bytes_of(file)
            used += size
            if file.name.endswith(study_dir.CHECKPOINT) and file.path.startswith(prefix):
                checkpoints, largest = checkpoints + 1, max(largest, size)
        disk = disk_usage(files.nearest_existing(dirs.root))
        return DiskUsage(
            used=used,
            checkpoints=checkpoints,
            largest=largest,
            free=disk.free,
            total=disk.total,
            workers=self.workers,
            budget=self.budget,
        )

    def _describe(self, usage: DiskUsage) -> str:
        root = study_dir.of(self.url).root
        if usage.is_capped:
            return f"the studies in {root} use {text(usage.used)} of the {text(usage.budget or 0)} that --disk allows"
        return f"the disk of {root} has {text(usage.free)} free, of which {text(usage.reserve)} stay in reserve"

    def _remedy(self, usage: DiskUsage) -> str:
        reclaimable = self._reclaimable()
        clean = f"`convsearch clean` frees {text(reclaimable)}, " if reclaimable else ""
        more = (
            f"allow more (--disk {usage.enough:g})"
            if usage.is_capped
            else "keep the studies on another disk (--storage)"
        )
        return f"make room ({clean}`convsearch delete STUDY` all that a study has) or {more}"

    def _reclaimable(self) -> int:
        with suppress(ConvsearchError):  # the disk error matters more than this one
            return cleanup.reclaimable_bytes(self.url)
        return 0


def text(size: int) -> str:
    """Format a number of bytes for messages."""
    return f"{size / 1e9:.2f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.1f} MB"
