"""Somebody is killed at a random moment, again and again; then the study is run to its end."""

import os
import random
import signal
import time
from contextlib import suppress
from typing import Any

import pytest

from search.process import start_time
from tests.faults.invariants import check, finished
from tests.harness import Harness, Launcher, wait_until

KILLS = 6
#: The latest moment of a kill, in seconds after somebody was seen at work.
LATEST_S = 1.5
VICTIMS = ("a worker", "the launcher", "everybody")
#: Six trials of some seconds, so that there is still somebody to kill at the last kill.
STUDY: dict[str, Any] = {
    "budget": {"trials": 6, "epochs": 40, "steps_per_epoch": 3},
    "space": {"dropout_conv": 0.2, "ema": 0.9, "scheduler": "plateau"},
}


@pytest.mark.parametrize("seed", [1])
def test_kills_at_random_moments_break_no_invariant(harness: Harness, seed: int) -> None:
    choose = random.Random(seed)
    words = ("run", harness.write(**STUDY), "--workers", "2")
    before: dict[int, str] = {}
    kills = 0

    while kills < KILLS:
        launcher = harness.start(*words)
        try:
            kills += disturb(harness, launcher, choose, KILLS - kills)
            code = launcher.end().code
        finally:
            launcher.sweep()
        check(harness, before=before, over=code == 0)
        before = finished(harness.url)
        assert code in (0, -signal.SIGKILL), launcher.said
        if code == 0:
            break
    end = harness.run(*words)

    assert end.code == 0, end.err
    assert kills >= KILLS // 2, "the study is too short to be disturbed"
    check(harness, before=before, over=True)


def disturb(harness: Harness, launcher: Launcher, choose: random.Random, most: int) -> int:
    """Kill up to so many times, until the launcher is the victim or has ended; how many times it was."""
    for count in range(1, most + 1):
        wait_until(lambda: living(harness) or launcher.process.poll() is not None)
        if launcher.process.poll() is not None:
            return count - 1
        victim, moment = choose.choice(VICTIMS), choose.uniform(0.0, LATEST_S)
        print(f"{victim}, {moment:.3f} s after somebody was seen at work")
        time.sleep(moment)  # the moment shall be random, so there is no condition to wait for
        for pid in victims(harness, launcher, victim, choose):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim != "a worker":
            return count
    return most


def victims(harness: Harness, launcher: Launcher, victim: str, choose: random.Random) -> list[int]:
    if victim == "a worker":
        return [choose.choice(found)] if (found := living(harness)) else []
    if victim == "the launcher":
        return [launcher.process.pid]
    return [process.pid for process in launcher.family()]


def living(harness: Harness) -> list[int]:
    """The processes that work on a trial, without those that are dead and not missed yet."""
    if not harness.dirs.study("s").exists():
        return []
    return [pid for pid in harness.workers() if start_time(pid) is not None]
