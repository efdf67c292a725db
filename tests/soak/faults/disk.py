"""The disk is full at the n-th write, of the launcher or of its worker, once or from then on; strace makes it so.

Only writes to the study's own files fail: the database and its journal, checkpoints, logs, the lock.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from search.artifacts import checkpoint
from search.errors import DiskError
from tests.faults import invariants
from tests.harness import Harness, Tables, wait_until
from tests.soak import processes, results
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

#: One worker, two trials of two steps of ten batches.
TRIALS, STEPS, BATCHES = 2, 2, 10
STUDY: Tables = {"budget": {"trials": TRIALS, "epochs": STEPS, "steps_per_epoch": 1}}
#: How many writes of each are hit, one by one.
OF_WORKER, OF_LAUNCHER = 200, 100
#: Each checkpoint is hit once, and then with all after it.
OF_CHECKPOINTS = TRIALS * STEPS * 2
IN_CHECKPOINT = "of them in a checkpoint"
#: A half-written checkpoint has the number of its process in its name, which is one of the next after the server's.
PIDS_AHEAD = 400
#: SQLite writes with pwrite64, Python with write; a full disk may also be noticed only when it is flushed.
CALLS = "write,pwrite64,fsync,fdatasync"


@dataclass(frozen=True, slots=True)
class Full:
    """Which write finds the disk full."""

    at: int
    """Number of the write, counted from 1 in each process; strace counts each kind of CALLS by itself."""
    in_worker: bool
    """Of the worker; else of the launcher."""
    for_good: bool
    """All writes after it fail, too."""
    of_checkpoints: bool = False
    """Only writes of checkpoints are counted and fail; else those of all the study's files."""

    @property
    def when(self) -> str:
        return f"{self.at}+" if self.for_good else str(self.at)


def full(workspace: Workspace) -> FaultResult:
    """Two hundred writes of a worker, a hundred of a launcher, and every one of a checkpoint, once and for good."""
    began = time.monotonic()
    if shutil.which("strace") is None:
        return results.total("the disk is full", [], seconds=0.0, note="not done: there is no strace")
    reports = workspace.each("disk", _fill_the_disk, workspace.some(OF_WORKER + OF_LAUNCHER + OF_CHECKPOINTS))
    assert any(report.facts[IN_CHECKPOINT] for report in reports), "no write of a checkpoint was hit"
    return results.total("the disk is full", reports, seconds=time.monotonic() - began, note="ENOSPC at one write each")


def _fill_the_disk(case: Case) -> None:
    harness, fault = case.harness, _fault(case.index)
    file = harness.write(**STUDY)
    launcher, trace = _run(harness, file, fault)
    code, said = launcher.end(), launcher.said
    hits = [line for line in _lines(trace) if "(INJECTED)" in line]
    was_hit = bool(hits)
    case.facts[IN_CHECKPOINT] += any(".ckpt." in line for line in hits)
    who = "worker" if fault.in_worker else "launcher"
    case.injected += was_hit
    case.facts[f"{who}: exit {code}" if was_hit else f"{who}: no such write"] += 1
    _what_is_there_is_whole(harness)
    before = invariants.finished(harness.url)
    again = processes.launcher(harness, "run", file, "--workers", "1")
    assert again.end() == 0, again.said
    invariants.check(harness, before=before, over=True)
    states = [trial.state for trial in harness.trials()]
    assert states == ["COMPLETE"] * TRIALS, f"the trials ended as {states}"
    # Only now, so that what is said to be lost is first looked for.
    assert code in ((0, DiskError.exit_code) if was_hit else (0,)), f"nothing is lost, but exit code {code}: {said}"
    assert "Traceback" not in said, said
    case.survived += was_hit


def _fault(number: int) -> Full:
    """Fault 1, 2, 3, ... is write 1, 2, 3, ... of the worker; then come those of the launcher, then of checkpoints."""
    if number <= OF_WORKER:
        return Full(at=number, in_worker=True, for_good=number % 2 == 0)
    number -= OF_WORKER
    if number <= OF_LAUNCHER:
        return Full(at=number, in_worker=False, for_good=number % 2 == 0)
    number -= OF_LAUNCHER
    return Full(at=(number + 1) // 2, in_worker=True, for_good=number % 2 == 0, of_checkpoints=True)


def _run(harness: Harness, file: str, fault: Full) -> tuple[ProcessGroup, Path]:
    """Start a launcher with strace on it, or on the server from which its worker is forked."""
    trace = harness.folder / "trace.txt"
    words = ("run", file, "--workers", "1")
    gate, go = os.pipe()
    at_server = partial(_attach, harness, fault, trace) if fault.in_worker else None
    launcher = processes.launcher(harness, *words, gate=gate, at_server=at_server)
    if not fault.in_worker:
        _attach(harness, fault, trace, launcher.pid)
    os.write(go, b"!")
    for descriptor in (gate, go):
        os.close(descriptor)
    return launcher, trace


def _attach(harness: Harness, fault: Full, trace: Path, pid: int) -> None:
    """Let strace follow a process, its children included if it is the server of the workers."""
    words = ["strace", "-qq", "-y", "-o", str(trace), "-p", str(pid), "-e", f"trace={CALLS}"]
    words += ["-e", f"inject={CALLS}:error=ENOSPC:when={fault.when}", *(["-f"] if fault.in_worker else [])]
    writers = range(pid, pid + PIDS_AHEAD) if fault.in_worker else ()
    files = [*([] if fault.of_checkpoints else _files(harness)), *_half_written(harness, writers)]
    paths = [word for path in files for word in ("-P", str(path))]
    errors = (harness.folder / "strace.txt").open("w")
    process = subprocess.Popen([*words, *paths], stderr=errors, stdout=errors, start_new_session=True)
    wait_until(lambda: _tracer(pid) == process.pid or process.poll() is not None)
    assert process.poll() is None, (harness.folder / "strace.txt").read_text()


def _files(harness: Harness) -> Sequence[Path]:
    """All files of the study that are written, but for checkpoints; strace takes only whole names."""
    home = harness.dirs.root
    database = home / "studies.db"
    logs = [harness.dirs.log("s", trial) for trial in range(TRIALS)]
    return [database, Path(f"{database}-journal"), home / "s" / "convsearch.lock", *logs]


def _half_written(harness: Harness, writers: Iterable[int]) -> Sequence[Path]:
    """The checkpoints that one of these processes writes, as they are called until they are whole."""
    return [
        harness.dirs.trial("s", trial) / f"step-{step:08d}-{step * BATCHES:012d}.ckpt.{pid}.part"
        for pid in writers
        for trial in range(TRIALS)
        for step in range(1, STEPS + 1)
    ]


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def _tracer(pid: int) -> int:
    """Who traces a process; 0 if nobody does (proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid"))


def _what_is_there_is_whole(harness: Harness) -> None:
    """The database, as far as it was made, and every checkpoint of every trial."""
    invariants.check(harness)
    for path in harness.dirs.root.glob("s/*/*.ckpt"):
        checkpoint.load(path)
