"""Processes are killed at random moments, several times; then the study is run to its end."""

import os
import random
import signal
import time
from contextlib import suppress
from typing import Any

from search.process import start_time
from tests.faults.invariants import check, finished
from tests.harness import Harness, Launcher, wait_until

KILLS = 6
#: The latest moment of a kill, in seconds after a worker was seen with a trial.
LATEST_S = 1.5
VICTIMS = ("a worker", "the launcher", "all processes")
#: Six trials of some seconds each: long enough for a worker to run at the last kill.
STUDY: dict[str, Any] = {
    "budget": {"trials": 6, "epochs": 40, "steps_per_epoch": 3},
    "space": {"dropout_conv": 0.2, "ema": 0.9, "scheduler": "plateau"},
}


def test_kills_at_random_moments_break_no_invariant(harness: Harness) -> None:
    rng = random.Random(1)
    words = ("run", harness.write(**STUDY), "--workers", "2")
    before: dict[int, str] = {}
    kills = 0

    while kills < KILLS:
        with harness.start(*words) as launcher:
            kills += disturb(harness, launcher, rng, KILLS - kills)
            code = launcher.end().code
        check(harness, before=before, over=code == 0)
        before = finished(harness.url)
        assert code in (0, -signal.SIGKILL), launcher.said
        if code == 0:
            break
    end = harness.run(*words)

    assert end.code == 0, end.err
    assert kills >= KILLS // 2, "the study is too short to be disturbed"
    check(harness, before=before, over=True)


def disturb(harness: Harness, launcher: Launcher, rng: random.Random, limit: int) -> int:
    """Kill up to `limit` times, until the launcher is the victim or has ended; returns the number of kills."""
    for count in range(1, limit + 1):
        wait_until(lambda: living(harness) or launcher.process.poll() is not None)
        if launcher.process.poll() is not None:
            return count - 1
        victim, moment = rng.choice(VICTIMS), rng.uniform(0.0, LATEST_S)
        print(f"{victim}, {moment:.3f} s after a worker was seen with a trial")
        time.sleep(moment)  # the moment is random: there is no condition to wait for
        for pid in victims(harness, launcher, victim, rng):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim != "a worker":
            return count
    return limit


def victims(harness: Harness, launcher: Launcher, victim: str, rng: random.Random) -> list[int]:
    if victim == "a worker":
        return [rng.choice(pids)] if (pids := living(harness)) else []
    if victim == "the launcher":
        return [launcher.process.pid]
    return [process.pid for process in launcher.family()]


def living(harness: Harness) -> list[int]:
    """The living processes that hold a trial; dead ones hold theirs until their launcher notices."""
    return [pid for pid in harness.workers() if start_time(pid) is not None]
