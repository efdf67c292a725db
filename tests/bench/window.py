"""One measurement: a study in a database, simulated workers, and a time window in which both are metered."""

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
from tests.bench.bookkeeping import RandomTrial, insert, rows
from tests.bench.measure import ROOT
from tests.bench.simulated_workers import Part, curve, lifted
from tests.service.postgres import Server

STUDY = "scale"
STEPS = 20
TRIAL_S = 60.0
"""Real seconds of a trial."""
WORKERS_PER_MACHINE = 8
"""As many as the GPUs of a large machine."""
STARTS = 2.0
"""Workers started per second. Each first reads all trials, and all share the cores of this computer."""
#: Maximum number of processes for the workers, limited by memory: up to it one per machine. Threads of one process wait
#: for each other, unlike real workers.
MOST_PROCESSES = 32
#: Processes for the launchers.
MACHINE_PROCESSES = 8
HISTORY = 500
"""Finished trials of a study at the start; above this number tpe learns from a sample."""
BUDGET = 12_000
MOST_SHARE = 0.1
"""Maximum bookkeeping of a trial as a share of its training, a goal of this project; a row above it is saturated."""
MOST_S = 1.0
"""Maximum p99 of a call in seconds, a goal of this project; a row above it is saturated."""

#: Application names of the connections.
WORKER, MACHINE = "worker", "machine"
#: The calls of a worker, in the order of a trial; LAUNCHER_CALLS has those of a launcher.
TRIAL_CALLS = (
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
LAUNCHER_CALLS = ("renew", "expire", "progress", "fill")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement."""

    workers: int
    speed: float
    """Factor by which time is compressed."""
    window_s: float
    trial_s: float = TRIAL_S
    """Real seconds of a trial."""
    history: int = HISTORY
    is_pruned: bool = False

    @property
    def machines(self) -> int:
        return -(-self.workers // WORKERS_PER_MACHINE)

    @property
    def polls(self) -> float:
        """Polls per second that the launchers are due to send."""
        return self.machines * self.speed / pause_s(0.0, machines=self.machines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The measurements of one window."""

    row: Row
    seconds: float
    calls: Mapping[str, Sequence[float]]
    """Seconds of each call, by name, without the metered calls inside it."""
    own_cpu_s: float
    """CPU seconds of all workers: Python, SQLAlchemy, Optuna and tpe."""
    base_cpu_s: Mapping[str, float]
    """CPU seconds of the server's processes, by client."""
    connections: int
    connection_mb: float
    """Unshared memory of one connection."""
    busy: float
    """Utilisation of this computer's cores by all processes."""
    waited: int
    """Calls since the start that waited for the database for longer than NOTICE_S."""
    died: int
    """Workers and launchers that failed; `why` is the first error."""
    why: str

    @property
    def trials(self) -> float:
        """Trials in the window. Complete trials are counted by steps, because most of them begin or end outside."""
        return len(self.calls.get("tell", ())) if self.row.is_pruned else len(self.calls.get("train", ())) / STEPS

    @property
    def polls(self) -> int:
        return len(self.calls.get("progress", ()))

    @property
    def size(self) -> float:
        """Trials of the study in the middle of the window."""
        return self.row.history + self.row.workers + self.trials / 2

    def ms(self, *names: str) -> float:
        """Milliseconds per trial in these calls."""
        return 1000 * self.spent(*names) / max(1, self.trials)

    def spent(self, *names: str) -> float:
        """Seconds in these calls."""
        return sum(sum(self.calls.get(name, ())) for name in names)

    @property
    def share(self) -> float:
        """Bookkeeping of a trial as a share of its real training time."""
        return self.spent(*TRIAL_CALLS) / (len(self.calls.get("train", ())) * self.row.trial_s / STEPS)

    @property
    def offered(self) -> float:
        """Trials per second if only training took time."""
        return self.row.workers * self.row.speed / self.row.trial_s

    @property
    def slowest(self) -> tuple[str, float]:
        """The call of a worker with the highest p99, and this p99 in seconds."""
        worst = [(name, percentile(self.calls[name], 99)) for name in TRIAL_CALLS if self.calls.get(name)]
        return max(worst, key=itemgetter(1), default=("", 0.0))

    @property
    def trial_cpu_s(self) -> float:
        """CPU seconds of the server per trial."""
        return self.base_cpu_s[WORKER] / max(1, self.trials)

    @property
    def poll_cpu_s(self) -> float:
        """CPU seconds of the server per poll of a launcher, with its share of the renewals."""
        return self.base_cpu_s[MACHINE] / max(1, self.polls)

    @property
    def is_saturated(self) -> bool:
        return self.share > MOST_SHARE or self.slowest[1] > MOST_S or self.died > 0


def percentile(values: Sequence[float], percent: int) -> float:
    """The given percentile of the values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * percent // 100)]


# -- the study ---------------------------------------------------------------------------------------------------


def tables() -> dict[str, Any]:
    """A study of the recorded cells: five parameters choose the curve, ten more have no effect on it."""
    cells = tomllib.loads((ROOT / "studies" / "curves.toml").read_text())["space"]
    extra = {
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
        "space": {**cells, **extra},
    }


def fill(url: str, history: int) -> None:
    """Create the study with `history` finished trials."""
    storage = Storage(url, create=True)
    stored = stored_study.open_or_create(storage, study_spec.build(tables()), name=STUDY, data={"fingerprint": "none"})
    rng = random.Random(0)
    for first in range(0, history, 1000):
        insert(storage, [prepared(number, stored, rng) for number in range(first, min(history, first + 1000))])
    if storage.engine.dialect.name == "postgresql":
        with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            next_id = f"SELECT setval(pg_get_serial_sequence('{TRIALS.name}', 'trial_id'), {history})"
            connection.exec_driver_sql(next_id)
            connection.exec_driver_sql("ANALYZE")  # autovacuum does the same within a minute
    storage.engine.dispose()


def prepared(number: int, stored: stored_study.StoredStudy, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    drawn = RandomTrial(rng)
    values = sample(stored.spec.space, drawn)
    steps = dict(enumerate(lifted(curve(values, STEPS), number), 1))
    return rows(number, stored.id, drawn, steps, "COMPLETE")


# -- the window --------------------------------------------------------------------------------------------------


def measure(row: Row, url: sa.URL, server: Server | None) -> Measured:
    """Run the simulated workers and machines, and measure one window."""
    text = url.render_as_string(hide_password=False)
    fill(text, row.history)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shares = parts(row, url)
        children = [stack.enter_context(process(part, folder)) for part in shares]
        wait_until_ready(children)
        before = spent(server, url)
        psutil.cpu_percent()
        began = time.perf_counter()
        tell(children, "begin")
        time.sleep(row.window_s)
        tell(children, "end")
        seconds = time.perf_counter() - began
        busy = psutil.cpu_percent() / 100
        after = spent(server, url)
        connection_mb = memory_mb(after.connections)
        answers = [answer(child) for child in children]
    failures = [text for measured in answers for text in measured["failures"]]
    calls: defaultdict[str, list[float]] = defaultdict(list)
    for measured in answers:
        for name, values in measured["calls"].items():
            calls[name] += values
    return Measured(
        row=row,
        seconds=seconds,
        calls=dict(calls),
        own_cpu_s=sum(own["cpu_s"] for part, own in zip(shares, answers, strict=True) if not part.is_machines),
        base_cpu_s={client: after.seconds[client] - before.seconds.get(client, 0.0) for client in after.seconds},
        connections=len(after.connections),
        connection_mb=connection_mb,
        busy=busy,
        waited=sum(measured["waits"] for measured in answers),
        died=len(failures),
        why=failures[0] if failures else "",
    )


def parts(row: Row, url: sa.URL) -> list[Part]:
    """Distribute the workers and the machines over several processes."""

    def named(client: str) -> str:
        is_postgres = url.get_backend_name() == "postgresql"
        client_url = url.update_query_dict({"application_name": client}) if is_postgres else url
        return client_url.render_as_string(hide_password=False)

    all_workers = Part(
        url=named(WORKER),
        study=STUDY,
        first=0,
        count=row.workers,
        apart_s=1 / STARTS,
        trial_s=row.trial_s / row.speed,
        speed=row.speed,
        workers_per_machine=WORKERS_PER_MACHINE,
        is_pruned=row.is_pruned,
    )
    count = min(row.machines, MOST_PROCESSES)
    worker_ranges = pairwise(row.workers * index // count for index in range(count + 1))
    workers = [replace(all_workers, first=first, count=end - first) for first, end in worker_ranges if end > first]
    launchers = replace(all_workers, url=named(MACHINE), apart_s=WORKERS_PER_MACHINE / STARTS, is_machines=True)
    ranges = pairwise(row.machines * index // MACHINE_PROCESSES for index in range(MACHINE_PROCESSES + 1))
    return [*workers, *(replace(launchers, first=first, count=end - first) for first, end in ranges if end > first)]


@contextmanager
def process(part: Part, folder: str) -> Iterator[subprocess.Popen[str]]:
    """A process of simulated workers or machines, until the block ends."""
    words = [sys.executable, "-m", "tests.bench.simulated_workers", json.dumps(asdict(part))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_until_ready(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"


def tell(children: Sequence[subprocess.Popen[str]], word: str) -> None:
    for child in children:
        assert child.stdin is not None
        child.stdin.write(f"{word}\n")
        child.stdin.flush()


def answer(child: subprocess.Popen[str]) -> dict[str, Any]:
    """The measurements of a child, as it sends them at the command "end"."""
    assert child.stdout is not None
    measurements: dict[str, Any] = json.loads(child.stdout.readline())
    return measurements


@dataclass(slots=True)
class Spent:
    """CPU seconds of a server's processes by client, and its connections."""

    seconds: dict[str, float] = field(default_factory=lambda: {WORKER: 0.0, MACHINE: 0.0, "itself": 0.0})
    connections: list[psutil.Process] = field(default_factory=list)


def memory_mb(processes: Sequence[psutil.Process]) -> float:
    """Mean unshared memory of a process, from a sample of about twenty."""
    sampled = processes[:: len(processes) // 20 + 1]
    return sum(process.memory_full_info().uss for process in sampled) / max(1, len(sampled)) / 1e6


def spent(server: Server | None, url: sa.URL) -> Spent:
    usage = Spent()
    if server is None:
        return usage
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = "SELECT pid, application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
        names: dict[int, str] = dict(connection.exec_driver_sql(query).tuples().all())
    for backend in server.postmaster().children():
        try:
            times = backend.cpu_times()
        except psutil.NoSuchProcess:
            continue
        client = names.get(backend.pid, "itself")
        usage.seconds[client if client in usage.seconds else "itself"] += times.user + times.system
        if client in (WORKER, MACHINE):
            usage.connections.append(backend)
    return usage
