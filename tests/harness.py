"""A place to try the service in: a database, study files and images in a folder, commands and workers as they are."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from search.artifacts import checkpoint, study_dir
from search.artifacts.study_dir import StudyDirs
from search.cli import main
from search.process import this_process
from search.spec import study_spec
from search.storage import claims, queries
from search.storage.rdb import Storage
from search.storage.read_only import open_reader
from search.storage.records import TrialCounts, TrialRecord
from search.study import inputs, stored_study, strategy
from search.trial import runner
from search.trial.context import TrainingContext, WorkerConfig

CONVSEARCH = Path(sys.executable).with_name("convsearch")
#: What the images of each class have in common; the rest is noise.
COLOURS = {"blue": (60, 60, 190), "green": (60, 190, 60), "grey": (120, 120, 120), "red": (190, 60, 60)}
#: Longest wait for anything; on a busy machine a worker takes half a minute to load torch.
PATIENCE_S = 90.0
#: Verbs that know --cache, and those that know no --storage.
CACHED = {"run", "resume", "final", "export", "doctor", "clean", "worker", "serve"}
STATELESS = {"validate", "predict", "completion"}

#: A study of one trial that lasts some seconds: 60 steps, and everything in it that has a state of its own.
LONG: dict[str, Any] = {
    "budget": {"trials": 1, "epochs": 20, "steps_per_epoch": 3},
    "space": {"learning_rate": 0.01, "dropout_conv": 0.2, "ema": 0.9, "scheduler": "plateau", "crop": 1, "flip": True},
}

Tables = dict[str, Any]
"""A study file as TOML reads it."""
Rows = Sequence[Mapping[str, Any]]
"""An array of tables."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Harness:
    """One database with its files; the images and their cache are shared with other labs."""

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
        """All homes in which studies of this database have files."""
        return (self.dirs,)

    def home_of(self, trial: TrialRecord) -> StudyDirs:
        """The home in which the files of a trial are."""
        return self.dirs

    def tables(self, points: Rows = (), compare: Rows = (), **changes: Mapping[str, Any]) -> Tables:
        """A study of seconds: 320 images of 8 x 8 pixels, 3 steps of 10 batches; `changes` go into its tables.

        `points` are what [[try]] holds (a word that Python keeps for itself), `compare` the rows of [[compare]].
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
        """Write a study file; its path."""
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

    def start(self, *words: str) -> "Launcher":
        """Start a command in a process group of its own, as a shell does."""
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
        """The words of a command, with where its database and its images are."""
        storage = [] if words[0] in STATELESS or {"--storage", "--from"} & set(words) else ["--storage", self.url]
        return [*words, *storage, *(["--cache", str(self.cache)] if words[0] in CACHED else [])]

    # -- as a worker ------------------------------------------------------------------------------------------

    def create(
        self, name: str = "s", points: Rows = (), compare: Rows = (), **changes: Mapping[str, Any]
    ) -> WorkerConfig:
        """Prepare images and study as a launcher does; what it would tell its worker."""
        wanted = study_spec.build(self.tables(points, compare, **changes))
        storage = Storage(self.url, create=True)
        data = inputs.prepare_data(wanted, self.cache, lambda _: None)
        stored_study.open_or_create(storage, wanted, name=name, data=data)
        return self.worker_config(name)

    def worker_config(self, name: str = "s") -> WorkerConfig:
        return WorkerConfig(url=self.url, study=name, token=uuid.uuid4().hex, cache=str(self.cache), device="cpu")

    # -- as who looks at it afterwards ------------------------------------------------------------------------

    def trials(self, name: str = "s") -> tuple[TrialRecord, ...]:
        return queries.trials(open_reader(self.url), name)

    def counts(self, name: str = "s") -> TrialCounts:
        return queries.study(open_reader(self.url), name).counts

    def trained(self, number: int = 0, *, name: str = "s") -> dict[str, Any]:
        """The last checkpoint of a trial: everything that the training was made of, but for the time it took."""
        uid = stored_study.load(Storage(self.url), name).uid
        found = checkpoint.latest(self.dirs.trial(name, number), study=uid, trial=number)
        assert found is not None
        return {key: value for key, value in found[1].items() if key != "seconds"}

    def workers(self, name: str = "s") -> tuple[int, ...]:
        """The processes that work on trials of the study now."""
        running = queries.progress(open_reader(self.url), name).running
        return tuple(each.pid for each in running if each.pid is not None)

    def steps(self, number: int = 0, *, name: str = "s") -> int:
        """How many steps of a trial are recorded; none if it does not exist yet."""
        return sum(len(trial.curve) for trial in self.trials(name) if trial.number == number)


@dataclass(frozen=True, slots=True)
class Launcher:
    """A `convsearch` process and those that it starts."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the launcher and all that it started, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, number)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; a failure if the launcher ends before."""

        wait_until(lambda: condition() or self.process.poll() is not None)
        assert condition(), self.said

    def end(self) -> Answer:
        """Wait until it ends."""
        code = self.process.wait(timeout=PATIENCE_S)
        return Answer(code, "", self.said)

    def family(self) -> tuple[psutil.Process, ...]:
        """All processes of its group that live, itself included."""
        return tuple(process for process in psutil.process_iter() if _group(process) == self.process.pid)

    def sweep(self) -> None:
        """Kill what is left of it, so that a test that fails leaves nothing behind."""
        for process in self.family():
            process.kill()
        self.process.wait()


def paint(folder: Path) -> Path:
    """Make a folder of 100 training and 10 test images of 8 x 8 pixels in each of four colours, easy to tell apart."""
    random = np.random.default_rng(0)
    for part, count in (("train", 100), ("test", 10)):
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            pixels = np.clip(random.normal(colour, 40, (count, 8, 8, 3)), 0, 255).astype(np.uint8)
            for index, image in enumerate(pixels):
                Image.fromarray(image).save(folder / part / name / f"{index:03d}.png")
    return folder


def work(place: TrainingContext, pulse: Callable[[], None] = lambda: None) -> TrialRecord:
    """Claim the next trial and run it in this process."""
    owner = this_process(place.storage.token or "")
    claim = claims.claim(place.storage, place.study.id, owner, strategy.queue(place.study))
    assert claim is not None
    runner.run_trial(place, claim, pulse)
    return queries.trial(place.storage.engine, place.study.name, claim.number)


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Root may write everything: be nobody (65534, by the Linux Standard Base) for a while, where we are root."""
    ours = os.geteuid()
    if ours == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(ours)


def wait_until(condition: Callable[[], object], *, patience_s: float = PATIENCE_S, look_s: float = 0.02) -> None:
    """Wait until `condition` holds, looking so often; a failure if it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(look_s)


def equal(one: object, other: object) -> bool:
    """Whether two states of a training are the same, bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def toml(tables: Tables) -> str:
    """The tables as a study file."""
    lines = []
    for name, table in tables.items():
        heading, rows = (f"[[{name}]]", table) if isinstance(table, list) else (f"[{name}]", [table])
        for row in rows:
            lines += [heading, *(f"{key} = {_value(value)}" for key, value in row.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def _group(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.Error, ProcessLookupError):
        return None
