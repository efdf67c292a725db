"""How many workers one database serves: the true loops of 1 to 1,000 simulated workers, without the training.

Trials are of 20 steps and last a minute, 15 parameters are drawn by tpe, asha decides at rungs; each trial is whole.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import optuna
import psutil
import sqlalchemy as sa
from optuna.trial import TrialState
from scipy.optimize import nnls

from search import spec, study
from search.pool import READ_S
from search.retry import NOTICE_S
from search.space import sample
from search.storage import TRIALS, Storage
from search.times import Times
from tests.bench.bookkeeping import Drawn, insert, rows
from tests.bench.crowd import Part, curve, lifted
from tests.bench.measure import ROOT, Figure, Result, Table
from tests.service.postgres import Server, missing, serving, version

NAME = "scale"
STEPS = 20
TRIAL_S = 60.0
"""Of a trial in truth."""
SEAT = 8
"""Workers of a machine, as it has GPUs."""
RATE = 256 / TRIAL_S
"""Trials a second: time is compressed as far as needed for so many, where there are too few workers for that."""
SHORTEST_S = 2.0
"""Of a trial as it is waited for here; shorter ones would be all bookkeeping."""
PROCESSES = 8
HISTORY = 500
"""Finished trials that a study has at first; from then on tpe sees an excerpt."""
BUDGET = 12_000
DRAWN = 15

MOST_SHARE = 0.1
"""What a trial may take beside its training; from there on, it is bent."""
MOST_S = 1.0
"""And so long may a call take, but for one in a hundred."""
FULL = 0.7
"""Of a server, or of a lock: beyond, queues grow fast."""
LENGTHS = (10.0, 60.0, 600.0)
CORES, SIZES = (1, 8), (1_000, 10_000)

#: A server as it is installed, but for its connections: it confirms nothing that is not on the disk.
SETTINGS = """
listen_addresses = '127.0.0.1'
max_connections = 1300
shared_buffers = 256MB
"""
#: Which of its connections are whose.
WORKER, MACHINE = "worker", "machine"
#: The calls of a worker, in the order of a trial, and those of a machine's launcher.
LIFE = ("claim", "history", "read", "open", "sampler", "draw", "describe", "record", "standing", "tell", "tidy", "log")
WATCH = ("renew", "expire", "progress", "fill")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement."""

    workers: int
    speed: float
    """So many times faster than in truth."""
    window_s: float
    trial_s: float = TRIAL_S
    """In truth."""
    history: int = HISTORY
    is_pruned: bool = False

    @property
    def machines(self) -> int:
        return -(-self.workers // SEAT)

    @property
    def looks(self) -> float:
        """That launchers are to take, a second."""
        return self.machines * self.speed / READ_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was seen in one window."""

    row: Row
    seconds: float
    calls: Mapping[str, Sequence[float]]
    """Seconds of each, by name, without what other calls inside it took."""
    own_cpu_s: float
    """Of all workers: what Python, SQLAlchemy, Optuna and tpe compute."""
    base_cpu_s: Mapping[str, float]
    """Of the server's processes, by whom they serve."""
    connections: int
    connection_mb: float
    """Memory of one that no other shares."""
    busy: float
    """Share of this computer's cores, by whomever."""
    waited: int
    """Calls that waited for the database for longer than a person does without being told; since the first one."""
    died: int
    """Workers and launchers that could not go on; the first says why."""
    why: str

    @property
    def trials(self) -> float:
        """That were lived in the window; of whole ones by their steps, as most of them began or end outside."""
        return len(self.calls.get("tell", ())) if self.row.is_pruned else len(self.calls.get("train", ())) / STEPS

    @property
    def looks(self) -> int:
        return len(self.calls.get("progress", ()))

    @property
    def size(self) -> float:
        """Trials of the study in the middle of the window."""
        return self.row.history + self.row.workers + self.trials / 2

    def ms(self, *names: str) -> float:
        """Of a trial, in these calls."""
        return 1000 * self.spent(*names) / max(1, self.trials)

    def spent(self, *names: str) -> float:
        """Seconds in these calls."""
        return sum(sum(self.calls.get(name, ())) for name in names)

    @property
    def share(self) -> float:
        """What comes to the time of training, in truth."""
        return self.spent(*LIFE) / (len(self.calls.get("train", ())) * self.row.trial_s / STEPS)

    @property
    def offered(self) -> float:
        """Trials a second, if nothing but training took time."""
        return self.row.workers * self.row.speed / self.row.trial_s

    @property
    def slowest(self) -> tuple[str, float]:
        """The call of a worker with the highest p99, and that, in seconds."""
        found = [(name, percentile(self.calls[name], 99)) for name in LIFE if self.calls.get(name)]
        return max(found, key=itemgetter(1), default=("", 0.0))

    @property
    def trial_cpu_s(self) -> float:
        """Of the server, for one trial."""
        return self.base_cpu_s[WORKER] / max(1, self.trials)

    @property
    def look_cpu_s(self) -> float:
        """Of the server, for one look of a launcher, with its share of the renewals."""
        return self.base_cpu_s[MACHINE] / max(1, self.looks)

    @property
    def is_bent(self) -> bool:
        return self.share > MOST_SHARE or self.slowest[1] > MOST_S or self.died > 0


def tables() -> dict[str, Any]:
    """A study over the recorded cells: five parameters choose the curve, ten more are drawn beside them."""
    cells = tomllib.loads((ROOT / "studies" / "curves.toml").read_text())["space"]
    more = {
        "dropout_conv": {"low": 0.0, "high": 0.3},
        "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "label_smoothing": {"low": 0.0, "high": 0.2},
        "warmup": {"low": 0.0, "high": 0.2},
        "width": {"low": 16, "high": 64, "step": 8},
        "kernel_size": [3, 5],
        "pool": ["max", "avg"],
        "norm": ["batch", "group", "none"],
        "activation": ["relu", "leaky_relu", "elu", "gelu", "silu"],
        "clip": [0.0, 1.0, 5.0],
    }
    return {
        "data": {"source": "shapes"},
        "budget": {"trials": BUDGET, "epochs": STEPS},
        "search": {"pruner": "asha"},
        "space": {**cells, **more},
    }


def fill(url: str, history: int) -> None:
    """Make the study, with so many finished trials."""
    storage = Storage(url, create=True)
    stored = study.open_or_create(storage, spec.build(tables()), name=NAME, data={"fingerprint": "none"})
    dice = random.Random(0)
    for first in range(0, history, 1000):
        insert(storage, [prepared(number, stored, dice) for number in range(first, min(history, first + 1000))])
    if storage.engine.dialect.name == "postgresql":
        with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            next_id = f"SELECT setval(pg_get_serial_sequence('{TRIALS.name}', 'trial_id'), {history})"
            connection.exec_driver_sql(next_id)
            connection.exec_driver_sql("ANALYZE")  # as the server's own housekeeping does within a minute
    storage.engine.dispose()


def prepared(number: int, stored: study.StoredStudy, dice: random.Random) -> dict[str, list[dict[str, Any]]]:
    drawn = Drawn(dice)
    values = sample(stored.spec.space, drawn)
    steps = dict(enumerate(lifted(curve(values, STEPS), number), 1))
    return rows(number, stored.id, drawn, steps, TrialState.COMPLETE)


# -- all of it ----------------------------------------------------------------------------------------------------


def measured(quick: bool) -> Result:
    """Rows on both databases, the growth with the study, and the model."""
    if why := missing():
        raise SystemExit(f"{why}; `make bench-scale` has its workers served by one")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = QUICK if quick else PLAN
    with serving(SETTINGS) as server:

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
        *(at(workers, 60.0) for workers in (1, 8, 32, 128, 256)),
        *(Row(workers=workers, speed=1.0, window_s=60.0, trial_s=600.0, history=200) for workers in (512, 1000)),
    ),
    sqlite=tuple(at(workers, 30.0, rate=RATE / 2) for workers in (1, 4, 8, 16, 32)),
    grown=(at(16, 40.0, history=900), at(16, 40.0, history=9_900)),
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


