"""Where the soak works: one folder with images, and a harness of its own for every case, kept if something was lost."""

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

#: Between two lines that say how far a part is.
PROGRESS_S = 15.0
#: What torch loads when the first optimizer is made: seconds that every forked worker would spend again.
PRELOAD = "torch._dynamo"


@dataclass(kw_only=True, slots=True)
class Case:
    """One case of a part: what it works with, and what it counts."""

    index: int
    harness: Harness
    dice: random.Random
    """Of this case alone, so that it can be done again without the others."""
    injected: int = 0
    survived: int = 0
    facts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """A folder to work in, and how much is to be done."""

    folder: Path
    seed: int
    scale: float
    """1 is everything; 0.05 is for trying."""
    jobs: int
    """Cases that are done at once."""

    def prepare(self) -> None:
        """Paint and decode the images, and take the test images away: a search that opens one dies of it (I6)."""
        importlib.import_module(PRELOAD)
        torch.set_num_threads(1)  # so that this process has no threads of torch's, and can fork
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        paint(self.folder / "images")
        harness = self.harness("preparation")
        inputs.prepare_data(study_spec.build(harness.tables()), harness.cache, lambda _: None)
        for path in harness.cache.glob("sets/*/test*"):
            path.unlink()
        gc.freeze()  # what is loaded now is never garbage; forks need not look at it, nor copy its pages

    def harness(self, name: str) -> Harness:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return Harness(folder, self.folder / "images", self.folder / "cache")

    def count(self, full: int) -> int:
        """So many at this scale."""
        return max(1, round(full * self.scale))

    def some(self, full: int) -> list[int]:
        """Of 1, 2, ..., `full` as many as this scale wants, evenly spread."""
        wanted = min(full, self.count(full))
        return [1 + index * full // wanted for index in range(wanted)]

    def each(self, part: str, body: Callable[[Case], None], cases: Sequence[int]) -> list[CaseResult]:
        """Do `body` for every case, each in a process that has no threads, and so can fork."""
        reports: list[CaseResult] = []
        said = began = time.monotonic()
        with ProcessPoolExecutor(self.jobs, mp_context=multiprocessing.get_context("fork")) as workers:
            for done in as_completed([workers.submit(self._do, part, body, index) for index in cases]):
                reports.append(done.result())
                if time.monotonic() - said > PROGRESS_S:
                    said = time.monotonic()
                    say(f"{part}: {len(reports)} of {len(cases)} cases, {said - began:.0f} s")
        return reports

    def _do(self, part: str, body: Callable[[Case], None], index: int) -> CaseResult:
        harness = self.harness(f"{part}-{index:04d}")
        case = Case(index=index, harness=harness, dice=random.Random(derive(self.seed, part, index)))
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
        f"  kept: {case.harness.folder} (trouble.txt has the traceback, *.log what was said)\n"
        f"  look: {_way_in(case.harness)}"
    )


def _way_in(harness: Harness) -> str:
    """How to look at what the studies were at the end."""
    copy = harness.folder / "database.sql"
    if copy.exists():
        return f"psql --file {copy}, into an empty database of PostgreSQL"
    return f"convsearch studies --storage {harness.url}"
