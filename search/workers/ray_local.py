"""A private Ray cluster: started for one run, reachable from this machine alone, ended with its launcher.

Ray outlives its launcher and can lose its children: a worker whose raylet was killed trains on for ever, and the agents
of a raylet live on for a while. So this file runs as a process between the launcher and Ray, in a separate session that
Ctrl-C and a closed terminal do not reach. When the launcher ends, even by a kill, the process kills the whole session.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil

from search.errors import ClusterError

#: Python without the caller's working directory on its module path.
PYTHON = (sys.executable, "-P", "-m")
#: File in which `ray start` stores the address of the cluster.
ADDRESS = "ray_current_cluster"
#: Parent folder of Ray's sockets. A socket path may have 107 characters, too few for some temporary folders.
TEMPORARY = "/tmp"
#: Polling interval in seconds.
LOOK_S = 0.1
#: Time allowed for killed processes to exit, in seconds.
DEATH_S = 5.0


@contextmanager
def local_ray(words: Sequence[str]) -> Iterator[str]:
    """Run a private Ray cluster for the duration of the block.

    Args:
        words: Options of `ray start`.

    Yields:
        The address of the cluster, HOST:PORT.

    Raises:
        ClusterError: the cluster cannot be started.
    """
    process = subprocess.Popen(
        [*PYTHON, "search.workers.ray_local", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        kind, _, text = process.stdout.readline().decode(errors="replace").strip().partition(" ")
        if kind != "address":
            raise ClusterError(f"no Ray can be started here: {text or 'its process died'}")
        yield text
    finally:
        process.stdin.close()
        process.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2 * DEATH_S)


def main(words: Sequence[str]) -> NoReturn:
    """Entry point of the process in between: start Ray, report its address, wait for the end of the launcher."""
    folder = Path(tempfile.mkdtemp(prefix="convsearch-ray-", dir=TEMPORARY))
    log = folder / "start.txt"
    command = [*PYTHON, "search.workers.ray_head", "start", *words, f"--temp-dir={folder}"]
    with log.open("wb") as stream:
        ray_process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
    is_reported = False
    while ray_process.poll() is None and not select.select([sys.stdin], [], [], LOOK_S)[0]:
        if not is_reported and (folder / ADDRESS).exists() and (address := (folder / ADDRESS).read_text().strip()):
            tell(f"address {address}")
            is_reported = True
    if not is_reported and ray_process.poll() is not None:
        tell(f"error {last_line(log)}")
    kill_session(ray_process)
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0)


def tell(line: str) -> None:
    """Send a line to the launcher, if it still runs."""
    with suppress(OSError):
        print(line, flush=True)


def last_line(log: Path) -> str:
    """The last line of a log."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def kill_session(child: "subprocess.Popen[bytes]") -> None:
    """Kill every other process of this session, and those that they start meanwhile, within `DEATH_S` seconds."""
    deadline = time.monotonic() + DEATH_S
    while (pids := session()) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        time.sleep(LOOK_S)


def session() -> list[int]:
    """The PIDs of the other live processes of this session."""
    session_id = os.getsid(0)
    return [pid for pid in psutil.pids() if pid != os.getpid() and _live_session_id(pid) == session_id]


def _live_session_id(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.Error, OSError):
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
