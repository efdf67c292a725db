"""What this machine offers to workers: cores, memory, GPUs."""

import os
from pathlib import Path

import psutil

from search.errors import UsageError

#: Memory of one worker: torch alone takes 0.4 GB, a batch of 512 images through a wide network 1 GB more.
WORKER_BYTES = 1_500_000_000
#: Of one that trains all of a resnet50 with 128 images at once, which takes the most of the backbones: 4.4 GB.
BACKBONE_BYTES = 4_500_000_000


def cores() -> int:
    """Cores that this process may use: its CPU affinity, and the quota of its control group, rounded down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def memory() -> int:
    """Bytes that are free for workers: of the machine, or of the control group if that has less."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    return free if limit is None or used is None else min(free, max(0, limit - used + _reclaimable(group)))


def gpus() -> int:
    """NVIDIA GPUs that this process sees, found without loading torch (which takes seconds)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def devices(workers: int | None, *, device: str | None = None, worker_bytes: int = WORKER_BYTES) -> tuple[str, ...]:
    """The device of each worker: one worker a GPU, else one a core as far as memory reaches, unless told otherwise.
    `worker_bytes`: of memory that each takes.

    Raises:
        UsageError: cuda is asked for, and there is none.
    """
    found = gpus()
    if device == "cuda" and not found:
        raise UsageError("--device cuda needs an NVIDIA GPU that this process can see, and there is none; leave it out")
    if device == "cpu" or (device is None and not found):
        return ("cpu",) * (workers or max(1, min(cores(), memory() // worker_bytes)))
    return tuple(f"cuda:{index % found}" for index in range(workers or found))


def assign_cores(devices: tuple[str, ...]) -> tuple[int | None, ...]:
    """The core of each worker, where they are as many as the cores; else None for all.

    Fewer are not tied to any, because those of another run might be tied to the same.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) != len(devices) or set(devices) != {"cpu"}:
        return (None,) * len(devices)
    return tuple(allowed)


def _quota(file: Path) -> float | None:
    """Cores that a control group may use: `max 100000` is no limit, `150000 100000` is 1.5."""
    if not file.exists():
        return None
    limit, period = file.read_text().split()
    return None if limit == "max" else int(limit) / int(period)


def _reclaimable(group: Path) -> int:
    """Bytes of cached files that the kernel gives up when memory is wanted; they count as used."""
    file = group / "memory.stat"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _number(file: Path) -> int | None:
    text = file.read_text().strip() if file.exists() else "max"
    return None if text == "max" else int(text)
