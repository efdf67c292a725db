"""The live view of a run: the output of `run` on stderr.

`analysis.eta` computes the progress and speed; `render` turns them into at most one screen. On a terminal the screen is
redrawn in place; elsewhere the view prints one line per finished trial and a summary once a minute.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from search.analysis.eta import ProgressTracker, Snapshot
from search.analysis.study_tables import counts_line, states_line
from search.console import escape
from search.storage.records import StudyProgress, TrialRecord
from search.tables import WIDTH, format_duration, format_number, format_value, format_values

HEIGHT = 24
SUMMARY_S = 60.0
_BEST_LINES = 3


def render(snapshot: Snapshot, *, width: int = WIDTH, height: int = HEIGHT) -> Text:
    """Render the screen.

    Args:
        snapshot: State of the run.
        width: Maximum number of cells per line.
        height: Maximum number of lines.

    Returns:
        The text, without a line break at the end.
    """
    lines = [_progress_bar(snapshot, width), states_line(snapshot.counts), *_pace_lines(snapshot)]
    lines += [snapshot.compared] if snapshot.compared else []
    lines += _wrap(_best_line(snapshot), width, _BEST_LINES)
    if snapshot.workers:
        lines += ["", *_worker_lines(snapshot, room=height - len(lines) - 1)]
    return Text("\n".join(_truncate(escape(line), width) for line in lines[:height]), no_wrap=True)


def summary(snapshot: Snapshot) -> str:
    """The state of the run on one line."""
    compared = (snapshot.compared,) if snapshot.compared else ()
    return "; ".join((counts_line(snapshot.counts), *compared, _best_line(snapshot), *_pace_lines(snapshot)))


def finished_line(trial: TrialRecord) -> str:
    """`trial 12 pruned after epoch 1.5 at 0.4123 (4.1 s)`."""
    duration = format_duration(trial.seconds)
    if trial.state == "FAIL":
        return escape(f"trial {trial.number} failed ({duration}): {trial.reason or 'no reason was recorded'}")
    last = trial.values or tuple(value for _, value in trial.curve[-1:])
    score = f" at {format_number(last[0])}" if last else ""
    outcome = "complete" if trial.state == "COMPLETE" else "pruned"
    reason = f": {trial.reason}" if trial.reason else ""
    return escape(
        f"trial {trial.number} {outcome} after epoch {format_value(float(trial.epochs))}{score} ({duration}){reason}"
    )


class View(ABC):
    """Shows a run. A context manager; call `update` for each new state.

    Output errors (a closed terminal, a broken pipe, a full disk) are ignored, and the run continues.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self.stream = stream
        self.pace = ProgressTracker(clock=clock)

    @property
    def seen(self) -> frozenset[int]:
        """Numbers of the finished trials that were already reported."""
        return self.pace.seen

    def update(self, progress: StudyProgress) -> None:
        """Show the current state."""
        self.show(self.pace.snapshot(progress))

    @abstractmethod
    def show(self, snapshot: Snapshot) -> None:
        """Show one snapshot."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Print a message outside the view."""

    @abstractmethod
    def close(self) -> None:
        """Leave the last output on the screen, and restore the terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PlainView(View):
    """One line per finished trial, and a summary once a minute."""

    _last_summary_s = 0.0

    def show(self, snapshot: Snapshot) -> None:
        for trial in snapshot.finished:
            self.say(finished_line(trial))
        if snapshot.seconds - self._last_summary_s >= SUMMARY_S:
            self._last_summary_s = snapshot.seconds
            self.say(summary(snapshot))

    def say(self, text: str) -> None:
        with suppress(OSError):
            print(escape(text), file=self.stream, flush=True)

    def close(self) -> None:
        """Does nothing."""


class LiveView(View):
    """One screen, redrawn in place."""

    def __init__(self, stream: TextIO, clock: Callable[[], float], environ: Mapping[str, str]) -> None:
        super().__init__(stream, clock)
        self._console = Console(file=stream, force_terminal=True, highlight=False, emoji=False, _environ=environ)
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=stream is sys.stderr
        )

    def show(self, snapshot: Snapshot) -> None:
        width, height = self._console.size
        # One line less than the screen, for the cursor below.
        screen = render(snapshot, width=min(width, WIDTH), height=min(height - 1, HEIGHT))
        with suppress(OSError):
            self._live.update(screen, refresh=True)

    def say(self, text: str) -> None:
        with suppress(OSError):
            self._console.print(Text(escape(text)))

    def close(self) -> None:
        with suppress(OSError):
            self._live.stop()

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._live.start()
            self._console.show_cursor(True)  # a killed process cannot restore a hidden cursor
        return self


def open_view(stream: TextIO, environ: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> View:
    """Open the live view if `stream` is a terminal that accepts escape codes, otherwise the plain view.

    Args:
        stream: Receives the output.
        environ: Environment variables; see `is_live`.
        clock: Monotonic seconds.
    """
    return LiveView(stream, clock, environ) if is_live(stream, environ) else PlainView(stream, clock)


def is_live(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether to use escape codes: `stream` is a terminal and plain text is not requested (https://no-color.org)."""
    asked_plain = environ.get("NO_COLOR") or environ.get("CI") or environ.get("TERM") == "dumb"
    return stream.isatty() and not asked_plain


