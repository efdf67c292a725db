"""A process: its identity, its core and memory, and its end together with its parent."""

import ctypes
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

#: From linux/prctl.h: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1
#: Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
#: Minimum heap growth in bytes (M_TOP_PAD): fewer calls of brk(2). The images of a layer take some ten million.
TOP_PAD_BYTES = 64 * 2**20
#: As M_TRIM_THRESHOLD: hand nothing back.
NEVER = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOwner:
    """A process, named so that another process of the same machine can tell whether it still lives."""

    token: str
    """Secret of this owner, unique for ever; a write is accepted only with it."""
    host: str
    boot: str
    """Boot of the machine and the namespace of its process numbers, so that a pid means one process."""
    pid: int
    started: float
    """When the process started, in seconds by the clock of `started()`."""


def this_process(token: str) -> LeaseOwner:
    """The owner that stands for the calling process."""
    pid = os.getpid()
    return LeaseOwner(token=token, host=socket.gethostname(), boot=boot_id(), pid=pid, started=start_time(pid) or 0.0)


def boot_id() -> str:
    """This boot of this machine, together with the process namespace; empty parts where the system has none."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{boot_id.read_text().strip() if boot_id.exists() else psutil.boot_time()}/{_target(namespace)}"


def start_time(pid: int) -> float | None:
    """When process `pid` started, in seconds by a clock that nobody can set; None if it does not run (any more).

    On Linux these are seconds since the boot, from /proc/PID/stat (proc(5)): psutil adds the wall clock of the boot,
    which moves when the clock is set.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return process.create_time()
        ticks = stat.read_text().rpartition(")")[2].split()[19]  # field 22; field 2, the name, may hold anything
        return int(ticks) / os.sysconf("SC_CLK_TCK")
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def is_dead(pid: int, since: float) -> bool:
    """Whether the process of this machine that had the number `pid` and started at `since` has ended."""
    try:
        now = start_time(pid)
    except psutil.AccessDenied:
        return False
    if now is None:
        return not _is_hidden(pid)
    return abs(now - since) >= 1.0


def die_with_parent() -> None:
    """Be killed when the parent process dies (Linux: prctl(2); elsewhere this does nothing)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the two lines
        os.kill(os.getpid(), signal.SIGKILL)


def pin_and_tune(core: int | None) -> None:
    """Settle this process: on one core if that is given, and with memory that is not handed back."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})
    tune_malloc()


def tune_malloc() -> None:
    """Keep freed memory for the next batch; glibc alone returns every large tensor to the kernel.

    Each of them is then made of new pages, which the kernel must find and clear: without that 3,800 images per second
    became 4,700 in bfloat16, 2,040 became 2,150 in float32 (studies/LOG.md). Another C library is left as it is.
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
    """Whether there is a process that this user may not look at (proc(5), hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _target(link: Path) -> str:
    return os.readlink(link) if link.exists() else ""
