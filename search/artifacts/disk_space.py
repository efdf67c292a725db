"""How much room the files of the studies have, so that a run ends in good order before it is used up.

The room ends where `--disk` says, or where the file system has no more than a reserve left, whichever comes first. A
run looks at it before it begins and then every LOOK_S seconds, and ends when its workers may write more until the next
look than there is room for.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from search.artifacts import cleanup, study_dir
from search.console import count_workers
from search.errors import ConvsearchError, DiskError

#: Between two looks, as RabbitMQ does it at the least (https://www.rabbitmq.com/docs/disk-alarms).
CHECK_INTERVAL_S = 10.0
#: What is left to others on the file system, and to the database, which cannot even roll back on a full disk: ten times
#: what RabbitMQ leaves; of a small file system as much as ext4 leaves to root (mke2fs -m).
RESERVE_BYTES, RESERVE_SHARE = 500_000_000, 0.05
#: What workers may write at least until the next look: rows, logs, and first checkpoints, whose size nobody knows yet.
MIN_BYTES = 64_000_000
#: Checkpoints that a worker has at the most: the last two, and one half-written (checkpoint.KEEP).
OF_A_WORKER = 3
#: Checkpoints that a finished trial keeps if it is among the best.
OF_THE_BEST = 2
#: A warning comes when this share of the budget is used, or the room is less than this multiple of the need.
TIGHT_SHARE, TIGHT_TIMES = 0.8, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskUsage:
    """What one look found, in bytes."""

    used: int
    """By all studies in the home folder, and their database."""
    checkpoints: int
    """How many this study has."""
    largest: int
    """The largest of them; 0 before the first."""
    free: int
    """On the file system."""
    total: int
    """Size of the file system."""
    workers: int
    budget: int | None
    """What the studies may use; None is all but the reserve."""

    @property
    def reserve(self) -> int:
        """What stays free on the file system."""
        return min(RESERVE_BYTES, int(self.total * RESERVE_SHARE))

    @property
    def left(self) -> int:
        """What may still be written; negative if it is too much already."""
        on_disk = self.free - self.reserve
        return on_disk if self.budget is None else min(on_disk, self.budget - self.used)

    @property
    def is_capped(self) -> bool:
        """It is the budget that ends the room, and not the disk."""
        return self.budget is not None and self.budget - self.used <= self.free - self.reserve

    @property
    def needed(self) -> int:
        """What may be written until the next look."""
        missing = max(0, cleanup.KEEP_BEST * OF_THE_BEST - self.checkpoints)
        return max(MIN_BYTES, (self.workers * OF_A_WORKER + missing) * self.largest)

    @property
    def is_full(self) -> bool:
        """A run must end, or must not begin."""
        return self.left < self.needed

    @property
    def is_tight(self) -> bool:
        """It is full, or will be soon."""
        used_up = self.budget is not None and self.used >= TIGHT_SHARE * self.budget
        return used_up or self.left < TIGHT_TIMES * self.needed

    @property
    def enough(self) -> float:
        """A budget in GB, for people, under which it would not be tight."""
        return math.ceil(max(self.used / TIGHT_SHARE, self.used + TIGHT_TIMES * self.needed) / 1e8) / 10


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskBudget:
    """The room of one run."""

    url: str
    """Of the database, beside which the files lie."""
    study: str
    workers: int
    budget: int | None = None
    """Bytes that all studies in the home folder may use together; None is all but the reserve."""

    def check(self) -> str | None:
        """Look whether there is room; what to warn of, if it is getting tight.

        Raises:
            DiskError: there is none, with the figures and the way out.
        """
        found = self.look()
        if found.is_full:
            raise DiskError(
                f"{self._how_it_stands(found)}, and a run of {count_workers(found.workers)} may write "
                f"{text(found.needed)} until it is looked at again; nothing is lost: {self._way_out(found)}, then "
                f"`convsearch resume {self.study}` goes on"
            )
        if not found.is_tight:
            return None
        return (
            f"the disk: {self._how_it_stands(found)}; the run ends when fewer than {text(found.needed)} are left: "
            f"{self._way_out(found)}"
        )

    def look(self) -> DiskUsage:
        """Look at the files and at the file system; for 1,000 trials that takes some 30 ms on two busy cores."""
        place = study_dir.of(self.url)
        mine = f"{place.study(self.study)}/"
        used, checkpoints, largest = 0, 0, 0
        for file in place.files():
            size = study_dir.bytes_of(file)
            used += size
            if file.name.endswith(study_dir.CHECKPOINT) and file.path.startswith(mine):
                checkpoints, largest = checkpoints + 1, max(largest, size)
        disk = disk_usage(_nearest(place.root))
        return DiskUsage(
            used=used,
            checkpoints=checkpoints,
            largest=largest,
            free=disk.free,
            total=disk.total,
            workers=self.workers,
            budget=self.budget,
        )

    def _how_it_stands(self, found: DiskUsage) -> str:
        root = study_dir.of(self.url).root
        if found.is_capped:
            return f"the studies in {root} use {text(found.used)} of the {text(found.budget or 0)} that --disk allows"
        return f"the disk of {root} has {text(found.free)} free, of which {text(found.reserve)} stay in reserve"

    def _way_out(self, found: DiskUsage) -> str:
        spare = self._spare()
        clean = f"`convsearch clean` frees {text(spare)}, " if spare else ""
        more = f"allow more (--disk {found.enough:g})" if found.is_capped else "keep the studies on another (--storage)"
        return f"make room ({clean}`convsearch delete STUDY` all that a study has) or {more}"

    def _spare(self) -> int:
        with suppress(ConvsearchError):  # what stopped us is what to tell
            return cleanup.reclaimable_bytes(self.url)
        return 0


def text(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.1f} MB"


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