def _progress_bar(snapshot: Snapshot, width: int) -> str:
    counts = snapshot.counts
    name, state = _truncate(snapshot.study, 30), f" {counts.finished} of {counts.budget}"
    bar_width = max(10, width - cell_len(name) - len(state) - 3)
    filled = int(bar_width * max(counts.finished / max(1, counts.budget), snapshot.time_share))
    return f"{name} [{'#' * filled}{'-' * (bar_width - filled)}]{state}"


def _best_line(snapshot: Snapshot) -> str:
    best = snapshot.best
    if best is None:
        return "no complete trial yet"
    value = format_number(best.values[0])
    return f"best {snapshot.objective} {value} in trial {best.number}: {format_values(best.params)}"


def _pace_lines(snapshot: Snapshot) -> list[str]:
    parts = [f"{format_duration(snapshot.seconds)} so far"]
    if snapshot.trials_per_hour is not None:
        parts.append(f"{snapshot.trials_per_hour:.1f} trials/h")
    if snapshot.eta is not None:
        span = f"{_rough_duration(snapshot.eta.low)} to {_rough_duration(snapshot.eta.high)}"
        parts.append(f"about {_rough_duration(snapshot.eta.seconds)} left ({span})")
    limit = (
        [] if snapshot.time_left_s is None else [f"stops after {_rough_duration(snapshot.time_left_s)} at the latest"]
    )
    return [", ".join(parts), *limit]


def _rough_duration(seconds: float) -> str:
    """An estimated duration, rounded to its accuracy."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _worker_lines(snapshot: Snapshot, *, room: int) -> list[str]:
    lines = [f"{'trial':>7}  {'epoch':>14}  {snapshot.objective[:17]:>17}  {'last step':>14}  process"]
    total = "" if snapshot.epochs is None else f" of {format_value(float(snapshot.epochs))}"
    for worker in snapshot.workers:
        value = "-" if worker.value is None else format_number(worker.value)
        epoch, ago = f"{format_value(worker.epoch)}{total}", f"{_rough_duration(worker.since_last_step_s)} ago"
        lines.append(f"{worker.trial:>7}  {epoch:>14}  {value:>17}  {ago:>14}  {worker.where}")
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], f"        and {len(lines) - room + 1} more at work"]


def _wrap(line: str, width: int, max_lines: int) -> list[str]:
    """Wrap the line into at most `max_lines` lines; the rest is truncated."""
    words, lines = line.split(" "), [""]
    for word in words:
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(f"  {word}")
    if len(lines) <= max_lines:
        return lines
    return [*lines[: max_lines - 1], _truncate(" ".join([lines[max_lines - 1], *lines[max_lines:]]), width)]


def _truncate(line: str, width: int) -> str:
    return line if cell_len(line) <= width else set_cell_size(line, max(0, width - 3)) + "..."
