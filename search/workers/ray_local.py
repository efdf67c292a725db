"""A Ray of our own on this machine: started for one run, reached from this machine alone, gone with its launcher.

Ray outlives its launcher, or loses its children on the way: a worker whose raylet was killed trains on for ever, and
the agents of one live on for a while. So this file runs as a process between the launcher and Ray, in a session of
its own, which no Ctrl-C and no closed terminal reaches; when the launcher is gone, however it ended, it kills all that
is in that session.
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

#: Python without the caller's working directory in front of its path.
PYTHON = (sys.executable, "-P", "-m")
#: Where `ray start` keeps the address of what it has started.
ADDRESS = "ray_current_cluster"
#: Ray's sockets lie below, and their paths may have 107 letters: too few for some temporary folders.
TEMPORARY = "/tmp"
#: Between two looks.
LOOK_S = 0.1
#: Time allowed for killed processes to exit, in seconds.
DEATH_S = 5.0


@contextmanager
def local_ray(words: Sequence[str]) -> Iterator[str]:
    """The address of a Ray that is started as `ray start` does with these words, and is gone behind the block.

    Raises:
        ClusterError: it cannot be started.
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
    """The life of the process between: start Ray, tell its address, and wait until the launcher is gone."""
    folder = Path(tempfile.mkdtemp(prefix="convsearch-ray-", dir=TEMPORARY))
    log = folder / "start.txt"
    command = [*PYTHON, "ray.scripts.scripts", "start", *words, f"--temp-dir={folder}"]
    with log.open("wb") as stream:
        ray = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
    is_told = False
    while ray.poll() is None and not select.select([sys.stdin], [], [], LOOK_S)[0]:
        if not is_told and (folder / ADDRESS).exists() and (address := (folder / ADDRESS).read_text().strip()):
            tell(f"address {address}")
            is_told = True
    if not is_told and ray.poll() is not None:
        tell(f"error {last_line(log)}")
    kill_session(ray)
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0)


def tell(line: str) -> None:
    """Say something to the launcher, if it is still there."""
    with suppress(OSError):
        print(line, flush=True)


def last_line(log: Path) -> str:
    """The last words of a process."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def kill_session(child: "subprocess.Popen[bytes]") -> None:
    """Kill every process of this session but this one, and those that they start meanwhile."""
    deadline = time.monotonic() + DEATH_S
    while (others := session()) and time.monotonic() < deadline:
        for pid in others:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        child.poll()
        time.sleep(LOOK_S)


def session() -> list[int]:
    """The processes of this session that live, but for this one."""
    ours = os.getsid(0)
    return [pid for pid in psutil.pids() if pid != os.getpid() and _session(pid) == ours]


def _session(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.Error, OSError):
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
