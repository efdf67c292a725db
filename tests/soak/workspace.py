"""The folder of a soak: images, and a separate harness for every case, which is kept if something was lost."""

import atexit
import gc
import importlib
import multiprocessing
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import torch

from search.seeds import derive
from search.spec import study_spec
from search.study import inputs
from tests.harness import Harness, paint
from tests.soak.results import CaseResult

#: A budget of more trials than a soak completes; at the end a study's budget is lowered to the begun trials.
ENDLESS = 5000
#: Seconds between two progress messages of a part.
PROGRESS_S = 15.0
#: Module that torch loads with the first optimizer; without a preload every forked worker would spend seconds on it.
PRELOAD = "torch._dynamo"


@dataclass(kw_only=True, slots=True)
class Case:
    """One case of a part: its harness, its random numbers and its counters."""

    index: int
    harness: Harness
    rng: random.Random
    """Separate for each case, which can therefore be repeated without the others."""
    injected: int = 0
    survived: int = 0
    facts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """A folder for the soak, and the amount of work."""

    folder: Path
    seed: int
    scale: float
    """Share of all faults: 1 for a full run, 0.05 for a trial run."""
    jobs: int
    """Number of cases that run at once."""

    def prepare(self) -> None:
        """Paint and decode the images, and delete the test images: a search that opens one fails (I6)."""
        importlib.import_module(PRELOAD)
        torch.set_num_threads(1)  # without threads of torch this process can fork
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        paint(self.folder / "images")
        harness = self.harness("preparation")
        inputs.prepare_data(study_spec.build(harness.tables()), harness.cache, lambda _: None)
        for path in harness.cache.glob("sets/*/test*"):
            path.unlink()
        gc.freeze()  # loaded objects are never garbage; forks then neither scan nor copy their pages
        atexit.register(gc.unfreeze)  # otherwise libraries report leaks when this process ends

    def harness(self, name: str) -> Harness:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return Harness(folder, self.folder / "images", self.folder / "cache")

    def count(self, full: int) -> int:
        """`full` at this scale, and at least 1."""
        return max(1, round(full * self.scale))

    def sample(self, full: int) -> list[int]:
        """Evenly spaced numbers from 1 to `full`; this scale determines how many."""
        wanted = min(full, self.count(full))
        return [1 + index * full // wanted for index in range(wanted)]

    def run_cases(self, part: str, body: Callable[[Case], None], cases: Sequence[int]) -> list[CaseResult]:
        """Run `body` for every case, each in a process without threads, which can fork."""
        reports: list[CaseResult] = []
        reported = began = time.monotonic()
        with ProcessPoolExecutor(self.jobs, mp_context=multiprocessing.get_context("fork")) as workers:
            for done in as_completed([workers.submit(self._do, part, body, index) for index in cases]):
                reports.append(done.result())
                if time.monotonic() - reported > PROGRESS_S:
                    reported = time.monotonic()
                    say(f"{part}: {len(reports)} of {len(cases)} cases, {reported - began:.0f} s")
        return reports

    def _do(self, part: str, body: Callable[[Case], None], index: int) -> CaseResult:
        harness = self.harness(f"{part}-{index:04d}")
        case = Case(index=index, harness=harness, rng=random.Random(derive(self.seed, part, index)))
        trouble = None
        try:
            body(case)
            shutil.rmtree(harness.folder, ignore_errors=True)
        except Exception as error:
            (harness.folder / "trouble.txt").write_text("".join(traceback.format_exception(error)))
            trouble = _trouble(part, case, error)
            say(trouble)
        return CaseResult(injected=case.injected, survived=case.survived, trouble=trouble, facts=case.facts)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _trouble(part: str, case: Case, error: Exception) -> str:
    return (
        f"LOST in {part}, case {case.index}, at fault {case.injected}: {type(error).__name__}: {error}\n"
        f"  kept: {case.harness.folder} (trouble.txt has the traceback, *.log has the output)\n"
        f"  look: {_inspection(case.harness)}"
    )


def _inspection(harness: Harness) -> str:
    """The command that shows the studies as they were at the end."""
    copy = harness.folder / "database.sql"
    if copy.exists():
        return f"psql --file {copy}, into an empty database of PostgreSQL"
    return f"convsearch studies --storage {harness.url}"
