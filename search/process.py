"""Who works on a trial: a process, named so that another process of its machine can tell whether it still lives."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process, named so that another process of the same machine can tell whether it still lives."""

    token: str
    """Secret of this owner, unique for ever; a write is accepted only with it."""
    host: str
    boot: str
    """Boot of the machine and the namespace of its process numbers, so that a pid means one process."""
    pid: int
    started: float
    """When the process started, in seconds by the clock of `started()`."""


def this_process(token: str) -> Owner:
    """The owner that stands for the calling process."""
    pid = os.getpid()
    return Owner(token=token, host=socket.gethostname(), boot=boot(), pid=pid, started=started(pid) or 0.0)


def boot() -> str:
    """This boot of this machine, together with the process namespace; empty parts where the system has none."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{boot_id.read_text().strip() if boot_id.exists() else psutil.boot_time()}/{_target(namespace)}"


def started(pid: int) -> float | None:
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
        now = started(pid)
    except psutil.AccessDenied:
        return False
    if now is None:
        return not _is_hidden(pid)
    return abs(now - since) >= 1.0


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
