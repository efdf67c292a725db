"""Ctrl-C, Ctrl-C twice, SIGTERM and a closed terminal at random moments, from the start of a run to its trials."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tests.faults import invariants
from tests.harness import wait_until
from tests.soak import processes, results
from tests.soak.processes import ProcessGroup
from tests.soak.results import FaultResult
from tests.soak.workspace import Case, Workspace

#: Promised maximum seconds until an answer, until the end after a second Ctrl-C, and until the end after one signal.
ANSWER_S, OUT_S, END_S = 0.2, 1.0, 20.0
#: Shortest and longest time from the start to the signal in seconds; earlier, only the Python interpreter starts.
MOMENT_S = (0.5, 12.0)
#: Maximum seconds from the first to the second signal.
PAUSE_S = 3.0
BUDGET = {"trials": 6, "epochs": 20, "steps_per_epoch": 3}


def signals(workspace: Workspace) -> FaultResult:
    reports = workspace.run_cases("signal", _interrupt, range(workspace.count(60)))
    note = f"in turn Ctrl-C, Ctrl-C twice, SIGTERM, a closed terminal, up to {MOMENT_S[1]:.0f} s after the start"
    return results.total("a run is asked to stop", reports, note=note)


def _interrupt(case: Case) -> None:
    kind = case.index % 4
    number = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[kind]
    file = case.harness.write(budget=BUDGET)
    launcher = processes.command(case.harness, "run", file, "--workers", "2")
    try:
        time.sleep(case.rng.uniform(*MOMENT_S))
        if launcher.poll() is not None:
            return
        case.injected += 1
        code = _ask_to_stop(case, launcher, number, twice=kind == 1)
        was_over = code == 0 and "s: done" in launcher.said  # and only its interpreter was still running
        assert was_over or code in (128 + number, -number), f"exit code {code}: {launcher.said}"
        assert "Traceback" not in launcher.said, launcher.said
    finally:
        launcher.sweep()
    again = processes.command(case.harness, "run", file, "--workers", "2")
    assert again.end(300.0) == 0, again.said
    invariants.check(case.harness, over=True)
    case.survived += 1


def _ask_to_stop(case: Case, launcher: ProcessGroup, number: signal.Signals, *, twice: bool) -> int:
    """Send the signal to all processes once or twice, as a terminal does; returns the exit code."""
    answers = " on cpu" in launcher.said  # earlier, nothing has begun, and it ends without a message
    first = time.monotonic()
    os.killpg(launcher.pid, number)
    if answers:
        _count(case, "answered", ANSWER_S, first, lambda: "stopping" in launcher.said or launcher.poll() is not None)
    if not twice:
        code = launcher.end(60.0)
        _note(case, "ended", END_S, first)
        return code
    time.sleep(case.rng.uniform(0.0, PAUSE_S))
    second = time.monotonic()
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, number)
    code = launcher.end(60.0)
    _note(case, "out after the second", OUT_S, second)
    return code


def _count(case: Case, event: str, promised_s: float, began: float, happened: Callable[[], bool]) -> None:
    wait_until(happened)
    _note(case, event, promised_s, began)


def _note(case: Case, event: str, promised_s: float, began: float) -> None:
    took = time.monotonic() - began
    case.facts[f"{event} within {promised_s:g} s" if took <= promised_s else f"{event} later"] += 1
