"""Progress of long operations: a bar on a terminal, periodic lines otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Say: TypeAlias = Callable[[str], None]
Advance: TypeAlias = Callable[[int], None]

LINE_EVERY_S = 5.0  # short enough to show activity, long enough for a log


@contextmanager
def progress(what: str, *, total: int, done: int = 0, say: Say, in_bytes: bool = False) -> Iterator[Advance]:
    """Show the progress of an operation.

    Args:
        what: the description of the operation.
        total: number of images or bytes.
        done: number done before the start.
        say: receives lines if stderr is not a terminal.
        in_bytes: whether the numbers are bytes.

    Yields:
        A function that adds to the number done.
    """
    if sys.stderr.isatty():
        with _bar(what, total=total, done=done, in_bytes=in_bytes) as advance:
            yield advance
    else:
        yield _lines(what, total=total, done=done, say=say)


@contextmanager
def _bar(what: str, *, total: int, done: int, in_bytes: bool) -> Iterator[Advance]:
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda more: bar.advance(task, more)


def _lines(what: str, *, total: int, done: int, say: Say) -> Advance:
    last = time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            say(f"{what}: {100 * done // max(total, 1)} %")

    return advance
