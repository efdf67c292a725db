"""Processes die or are stopped in the middle of a trial; nothing is lost, and no process is left running."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from search.storage.records import TrialRecord
from tests.harness import LONG, PATIENCE_S, Answer, Harness, Launcher, equal


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One disturbance of a run: the end of the run, and the trials and processes that it left."""

    answer: Answer
    trials: tuple[TrialRecord, ...]
    left: tuple[psutil.Process, ...]
    """Processes that were still running PATIENCE_S after the end of the launcher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DisturbedStudy:
    """A study that was disturbed several times and then run to its end."""

    harness: Harness
    events: dict[str, Event]
    end: Answer


def on_start(launcher: Launcher, _: Harness) -> None:
    """Send SIGTERM when the launcher has named its workers."""
    launcher.until(lambda: " on cpu" in launcher.said)
    launcher.signal(signal.SIGTERM)


def on_ctrl_c(launcher: Launcher, harness: Harness) -> None:
    after_steps(launcher, harness, 4)
    launcher.signal(signal.SIGINT)


def on_sigterm(launcher: Launcher, harness: Harness) -> None:
    after_steps(launcher, harness, 4)
    launcher.signal(signal.SIGTERM)


def on_ctrl_c_twice(launcher: Launcher, harness: Harness) -> None:
    """The worker is frozen, and only the second Ctrl-C can end the run."""
    after_steps(launcher, harness, 4)
    (worker,) = harness.workers()
    os.kill(worker, signal.SIGSTOP)
    launcher.signal(signal.SIGINT)
    launcher.until(lambda: "stopping" in launcher.said)
    os.kill(launcher.process.pid, signal.SIGINT)


def on_kill(launcher: Launcher, harness: Harness) -> None:
    """Kill the launcher alone."""
    after_steps(launcher, harness, 4)
    os.kill(launcher.process.pid, signal.SIGKILL)


DISTURBANCES: dict[str, Callable[[Launcher, Harness], None]] = {
    "start": on_start,
    "ctrl-c": on_ctrl_c,
    "sigterm": on_sigterm,
    "ctrl-c twice": on_ctrl_c_twice,
    "kill": on_kill,
}


def after_steps(launcher: Launcher, harness: Harness, count: int) -> None:
    """Wait until a worker runs and `count` more steps are recorded."""
    launcher.until(harness.workers)
    before = harness.steps()
    launcher.until(lambda: harness.steps() >= before + count)


#: Keeps tests of the disturbed study in one process.
DISTURBED = pytest.mark.xdist_group("test_faults_disturbed")


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> DisturbedStudy:
    harness = Harness(tmp_path_factory.mktemp("disturbed"), images, cache)
    file = harness.write(**LONG)
    events = {}
    for name, disturb in DISTURBANCES.items():
        with harness.start("run", file, "--workers", "1") as launcher:
            disturb(launcher, harness)
            answer = launcher.end()
            _, left = psutil.wait_procs(launcher.family(), timeout=PATIENCE_S)
        events[name] = Event(answer=answer, trials=harness.trials(), left=tuple(left))
    return DisturbedStudy(harness=harness, events=events, end=harness.run("run", file, "--workers", "1"))


@DISTURBED
def test_after_every_disturbance_the_same_command_ends_with_the_same_weights(
    disturbed: DisturbedStudy, undisturbed: Harness
) -> None:
    (trial,) = disturbed.harness.trials()
    (expected,) = undisturbed.trials()

    assert disturbed.end.code == 0
    assert "going on: 0 of 1 trials done, 1 taken up again" in disturbed.end.err
    assert (trial.state, trial.params, trial.seed) == ("COMPLETE", expected.params, expected.seed)
    assert trial.curve == expected.curve
    assert equal(disturbed.harness.trained(), undisturbed.trained())


@DISTURBED
@pytest.mark.parametrize("name", list(DISTURBANCES))
def test_no_process_is_left_running(disturbed: DisturbedStudy, name: str) -> None:
    assert disturbed.events[name].left == ()


@DISTURBED
@pytest.mark.parametrize(
    ("name", "code", "last_message"),
    [
        ("start", 143, "stopping: trials go back to the queue"),
        ("ctrl-c", 130, "stopping: trials go back to the queue"),
        ("sigterm", 143, "stopping: trials go back to the queue"),
        ("ctrl-c twice", 130, "stopped at once; the same command goes on"),
        ("kill", -signal.SIGKILL, ""),
    ],
)
def test_the_exit_code_and_the_last_message_report_how_the_run_ended(
    disturbed: DisturbedStudy, name: str, code: int, last_message: str
) -> None:
    answer = disturbed.events[name].answer

    assert answer.code == code
    assert last_message in answer.err
    assert "Traceback" not in answer.err


@DISTURBED
@pytest.mark.parametrize("name", ["ctrl-c", "sigterm"])
def test_a_clean_stop_puts_the_trial_back_without_counting_an_attempt(disturbed: DisturbedStudy, name: str) -> None:
    (trial,) = disturbed.events[name].trials

    assert (trial.state, trial.attempts, trial.crashes) == ("WAITING", 0, ())
    assert "convsearch resume s" in disturbed.events[name].answer.err


@DISTURBED
def test_a_stop_at_the_start_leaves_no_attempt(disturbed: DisturbedStudy) -> None:
    """The worker may have claimed its first trial already; the stop puts it back."""
    left = disturbed.events["start"].trials

    assert [(trial.state, trial.attempts) for trial in left] in ([], [("WAITING", 0)])


@DISTURBED
def test_a_killed_launcher_leaves_a_trial_that_the_next_run_takes_back(disturbed: DisturbedStudy) -> None:
    (left,) = disturbed.events["kill"].trials
    (trial,) = disturbed.harness.trials()

    assert left.state == "RUNNING"
    assert trial.crashes[-1].endswith("is gone")
    assert left.curve == trial.curve[: len(left.curve)]


@contextmanager
def killer(harness: Harness, *, at: Sequence[int]) -> Iterator[list[int]]:
    """For each number of steps in `at`, kill the worker once trial 0 is drawn and has them; yields the killed pids."""
    killed: list[int] = []
    is_over = threading.Event()

    def living() -> list[int]:
        return [pid for pid in harness.workers() if pid not in killed]

    def is_drawn() -> bool:
        return harness.trials()[0].seed is not None

    def kill() -> None:
        for steps in at:
            while not is_over.wait(0.01) and not (living() and is_drawn() and harness.steps() >= steps):
                pass
            for pid in living():
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        thread.join()


def test_a_trial_whose_worker_is_killed_twice_ends_with_the_same_weights(
    harness: Harness, undisturbed: Harness
) -> None:
    with killer(harness, at=(10, 30)) as killed:
        answer = harness.run("run", harness.write(**LONG), "--workers", "1")

    (trial,) = harness.trials()
    (expected,) = undisturbed.trials()
    assert answer.code == 0
    assert len(killed) == 2
    assert (trial.number, trial.state, trial.attempts) == (0, "COMPLETE", 3)
    assert [crash.split(",")[0] for crash in trial.crashes] == ["attempt 1", "attempt 2"]
    assert "killed by SIGKILL" in trial.crashes[0]
    assert (trial.params, trial.curve, trial.seed) == (expected.params, expected.curve, expected.seed)
    assert equal(harness.trained(), undisturbed.trained())


def test_a_trial_whose_worker_is_killed_three_times_fails_and_can_be_retried(
    harness: Harness,
) -> None:
    slow = {"batch_size": 4, "width": 64}  # a step lasts long enough to kill three workers in it
    file = harness.write(budget={"trials": 2, "epochs": 2}, space=slow)

    with killer(harness, at=(0, 0, 0)) as killed:
        first = harness.run("run", file, "--workers", "1")
    failed, other = harness.trials()
    second = harness.run("resume", "s", "--retry-failed", "--workers", "1")

    assert (first.code, second.code) == (0, 0)
    assert len(killed) == 3
    assert (failed.state, other.state) == ("FAIL", "COMPLETE")
    assert failed.reason is not None
    assert failed.reason.startswith("its process died 3 times at the same step; last: its process was killed by")
    assert "try failed ones: convsearch resume s --retry-failed" in first.err
    assert "1 failed trials are tried again" in second.err
    assert [(trial.number, trial.state) for trial in harness.trials()] == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert harness.trials()[0].params == failed.params


def test_a_disk_that_cannot_be_written_ends_the_run_and_counts_no_attempt(harness: Harness) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 1})
    obstacle = harness.dirs.trial("s", 0)
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a folder is wanted")

    full = harness.run("run", file, "--workers", "1")
    (left,) = harness.trials()
    obstacle.unlink()
    again = harness.run("run", file, "--workers", "1")

    assert (full.code, again.code) == (74, 0)
    assert "a worker could not go on" in full.err
    assert (left.state, left.attempts, left.crashes) == ("WAITING", 0, ())
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("COMPLETE", 1)]
