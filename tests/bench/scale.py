"""Number of workers that one database serves: the real loops of 1 to 1,000 simulated workers, without the training.

Trials have 20 steps and last a minute. TPE draws 15 parameters, asha decides at rungs, and each trial is complete.
"""

import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy as sa

from search.storage.retry import NOTICE_S, Timeouts
from search.workers.polling import MAX_POLLS_PER_S, MIN_INTERVAL_S
from tests.bench.bookkeeping import drawn_parameters
from tests.bench.capacity import FULL, Model, model
from tests.bench.measure import Figure, Result, Table
from tests.bench.window import (
    LAUNCHER_CALLS,
    MOST_PROCESSES,
    MOST_S,
    MOST_SHARE,
    STEPS,
    TRIAL_CALLS,
    TRIAL_S,
    WORKERS_PER_MACHINE,
    Measured,
    Row,
    measure,
    percentile,
    tables,
)
from tests.service.postgres import missing, serving, version

#: Goals of this project: bookkeeping of a trial in percent of its training, and the growth of its storage time.
MOST_PERCENT, MOST_GROWTH = 2.0, 2.0
RATE = 256 / TRIAL_S
"""Trials per second: with too few workers for this rate, time is compressed until they reach it."""
SHORTEST_S = 2.0
"""Minimum seconds of a simulated trial; shorter trials would be mostly bookkeeping."""
#: The default settings of a server, except connections and memory; every confirmed commit is on the disk.
SETTINGS = """
max_connections = 1300
shared_buffers = 256MB
"""
LENGTHS = (10.0, 60.0, 600.0)
"""Seconds of a trial for the predictions of the model; CORES of a server and SIZES (trials) of a study."""
CORES, SIZES = (1, 8), (1_000, 10_000)


