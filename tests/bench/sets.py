"""`make bench-sets`: image sets, an expert's Optuna script, and convsearch, each with the same minutes.

Every run begins with a new process and an empty cache, and ends with a network that is tested once. Its result is a
line of a file. A benchmark that was killed goes on with the first run that the file does not have.

    .venv/bin/python -m tests.bench sets --data FOLDER
    .venv/bin/python -m tests.bench sets --data FOLDER --sets cifar10-jpeg --minutes 10
    .venv/bin/python -m tests.bench sets --table
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from search.errors import UsageError
from search.study import provenance
from tests.bench import image_sets, measure, set_runs, set_table
from tests.bench.image_sets import ImageSet
from tests.bench.set_arms import ARMS, RUN, Arm, Job, RunFailedError, Tested, clone, code, commit
from tests.bench.set_runs import SetRun

RESULTS = measure.ROOT / "runs" / "bench-sets.jsonl"
MINUTES, SEEDS = (3.0,), (1, 2, 3)
Planned = tuple[ImageSet, Arm, int, float]
"""Images, arm, seed and minutes of a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All runs of a benchmark."""

    sets: tuple[ImageSet, ...]
    arms: tuple[Arm, ...] = ARMS
    seeds: tuple[int, ...] = SEEDS
    minutes: tuple[float, ...] = MINUTES
    before: Path | None = None
    """A clone for the arm `before`; by default one is made."""
    retries: bool = False
    """Whether failed runs are repeated."""
    most: int | None = None
    """Maximum number of runs this time."""

    def runs(self) -> list[Planned]:
        """All runs in order. The arms of a set and seed follow each other, on a machine that may change its speed."""
        return [
            (images, arm, seed, minutes)
            for minutes in self.minutes
            for seed in self.seeds
            for images in self.sets
            for arm in self.arms
        ]


def main(words: Sequence[str]) -> int:
    args = parser().parse_args(words)
    if args.table:
        return print_table(args.results, keep=args.keep)
    try:
        sets = image_sets.find(args.sets, args.data)
        plan = Plan(
            sets=sets,
            arms=tuple(args.arms),
            seeds=tuple(args.seeds),
            minutes=tuple(args.minutes),
            before=args.before,
            retries=args.retry_failed,
            most=args.runs,
        )
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with set_runs.alone(args.results):
            run_plan(plan, args.results)
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BlockingIOError:
        print(f"another benchmark writes to {args.results}; wait for its end", file=sys.stderr)
        return 75
    return print_table(args.results, keep=args.keep)


def parser() -> argparse.ArgumentParser:
    data = os.environ.get("CONVSEARCH_TEST_DATA")
    made = argparse.ArgumentParser(prog="python -m tests.bench sets", description=__doc__)
    made.add_argument("--sets", nargs="+", default=[], metavar="SET", help="names in --data, or paths (default: all)")
    made.add_argument(
        "--data",
        type=Path,
        default=Path(data) if data else None,
        help="folder of archives, in it or in its folder sets/ (default: $CONVSEARCH_TEST_DATA)",
    )
    made.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, metavar="ARM", help=f"of {', '.join(ARMS)}")
    made.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="S", help="default: 1 2 3")
    made.add_argument("--minutes", nargs="+", type=float, default=MINUTES, metavar="M", help="default: 3")
    made.add_argument("--before", type=Path, metavar="CLONE", help="clone for the arm before (default: a new one)")
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="default: runs/bench-sets.jsonl")
    made.add_argument("--runs", type=int, metavar="N", help="end after N runs; the same command goes on")
    made.add_argument("--retry-failed", action="store_true", help="repeat the runs that failed")
    made.add_argument("--table", action="store_true", help="run nothing, only print the table")
    made.add_argument("--keep", action="store_true", help="keep table and runs under studies/records/")
    return made


def run_plan(plan: Plan, results: Path) -> None:
    """Run what the file of results does not have."""
    codes = {arm: code(arm) for arm in plan.arms}
    missing = missing_runs(plan, set_runs.read(results), codes)[: plan.most]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        needs_clone = any(arm == "before" for _, arm, _, _ in missing)
        before = clone(home, plan.before) if needs_clone else None
        places = {images: image_sets.unpacked(images, home) for images in {run[0] for run in missing}}
        for number, (images, arm, seed, minutes) in enumerate(missing, 1):
            busy = psutil.cpu_percent(1.0) / 100
            with tempfile.TemporaryDirectory(dir=home) as empty:
                job = Job(
                    images=images,
                    minutes=minutes,
                    seed=seed,
                    folder=Path(empty),
                    unpacked=places[images],
                    before=before if arm == "before" else None,
                )
                run = run_arm(arm, job, code=codes[arm], busy=busy)
            set_runs.add(results, run)
            print(f"{number} of {len(missing)}: {described(run)}", file=sys.stderr, flush=True)


def missing_runs(plan: Plan, recorded: Sequence[SetRun], codes: Mapping[Arm, str]) -> list[Planned]:
    """The runs of a plan without a result of the same code on this machine."""
    last, machine = {run.key: run for run in recorded}, provenance.hardware()

    def is_done(images: ImageSet, arm: Arm, seed: int, minutes: float) -> bool:
        run = last.get((images.name, images.digest, arm, seed, minutes))
        if run is None or (run.code, run.machine) != (codes[arm], machine):
            return False
        return not (run.failure and plan.retries)

    return [planned for planned in plan.runs() if not is_done(*planned)]


def run_arm(arm: Arm, job: Job, *, code: str, busy: float) -> SetRun:
    """Run an arm, and record whatever it comes to."""
    outcome: Tested | None = None
    failure = ""
    try:
        outcome = RUN[arm](job)
    except (RunFailedError, ValueError, KeyError) as error:  # the last two: JSON of another form
        failure = str(error) or type(error).__name__
    return SetRun(
        set=job.images.name,
        digest=job.images.digest,
        arm=arm,
        seed=job.seed,
        minutes=job.minutes,
        seconds=round(time.monotonic() - job.began if outcome is None else outcome.seconds, 1),
        failure=failure,
        test=None if outcome is None else outcome.right / outcome.images,
        right=None if outcome is None else outcome.right,
        images=None if outcome is None else outcome.images,
        bits="" if outcome is None else outcome.bits,
        epochs=None if outcome is None else outcome.epochs,
        trials=None if outcome is None else outcome.trials,
        parameters=None if outcome is None else outcome.parameters,
        configuration={} if outcome is None else outcome.configuration,
        busy=busy,
        code=code,
        commit=commit(arm),
        machine=provenance.hardware(),
        versions=measure.package_versions(),
        date=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def described(run: SetRun) -> str:
    """`flowers, expert, seed 1, 3 minutes: 0.871 in 179 s`."""
    value = run.failure or f"{run.test:.3f}"
    return f"{run.set}, {run.arm}, seed {run.seed}, {run.minutes:g} minutes: {value} in {run.seconds:.0f} s"


def print_table(results: Path, *, keep: bool) -> int:
    runs = set_runs.read(results)
    if not runs:
        print(f"{results} has no runs yet", file=sys.stderr)
        return 0
    result, command = set_table.result(runs), "python -m tests.bench sets"
    print(measure.page(result, command))
    if keep:
        print(f"kept in {measure.keep(result, command).relative_to(measure.ROOT)}", file=sys.stderr)
    return 0
