"""How many workers one database serves: the true loops of 1 to 1,000 simulated workers, without the training.

Trials are of 20 steps and last a minute, 15 parameters are drawn by tpe, asha decides at rungs; each trial is whole.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any

import optuna
import psutil
import sqlalchemy as sa
from optuna.trial import TrialState

from search import spec, study
from search.space import sample
from search.storage import TRIALS, Storage
from tests.bench.bookkeeping import Drawn, insert, rows
from tests.bench.crowd import Part, curve, lifted
from tests.bench.measure import ROOT, Figure, Result, Table
from tests.service.postgres import Server, missing, serving

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
READY_S = 300.0

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was seen in one window."""

    row: Row
    seconds: float
    calls: Mapping[str, Sequence[float]]
    """Seconds of each, by name."""
    worker_cpu_s: float
    machine_cpu_s: float
    base_cpu_s: Mapping[str, float]
    """Of the server's processes, by whom they serve."""
    connections: int
    busy: float
    """Share of this machine's cores, by whomever."""

    @property
    def trials(self) -> int:
        return len(self.calls.get("tell", ()))

    @property
    def rate(self) -> float:
        return self.trials / self.seconds

    def ms(self, *names: str) -> float:
        """Of a trial, in these calls."""
        return 1000 * sum(sum(self.calls.get(name, ())) for name in names) / max(1, self.trials)

    @property
    def share(self) -> float:
        """Of a worker's time that is not training, in truth."""
        spent = self.ms(*LIFE) / 1000
        return spent / (spent + self.row.trial_s)


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


# -- all of it -----------------------------------------------------------------------------------------------------


def measured(quick: bool) -> Result:
    """Rows on both databases, the growth with the study, and the model."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    why = missing()
    if why:
        raise SystemExit(f"{why}; the workers of `make bench-scale` are served by one")
    window_s = 4.0 if quick else 60.0
    counts, few = ((1, 16), (1, 4)) if quick else ((1, 8, 32, 128, 256, 512, 1000), (1, 4, 8, 16, 32))
    sizes = (200, 500) if quick else (900, 9_900)
    with serving(SETTINGS) as server:

        def on_postgres(row: Row) -> Measured:
            return measure(row, server.url(server.make_database()), server)

        rows = [on_postgres(Row(workers=count, speed=speed(count), window_s=window_s)) for count in counts]
        grown = [on_postgres(Row(workers=16, speed=speed(16), window_s=window_s / 2, history=size)) for size in sizes]
    files = [on_sqlite(Row(workers=count, speed=speed(count) / 2, window_s=window_s / 2)) for count in few]
    return report(rows, files, grown)


def speed(workers: int) -> float:
    """How far time is compressed for so many workers: RATE, but no trial is shorter than SHORTEST_S here."""
    return max(1.0, min(RATE * TRIAL_S / workers, TRIAL_S / SHORTEST_S))


def on_sqlite(row: Row) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        return measure(row, sa.make_url(f"sqlite:///{folder}/studies.db"), None)


# -- what is said of it -------------------------------------------------------------------------------------------

MOST_SHARE = 0.1
"""Of a worker's time that is not training: from there on, it is bent."""
MOST_S = 1.0
"""Of a call, in one of a hundred."""


def report(rows: Sequence[Measured], files: Sequence[Measured], grown: Sequence[Measured]) -> Result:
    small, large = grown
    storage = [name for name in LIFE if name != "sampler"]
    target = next((each for each in rows if each.row.workers == 256), rows[-1])
    return Result(
        name=NAME,
        about=(
            f"Trials of {STEPS} steps last {TRIAL_S:g} s in truth; 15 parameters, tpe, asha, which ends none of them.",
        ),
        figures=(
            Figure(
                what=f"{target.row.workers} workers, 1-minute trials: of a worker's time, not training",
                unit="%",
                values=(100 * target.share,),
                limit=2.0,
            ),
            Figure(
                what=f"storage of a trial at {large.row.history:,} trials by that at {small.row.history:,}",
                unit="x",
                values=(large.ms(*storage) / small.ms(*storage),),
                limit=2.0,
            ),
        ),
        tables=(
            overview("PostgreSQL", rows),
            calls("PostgreSQL, p50 / p99 of a call, ms, by workers", rows),
            overview("SQLite", files),
            calls("SQLite, p50 / p99 of a call, ms, by workers", files),
            lives("Storage of a trial, ms, by trials before it, 16 workers", grown),
        ),
    )


