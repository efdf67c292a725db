"""The live view of a run: the output of `run` on stderr.

`analysis.eta` computes the progress and speed; `Screen` draws them. On a terminal the screen is
redrawn in place; elsewhere the view prints one line per finished trial and a summary once a minute.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, Group, OverflowMethod, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from search.analysis.eta import ProgressTracker, Snapshot
from search.analysis.study_tables import counts_line, states_line
from search.console import escape
from search.storage.records import StudyProgress, TrialRecord
from search.tables import WIDTH, format_duration, format_number, format_value, format_values

HEIGHT = 24
SUMMARY_S = 60.0
_BEST_LINES = 3


@dataclass(frozen=True, slots=True)
class Screen:
    """A snapshot as at most one screen of 80 x 24 cells, drawn by rich."""

    snapshot: Snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the progress, the best trial, and as many running trials as there is room for."""
        options = options.update_width(min(options.max_width, WIDTH))
        overflow: OverflowMethod = "crop" if options.ascii_only else "ellipsis"
        height = min(options.size.height - 1, HEIGHT)  # one line is for the cursor
        lines = console.render_lines(self._head(console, options.max_width, overflow), options)
        if self.snapshot.workers:
            table = _worker_table(self.snapshot, room=height - len(lines) - 1, overflow=overflow)
            lines += console.render_lines(Group("", table), options)
        for line in lines[:height]:
            yield from line
            yield Segment.line()

    def _head(self, console: Console, width: int, overflow: OverflowMethod) -> Group:
        snapshot = self.snapshot
        lines = [states_line(snapshot.counts), *_pace_lines(snapshot), *filter(None, [snapshot.compared])]
        best = Text(escape(_best_line(snapshot))).wrap(console, width)
        if len(best) > _BEST_LINES:
            best[_BEST_LINES - 1].append("...")
        texts = [*map(Text, map(escape, lines)), *best[:_BEST_LINES]]
        for text in texts:  # each is cut at the width of the screen
            text.no_wrap, text.overflow = True, overflow
        return Group(_progress_bar(snapshot, overflow), *texts)


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
            self.stream.write(f"{escape(text)}\n")
            self.stream.flush()

    def close(self) -> None:
        """Does nothing."""


class LiveView(View):
    """One screen, redrawn in place."""

    def __init__(self, stream: TextIO, clock: Callable[[], float], environ: Mapping[str, str]) -> None:
        super().__init__(stream, clock)
        known = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES") or value != "0"}
        self._console = Console(file=stream, force_terminal=True, highlight=False, emoji=False, _environ=known)
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=stream is sys.stderr
        )

    def show(self, snapshot: Snapshot) -> None:
        with suppress(OSError):
            self._live.update(Screen(snapshot), refresh=True)

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


def _progress_bar(snapshot: Snapshot, overflow: OverflowMethod) -> RichTable:
    counts = snapshot.counts
    share = max(counts.finished / max(1, counts.budget), snapshot.time_share)
    line = RichTable.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True, overflow=overflow, max_width=30)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    line.add_row(
        Text(escape(snapshot.study)), ProgressBar(total=1.0, completed=share), f"{counts.finished} of {counts.budget}"
    )
    return line


def _best_line(snapshot: Snapshot) -> str:
    best = snapshot.best
    if best is None:
        return "; ".join(("no complete trial yet", *(f"{count} {name}" for name, count in snapshot.obstacles.items())))
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


def _worker_table(snapshot: Snapshot, *, room: int, overflow: OverflowMethod) -> RichTable:
    """The running trials in at most `room` lines."""
    total = "" if snapshot.epochs is None else f" of {format_value(float(snapshot.epochs))}"
    table = RichTable(box=None, padding=(0, 1), header_style="dim")
    for heading in ("trial", "epoch", snapshot.objective, "last step"):
        table.add_column(heading, justify="right", no_wrap=True, overflow=overflow)
    table.add_column("process", no_wrap=True, overflow=overflow)
    rows = [
        (
            str(worker.trial),
            f"{format_value(worker.epoch)}{total}",
            "-" if worker.value is None else format_number(worker.value),
            f"{_rough_duration(worker.since_last_step_s)} ago",
            escape(worker.where),
        )
        for worker in snapshot.workers
    ]
    shown = len(rows) if len(rows) < room else max(0, room - 2)
    for row in rows[:shown]:
        table.add_row(*map(Text, row))
    if shown < len(rows):
        table.add_row("", "", "", "", f"and {len(rows) - shown} more")
    return table
