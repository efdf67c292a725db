"""A test harness: a database, study files and images in a folder, with the real commands and workers."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from PIL import Image

from data.cache import find_by_fingerprint
from search.artifacts import checkpoint, study_dir
from search.artifacts.study_dir import StudyDirs
from search.cli import main
from search.process import this_process
from search.service.session import RunOptions
from search.spec import study_spec
from search.storage import claims, queries
from search.storage.claims import Claim
from search.storage.rdb import Storage
from search.storage.read_only import open_reader, sqlite_path
from search.storage.records import TrialCounts, TrialRecord
from search.study import inputs, stored_study, strategy
from search.trial import loop, objective
from search.trial.context import TrainingContext, WorkerConfig
from tests import forks
from tests.forks import ForkedCommand

CONVSEARCH = Path(sys.executable).with_name("convsearch")
#: Mean colour of the images of each class; the rest is noise.
COLOURS = {"blue": (60, 60, 190), "green": (60, 190, 60), "grey": (120, 120, 120), "red": (190, 60, 60)}
#: Timeout of every wait in seconds; on a busy machine a worker takes half a minute to load torch.
PATIENCE_S = 90.0
#: Verbs that accept --cache, and verbs that do not accept --storage.
CACHED = {"run", "resume", "final", "validate", "export", "doctor", "clean", "worker", "serve"}
STATELESS = {"validate", "predict", "completion"}

#: A study of one trial that lasts some seconds: 60 steps, and every component that has a state.
LONG: dict[str, Any] = {
    "budget": {"trials": 1, "epochs": 20, "steps_per_epoch": 3},
    "space": {"learning_rate": 0.01, "dropout_conv": 0.2, "ema": 0.9, "scheduler": "plateau", "crop": 1, "flip": True},
}

#: A learning rate with which a trial learns nothing, and the learning rates from it to a good one.
IDLE = 1e-9
RATES: dict[str, Any] = {"low": IDLE, "high": 0.1, "log": True}

#: The data of a stored study that is not trained.
DATA = {"fingerprint": "f" * 64, "classes": ["cat", "dog"]}

Tables = dict[str, Any]
"""A study file as TOML reads it."""
Rows = Sequence[Mapping[str, Any]]
"""An array of tables."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Harness:
    """One database with its files; the images and their cache are shared with other harnesses."""

    folder: Path
    images: Path
    cache: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'home' / 'studies.db'}"

    @property
    def dirs(self) -> StudyDirs:
        return study_dir.of(self.url)

    @property
    def homes(self) -> tuple[StudyDirs, ...]:
        """All directories in which studies of this database have files."""
        return (self.dirs,)

    def home_of(self, trial: TrialRecord) -> StudyDirs:
        """The directories that hold the files of a trial."""
        return self.dirs

    def tables(self, points: Rows = (), compare: Rows = (), **changes: Mapping[str, Any]) -> Tables:
        """A study that takes seconds: 320 images of 8 x 8 pixels, 3 steps of 10 batches.

        Args:
            points: The rows of [[try]] (`try` is a keyword of Python).
            compare: The rows of [[compare]].
            changes: Values that replace or extend those of the tables.
        """
        tables: Tables = {
            "data": {"source": "folder", "path": str(self.images), "image_size": 8, "validation": 80},
            "budget": {"trials": 4, "epochs": 3},
            "search": {"pruner": "none", "startup_trials": 3, "rung_updates": 1},
            "space": {
                "conv_layers": 1,
                "width": 8,
                "dense_layers": 0,
                "batch_size": 32,
                "learning_rate": {"low": 0.001, "high": 0.1, "log": True},
            },
        }
        for name, change in changes.items():
            tables[name] = {**tables.get(name, {}), **change}
        return tables | {"try": list(points), "compare": list(compare)}

    # -- as a user --------------------------------------------------------------------------------------------

    def write(self, name: str = "s", points: Rows = (), compare: Rows = (), **changes: Mapping[str, Any]) -> str:
        """Write a study file and return its path."""
        path = self.folder / f"{name}.toml"
        path.write_text(toml(self.tables(points, compare, **changes)))
        return str(path)

    def run(self, *words: str) -> Answer:
        """Run a command in this process."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main.main(self.complete(words))
            for stream in (out, err):
                stream.seek(0)
            return Answer(code, out.read(), err.read())

    def train(self, name: str = "s", points: Rows = (), compare: Rows = (), **changes: Mapping[str, Any]) -> Answer:
        """Run a study to its end with one worker, and return the answer of the command.

        This is for tests whose subject begins at a finished study: the first test that asks for a study trains it, and
        the others of the test run get a copy. The harness must not have a database yet.
        """
        assert not self.dirs.root.exists(), "a copy would replace the studies of this harness"
        text = toml(self.tables(points, compare, **changes))
        key = hashlib.sha256(f"{name}\n{text}\n{self.cache}".encode()).hexdigest()[:16]

        def run(folder: Path) -> None:
            folder.mkdir()
            origin = Harness(folder, self.images, self.cache)
            answer = origin.run("run", origin.write(name, points, compare, **changes), "--workers", "1")
            (folder / "answer.json").write_text(json.dumps(asdict(answer)))

        self.write(name, points, compare, **changes)
        trained = once(self.images.parent / "trained" / key, run)
        shutil.copytree(trained / "home", self.folder / "home")
        return Answer(**json.loads((trained / "answer.json").read_text()))

    def start(self, *words: str) -> "Launcher":
        """Start a command in a new process group; see `tests.forks`."""
        log = self.folder / f"launcher-{uuid.uuid4().hex}.txt"
        return Launcher(forks.start(self.complete(words), log), log)

    def run_until(self, file: str, condition: Callable[[], object]) -> None:
        """Run the study "s" of a file with one worker, and stop it as soon as `condition` holds."""
        with self.start("run", file, "--workers", "1") as launcher:
            launcher.until(condition)
            assert self.run("stop", "s").code == 0
            assert launcher.end().code == 0

    def start_from_shell(self, *words: str) -> "Launcher":
        """Start a command in a new process group, as a shell does, with a new Python."""
        log = self.folder / f"launcher-{uuid.uuid4().hex}.txt"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [str(CONVSEARCH), *self.complete(words)],
                stdout=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )
        return Launcher(process, log)

    def complete(self, words: Sequence[str]) -> list[str]:
        """Add --storage and --cache to the words of a command that accepts them."""
        storage = [] if words[0] in STATELESS or {"--storage", "--from"} & set(words) else ["--storage", self.url]
        return [*words, *storage, *(["--cache", str(self.cache)] if words[0] in CACHED else [])]

    # -- as a worker ------------------------------------------------------------------------------------------

    def create(
        self, name: str = "s", points: Rows = (), compare: Rows = (), **changes: Mapping[str, Any]
    ) -> WorkerConfig:
        """Prepare images and study as a launcher does, and return the configuration of a worker."""
        wanted = study_spec.build(self.tables(points, compare, **changes))
        storage = Storage(self.url, create=True)
        data = inputs.prepare_data(wanted, self.cache, quiet)
        stored_study.open_or_create(storage, wanted, name=name, data=data)
        return self.worker_config(name)

    def options(self, name: str = "s", **changes: Any) -> RunOptions:
        """The options of a run with one worker; `changes` replace their values."""
        return replace(RunOptions(url=self.url, cache=self.cache, name=name, workers=1), **changes)

    def worker_config(self, name: str = "s") -> WorkerConfig:
        return WorkerConfig(url=self.url, study=name, token=uuid.uuid4().hex, cache=str(self.cache), device="cpu")

    # -- results ----------------------------------------------------------------------------------------------

    def trials(self, name: str = "s") -> tuple[TrialRecord, ...]:
        """The trials of a study; empty if it does not exist yet."""
        return queries.trials(reader(self.url), name) if self.dirs.study(name).exists() else ()

    def counts(self, name: str = "s") -> TrialCounts:
        return queries.study(reader(self.url), name).counts

    def trained(self, number: int = 0, *, name: str = "s", dirs: StudyDirs | None = None) -> dict[str, Any]:
        """The state in the last checkpoint of a trial, without the seconds of the training.

        Args:
            number: The number of the trial.
            name: The name of the study.
            dirs: The directories that hold its files, if they are not those of this harness.
        """
        uid = stored_study.load(Storage(self.url), name).uid
        latest = checkpoint.latest((dirs or self.dirs).trial(name, number), study=uid, trial=number)
        assert latest is not None
        return {key: value for key, value in latest[1].items() if key != "seconds"}

    def forget_images(self, name: str = "s") -> None:
        """Delete the decoded images of a study."""
        folder = find_by_fingerprint(stored_study.load(Storage(self.url), name).data["fingerprint"], self.cache)
        assert folder is not None
        shutil.rmtree(folder)

    def workers(self, name: str = "s") -> tuple[int, ...]:
        """Process ids of the workers that run trials of the study; empty if it does not exist yet."""
        if not self.dirs.study(name).exists():
            return ()
        running = queries.progress(reader(self.url), name).running
        return tuple(trial.pid for trial in running if trial.pid is not None)

    def steps(self, number: int = 0, *, name: str = "s") -> int:
        """Number of recorded steps of a trial; 0 if it does not exist yet."""
        return sum(len(trial.curve) for trial in self.trials(name) if trial.number == number)


@dataclass(frozen=True, slots=True)
class Launcher:
    """A `convsearch` process and its child processes; the end of a `with` block kills all that still run."""

    process: "subprocess.Popen[bytes] | ForkedCommand"
    log: Path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sweep()

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the launcher and its children, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, number)

    def until(self, condition: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
        """Wait until `condition` holds, if only for a moment, and fail if the launcher ends before."""
        held = False

        def is_over() -> bool:
            nonlocal held
            held = bool(condition())
            return held or self.process.poll() is not None

        wait_until(is_over, patience_s=patience_s)
        assert held or condition(), self.said  # it may hold since the launcher ended

    def end(self) -> Answer:
        """Wait until the launcher ends."""
        code = self.process.wait(timeout=PATIENCE_S)
        return Answer(code, "", self.said)

    def family(self) -> tuple[psutil.Process, ...]:
        """All live processes of the launcher's process group, including the launcher."""
        pids = [pid for pid in psutil.pids() if group(pid) == self.process.pid]
        return tuple(process for pid in pids if (process := living(pid)) is not None)

    def sweep(self) -> None:
        """Kill all remaining processes of the launcher, so that a failed test leaves none behind."""
        for process in self.family():
            process.kill()
        self.process.wait()


