"""How many workers one database serves: the true loops of 1 to 1,000 simulated workers, without the training.

Trials are of 20 steps and last a minute, 15 parameters are drawn by tpe, asha decides at rungs; each trial is whole.
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
from search.workers.polling import READ_S, TOGETHER
from tests.bench.capacity import FULL, Model, model
from tests.bench.measure import Figure, Result, Table
from tests.bench.window import (
    DRAWN,
    LIFE,
    MOST_PROCESSES,
    MOST_S,
    MOST_SHARE,
    SEAT,
    STEPS,
    TRIAL_S,
    WATCH,
    Measured,
    Row,
    measure,
    percentile,
)
from tests.service.postgres import missing, serving, version

RATE = 256 / TRIAL_S
"""Trials a second: time is compressed as far as needed for so many, where there are too few workers for that."""
SHORTEST_S = 2.0
"""Of a trial as it is waited for here; shorter ones would be all bookkeeping."""
#: A server as it is installed, but for its connections and memory: it confirms nothing that is not on the disk.
SETTINGS = """
max_connections = 1300
shared_buffers = 256MB
"""
LENGTHS = (10.0, 60.0, 600.0)
"""Seconds of trials for which the model is asked, and the cores and trials of a study."""
CORES, SIZES = (1, 8), (1_000, 10_000)


def measured(quick: bool) -> Result:
    """Rows on both databases, the growth with the study, and the model."""
    if why := missing():
        raise SystemExit(f"{why}; `make bench-scale` has its workers served by one")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = QUICK if quick else PLAN
    with serving(settings=SETTINGS) as server:

        def on_postgres(row: Row) -> Measured:
            return shown("PostgreSQL", measure(row, server.url(server.make_database()), server))

        rows = [on_postgres(row) for row in plan.postgres]
        grown = [on_postgres(row) for row in plan.grown]
        pruned = on_postgres(plan.pruned)
    files = [shown("SQLite", on_sqlite(row)) for row in plan.sqlite]
    return report(rows, files, grown, pruned)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All rows of a run."""

    postgres: tuple[Row, ...]
    sqlite: tuple[Row, ...]
    grown: tuple[Row, Row]
    pruned: Row


def at(workers: int, window_s: float, *, rate: float = RATE, **more: Any) -> Row:
    """A row whose time is compressed as far as `rate` and SHORTEST_S allow."""
    faster = min(rate * TRIAL_S / workers, TRIAL_S / SHORTEST_S)
    return Row(workers=workers, speed=max(1.0, faster), window_s=window_s, **more)


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


def shown(database: str, one: Measured) -> Measured:
    """Say on stderr how a row went, as the next one takes a while."""
    words = f"{database}, {one.row.workers:,} workers: {one.trials:.0f} trials in {one.seconds:.0f} s, "
    print(words + f"{one.ms(*LIFE):.0f} ms a trial, {one.busy:.0%} busy", file=sys.stderr, flush=True)
    return one


# -- what is said of it -------------------------------------------------------------------------------------------


def report(rows: Sequence[Measured], files: Sequence[Measured], grown: Sequence[Measured], pruned: Measured) -> Result:
    small, large = grown
    storage = [name for name in LIFE if name != "sampler"]
    target = next((each for each in rows if each.row.workers == 256), rows[-1])
    known = model([*rows, *grown])
    return Result(
        name="scale",
        about=about(rows, files, known),
        figures=(
            Figure(
                what=f"{target.row.workers} workers on PostgreSQL, {target.row.trial_s:g} s of training: what is added",
                unit="%",
                values=(100 * target.share,),
                limit=2.0,
            ),
            Figure(
                what=f"storage of a trial at {large.row.history:,} trials, by that at {small.row.history:,}",
                unit="x",
                values=(large.ms(*storage) / small.ms(*storage),),
                limit=2.0,
            ),
            Figure(
                what="the same, in seconds of CPU of the server",
                unit="x",
                values=(large.trial_cpu_s / small.trial_cpu_s,),
            ),
        ),
        tables=(
            overview("PostgreSQL, what workers see", [*rows, *grown, pruned]),
            loads("PostgreSQL, what the server does", [*rows, *grown, pruned]),
            calls("PostgreSQL, p50 / p99 of a call in ms, by workers", rows),
            overview("SQLite, what workers see", files),
            calls("SQLite, p50 / p99 of a call in ms, by workers", files),
            lives(f"ms of a trial, by trials before it, {small.row.workers} workers on PostgreSQL", grown),
            served(f"Workers that keep {FULL:.0%} of a server busy, by its cores and the trials of the study", known),
        ),
    )


