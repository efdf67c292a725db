"""The disk is full at the n-th write of the launcher or of its worker, once or from then on; strace injects the error.

Only writes to the files of the study fail: the database and its journal, checkpoints, logs, the lock.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from data import atomic
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
#: Numbers of writes of the worker and of the launcher that are hit, one by one.
OF_WORKER, OF_LAUNCHER = 200, 100
#: Each checkpoint is hit twice: alone, and together with all later ones.
OF_CHECKPOINTS = TRIALS * STEPS * 2
IN_CHECKPOINT = "of them in a checkpoint"
#: A partial checkpoint has the id of its process in its name, too: one of the ids that follow that of the forkserver.
PIDS_AHEAD = 400
#: The random part of the names of partial checkpoints.
RANDOM = UUID(int=0)
#: SQLite writes with pwrite64, Python with write; a full disk may also be reported by a flush alone.
CALLS = "write,pwrite64,fsync,fdatasync"


@dataclass(frozen=True, slots=True)
class Full:
    """The write that finds the disk full."""

    at: int
    """Number of the write, counted from 1 in each process; strace counts each kind of CALLS by itself."""
    in_worker: bool
    """Whether the worker writes; otherwise the launcher."""
    for_good: bool
    """Whether all later writes fail, too."""
    of_checkpoints: bool = False
    """Whether only writes of checkpoints are counted and fail; otherwise those of all files of the study."""

    @property
    def when(self) -> str:
        return f"{self.at}+" if self.for_good else str(self.at)


def full(workspace: Workspace) -> FaultResult:
    """Two hundred writes of a worker, a hundred of a launcher, and every one of a checkpoint, once and for good."""
    if shutil.which("strace") is None:
        return results.total("the disk is full", [], note="not done: there is no strace")
    cases = workspace.sample(OF_WORKER + OF_LAUNCHER + OF_CHECKPOINTS)
    reports = workspace.run_cases("disk", _fill_the_disk, cases)
    if any(_fault(case).of_checkpoints for case in cases):  # not at a small scale
        assert any(report.facts[IN_CHECKPOINT] for report in reports), "no write of a checkpoint was hit"
    return results.total("the disk is full", reports, note="ENOSPC at one write each")


def _fill_the_disk(case: Case) -> None:
    harness, fault = case.harness, _fault(case.index)
    file = harness.write(**STUDY)
    launcher, trace = _run(harness, file, fault)
    code, said = launcher.end(), launcher.said
    hits = [line for line in _lines(trace) if "(INJECTED)" in line]
    was_hit = bool(hits)
    case.facts[IN_CHECKPOINT] += any(".ckpt." in line for line in hits)
    writer = "worker" if fault.in_worker else "launcher"
    case.injected += was_hit
    case.facts[f"{writer}: exit {code}" if was_hit else f"{writer}: no such write"] += 1
    _files_are_intact(harness)
    before = invariants.finished(harness.url)
    again = processes.launcher(harness, "run", file, "--workers", "1")
    assert again.end() == 0, again.said
    invariants.check(harness, before=before, over=True)
    states = [trial.state for trial in harness.trials()]
    assert states == ["COMPLETE"] * TRIALS, f"the trials ended as {states}"
    # Checked last: the checks above find losses first.
    assert code in ((0, DiskError.exit_code) if was_hit else (0,)), f"nothing is lost, but exit code {code}: {said}"
    assert "Traceback" not in said, said
    case.survived += was_hit


def _fault(number: int) -> Full:
    """Faults 1, 2, 3, ... are writes 1, 2, 3, ... of the worker, then those of the launcher and of checkpoints."""
    if number <= OF_WORKER:
        return Full(at=number, in_worker=True, for_good=number % 2 == 0)
    number -= OF_WORKER
    if number <= OF_LAUNCHER:
        return Full(at=number, in_worker=False, for_good=number % 2 == 0)
    number -= OF_LAUNCHER
    return Full(at=(number + 1) // 2, in_worker=True, for_good=number % 2 == 0, of_checkpoints=True)


def _run(harness: Harness, file: str, fault: Full) -> tuple[ProcessGroup, Path]:
    """Start a launcher with strace attached to it, or to its forkserver."""
    trace = harness.folder / "trace.txt"
    words = ("run", file, "--workers", "1")
    gate, go = os.pipe()
    at_server = partial(_attach, harness, fault, trace) if fault.in_worker else None
    with patch.object(atomic, "uuid4", lambda: RANDOM):  # in the forks: strace needs full names
        launcher = processes.launcher(harness, *words, gate=gate, at_server=at_server)
    if not fault.in_worker:
        _attach(harness, fault, trace, launcher.pid)
    os.write(go, b"!")
    for descriptor in (gate, go):
        os.close(descriptor)
    return launcher, trace


def _attach(harness: Harness, fault: Full, trace: Path, pid: int) -> None:
    """Attach strace to a process, and to its children if it is the forkserver."""
    words = ["strace", "-qq", "-y", "-o", str(trace), "-p", str(pid), "-e", f"trace={CALLS}"]
    words += ["-e", f"inject={CALLS}:error=ENOSPC:when={fault.when}", *(["-f"] if fault.in_worker else [])]
    writers = range(pid, pid + PIDS_AHEAD) if fault.in_worker else ()
    files = [*([] if fault.of_checkpoints else _files(harness)), *_partial_checkpoints(harness, writers)]
    paths = [word for path in files for word in ("-P", str(path))]
    errors = (harness.folder / "strace.txt").open("w")
    process = subprocess.Popen([*words, *paths], stderr=errors, stdout=errors, start_new_session=True)
    wait_until(lambda: _tracer(pid) == process.pid or process.poll() is not None)
    assert process.poll() is None, (harness.folder / "strace.txt").read_text()


def _files(harness: Harness) -> Sequence[Path]:
    """All files to which the study writes, except for checkpoints; strace needs full names."""
    root = harness.dirs.root
    database = root / "studies.db"
    logs = [harness.dirs.log("s", trial) for trial in range(TRIALS)]
    return [database, Path(f"{database}-journal"), root / "s" / "convsearch.lock", *logs]


def _partial_checkpoints(harness: Harness, writers: Iterable[int]) -> Sequence[Path]:
    """The temporary names of the checkpoints that one of these processes writes."""
    return [
        harness.dirs.trial("s", trial) / f"step-{step:08d}-{step * BATCHES:012d}.ckpt.{pid}-{RANDOM.hex[:8]}.part"
        for pid in writers
        for trial in range(TRIALS)
        for step in range(1, STEPS + 1)
    ]


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def _tracer(pid: int) -> int:
    """The id of the tracer of a process; 0 if it is not traced (proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid"))


def _files_are_intact(harness: Harness) -> None:
    """Check the database, if it exists, and every checkpoint of every trial."""
    invariants.check(harness)
    for path in harness.dirs.root.glob("s/*/*.ckpt"):
        checkpoint.load(path)
