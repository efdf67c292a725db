"""The live view of a run: what `run` says on stderr while it works.

`analysis.eta` says how fast the run goes; `render` turns that into at most one screen. On a terminal the screen is
drawn again in place; elsewhere there is one line for each finished trial and a summary once a minute.
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
    """The screen: at most `height` lines of at most `width` cells, without a line break at the end."""
    lines = [_bar(snapshot, width), states_line(snapshot.counts), *_pace(snapshot)]
    lines += [snapshot.compared] if snapshot.compared else []
    lines += _wrapped(_best(snapshot), width, _BEST_LINES)
    if snapshot.workers:
        lines += ["", *_worker_lines(snapshot, room=height - len(lines) - 1)]
    return Text("\n".join(_cut(escape(line), width) for line in lines[:height]), no_wrap=True)


def summary(snapshot: Snapshot) -> str:
    """The state of the run on one line."""
    compared = (snapshot.compared,) if snapshot.compared else ()
    return "; ".join((counts_line(snapshot.counts), *compared, _best(snapshot), *_pace(snapshot)))


def finished_line(trial: TrialRecord) -> str:
    """`trial 12 pruned after epoch 1.5 at 0.4123 (4.1 s)`."""
    took = format_duration(trial.seconds)
    if trial.state == "FAIL":
        return escape(f"trial {trial.number} failed ({took}): {trial.reason or 'no reason was recorded'}")
    last = trial.values or tuple(value for _, value in trial.curve[-1:])
    at = f" at {format_number(last[0])}" if last else ""
    word = "complete" if trial.state == "COMPLETE" else "pruned"
    why = f": {trial.reason}" if trial.reason else ""
    return escape(f"trial {trial.number} {word} after epoch {format_value(float(trial.epochs))}{at} ({took}){why}")


class View(ABC):
    """Whoever shows a run. A context manager; `update` whenever there is something new.

    A terminal may go, a pipe may break, a disk may be full: then nobody sees it, and the run goes on.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self.stream = stream
        self.pace = ProgressTracker(clock=clock)

    @property
    def seen(self) -> frozenset[int]:
        """The finished trials that were told already."""
        return self.pace.seen

    def update(self, progress: StudyProgress) -> None:
        """Show what is going on now."""
        self.show(self.pace.snapshot(progress))

    @abstractmethod
    def show(self, snapshot: Snapshot) -> None:
        """Show one snapshot."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Say something beside the view."""

    @abstractmethod
    def close(self) -> None:
        """Leave what was shown last, and the terminal as it was."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PlainView(View):
    """One line for each finished trial, and a summary once a minute."""

    _summed = 0.0

    def show(self, snapshot: Snapshot) -> None:
        for trial in snapshot.finished:
            self.say(finished_line(trial))
        if snapshot.seconds - self._summed >= SUMMARY_S:
            self._summed = snapshot.seconds
            self.say(summary(snapshot))

    def say(self, text: str) -> None:
        with suppress(OSError):
            print(escape(text), file=self.stream, flush=True)

    def close(self) -> None:
        """There is nothing to tidy up."""


class LiveView(View):
    """One screen, drawn again in place."""

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
            self._console.show_cursor(True)  # a process that is killed cannot bring a hidden cursor back
        return self


def open_view(stream: TextIO, environ: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> View:
    """The live view where `stream` is a terminal that may be drawn on, else the plain one."""
    return LiveView(stream, clock, environ) if is_live(stream, environ) else PlainView(stream, clock)


def is_live(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether escape codes are welcome: a terminal, and nobody asked for plain text (https://no-color.org)."""
    asked_plain = environ.get("NO_COLOR") or environ.get("CI") or environ.get("TERM") == "dumb"
    return stream.isatty() and not asked_plain


def _bar(snapshot: Snapshot, width: int) -> str:
    counts = snapshot.counts
    name, state = _cut(snapshot.study, 30), f" {counts.finished} of {counts.budget}"
    room = max(10, width - cell_len(name) - len(state) - 3)
    full = int(room * max(counts.finished / max(1, counts.budget), snapshot.time_share))
    return f"{name} [{'#' * full}{'-' * (room - full)}]{state}"


def _best(snapshot: Snapshot) -> str:
    best = snapshot.best
    if best is None:
        return "no complete trial yet"
    value = format_number(best.values[0])
    return f"best {snapshot.objective} {value} in trial {best.number}: {format_values(best.params)}"


def _pace(snapshot: Snapshot) -> list[str]:
    parts = [f"{format_duration(snapshot.seconds)} so far"]
    if snapshot.trials_per_hour is not None:
        parts.append(f"{snapshot.trials_per_hour:.1f} trials/h")
    if snapshot.eta is not None:
        span = f"{_rough(snapshot.eta.low)} to {_rough(snapshot.eta.high)}"
        parts.append(f"about {_rough(snapshot.eta.seconds)} left ({span})")
    limit = [] if snapshot.time_left_s is None else [f"stops after {_rough(snapshot.time_left_s)} at the latest"]
    return [", ".join(parts), *limit]


def _rough(seconds: float) -> str:
    """A guessed time span: no finer than it can be known."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _worker_lines(snapshot: Snapshot, *, room: int) -> list[str]:
    lines = [f"{'trial':>7}  {'epoch':>14}  {snapshot.objective[:17]:>17}  {'last step':>14}  process"]
    of = "" if snapshot.epochs is None else f" of {format_value(float(snapshot.epochs))}"
    for worker in snapshot.workers:
        value = "-" if worker.value is None else format_number(worker.value)
        epoch, ago = f"{format_value(worker.epoch)}{of}", f"{_rough(worker.since_last_step_s)} ago"
        lines.append(f"{worker.trial:>7}  {epoch:>14}  {value:>17}  {ago:>14}  {worker.where}")
    if len(lines) <= room:
        return lines
    return [*lines[: room - 1], f"        and {len(lines) - room + 1} more at work"]


def _wrapped(line: str, width: int, most: int) -> list[str]:
    """The line broken into at most `most` lines; what does not fit is cut."""
    words, lines = line.split(" "), [""]
    for word in words:
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(f"  {word}")
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], _cut(" ".join([lines[most - 1], *lines[most:]]), width)]


def _cut(line: str, width: int) -> str:
    return line if cell_len(line) <= width else set_cell_size(line, max(0, width - 3)) + "..."