def overview(title: str, rows: Sequence[Measured]) -> Table:
    heads = ("workers", "faster", "trials/s", "of", "ms", "tpe", "of 60 s", "worst p99", "cores", "base", "conn.")
    return Table(title=title, heads=heads, rows=tuple(overview_row(each) for each in rows))


def overview_row(one: Measured) -> tuple[str, ...]:
    offered = one.row.workers * one.row.speed / (one.row.trial_s + one.row.speed * one.ms(*LIFE) / 1000)
    name, worst = max(
        ((name, percentile(one.calls[name], 99)) for name in one.calls if name != "train"), key=itemgetter(1)
    )
    return (
        f"{one.row.workers:,}",
        f"{one.row.speed:.3g}x",
        f"{one.rate:.2f}",
        f"{offered:.2f}",
        f"{one.ms(*LIFE):.0f}",
        f"{one.ms('sampler'):.0f}",
        f"{one.share:.2%}",
        f"{name} {worst:.2f} s",
        f"{one.busy:.0%}",
        f"{sum(one.base_cpu_s.values()) / one.seconds:.2f}",
        str(one.connections),
    )


def calls(title: str, rows: Sequence[Measured]) -> Table:
    def cell(one: Measured, name: str) -> str:
        seconds = one.calls.get(name)
        return f"{percentile(seconds, 50) * 1000:.0f} / {percentile(seconds, 99) * 1000:.0f}" if seconds else ""

    return Table(
        title=title,
        heads=("call", *(f"{one.row.workers:,}" for one in rows)),
        rows=tuple((name, *(cell(one, name) for one in rows)) for name in (*LIFE, *WATCH)),
    )


def lives(title: str, rows: Sequence[Measured]) -> Table:
    return Table(
        title=title,
        heads=("call", *(f"{one.row.history:,}" for one in rows)),
        rows=tuple((name, *(f"{one.ms(name):.1f}" for one in rows)) for name in LIFE),
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
        answers = [json.loads(each.stdout.readline()) for each in crowd if each.stdout is not None]
    failures = [text for answer in answers for text in answer["failures"]]
    if failures:
        raise RuntimeError(f"{len(failures)} of the crowd died, the first of {failures[0]}")
    calls: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, values in answer["calls"].items():
            calls[name] += values
    return Measured(
        row=row,
        seconds=seconds,
        calls=dict(calls),
        worker_cpu_s=sum(answer["cpu_s"] for answer in answers[:-1]),
        machine_cpu_s=answers[-1]["cpu_s"],
        base_cpu_s={who: after.seconds[who] - before.seconds.get(who, 0.0) for who in after.seconds},
        connections=after.connections,
        busy=busy,
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
        total=row.workers,
        trial_s=row.trial_s / row.speed,
        speed=row.speed,
        seat=SEAT,
        is_pruned=row.is_pruned,
    )
    ends = pairwise(row.workers * index // PROCESSES for index in range(PROCESSES + 1))
    workers = [replace(whole, first=first, count=end - first) for first, end in ends if end > first]
    return [*workers, replace(whole, url=named(MACHINE), count=row.machines, total=row.machines, is_machines=True)]


@contextmanager
def process(part: Part, folder: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the crowd, until the block ends."""
    one = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.crowd", json.dumps(asdict(part))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        yield one
    finally:
        one.kill()
        one.wait()


def tell(crowd: Sequence[subprocess.Popen[str]], word: str) -> None:
    for each in crowd:
        assert each.stdin is not None
        each.stdin.write(f"{word}\n")
        each.stdin.flush()


@dataclass(slots=True)
class Spent:
    """CPU seconds of a server's processes by whom they serve; and its connections."""

    seconds: dict[str, float] = field(default_factory=lambda: {WORKER: 0.0, MACHINE: 0.0, "itself": 0.0})
    connections: int = 0


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
        found.connections += who in (WORKER, MACHINE)
    return found
