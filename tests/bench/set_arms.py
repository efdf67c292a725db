"""The arms of `python -m tests.bench sets`: commands that make a tested network of images in a given time."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from search.errors import UsageError
from search.process import die_with_parent
from search.study import provenance
from tests.bench.image_sets import HASH_LENGTH, ImageSet
from tests.bench.measure import ROOT

Arm = Literal["expert", "recipe", "before", "ours"]
ARMS: tuple[Arm, ...] = get_args(Arm)
EXPERT = Path(__file__).with_name("expert.py")
BEFORE = "f9cae2d"
"""The last commit without a study for one's own images; its README recommends `cifar10` for these."""
BEFORE_SEARCH = 2 / 3
"""Share of the time for the search of `before`: two of three minutes, as in studies/records/2026-11-29_known-point."""
BEFORE_START_S = 3.0
"""What `convsearch final` takes to start, beside its --hours."""
KILL_FACTOR, KILL_S = 1.5, 60.0
"""A run is killed after this factor of its time and these seconds."""
STUDY = "s"


class RunFailedError(RuntimeError):
    """A run ended without a tested network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run of an arm."""

    images: ImageSet
    minutes: float
    seed: int
    folder: Path
    """An empty folder, for the database, the cache and the output."""
    unpacked: Path
    """The images as a folder of train/CLASS/* and test/CLASS/*, for an arm that reads no archive."""
    before: Path | None = None
    """A clone at an earlier commit, for `before`."""
    began: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float:
        """Seconds that are left of the time."""
        return 60 * self.minutes - (time.monotonic() - self.began)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'studies.db'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """A tested network."""

    seconds: float
    """From the start of the first process to the end of the last one that the network needed."""
    right: int
    images: int
    bits: str
    epochs: float
    trials: int
    parameters: int | None
    configuration: Mapping[str, Any]


# -- the arms -----------------------------------------------------------------------------------------------------


def expert(job: Job) -> Tested:
    """The stand-alone script."""
    words = [sys.executable, str(EXPERT), str(job.unpacked), "--minutes", str(job.minutes), "--seed", str(job.seed)]
    lines = call(words, job).splitlines()
    seconds = time.monotonic() - job.began
    try:
        result = json.loads(lines[-1])
        return Tested(seconds=seconds, **{key: result[key] for key in Tested.__dataclass_fields__ if key != "seconds"})
    except (IndexError, ValueError, KeyError) as error:
        raise RunFailedError(f"the script printed no result, but {lines[-1:]}") from error


def ours(job: Job, *extra: str) -> Tested:
    """`convsearch run PATH`, as a user would call it."""
    hours = f"{job.minutes / 60:.5f}"
    convsearch(job, "run", str(job.images.path), "--hours", hours, *named(job), *places(job), *extra)
    return verdict(job, time.monotonic() - job.began)


def recipe(job: Job) -> Tested:
    """The same without a search: the recipe is the only trial."""
    return ours(job, "--trials", "1")


def before(job: Job) -> Tested:
    """An earlier commit, by its README's commands: `cifar10` for one's own images, `cifar10-10min` for CIFAR-10."""
    data = ("--data", str(job.images.path))
    if job.images.is_cifar10 and job.minutes == 10:
        convsearch(job, "run", "cifar10-10min", *data, *named(job), *places(job))
        return verdict(job, time.monotonic() - job.began)
    hours = f"{BEFORE_SEARCH * job.minutes / 60:.5f}"
    convsearch(job, "run", "cifar10", *data, "--hours", hours, *named(job), *places(job))
    rest = f"{max(1.0, job.left_s - BEFORE_START_S) / 3600:.5f}"
    once = ("--top", "1", "--seeds", "1", "--no-baseline")
    convsearch(job, "final", STUDY, *once, "--hours", rest, *places(job))
    return verdict(job, time.monotonic() - job.began)


RUN: Mapping[Arm, Callable[[Job], Tested]] = {"expert": expert, "recipe": recipe, "before": before, "ours": ours}


def named(job: Job) -> tuple[str, ...]:
    return "--name", STUDY, "--set", f"search.seed={job.seed}"


