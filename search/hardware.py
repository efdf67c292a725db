"""Hardware resources for workers: cores, memory, GPUs."""

import os
from pathlib import Path

import psutil

from search.errors import UsageError

#: Bytes of memory per worker: torch alone takes 0.4 GB, a batch of 512 images through a wide network 1 GB more.
WORKER_BYTES = 1_500_000_000
#: Bytes per worker that trains all of a resnet50 with batches of 128, the largest of the backbones: 4.4 GB.
BACKBONE_BYTES = 4_500_000_000


def cores() -> int:
    """Number of cores for this process: its CPU affinity, limited by the quota of its control group, rounded down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def memory() -> int:
    """Free memory in bytes: of the machine, or of the control group if that has less."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    return free if limit is None or used is None else min(free, max(0, limit - used + _reclaimable(group)))


def gpus() -> int:
    """Number of NVIDIA GPUs visible to this process, found without importing torch (which takes seconds)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def devices(workers: int | None, *, device: str | None = None, worker_bytes: int = WORKER_BYTES) -> tuple[str, ...]:
    """Assign a device to each worker.

    Args:
        workers: Number of workers. Default: one per GPU; without GPUs one per core, limited by the free memory.
        device: "cpu" or "cuda". Default: "cuda" if there is a GPU.
        worker_bytes: Bytes of memory per worker.

    Returns:
        One device per worker, such as "cpu" or "cuda:0".

    Raises:
        UsageError: `device` is "cuda", and there is no GPU.
    """
    gpu_count = gpus()
    if device == "cuda" and not gpu_count:
        raise UsageError("--device cuda needs an NVIDIA GPU that this process can see, and there is none; leave it out")
    if device == "cpu" or (device is None and not gpu_count):
        return ("cpu",) * (workers or max(1, min(cores(), memory() // worker_bytes)))
    return tuple(f"cuda:{index % gpu_count}" for index in range(workers or gpu_count))


def assign_cores(devices: tuple[str, ...]) -> tuple[int | None, ...]:
    """Assign a core to each worker if there are as many CPU workers as cores, otherwise None to each.

    Fewer workers are not pinned, because the workers of another run might be pinned to the same cores.

    Args:
        devices: The device of each worker.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) != len(devices) or set(devices) != {"cpu"}:
        return (None,) * len(devices)
    return tuple(allowed)


def _quota(file: Path) -> float | None:
    """Number of cores that a control group may use: `max 100000` is no limit, `150000 100000` is 1.5."""
    if not file.exists():
        return None
    limit, period = file.read_text().split()
    return None if limit == "max" else int(limit) / int(period)


def _reclaimable(group: Path) -> int:
    """Bytes of cached files, which count as used although the kernel reclaims them on demand."""
    file = group / "memory.stat"
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _number(file: Path) -> int | None:
    text = file.read_text().strip() if file.exists() else "max"
    return None if text == "max" else int(text)