def run_benchmark(quick: bool) -> Result:
    """Measure rows on both databases and the growth with the study, and fit the model."""
    if why := missing():
        raise SystemExit(f"{why}; `make bench-scale` needs it")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = QUICK if quick else PLAN
    with serving(settings=SETTINGS) as server:

        def on_postgres(row: Row) -> Measured:
            return print_progress("PostgreSQL", measure(row, server.url(server.make_database()), server))

        rows = [on_postgres(row) for row in plan.postgres]
        grown = [on_postgres(row) for row in plan.grown]
        pruned = on_postgres(plan.pruned)
    files = [print_progress("SQLite", on_sqlite(row)) for row in plan.sqlite]
    return report(rows, files, grown, pruned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All rows of a run."""

    postgres: tuple[Row, ...]
    sqlite: tuple[Row, ...]
    grown: tuple[Row, Row]
    pruned: Row


def at(workers: int, window_s: float, *, rate: float = RATE, **more: Any) -> Row:
    """A row with time compressed up to `rate`, and at most to trials of SHORTEST_S seconds."""
    speed = min(rate * TRIAL_S / workers, TRIAL_S / SHORTEST_S)
    return Row(workers=workers, speed=max(1.0, speed), window_s=window_s, **more)


PLAN = Plan(
    postgres=(
        *(at(workers, 45.0) for workers in (1, 8, 32, 128)),
        at(256, 60.0),
        *(Row(workers=workers, speed=1.0, window_s=60.0, trial_s=600.0, history=200) for workers in (512, 1000)),
    ),
    sqlite=tuple(at(workers, 25.0, rate=RATE / 2) for workers in (1, 4, 8, 16, 32)),
    grown=(at(16, 35.0, history=900), at(16, 35.0, history=9_900)),
    pruned=at(32, 30.0, rate=RATE / 8, is_pruned=True),
)
QUICK = Plan(
    postgres=(at(1, 8.0), at(16, 8.0)),
    sqlite=(at(1, 8.0), at(4, 8.0)),
    grown=(at(8, 8.0, history=200), at(8, 8.0, history=2_000)),
    pruned=at(8, 8.0, rate=RATE / 8, is_pruned=True),
)


def on_sqlite(row: Row) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        return measure(row, sa.make_url(f"sqlite:///{folder}/studies.db"), None)


def print_progress(database: str, window: Measured) -> Measured:
    """Print the result of a row to stderr, and return it."""
    line = f"{database}, {window.row.workers:,} workers: {window.trials:.0f} trials in {window.seconds:.0f} s, "
    print(line + f"{window.ms(*TRIAL_CALLS):.0f} ms a trial, {window.busy:.0%} busy", file=sys.stderr, flush=True)
    return window


# -- the report ---------------------------------------------------------------------------------------------------


def report(rows: Sequence[Measured], files: Sequence[Measured], grown: Sequence[Measured], pruned: Measured) -> Result:
    small, large = grown
    storage = [name for name in TRIAL_CALLS if name != "sampler"]
    target = next((window for window in rows if window.row.workers == 256), rows[-1])
    fitted_model = model([*rows, *grown])
    return Result(
        name="scale",
        about=about(rows, files, fitted_model),
        figures=(
            Figure(
                what=f"{target.row.workers} workers on PostgreSQL, {target.row.trial_s:g} s of training: bookkeeping",
                unit="%",
                values=(100 * target.share,),
                limit=MOST_PERCENT,
            ),
            Figure(
                what=f"storage of a trial at {large.row.history:,} trials, by that at {small.row.history:,}",
                unit="x",
                values=(large.ms(*storage) / small.ms(*storage),),
                limit=MOST_GROWTH,
            ),
            Figure(
                what="the same, in CPU seconds of the server",
                unit="x",
                values=(large.trial_cpu_s / small.trial_cpu_s,),
            ),
        ),
        tables=(
            overview("PostgreSQL, workers", [*rows, *grown, pruned]),
            loads("PostgreSQL, server", [*rows, *grown, pruned]),
            calls("PostgreSQL, p50 / p99 of a call in ms, by workers", rows),
            overview("SQLite, workers", files),
            calls("SQLite, p50 / p99 of a call in ms, by workers", files),
            trial_costs(f"ms of a trial, by earlier trials, {small.row.workers} workers on PostgreSQL", grown),
            served(
                f"Workers that keep {FULL:.0%} of a server busy, by its cores and the trials of the study", fitted_model
            ),
        ),
    )


def about(rows: Sequence[Measured], files: Sequence[Measured], fitted_model: Model) -> tuple[str, ...]:
    def parts(costs: Sequence[float]) -> str:
        fixed, worker, trial = (1000 * cost for cost in costs)
        return f"{fixed:.1f} ms + {worker:.3f} ms a worker + {trial:.4f} ms a trial of the study"

    drawn = drawn_parameters(tables()["space"])
    return (
        f"Trials of {STEPS} steps; {drawn} parameters drawn by tpe, asha with three rungs, 5 % audited. Training is "
        "simulated by waiting. The value of a step comes from a recorded curve, raised above those of earlier trials; "
        "no rung ends a trial, and each is complete. In the row with * rungs end trials as usual.",
        f"The loops are those of workers (a thread and a connection each, in up to {MOST_PROCESSES} processes) and "
        f"of launchers (one for {WORKERS_PER_MACHINE} workers, a poll every {MIN_INTERVAL_S:g} s, or "
        f"{MAX_POLLS_PER_S:g} per second together, a renewal every {Timeouts().renewal_interval_s:g} s).",
        "faster: the factor of time compression, for workers and launchers alike. ms a trial: all work of a worker "
        "except the wait for training. polls/s: those of launchers, of those due; they run at a lower priority. "
        f"waited: calls that waited for the database for {NOTICE_S:g} s or longer, since the start.",
        "Server and simulated workers share this computer: if it is busy, times are upper bounds; CPU seconds are not.",
        "Python's garbage collector is off in the simulated workers, because it would stop all threads of a process.",
        f"PostgreSQL {version()}, {', '.join(SETTINGS.strip().splitlines())}, fsync on, without a connection pool.",
        f"SQLite {sqlite3.sqlite_version}, DELETE journal, synchronous FULL, on the disk.",
        f"Saturation on PostgreSQL: {saturation(rows)}; on SQLite: {saturation(files)}. A row is saturated if a trial "
        f"takes {MOST_SHARE:.0%} longer, one call in a hundred takes {MOST_S:g} s, or a worker or launcher fails.",
        f"CPU of the server, fitted: a trial {parts(fitted_model.trial)}; a poll {parts(fitted_model.poll)}.",
        f"A claim alone takes {1000 * fitted_model.lock_s:.1f} ms; it blocks other claims for most of this time.",
    )


def saturation(rows: Sequence[Measured]) -> str:
    """The first saturated row, and the reason."""
    for window in rows:
        if window.is_saturated:
            name, worst = window.slowest
            died = f", {window.died} failed ({window.why})" if window.died else ""
            return (
                f"at {window.row.workers:,} workers with trials of {window.row.trial_s:g} s "
                f"({window.share:.1%} longer, p99 of {name} {worst:.2f} s, this computer {window.busy:.0%} busy{died})"
            )
    return f"nowhere up to {rows[-1].row.workers:,} workers"


def overview(title: str, rows: Sequence[Measured]) -> Table:
    heads = ("workers", "trials", "s", "faster", "trials/s", "of", "ms a trial", "tpe", "share", "slowest p99", "busy")
    return Table(title=title, heads=heads, rows=tuple(overview_row(window) for window in rows))


def overview_row(window: Measured) -> tuple[str, ...]:
    name, worst = window.slowest
    return (
        named(window),
        f"{window.row.history:,}",
        f"{window.row.trial_s:g}",
        f"{window.row.speed:.3g}x",
        f"{window.trials / window.seconds:.2f}",
        f"{window.offered:.2f}",
        f"{window.ms(*TRIAL_CALLS):.0f}",
        f"{window.ms('sampler'):.0f}",
        f"{window.share:.2%}",
        f"{name} {worst:.2f} s",
        f"{window.busy:.0%}",
    )


def named(window: Measured) -> str:
    return f"{window.row.workers:,}{'*' if window.row.is_pruned else ''}"


def loads(title: str, rows: Sequence[Measured]) -> Table:
    server = ("conn.", "MB each", "cores", "ms a trial", "ms a poll")
    heads = ("workers", *server, "polls/s", "of", "worker's own ms", "waited", "died")
    return Table(title=title, heads=heads, rows=tuple(loads_row(window) for window in rows))


def loads_row(window: Measured) -> tuple[str, ...]:
    return (
        named(window),
        f"{window.connections:,}",
        f"{window.connection_mb:.1f}",
        f"{sum(window.base_cpu_s.values()) / window.seconds:.2f}",
        f"{1000 * window.trial_cpu_s:.0f}",
        f"{1000 * window.poll_cpu_s:.0f}",
        f"{window.polls / window.seconds:.1f}",
        f"{window.row.polls:.1f}",
        f"{1000 * window.own_cpu_s / max(1, window.trials):.0f}",
        str(window.waited),
        str(window.died),
    )


def calls(title: str, rows: Sequence[Measured]) -> Table:
    def cell(window: Measured, name: str) -> str:
        seconds = window.calls.get(name)
        return f"{percentile(seconds, 50) * 1000:.0f} / {percentile(seconds, 99) * 1000:.0f}" if seconds else ""

    return Table(
        title=title,
        heads=("call", *map(named, rows)),
        rows=tuple((name, *(cell(window, name) for window in rows)) for name in (*TRIAL_CALLS, *LAUNCHER_CALLS)),
    )


def trial_costs(title: str, rows: Sequence[Measured]) -> Table:
    return Table(
        title=title,
        heads=("call", *(f"{window.row.history:,}" for window in rows)),
        rows=tuple((name, *(f"{window.ms(name):.1f}" for window in rows)) for name in TRIAL_CALLS),
    )


def served(title: str, fitted_model: Model) -> Table:
    kinds = [(cores, size) for cores in CORES for size in SIZES]
    heads = (f"{cores} {'core' if cores == 1 else 'cores'}, {size:,}" for cores, size in kinds)
    return Table(
        title=title,
        heads=("trials of", *heads, "its lock"),
        rows=tuple(
            (
                f"{length:g} s",
                *(f"{fitted_model.max_workers(FULL * cores, length, size):,}" for cores, size in kinds),
                f"{fitted_model.most_locked(length):,}",
            )
            for length in LENGTHS
        ),
    )