def about(rows: Sequence[Measured], files: Sequence[Measured], known: Model) -> tuple[str, ...]:
    def parts(costs: Sequence[float]) -> str:
        fixed, worker, trial = (1000 * each for each in costs)
        return f"{fixed:.1f} ms + {worker:.3f} ms a worker + {trial:.4f} ms a trial of the study"

    return (
        f"Trials of {STEPS} steps; {DRAWN} parameters drawn by tpe, asha with three rungs, 5 % audited. Training is "
        "waited for; the value of a step is read off a recorded curve, lifted so that no rung ends a trial: each is "
        "whole. In the row with * rungs end trials as they would.",
        f"The loops are those of workers (a thread and a connection each, in up to {MOST_PROCESSES} processes) and "
        f"of launchers (one for {SEAT} workers, a look each {READ_S:g} s, or {TOGETHER:g} a second "
        f"together, a renewal each {Timeouts().renewal_interval_s:g} s).",
        "faster: time is compressed so often, for workers and launchers alike. ms a trial: all that a worker does but "
        "wait for training. looks: those that launchers took, of those that were due; they run at a lower priority. "
        f"waited: calls that waited for the database for {NOTICE_S:g} s or longer, from the start on.",
        "Server and simulated workers share this computer: where it is busy, times are upper bounds; CPU is not.",
        "Python's garbage collector is off in the simulated workers, as it would stop them all for one's garbage.",
        f"PostgreSQL {version()}, {', '.join(SETTINGS.strip().splitlines())}, fsync on; nothing pools its connections.",
        f"SQLite {sqlite3.sqlite_version}, DELETE journal, synchronous FULL, on the disk.",
        f"Where it bends, on PostgreSQL: {bend(rows)}; on SQLite: {bend(files)}. That is where a trial takes "
        f"{MOST_SHARE:.0%} longer, one call in a hundred {MOST_S:g} s, or somebody cannot go on.",
        f"CPU of the server, fitted: a trial {parts(known.trial)}; a launcher's look {parts(known.look)}.",
        f"A claim alone takes {1000 * known.lock_s:.1f} ms; for most of them it keeps others from claiming.",
    )


def bend(rows: Sequence[Measured]) -> str:
    """The first row in which it bends, and how."""
    for each in rows:
        if each.is_bent:
            name, worst = each.slowest
            died = f", {each.died} could not go on ({each.why})" if each.died else ""
            return (
                f"at {each.row.workers:,} workers with trials of {each.row.trial_s:g} s ({each.share:.1%} longer, "
                f"p99 of {name} {worst:.2f} s, this computer {each.busy:.0%} busy{died})"
            )
    return f"nowhere up to {rows[-1].row.workers:,} workers"


def overview(title: str, rows: Sequence[Measured]) -> Table:
    heads = ("workers", "trials", "s", "faster", "trials/s", "of", "ms a trial", "tpe", "share", "slowest p99", "busy")
    return Table(title=title, heads=heads, rows=tuple(overview_row(each) for each in rows))


def overview_row(one: Measured) -> tuple[str, ...]:
    name, worst = one.slowest
    return (
        named(one),
        f"{one.row.history:,}",
        f"{one.row.trial_s:g}",
        f"{one.row.speed:.3g}x",
        f"{one.trials / one.seconds:.2f}",
        f"{one.offered:.2f}",
        f"{one.ms(*LIFE):.0f}",
        f"{one.ms('sampler'):.0f}",
        f"{one.share:.2%}",
        f"{name} {worst:.2f} s",
        f"{one.busy:.0%}",
    )


def named(one: Measured) -> str:
    return f"{one.row.workers:,}{'*' if one.row.is_pruned else ''}"


def loads(title: str, rows: Sequence[Measured]) -> Table:
    server = ("conn.", "MB each", "cores", "ms a trial", "ms a look")
    heads = ("workers", *server, "looks/s", "of", "worker's own ms", "waited", "died")
    return Table(title=title, heads=heads, rows=tuple(loads_row(each) for each in rows))


def loads_row(one: Measured) -> tuple[str, ...]:
    return (
        named(one),
        f"{one.connections:,}",
        f"{one.connection_mb:.1f}",
        f"{sum(one.base_cpu_s.values()) / one.seconds:.2f}",
        f"{1000 * one.trial_cpu_s:.0f}",
        f"{1000 * one.look_cpu_s:.0f}",
        f"{one.looks / one.seconds:.1f}",
        f"{one.row.looks:.1f}",
        f"{1000 * one.own_cpu_s / max(1, one.trials):.0f}",
        str(one.waited),
        str(one.died),
    )


def calls(title: str, rows: Sequence[Measured]) -> Table:
    def cell(one: Measured, name: str) -> str:
        seconds = one.calls.get(name)
        return f"{percentile(seconds, 50) * 1000:.0f} / {percentile(seconds, 99) * 1000:.0f}" if seconds else ""

    return Table(
        title=title,
        heads=("call", *map(named, rows)),
        rows=tuple((name, *(cell(one, name) for one in rows)) for name in (*LIFE, *WATCH)),
    )


def lives(title: str, rows: Sequence[Measured]) -> Table:
    return Table(
        title=title,
        heads=("call", *(f"{one.row.history:,}" for one in rows)),
        rows=tuple((name, *(f"{one.ms(name):.1f}" for one in rows)) for name in LIFE),
    )


def served(title: str, known: Model) -> Table:
    kinds = [(cores, size) for cores in CORES for size in SIZES]
    heads = (f"{cores} {'core' if cores == 1 else 'cores'}, {size:,}" for cores, size in kinds)
    return Table(
        title=title,
        heads=("trials of", *heads, "its lock"),
        rows=tuple(
            (
                f"{length:g} s",
                *(f"{known.max_workers(FULL * cores, length, size):,}" for cores, size in kinds),
                f"{known.most_locked(length):,}",
            )
            for length in LENGTHS
        ),
    )
