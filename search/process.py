"""Processes: identity, CPU pinning, malloc settings, and termination with the parent."""

import ctypes
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

#: From linux/prctl.h: option for the signal that a process receives when its parent dies.
PR_SET_PDEATHSIG = 1
#: Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
#: Minimum heap growth in bytes (M_TOP_PAD), for fewer calls of brk(2): the output of one layer takes about ten million.
TOP_PAD_BYTES = 64 * 2**20
#: Value of M_TRIM_THRESHOLD that never returns memory to the kernel.
NEVER = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOwner:
    """The identity of a process, from which another process on the machine can determine whether it is alive."""

    token: str
    """Unique secret of this owner. Writes require it."""
    host: str
    boot: str
    """Boot of the machine and PID namespace, in which a pid is unique."""
    pid: int
    started: float
    """Start time of the process in seconds, from `start_time`."""


def this_process(token: str) -> LeaseOwner:
    """The owner for the calling process, with this secret token."""
    pid = os.getpid()
    return LeaseOwner(token=token, host=socket.gethostname(), boot=boot_id(), pid=pid, started=start_time(pid) or 0.0)


def boot_id() -> str:
    """The current boot of this machine, and the PID namespace, which is empty on systems without namespaces."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{boot_id.read_text().strip() if boot_id.exists() else psutil.boot_time()}/{_target(namespace)}"


def start_time(pid: int) -> float | None:
    """The start time of a process, unaffected by changes of the wall clock.

    On Linux it is the time since the boot, from /proc/PID/stat (proc(5)): psutil adds the wall-clock time of the boot,
    which moves when the clock is set.

    Args:
        pid: The process on this machine.

    Returns:
        Seconds, or None if the process does not run.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return process.create_time()
        # Field 22; field 2, the name, may contain anything.
        ticks = stat.read_text(errors="replace").rpartition(")")[2].split()[19]
        return int(ticks) / os.sysconf("SC_CLK_TCK")
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def is_dead(pid: int, since: float) -> bool:
    """Whether a process on this machine has ended.

    Args:
        pid: Its process number.
        since: Its start time in seconds, from `start_time`.
    """
    try:
        now = start_time(pid)
    except psutil.AccessDenied:
        return False
    if now is None:
        return not _is_hidden(pid)
    return abs(now - since) >= 1.0


def die_with_parent() -> None:
    """Kill this process when its parent dies (prctl(2); does nothing outside Linux)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the two lines
        os.kill(os.getpid(), signal.SIGKILL)


def pin_and_tune(core: int | None) -> None:
    """Pin this process to a core if one is given, and keep freed memory in the process."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})
    tune_malloc()


def tune_malloc() -> None:
    """Keep freed memory for the next batch; by default glibc returns every large tensor to the kernel.

    The kernel must then find and clear new pages for each tensor: without that, 3,800 images per second became 4,700 in
    bfloat16, and 2,040 became 2,150 in float32 (studies/LOG.md). Other C libraries are left unchanged.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, NEVER)
    library.mallopt(M_TOP_PAD, TOP_PAD_BYTES)


def _is_hidden(pid: int) -> bool:
    """Whether the process exists but is hidden from this user (proc(5), hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _target(link: Path) -> str:
    return os.readlink(link) if link.exists() else ""
