"""The clock of the machine is set while a study runs: an hour ahead, right, an hour behind, right.

libfaketime cannot be used: under its version 0.9.10 `time.sleep` of Python 3.11 fails (EINVAL from clock_nanosleep with
the monotonic clock). A few lines of C move the wall clock alone, for the processes that load them.
"""

import mmap
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from tests.faults import invariants
from tests.harness import Harness, wait_until
from tests.soak import processes, results
from tests.soak.faults.kills import NOTICE_S, owners, wait_until_noticed
from tests.soak.faults.locks import STUDY, finish
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

HOUR = 3600
#: Offsets of the clock after each jump, in seconds.
JUMPS = (HOUR, 0, -HOUR, 0)
NO_COMPILER = "not done: there is no C compiler (cc)"
#: Seconds between a jump and the kill of a worker: several checks of the pool (every 1 s) and a renewal (every 10 s).
CALM_S = 12.0

SOURCE = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *moved;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("SOAK_CLOCK"), O_RDONLY);
    void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) moved = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && moved && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *moved;
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}
"""


def jumps(workspace: Workspace) -> FaultResult:
    wall_clock = preload(workspace.harness("clock-preload").folder)
    if wall_clock is None:
        return results.total("the clock is set", [], note=NO_COMPILER)
    chosen = JUMPS[: max(2, workspace.count(len(JUMPS)))]
    reports = workspace.run_cases("clock", partial(_set_repeatedly, wall_clock, chosen), [0])
    note = f"by {', '.join(f'{jump:+d}' for jump in chosen)} s from the truth; after each a worker is killed, and found"
    return results.total("the clock is set", reports, note=note)


@dataclass(frozen=True, slots=True)
class WallClock:
    """A wall clock that can be set, for the processes that are started with its environment."""

    file: Path
    environment: Mapping[str, str]

    def set_to(self, seconds: int) -> None:
        """Set it to so many seconds after the true time."""
        with self.file.open("r+b") as stream:
            stream.write(struct.pack("l", seconds))


def preload(folder: Path) -> WallClock | None:
    """Compile the library that moves the clock, in this folder; None if there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library, file = folder / "clock.c", folder / "clock.so", folder / "clock"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    file.write_bytes(bytes(mmap.PAGESIZE))
    return WallClock(file, {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(file)})


def _set_repeatedly(wall_clock: WallClock, chosen: Sequence[int], case: Case) -> None:
    harness, environment = case.harness, wall_clock.environment
    file = harness.write(**STUDY)
    victims: list[int] = []
    launchers = [processes.command(harness, "run", file, "--workers", "2", environment=environment)]
    try:
        wait_until(lambda: len(owners(harness)) == 2)
        launchers.append(_join(harness, file, environment))
        for seconds in chosen:
            wall_clock.set_to(seconds)
            case.injected += 1
            _study_goes_on(case, launchers)
            victims.append(_kill_one(case))
            case.survived += 1
        finish(harness, launchers, file)
    finally:
        for launcher in launchers:
            launcher.sweep()
    _only_our_kills_are_recorded(harness, victims)
    case.facts["trials"] += len(harness.trials())


def _join(harness: Harness, file: str, environment: Mapping[str, str]) -> ProcessGroup:
    """Start a second launcher; each of the two checks the leases of the workers of the other."""
    launcher = processes.command(harness, "run", file, "--workers", "1", "--join", environment=environment)
    wait_until(lambda: len(owners(harness)) == 3)
    return launcher


def _study_goes_on(case: Case, launchers: Sequence[ProcessGroup]) -> None:
    before, steps = owners(case.harness), _steps(case.harness)
    time.sleep(CALM_S)
    wait_until(lambda: owners(case.harness) == before, patience_s=NOTICE_S)  # between two trials a worker holds none
    assert _steps(case.harness) > steps, "no worker goes on"
    assert all(launcher.poll() is None for launcher in launchers), [launcher.said for launcher in launchers]


def _kill_one(case: Case) -> int:
    """Kill a worker and wait until its death is noticed; returns its process id."""
    wait_until(lambda: len(owners(case.harness)) == 3)
    victim = case.rng.choice(sorted(owners(case.harness)))
    os.kill(victim, signal.SIGKILL)
    wait_until_noticed(case, victim)
    wait_until(lambda: len(owners(case.harness)) == 3)
    return victim


def _only_our_kills_are_recorded(harness: Harness, victims: Sequence[int]) -> None:
    """The pool of a killed worker records the signal, the other one a missing process: whichever checks first."""
    invariants.check(harness, over=True)
    trials = harness.trials()
    crashes = [crash for trial in trials for crash in trial.crashes]
    assert {trial.state for trial in trials} == {"COMPLETE"}, "a trial was lost"
    expected = ("killed by SIGKILL", *(f"process {victim} is gone" for victim in victims))
    assert len(crashes) <= len(victims), f"I2: others than the killed workers were declared dead: {crashes}"
    assert all(any(words in crash for words in expected) for crash in crashes), (
        f"I2: others were declared dead: {crashes}"
    )
    (times,) = invariants.rows(harness.url, "SELECT MIN(datetime_complete), MAX(datetime_complete) FROM trials")
    first, last = (datetime.fromisoformat(text) for text in times)
    assert (last - first).total_seconds() > HOUR / 2, "the clock did not move for the writers"


def _steps(harness: Harness) -> int:
    ((count,),) = invariants.rows(harness.url, "SELECT COUNT(*) FROM trial_intermediate_values")
    return int(count)