# -- the model ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """CPU seconds of a server for a trial, and for a look of a launcher: each a sum of three parts.

    A worker reads all trials that moved since its last one, which are as many as there are workers; a launcher all that
    run. Some queries go over all trials of the study.
    """

    trial: tuple[float, float, float]
    """Whatever the study is; for each worker; for each trial of the study."""
    look: tuple[float, float, float]
    lock_s: float
    """For which a claim keeps all others waiting, at the most: how long it takes when there are none."""

    def cores(self, workers: float, trial_s: float, size: float) -> float:
        """Of the server, that so many workers keep busy."""
        facts = (1.0, workers, size)
        trial, look = (float(np.dot(part, facts)) for part in (self.trial, self.look))
        return workers / trial_s * trial + workers / SEAT / READ_S * look

    def most(self, cores: float, trial_s: float, size: float) -> int:
        """The most workers that keep no more than `cores` busy."""
        low, high = 0, 1_000_000
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.cores(middle, trial_s, size) <= cores else (low, middle - 1)
        return low

    def most_locked(self, trial_s: float) -> int:
        """The most workers that keep the lock of their study for no more than FULL of the time."""
        return int(FULL * trial_s / self.lock_s)


def model(rows: Sequence[Measured]) -> Model:
    """Fitted to what the server did in these rows."""
    seen = [each for each in rows if each.trials and each.looks]
    alone = min(seen, key=lambda each: each.row.workers)
    return Model(
        trial=fitted(seen, lambda each: each.trial_cpu_s),
        look=fitted(seen, lambda each: each.look_cpu_s),
        lock_s=percentile(alone.calls["claim"], 50),
    )


def fitted(rows: Sequence[Measured], cost: Callable[[Measured], float]) -> tuple[float, float, float]:
    """The parts that a cost is made of, none below zero, so that the relative errors are small."""
    facts = np.array([[1.0, each.row.workers, each.size] for each in rows])
    costs = np.array([max(cost(each), 1e-9) for each in rows])
    found, _ = nnls(facts / costs[:, None], np.ones(len(rows)))
    return float(found[0]), float(found[1]), float(found[2])


# -- what is said of it -------------------------------------------------------------------------------------------


def report(rows: Sequence[Measured], files: Sequence[Measured], grown: Sequence[Measured], pruned: Measured) -> Result:
    small, large = grown
    storage = [name for name in LIFE if name != "sampler"]
    target = next((each for each in rows if each.row.workers == 256), rows[-1])
    known = model([*rows, *grown])
    return Result(
        name=NAME,
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
        f"The loops are those of workers ({PROCESSES} processes, a thread and a connection each, no torch) and of "
        f"launchers (one for {SEAT} workers, a look each {READ_S:g} s, a renewal each {Times().renewal_s:g} s).",
        "faster: time is compressed so often, for workers and launchers alike. ms a trial: all that a worker does but "
        "wait for training. looks: those that launchers took, of those that were due; they run at a lower priority. "
        f"waited: calls that waited for the database for {NOTICE_S:g} s or longer, from the start on.",
        "Server and simulated workers share this computer: where it is busy, times are upper bounds; CPU is not.",
        "Python's garbage collector is off in the simulated workers, as it would stop them all for one's garbage.",
        f"PostgreSQL {version()}, {', '.join(SETTINGS.split(chr(10))[2:-1])}, fsync on; nothing pools its connections.",
        f"SQLite {sqlite3.sqlite_version}, DELETE journal, synchronous FULL, on the disk.",
        f"It bends on PostgreSQL {bend(rows)}; on SQLite {bend(files)}.",
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
                f"at {each.row.workers:,} workers ({each.share:.1%} of a trial, p99 of {name} {worst:.2f} s, "
                f"this computer {each.busy:.0%} busy{died})"
            )
    return f"not up to {rows[-1].row.workers:,} workers"


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
    heads = (
        "workers",
        "conn.",
        "MB each",
        "cores",
        "ms a trial",
        "ms a look",
        "looks/s",
        "of",
        "worker's own ms",
        "died",
    )
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
                *(f"{known.most(FULL * cores, length, size):,}" for cores, size in kinds),
                f"{known.most_locked(length):,}",
            )
            for length in LENGTHS
        ),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many per cent are at most."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * percent // 100)]


# -- one measurement ----------------------------------------------------------------------------------------------


def measure(row: Row, url: sa.URL, server: Server | None) -> Measured:
    """Let the crowd work, and look at it for a while."""
    text = url.render_as_string(hide_password=False)
    fill(text, row.history)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        crowd = [stack.enter_context(process(part, folder)) for part in parts(row, url)]
        for each in crowd:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        before = spent(server, url)
        psutil.cpu_percent()
        began = time.perf_counter()
        tell(crowd, "begin")
        time.sleep(row.window_s)
        tell(crowd, "end")
        seconds = time.perf_counter() - began
        busy = psutil.cpu_percent() / 100
        after = spent(server, url)
        connection_mb = memory_mb(after.connections)
        answers = [json.loads(each.stdout.readline()) for each in crowd if each.stdout is not None]
    failures = [text for answer in answers for text in answer["failures"]]
    calls: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, values in answer["calls"].items():
            calls[name] += values
    return Measured(
        row=row,
        seconds=seconds,
        calls=dict(calls),
        own_cpu_s=sum(answer["cpu_s"] for answer in answers[:-1]),
        base_cpu_s={who: after.seconds[who] - before.seconds.get(who, 0.0) for who in after.seconds},
        connections=len(after.connections),
        connection_mb=connection_mb,
        busy=busy,
        waited=sum(answer["waits"] for answer in answers),
        died=len(failures),
        why=failures[0] if failures else "",
    )


def parts(row: Row, url: sa.URL) -> list[Part]:
    """The workers, over several processes, and the machines in one."""

    def named(who: str) -> str:
        own = url.update_query_dict({"application_name": who}) if url.get_backend_name() == "postgresql" else url
        return own.render_as_string(hide_password=False)

    whole = Part(
        url=named(WORKER),
        study=NAME,
        first=0,
        count=row.workers,
        apart_s=1 / RATE,
        trial_s=row.trial_s / row.speed,
        speed=row.speed,
        seat=SEAT,
        is_pruned=row.is_pruned,
    )
    ends = pairwise(row.workers * index // PROCESSES for index in range(PROCESSES + 1))
    workers = [replace(whole, first=first, count=end - first) for first, end in ends if end > first]
    return [*workers, replace(whole, url=named(MACHINE), count=row.machines, apart_s=SEAT / RATE, is_machines=True)]


@contextmanager
def process(part: Part, folder: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the crowd, until the block ends."""
    words = [sys.executable, "-m", "tests.bench.crowd", json.dumps(asdict(part))]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=own) as one:
        try:
            yield one
        finally:
            one.kill()


