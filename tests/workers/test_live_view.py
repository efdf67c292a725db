"""The live view on a real pseudo-terminal, in a pipe, and as a screen that fits every terminal size."""

import io
import os
import select
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TextIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from search.analysis.eta import Eta, ProgressTracker, Snapshot, WorkerLine, eta
from search.storage.records import RunningTrial, StudyProgress, StudyRecord, TrialCounts, TrialRecord
from search.workers.live_view import LiveView, PlainView, Screen, finished_line, open_view
from tests.clock import Clock

COMPLETE = TrialRecord(
    study="s", number=3, state="COMPLETE", values=(0.8123,), params={"width": 32}, epochs=10.0, seconds=61.2
)
PRUNED = TrialRecord(study="s", number=12, state="PRUNED", curve=((1, 0.3), (2, 0.4123)), epochs=1.5, seconds=4.1)
FAILED = TrialRecord(study="s", number=4, state="FAIL", seconds=2.0, reason="ValueError: boom")
STUDY = StudyRecord(
    name="cifar10",
    question="",
    directions=("maximize",),
    counts=TrialCounts(budget=60, complete=20, pruned=15, failed=2, running=2),
    best=COMPLETE,
    hours=2.0,
    seconds_run=3600.0,
    spec={"search": {"objective": "accuracy"}, "budget": {"epochs": 10.0, "steps_per_epoch": 2}},
)


def running(number: int, *steps: float) -> RunningTrial:
    curve = tuple(enumerate(steps, start=1))
    return RunningTrial(
        trial=TrialRecord(study="s", number=number, state="RUNNING", curve=curve, epochs=len(steps) / 2),
        host="anvil",
        pid=40 + number,
    )


def progress(*finished: TrialRecord, at_work: tuple[RunningTrial, ...] = (), done: int = 37) -> StudyProgress:
    counts = replace(STUDY.counts, complete=done - 17)
    return StudyProgress(study=replace(STUDY, counts=counts), running=at_work, finished=finished)


