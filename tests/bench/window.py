"""One measurement: a study in a database, a crowd that works on it, and a window in which both are looked at."""

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

import psutil
import sqlalchemy as sa

from search.spec import study_spec
from search.spec.search_space import sample
from search.storage.rdb import Storage
from search.storage.tables import TRIALS
from search.study import stored_study
from search.workers.polling import pause_s
from tests.bench.bookkeeping import Drawn, insert, rows
from tests.bench.crowd import Part, curve, lifted
from tests.bench.measure import ROOT
from tests.service.postgres import Server

STUDY = "scale"
STEPS, DRAWN = 20, 15
TRIAL_S = 60.0
"""Of a trial in truth."""
SEAT = 8
"""Workers of a machine, as it has GPUs."""
STARTS = 2.0
"""Workers that begin in a second. Each reads all trials first, for which all of them share this computer's cores."""
#: Processes that share out the workers: one for each machine, as far as memory reaches; threads of one wait for each
#: other, as processes do not.
MOST_PROCESSES = 32
#: And those that share out the launchers.
MACHINE_PROCESSES = 8
HISTORY = 500
"""Finished trials that a study has at first; from then on tpe sees an excerpt."""
BUDGET = 12_000
MOST_SHARE = 0.1
"""What a trial may take beside its training; from there on, it is bent."""
MOST_S = 1.0
"""And so long may a call take, but for one in a hundred."""

#: Which of the server's connections are whose.
WORKER, MACHINE = "worker", "machine"
#: The calls of a worker, in the order of a trial, and those of a machine's launcher.
LIFE = (
    "claim",
    "history",
    "read",
    "open",
    "sampler",
    "draw",
    "describe",
    "record",
    "rank",
    "tell",
    "delete_checkpoints",
    "log",
)
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
        return self.machines * self.speed / pause_s(0.0, machines=self.machines)


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


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many per cent are at most."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * percent // 100)]


# -- the study ---------------------------------------------------------------------------------------------------


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
    stored = stored_study.open_or_create(storage, study_spec.build(tables()), name=STUDY, data={"fingerprint": "none"})
    dice = random.Random(0)
    for first in range(0, history, 1000):
        insert(storage, [prepared(number, stored, dice) for number in range(first, min(history, first + 1000))])
    if storage.engine.dialect.name == "postgresql":
        with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            next_id = f"SELECT setval(pg_get_serial_sequence('{TRIALS.name}', 'trial_id'), {history})"
            connection.exec_driver_sql(next_id)
            connection.exec_driver_sql("ANALYZE")  # as the server's own housekeeping does within a minute
    storage.engine.dispose()


def prepared(number: int, stored: stored_study.StoredStudy, dice: random.Random) -> dict[str, list[dict[str, Any]]]:
    drawn = Drawn(dice)
    values = sample(stored.spec.space, drawn)
    steps = dict(enumerate(lifted(curve(values, STEPS), number), 1))
    return rows(number, stored.id, drawn, steps, "COMPLETE")


# -- the window --------------------------------------------------------------------------------------------------


def measure(row: Row, url: sa.URL, server: Server | None) -> Measured:
    """Let the crowd work, and look at it for a while."""
    text = url.render_as_string(hide_password=False)
    fill(text, row.history)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shares = parts(row, url)
        crowd = [stack.enter_context(process(part, folder)) for part in shares]
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
        own_cpu_s=sum(answer["cpu_s"] for part, answer in zip(shares, answers, strict=True) if not part.is_machines),
        base_cpu_s={who: after.seconds[who] - before.seconds.get(who, 0.0) for who in after.seconds},
        connections=len(after.connections),
        connection_mb=connection_mb,
        busy=busy,
        waited=sum(answer["waits"] for answer in answers),
        died=len(failures),
        why=failures[0] if failures else "",
    )


def parts(row: Row, url: sa.URL) -> list[Part]:
    """The workers, and the machines, each over several processes."""

    def named(who: str) -> str:
        own = url.update_query_dict({"application_name": who}) if url.get_backend_name() == "postgresql" else url
        return own.render_as_string(hide_password=False)

    whole = Part(
        url=named(WORKER),
        study=STUDY,
        first=0,
        count=row.workers,
        apart_s=1 / STARTS,
        trial_s=row.trial_s / row.speed,
        speed=row.speed,
        seat=SEAT,
        is_pruned=row.is_pruned,
    )
    count = min(row.machines, MOST_PROCESSES)
    ends = pairwise(row.workers * index // count for index in range(count + 1))
    workers = [replace(whole, first=first, count=end - first) for first, end in ends if end > first]
    launchers = replace(whole, url=named(MACHINE), apart_s=SEAT / STARTS, is_machines=True)
    some = pairwise(row.machines * index // MACHINE_PROCESSES for index in range(MACHINE_PROCESSES + 1))
    return [*workers, *(replace(launchers, first=first, count=end - first) for first, end in some if end > first)]


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