def tell(crowd: Sequence[subprocess.Popen[str]], word: str) -> None:
    for each in crowd:
        assert each.stdin is not None
        each.stdin.write(f"{word}\n")
        each.stdin.flush()


@dataclass(slots=True)
class Spent:
    """CPU seconds of a server's processes by whom they serve; and its connections."""

    seconds: dict[str, float] = field(default_factory=lambda: {WORKER: 0.0, MACHINE: 0.0, "itself": 0.0})
    connections: list[psutil.Process] = field(default_factory=list)


def memory_mb(processes: Sequence[psutil.Process]) -> float:
    """Of one of them, that it shares with none; of twenty at the most."""
    some = processes[:: len(processes) // 20 + 1]
    return sum(each.memory_full_info().uss for each in some) / max(1, len(some)) / 1e6


def spent(server: Server | None, url: sa.URL) -> Spent:
    found = Spent()
    if server is None:
        return found
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        asked = "SELECT pid, application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
        names: dict[int, str] = dict(connection.exec_driver_sql(asked).tuples().all())
    postmaster = psutil.Process(int((server.folder / "data" / "postmaster.pid").read_text().splitlines()[0]))
    for each in postmaster.children():
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        who = names.get(each.pid, "itself")
        found.seconds[who if who in found.seconds else "itself"] += times.user + times.system
        if who in (WORKER, MACHINE):
            found.connections.append(each)
    return found