def places(job: Job) -> tuple[str, ...]:
    """A database and a cache of its own: the decoding of the images is part of the time."""
    return "--storage", job.url, "--cache", str(job.folder / "cache")


def verdict(job: Job, seconds: float) -> Tested:
    """The tested network of a study with a last training."""
    listed = json.loads(convsearch(job, "best", f"{STUDY}.final", "--json", "--storage", job.url))
    tested = listed["trials"]
    if len(tested) != 1:
        raise RunFailedError(f"{len(tested)} networks were tested in place of one")
    trial = json.loads(
        convsearch(job, "show", f"{STUDY}.final", str(tested[0]["number"]), "--json", "--storage", job.url)
    )
    counts = json.loads(convsearch(job, "best", STUDY, "--json", "--storage", job.url))["counts"]
    return Tested(
        seconds=seconds,
        right=trial["test"]["right"],
        images=trial["test"]["images"],
        bits=trial["test"].get("bits", ""),
        epochs=trial["epochs"],
        trials=sum(counts[state] for state in ("complete", "pruned", "failed")),
        parameters=trial["parameters"],
        configuration=trial["config"],
    )


# -- processes ----------------------------------------------------------------------------------------------------


def convsearch(job: Job, *words: str) -> str:
    """Run a command of convsearch, and return what it prints."""
    return call([str(command(job.before)), *words], job)


def command(clone: Path | None) -> Path:
    """The command of a clone that is installed, otherwise that of this project, which runs the code of PYTHONPATH."""
    own = Path(sys.executable).with_name("convsearch")
    installed = None if clone is None else clone / ".venv" / "bin" / "convsearch"
    return installed if installed is not None and installed.exists() else own


def environment(clone: Path | None) -> dict[str, str]:
    """The environment of an arm: no settings of the caller, no GPU, and the code of a clone if there is one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONVSEARCH_", "PYTHONPATH"))}
    kept["CUDA_VISIBLE_DEVICES"] = ""  # the expert's script is written for processors
    return kept if clone is None else kept | {"PYTHONPATH": str(clone)}


def call(words: Sequence[str], job: Job) -> str:
    """Run a command in the folder of a job, and return what it prints.

    Raises:
        RunFailedError: It failed, was killed, or took much too long; the message has the end of its output.
    """
    limit_s = KILL_FACTOR * 60 * job.minutes + KILL_S - (time.monotonic() - job.began)
    log = job.folder / "stderr.txt"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            words,
            cwd=job.folder,
            env=environment(job.before),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
        ) as process,
    ):
        try:
            printed, _ = process.communicate(timeout=max(1.0, limit_s))
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise RunFailedError(f"killed after {time.monotonic() - job.began:.0f} s: too late") from error
        except BaseException:
            _kill(process)
            raise
    if process.returncode:
        end = " ".join(log.read_text(errors="replace").split()[-30:])
        raise RunFailedError(f"{_ended(process.returncode)}: {end}")
    return printed


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with its children; its own children are in its session."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended(code: int) -> str:
    return f"exit {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"


# -- versions -----------------------------------------------------------------------------------------------------


def code(arm: Arm) -> str:
    """A hash of the code of an arm. A run counts as done only for the same code."""
    if arm == "before":
        return BEFORE
    if arm == "expert":
        return _hash([EXPERT])
    folders = (*provenance.FOLDERS, "studies")
    return _hash(file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".toml"))


def commit(arm: Arm) -> str:
    return BEFORE if arm == "before" else provenance.commit()


def clone(folder: Path, given: Path | None) -> Path:
    """A clone at BEFORE: the given one, or a new one in `folder`.

    Raises:
        UsageError: This folder is no clone, and none is given; or the given one has another commit.
    """
    place = given or folder / "before"
    if given is None:
        for words in (
            ["clone", "--quiet", "--no-checkout", str(ROOT), str(place)],
            ["-C", str(place), "checkout", "-q", BEFORE],
        ):
            subprocess.run(["git", *words], check=True, capture_output=True)
    head = subprocess.run(["git", "-C", str(place), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if not head.stdout.startswith(BEFORE):
        raise UsageError(f"{place} is at {head.stdout.strip()[:7] or 'no commit'}, not at {BEFORE}")
    return place


def _hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:HASH_LENGTH]