def rendered(snapshot: Snapshot, *, width: int = 80, height: int = 24) -> str:
    """The screen as text."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False, _environ={})
    with console.capture() as capture:
        console.print(Screen(snapshot))
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def test_a_snapshot_has_the_changes_since_the_run_began() -> None:
    clock = Clock()
    tracker = ProgressTracker(clock=clock)
    tracker.snapshot(progress(COMPLETE))
    clock.now += 1800.0

    now = progress(COMPLETE, PRUNED, FAILED, done=39)
    short = ProgressTracker(clock=clock, _began=tracker._began, _done_before=tracker._done_before).snapshot(now)
    snapshot = tracker.snapshot(replace(now, study=replace(now.study, hours=20.0)))

    assert short.eta is None  # the hours of the study end first
    assert snapshot.finished == (PRUNED, FAILED)
    assert tracker.seen == {3, 4, 12}
    assert (snapshot.seconds, snapshot.trials_per_hour, snapshot.time_left_s) == (1800.0, 4.0, 19 * 3600.0)
    assert snapshot.eta is not None
    assert snapshot.eta.seconds == 1800.0 * 21 / 2


def test_the_view_counts_the_trials_without_a_result_while_there_is_no_best_one() -> None:
    tracker = ProgressTracker(clock=Clock())
    impossible = replace(PRUNED, reason="impossible: too deep")
    without_best = replace(progress(impossible, FAILED), study=replace(STUDY, best=None))
    tracker.snapshot(without_best)
    more = replace(without_best, finished=(replace(impossible, number=13), replace(PRUNED, number=14)))

    snapshot = tracker.snapshot(more)

    assert "no complete trial yet; 2 impossible; 1 failed" in rendered(snapshot)


def test_a_worker_line_has_its_progress_and_the_time_since_its_last_step() -> None:
    clock = Clock()
    tracker = ProgressTracker(clock=clock)
    tracker.snapshot(progress(at_work=(running(7, 0.1), running(8))))
    clock.now += 5.0
    tracker.snapshot(progress(at_work=(running(7, 0.1, 0.2), running(8))))
    clock.now += 2.0

    snapshot = tracker.snapshot(progress(at_work=(running(7, 0.1, 0.2), running(8))))

    assert snapshot.workers == (
        WorkerLine(trial=7, epoch=1.0, value=0.2, since_last_step_s=2.0, where="anvil:47"),
        WorkerLine(trial=8, epoch=0.0, value=None, since_last_step_s=7.0, where="anvil:48"),
    )


def test_there_is_no_eta_while_trials_pause() -> None:
    clock = Clock()
    tracker = ProgressTracker(clock=clock)
    tracker.snapshot(progress())
    clock.now += 60.0
    later = progress(done=39)
    pausing = replace(later.study.counts, paused=2)

    # Paused trials all end at once, so the speed so far predicts no end.
    assert tracker.snapshot(replace(later, study=replace(later.study, counts=pausing))).eta is None
    assert tracker.snapshot(later).eta is not None


def test_there_is_no_eta_before_a_trial_has_finished() -> None:
    clock = Clock()
    tracker = ProgressTracker(clock=clock)
    tracker.snapshot(progress())
    clock.now += 60.0

    snapshot = tracker.snapshot(progress())

    assert (snapshot.eta, snapshot.trials_per_hour) == (None, None)


@given(done=st.integers(-1, 10_000), left=st.integers(-1, 10_000), seconds=st.floats(0, 1e7, allow_nan=False))
def test_an_eta_lies_within_its_range(done: int, left: int, seconds: float) -> None:
    estimate = eta(done=done, left=left, seconds=seconds)

    assert (estimate is None) == (done <= 0 or left <= 0 or seconds <= 0)
    assert estimate is None or estimate.low <= estimate.seconds <= estimate.high


@pytest.mark.parametrize(("done", "left"), [(2, 40), (10, 10), (50, 5)])
def test_the_range_of_an_eta_covers_the_real_time_in_four_of_five_cases(done: int, left: int) -> None:
    generator = np.random.default_rng(0)
    spent, needed = generator.gamma(done, size=2000), generator.gamma(left, size=2000)

    estimates = [eta(done=done, left=left, seconds=float(seconds)) for seconds in spent]

    covered = [
        estimate is not None and estimate.low <= real <= estimate.high
        for estimate, real in zip(estimates, needed, strict=True)
    ]
    assert 0.764 <= np.mean(covered) <= 0.836  # 0.8 +- 4 standard errors


@pytest.mark.parametrize("workers", [0, 1, 2, 200])
@pytest.mark.parametrize("parameters", [0, 3, 60])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5)])
def test_the_screen_fits_every_terminal_size(workers: int, parameters: int, width: int, height: int) -> None:
    lines = tuple(
        WorkerLine(trial=n, epoch=1.5, value=0.5, since_last_step_s=9.0, where="h" * 60 + ":1") for n in range(workers)
    )
    snapshot = Snapshot(
        study="n" * 64,
        counts=TrialCounts(budget=100_000, complete=33_333, pruned=33_333, failed=3333, running=workers),
        objective="balanced_accuracy",
        epochs=10.0,
        best=replace(COMPLETE, params={f"long_parameter_{n}": "日本語" for n in range(parameters)}),
        seconds=1e6,
        trials_per_hour=1234.5,
        eta=Eta(seconds=1e5, low=5e4, high=2e5),
        time_left_s=1e6,
        workers=lines,
    )

    screen = rendered(snapshot, width=width, height=height).split("\n")

    assert len(screen) < height  # the cursor stands in a line below
    assert max(map(cell_len, screen)) <= width


def test_the_screen_shows_counts_speed_best_trial_and_workers() -> None:
    worker = WorkerLine(trial=38, epoch=1.5, value=0.4123, since_last_step_s=3.2, where="anvil:42")
    snapshot = Snapshot(
        study="cifar10",
        counts=STUDY.counts,
        objective="accuracy",
        epochs=10.0,
        best=COMPLETE,
        seconds=61.0,
        trials_per_hour=41.25,
        eta=Eta(seconds=2000, low=1200, high=3000),
        time_left_s=7200.0,
        workers=(worker,),
    )

    bar, *lines = rendered(snapshot).split("\n")

    assert bar.startswith("cifar10 ━━")
    assert bar.endswith(" 37 of 60")
    assert [line.strip() for line in lines] == [
        "20 complete, 15 pruned, 2 failed; 2 running, 0 waiting, 21 to begin",
        "61.0 s so far, 41.2 trials/h, about 33 min left (20 min to 50 min)",
        "stops after 2.0 h at the latest",
        "best accuracy 0.8123 in trial 3: width=32",
        "",
        "trial      epoch  accuracy  last step  process",
        "38  1.5 of 10    0.4123    3 s ago  anvil:42",
    ]


@pytest.mark.parametrize(
    ("trial", "line"),
    [
        (COMPLETE, "trial 3 complete after epoch 10 at 0.8123 (61.2 s)"),
        (PRUNED, "trial 12 pruned after epoch 1.5 at 0.4123 (4.1 s)"),
        (replace(PRUNED, curve=(), epochs=0.0, reason="too large"), "trial 12 pruned after epoch 0 (4.1 s): too large"),
        (FAILED, "trial 4 failed (2.0 s): ValueError: boom"),
        (replace(FAILED, reason="a\x1b[2Jb\nc"), r"trial 4 failed (2.0 s): a\x1b[2Jb\nc"),
    ],
    ids=["complete", "pruned", "without a report", "failed", "with control codes"],
)
def test_a_finished_trial_is_one_line(trial: TrialRecord, line: str) -> None:
    assert finished_line(trial) == line


def test_a_pipe_gets_a_line_for_each_trial_and_a_summary_once_a_minute() -> None:
    clock, stream = Clock(), io.StringIO()

    with open_view(stream, {"TERM": "xterm"}, clock=clock) as view:
        for finished in ((COMPLETE,), (COMPLETE, PRUNED), (COMPLETE, PRUNED), (COMPLETE, PRUNED, FAILED)):
            view.update(progress(*finished, at_work=(running(5, 0.5),), done=36 + len(finished)))
            clock.now += 25.0

    lines = stream.getvalue().splitlines()
    assert isinstance(view, PlainView)
    assert "\x1b" not in stream.getvalue()
    assert [line.split(" after ")[0].split(" (")[0] for line in lines] == [
        "trial 12 pruned",
        "trial 4 failed",
        "39 of 60 trials finished: 22 complete, 15 pruned, 2 failed; 2 running, 0 waiting, 19 to begin; "
        "best accuracy 0.8123 in trial 3: width=32; 75.0 s so far, 96.0 trials/h, about 13 min left",
    ]


@pytest.fixture
def terminal() -> Iterator[tuple[TextIO, int]]:
    """A pseudo-terminal: the stream to write to, and the descriptor to read its screen from."""
    screen, terminal = os.openpty()
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        yield stream, screen
    os.close(screen)


@pytest.mark.parametrize(
    ("environ", "live"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": "", "CI": ""}, True),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_terminal_gets_the_live_view_unless_plain_text_is_requested(
    terminal: tuple[TextIO, int], environ: Mapping[str, str], live: bool
) -> None:
    view = open_view(terminal[0], environ, clock=Clock())

    assert isinstance(view, LiveView) == live


def read_until(screen: int, text: str) -> str:
    """Read the screen until `text` appears, or until nothing arrives for five seconds."""
    shown = ""
    while text not in shown and select.select([screen], [], [], 5.0)[0]:
        shown += os.read(screen, 100_000).decode()
    return shown


def test_the_live_view_never_leaves_the_cursor_hidden(terminal: tuple[TextIO, int]) -> None:
    stream, screen = terminal
    with open_view(stream, {"TERM": "xterm"}, clock=Clock()) as view:
        view.say("2 taken up again")
        view.update(progress(at_work=(running(5, 0.5),)))

        shown = read_until(screen, "anvil:45")

    assert "2 taken up again" in shown
    assert "anvil:45" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
def test_a_terminal_without_a_size_gets_every_message(terminal: tuple[TextIO, int], name: str) -> None:
    stream, screen = terminal
    with open_view(stream, {"TERM": "xterm", name: "0"}, clock=Clock()) as view:
        view.say("2 taken up again")

        assert "2 taken up again" in read_until(screen, "again")


def test_a_screen_without_unicode_is_drawn_in_ascii() -> None:
    snapshot = ProgressTracker(clock=Clock()).snapshot(progress(COMPLETE, at_work=(running(5, 0.5),)))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=stream, width=30, height=24, force_terminal=True, _environ={})

    console.print(Screen(snapshot))

    stream.seek(0)
    assert "--" in stream.read()
