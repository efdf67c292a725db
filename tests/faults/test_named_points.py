"""A process dies at a named point of a trial or a run; the study ends with the same results as without the fault."""

import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from search.storage import ranking
from search.storage.read_only import open_reader, sqlite_path
from search.storage.records import TrialRecord
from tests.faults.commands import start_with_faults
from tests.faults.injector.sitecustomize import Fault, injected
from tests.faults.invariants import check, finished
from tests.harness import IDLE, LONG, RATES, Harness, equal


def pruned_by(pruner: str, *, good: int, idle: int) -> dict[str, Any]:
    """A study in which `pruner` stops the first idle trial that it is allowed to stop."""
    return {
        "points": [{"learning_rate": 0.05}] * good + [{"learning_rate": IDLE}] * idle,
        "search": {"pruner": pruner},
        "space": {"learning_rate": RATES},
        "budget": {"trials": good + idle},
    }


#: Studies with every component that has state; TPE draws the last trial from the reports of the others.
STUDIES: dict[str, dict[str, Any]] = {
    "plain": {
        "space": LONG["space"] | {"learning_rate": RATES},
        "search": {"startup_trials": 2},
        "budget": {"trials": 3},
    },
    "asha": pruned_by("asha", good=1, idle=2),
    "median": pruned_by("median", good=5, idle=1),
    "hyperband": pruned_by("hyperband", good=3, idle=1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A named point: the faults injected there, and their traces at the end."""

    faults: tuple[Fault, ...]
    study: str = "plain"
    codes: tuple[int, ...] = (0,)
    """Exit codes of the successive commands with faults; a command without faults follows if the last is not 0."""
    hit: Mapping[int, int] | None = field(default_factory=dict)
    """By number: attempts of the trials that lost an attempt to a dead process. None: any trial, or none."""


def worker(function: str, moment: str = "after", nth: int = 1, **changes: Any) -> Fault:
    return Fault(process="worker", function=f"search.{function}", moment=moment, nth=nth, **changes)


def launcher(function: str, moment: str = "after", nth: int = 1, **changes: Any) -> Fault:
    return Fault(process="launcher", function=f"search.{function}", moment=moment, nth=nth, **changes)


DEAD = -signal.SIGKILL


def all_processes(
    function: str, moment: str, nth: int = 1, *, study: str = "plain", hit: Mapping[int, int], **changes: Any
) -> Point:
    """Kill the launcher when its worker reaches the point; the worker then dies at that point."""
    fault = worker(function, moment, nth, to="launcher", pause_s=30.0, **changes)
    return Point(faults=(fault,), study=study, codes=(DEAD,), hit=hit)


#: Points at which a worker dies. A trial of the study "plain" has three steps: checkpoint 5 is the second of trial 1.
WORKER: dict[str, Point] = {
    "in the claim's transaction": Point(faults=(worker("storage.claims:claim", "commit", 2),)),
    "after the claim": Point(faults=(worker("storage.claims:claim", "after", 2),), hit={1: 2}),
    "in the draw's transaction": Point(faults=(worker("trial.recorder:draw", "commit", 3),), hit={2: 2}),
    "after the draw": Point(faults=(worker("trial.recorder:draw", "after", 3),), hit={2: 2}),
    "in the report's transaction": Point(
        faults=(worker("trial.search_training:SearchTraining._record", "commit", 5),), hit={1: 2}
    ),
    "in the report's and the decision's transaction": Point(
        study="asha", faults=(worker("trial.search_training:SearchTraining._record", "commit", 4),), hit={1: 2}
    ),
    "between report and the decision of median": Point(
        study="median", faults=(worker("trial.recorder:TrialRecorder.ask_optuna", "before", 16),), hit={5: 2}
    ),
    "between the decision of median and tell": Point(
        study="median", faults=(worker("trial.recorder:TrialRecorder.ask_optuna", "after", if_true=True),), hit={5: 2}
    ),
    "between the decision of hyperband and tell": Point(
        study="hyperband",
        faults=(worker("trial.recorder:TrialRecorder.ask_optuna", "after", if_true=True),),
        hit={3: 2},
    ),
    "between the last report and tell": Point(faults=(worker("trial.loop:tell", "before", 2),), hit={1: 2}),
    "after tell": Point(faults=(worker("trial.loop:tell", "after", 2),)),
    "while it removes checkpoints": Point(
        study="asha", faults=(worker("trial.loop:delete_finished_checkpoints", "os.remove"),)
    ),
}


TRAINING = worker(
    "trial.search_training:SearchTraining._end_step", "before", 5, signal="SIGTERM", to="launcher", pause_s=1.0
)
CLAIMED = worker("storage.claims:claim", "after", 2)
#: Points at which a launcher dies, or gets a signal to stop and a process dies during the stop.
LAUNCHER: dict[str, Point] = {
    "between the study's row and its attributes": Point(
        faults=(launcher("storage.rdb:Storage.create_new_study"),), codes=(DEAD,)
    ),
    "in the transaction of the study's attributes": Point(
        faults=(launcher("study.stored_study:open_or_create", "commit", 2),), codes=(DEAD,)
    ),
    "after the start of the pool": Point(faults=(launcher("workers.local:start_server"),), codes=(DEAD,)),
    "after the claim, before the lease is renewed": Point(
        faults=(worker("storage.claims:claim", "after", 2, to="launcher", pause_s=30.0),), codes=(DEAD,), hit={1: 2}
    ),
    "before it renews leases for the first time": Point(
        faults=(launcher("storage.leases:renew", "before"),), codes=(DEAD,), hit=None
    ),
    "while it takes back the trial of a dead worker": Point(
        faults=(CLAIMED, launcher("storage.leases:expire_dead", "commit")), codes=(DEAD,), hit={1: 2}
    ),
    "while it takes up the trials of another launcher": Point(
        faults=(
            worker("storage.claims:claim", "after", 2, to="launcher", pause_s=30.0),
            launcher("storage.leases:expire_dead", "commit"),
        ),
        codes=(DEAD, DEAD),
        hit={1: 2},
    ),
    "before it stops its workers": Point(
        faults=(TRAINING, launcher("workers.pool:Pool._stop_all", "before")), codes=(DEAD,), hit={1: 2}
    ),
    "after it stopped its workers": Point(faults=(TRAINING, launcher("workers.pool:Pool._stop_all")), codes=(DEAD,)),
    "a worker that gives its trial back": Point(
        faults=(TRAINING, worker("storage.leases:release", "commit")), codes=(128 + signal.SIGTERM,)
    ),
}
#: Points at which all processes die; the invariants are checked for the state they leave.
ALL_PROCESSES: dict[str, Point] = {
    "before a checkpoint is renamed": all_processes("artifacts.checkpoint:save", "os.rename", 5, hit={1: 2}),
    "between checkpoint and report": all_processes("artifacts.checkpoint:save", "after", 5, hit={1: 2}),
    "after the report": all_processes("trial.search_training:SearchTraining._record", "after", 5, hit={1: 2}),
    "between the decision of asha and tell": all_processes(
        "trial.search_training:SearchTraining._record", "after", if_true=True, study="asha", hit={1: 2}
    ),
    "in the transaction of the decision of median": all_processes(
        "trial.recorder:TrialRecorder.ask_optuna", "commit", 9, study="median", hit={5: 2}
    ),
    "in tell's transaction": all_processes("trial.loop:tell", "commit", 2, hit={1: 2}),
}
POINTS = (
    {f"all processes {name}": point for name, point in ALL_PROCESSES.items()}
    | {f"worker {name}": point for name, point in WORKER.items()}
    | {f"launcher {name}": point for name, point in LAUNCHER.items()}
)


def result(trial: TrialRecord) -> tuple[Any, ...]:
    """The fields in which a trial equals the same trial of the undisturbed study: all but times and attempts."""
    return trial.number, trial.state, trial.params, trial.curve, trial.values, trial.seed, trial.reason


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Callable[[str], Harness]:
    """Returns, by name of a study, the harness in which it has been run without a fault."""

    @functools.cache
    def run(study: str) -> Harness:
        harness = Harness(tmp_path_factory.mktemp(study), images, cache)
        answer = harness.train(**STUDIES[study])
        assert answer.code == 0, answer.err
        check(harness, over=True)
        return harness

    return run


@pytest.mark.parametrize("name", list(POINTS))
def test_a_study_ends_with_the_same_results_after_a_death_at_a_named_point(
    harness: Harness, undisturbed: Callable[[str], Harness], name: str
) -> None:
    point = POINTS[name]
    expected = undisturbed(point.study)

    run_to_end(harness, point)

    assert injected(harness.folder) == len(point.faults), "not every fault was injected"
    assert [result(trial) for trial in harness.trials()] == [result(trial) for trial in expected.trials()]
    hit = {trial.number: trial.attempts for trial in harness.trials() if trial.attempts != 1}
    assert point.hit in (hit, None)
    best = ranking.best(open_reader(harness.url), "s").trials[0].number
    assert equal(harness.trained(best), expected.trained(best))


def test_every_study_with_a_pruner_has_a_pruned_trial(undisturbed: Callable[[str], Harness]) -> None:
    """Without one, no process would reach the points after a decision to prune."""
    for study in ("asha", "median", "hyperband"):
        assert "PRUNED" in {trial.state for trial in undisturbed(study).trials()}


def run_to_end(harness: Harness, point: Point) -> None:
    """Run a study with faults at a point until it is over; all invariants hold after every command."""
    words = ("run", harness.write(**STUDIES[point.study]), "--workers", "1")
    before: dict[int, str] = {}
    for code in point.codes:
        run_with_faults(harness, words, point, code)
        check(harness, before=before, over=code == 0, ended=code >= 0)
        before = finished(harness.url)
    if point.codes[-1] != 0:
        answer = harness.run(*words)
        assert answer.code == 0, answer.err
        check(harness, before=before, over=True)


def run_with_faults(harness: Harness, words: Sequence[str], point: Point, code: int) -> None:
    with start_with_faults(harness, point.faults, *words) as run:
        answer = run.end()
    assert answer.code == code, answer.err
    last = point.faults[-1]
    if (last.process, last.moment) == ("launcher", "commit") and injected(harness.folder) == len(point.faults):
        journal = Path(f"{sqlite_path(harness.url)}-journal")
        assert journal.read_bytes()[:1] != b"\0", "nothing was written before the COMMIT"