#: The read-only engine of a database; a new one for each of the many polls would cost three times the query.
reader = functools.cache(open_reader)


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """Make a file or a folder once in a test run, in the first of its processes that needs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            shutil.rmtree(part, ignore_errors=True)  # of a process that failed
            make(part)
            part.rename(path)
    return path


@contextlib.contextmanager
def locked(url: str, mode: str = "IMMEDIATE") -> Iterator[None]:
    """Lock a SQLite database inside the block: against writers, or against readers too with mode EXCLUSIVE."""
    connection = sqlite3.connect(str(sqlite_path(url)), timeout=PATIENCE_S, isolation_level=None)
    try:
        connection.execute(f"BEGIN {mode}")
        yield
    finally:
        connection.close()


def long_study(**budget: float) -> Tables:
    """The study LONG with this budget, and a learning rate that is drawn in each trial."""
    rate = {"low": 0.001, "high": 0.1, "log": True}
    return LONG | {"budget": budget, "space": LONG["space"] | {"learning_rate": rate}}


def paint(folder: Path) -> Path:
    """Write 100 training and 10 test images of 8 x 8 pixels for each of four distinct colours."""
    random = np.random.default_rng(0)
    for part, count in (("train", 100), ("test", 10)):
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            pixels = np.clip(random.normal(colour, 40, (count, 8, 8, 3)), 0, 255).astype(np.uint8)
            for index, image in enumerate(pixels):
                Image.fromarray(image).save(folder / part / name / f"{index:03d}.png")
    return folder


def run_claimed(context: TrainingContext, claim: Claim, pulse: Callable[[], None] = lambda: None) -> bool:
    """Run a claimed trial in this process; see `loop.run_claimed_trial`."""
    return loop.run_claimed_trial(
        context, claim, functools.partial(objective.evaluate_trial, context, pulse), where="cpu"
    )


def work(context: TrainingContext, pulse: Callable[[], None] = lambda: None) -> TrialRecord:
    """Claim the next trial and run it in this process."""
    owner = this_process(context.storage.token or "")
    claim = claims.claim(context.storage, context.study.id, owner, strategy.queue(context.study))
    assert claim is not None
    run_claimed(context, claim, pulse)
    return queries.trial(context.storage.engine, context.study.name, claim.number)


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Run as nobody (user 65534, by the Linux Standard Base) if we are root, because root may write everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def quiet(_: str) -> None:
    """Discard a message."""


def wait_until(condition: Callable[[], object], *, patience_s: float = PATIENCE_S, look_s: float = 0.1) -> None:
    """Check `condition` every `look_s` seconds until it holds, and fail after `patience_s` seconds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(look_s)


def equal(one: object, other: object) -> bool:
    """Whether two training states are bit-for-bit equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def group(pid: int) -> int | None:
    """The process group of a process; None if the process does not exist."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def living(pid: int) -> psutil.Process | None:
    """The process if it runs; None if it ended, even if its parent has not waited for it."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


def toml(tables: Tables) -> str:
    """The text of a study file with these tables."""
    lines = []
    for name, table in tables.items():
        heading, rows = (f"[[{name}]]", table) if isinstance(table, list) else (f"[{name}]", [table])
        for row in rows:
            lines += [heading, *(f"{key} = {_value(value)}" for key, value in row.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)
