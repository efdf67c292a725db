"""Cost of the bookkeeping of a study: opening it, storing a trial, polling it in the browser.

Theirs is stock Optuna and optuna-dashboard, set up as in their documentation. Ours is the code of a worker without the
training. Both work on copies of one database of random trials.
"""

import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import optuna
import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages import _CachedStorage

from search import optuna_internals
from search.dashboard import server
from search.process import this_process
from search.samplers import tpe
from search.spec import study_spec
from search.spec.search_space import sample
from search.storage import claims
from search.storage.rdb import Storage, utc_now
from search.storage.tables import CURVES, TRIAL_ATTRS, TRIAL_PARAMS, TRIAL_SYSTEM_ATTRS, TRIAL_VALUES, TRIALS
from search.study import stored_study
from search.trial import loop, recorder
from search.trial.context import TrialContext, WorkerConfig, open_context
from search.trial.outcome import Outcome
from search.trial.recorder import TrialRecorder
from tests.bench.measure import Comparison, Figure, Result, in_turn, seconds
from tests.wsgi import get_request

NAME = "s"
STEPS = 10
#: Minimum factors by which ours is faster, goals of this project: opening a study, a trial, a poll of the dashboard.
OPEN_TARGET, TRIAL_TARGET, POLL_TARGET = 8.0, 3.0, 10.0
#: Fifteen parameters, each drawn in each trial.
SPACE: dict[str, Any] = {
    "conv_layers": {"low": 2, "high": 6},
    "width": {"low": 16, "high": 64, "step": 8},
    "growth": [1.5, 2.0],
    "kernel_size": [3, 5],
    "pool": ["max", "avg"],
    "norm": ["batch", "group", "none"],
    "activation": ["relu", "leaky_relu", "elu", "gelu", "silu"],
    "pool_every": 2,
    "dropout_conv": {"low": 0.0, "high": 0.3},
    "dense_layers": 1,
    "dense_units": {"low": 64, "high": 512, "log": True},
    "dropout_dense": {"low": 0.0, "high": 0.5},
    "batch_size": [64, 128, 256, 512],
    "optimizer": ["adam", "adamw"],
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
    "label_smoothing": {"low": 0.0, "high": 0.2},
}
TABLES: dict[str, Any] = {
    "data": {"source": "shapes"},
    "budget": {"trials": 100_000, "epochs": STEPS},
    "search": {"pruner": "asha"},
    "space": SPACE,
}


def run_benchmark(quick: bool) -> Result:
    """Opening, the bookkeeping of a trial, its growth with the study, and a poll of the dashboard."""
    large, sizes, repeats = (500, (100, 500), 2) if quick else (5_000, (100, 1_000, 5_000, 10_000), 7)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        databases = {size: make_database(Path(folder) / f"{size}.db", size) for size in {large, *sizes}}
        opening = Comparison(
            what=f"open a study of {large:,} finished trials",
            unit="s",
            target=OPEN_TARGET,
            **both(databases[large], open_ours, open_theirs, repeats),
        )
        trial_cost = Comparison(
            what=f"bookkeeping of a trial at {large:,} trials",
            unit="s",
            target=TRIAL_TARGET,
            **both(databases[large], trial_ours, trial_theirs, repeats),
        )
        polling = [
            Comparison(
                what=f"a poll of the dashboard at {large:,} trials, {running} of them running",
                unit="s",
                target=POLL_TARGET,
                **polls(databases[large], large, running, 2 if quick else 5),
            )
            for running in (2, 0)
        ]
        growth = [growth_at(databases[size], size, repeats) for size in sizes]
    return Result(
        name="Bookkeeping",
        about=(
            f"Bookkeeping: claim, draw {drawn_parameters(SPACE)} parameters (tpe), report {STEPS} steps, with a "
            "decision at each (asha), tell.",
            "Every tenth trial of ours is drawn at random, costs less, and is left out.",
            "A poll: the request of the browser every ten seconds, once the cache of the dashboard is stale.",
            f"SQLite {sqlite3.sqlite_version}, DELETE journal, synchronous FULL, on the disk.",
        ),
        comparisons=(opening, trial_cost, *polling),
        figures=tuple(figure for figures in growth for figure in figures),
    )


def drawn_parameters(space: Mapping[str, Any]) -> int:
    """The number of parameters that a trial draws from a [space]."""
    return sum(isinstance(value, dict | list) for name, value in space.items() if name != "when")


# -- a database of random trials ----------------------------------------------------------------------------------


def make_database(file: Path, trials: int) -> Path:
    """Create a database with a study of finished trials: a quarter complete, the others pruned at the rungs of asha."""
    storage = Storage(f"sqlite:///{file}", create=True)
    spec = study_spec.build(TABLES)
    stored = stored_study.open_or_create(storage, spec, name=NAME, data={"fingerprint": "none"})
    rng = random.Random(0)
    insert(storage, [rows_of(number, stored, rng) for number in range(trials)])
    storage.engine.dispose()
    return file


def insert(storage: Storage, trials: Sequence[Mapping[str, list[dict[str, Any]]]]) -> None:
    """Write the rows of these trials in one transaction."""

    def write(connection: sa.Connection) -> None:
        for table in (TRIALS, TRIAL_PARAMS, TRIAL_VALUES, CURVES, TRIAL_ATTRS, TRIAL_SYSTEM_ATTRS):
            values = [row for of_trial in trials for row in of_trial.get(table.name, [])]
            connection.execute(sa.insert(table), values)

    storage.write(write)


@dataclass(slots=True)
class RandomTrial:
    """A trial with random values, which keeps each value and its distribution."""

    rng: random.Random
    names: dict[str, tuple[Any, BaseDistribution]] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._suggest(name, CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        random_sampler = optuna.samplers.RandomSampler(seed=self.rng.randrange(2**31))
        value = random_sampler.sample_independent(cast("Any", None), cast("Any", None), name, distribution)
        self.names[name] = value, distribution
        return value


def rows_of(number: int, stored: stored_study.StoredStudy, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """The rows of a random trial in every table. Its curve rises to a height that depends on the drawn values."""
    drawn = RandomTrial(rng)
    config = sample(stored.spec.space, drawn)
    height = (
        0.9 - abs(float(config["learning_rate"]) - 0.01) - 0.1 * float(config["dropout_dense"]) + rng.gauss(0.0, 0.02)
    )
    steps = STEPS if rng.random() < 0.25 else rng.choice([1, 3, 9])
    state = "COMPLETE" if steps == STEPS else "PRUNED"
    curve = {step: height * (1 - 0.5**step) for step in range(1, steps + 1)}
    return rows(number, stored.id, drawn, curve, state)


def rows(
    number: int, study_id: int, drawn: RandomTrial, curve: Mapping[int, float], state: str
) -> dict[str, list[dict[str, Any]]]:
    """The rows of a finished trial in every table."""
    trial_id, now = number + 1, utc_now()
    attrs = {
        "attempts": "1",
        "parameters": "100000",
        "macs": "10000000",
        "seed": "1",
        "seconds": "30.0",
        "epochs": "4.0",
    }
    return {
        TRIALS.name: [
            {
                "trial_id": trial_id,
                "number": number,
                "study_id": study_id,
                "state": state,
                "datetime_start": now,
                "datetime_complete": now,
            }
        ],
        TRIAL_PARAMS.name: [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(value),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, (value, distribution) in drawn.names.items()
        ],
        TRIAL_VALUES.name: [{"trial_id": trial_id, "objective": 0, "value": curve[max(curve)], "value_type": "FINITE"}],
        CURVES.name: [
            {
                "trial_id": trial_id,
                "step": step,
                "intermediate_value": value,
                "intermediate_value_type": "FINITE",
            }
            for step, value in curve.items()
        ],
        TRIAL_ATTRS.name: [{"trial_id": trial_id, "key": key, "value_json": text} for key, text in attrs.items()],
        TRIAL_SYSTEM_ATTRS.name: [{"trial_id": trial_id, "key": "config", "value_json": "{}"}],
    }


# -- both sides ---------------------------------------------------------------------------------------------------


Side = Callable[[str], Callable[[], float]]
"""Takes the URL of a database, and returns a function that measures one call in seconds."""


def both(database: Path, ours: Side, theirs: Side, repeats: int) -> dict[str, Any]:
    """Measure both sides in turn, each on its own copy; the first call of each is a warm-up."""
    with copied(database) as our_url, copied(database) as their_url:
        our, their = ours(our_url), theirs(their_url)
        our(), their()
        values = in_turn(our, their, repeats)
    return {"ours": values[0], "theirs": values[1]}


@contextmanager
def copied(database: Path) -> Any:
    """The URL of a copy of a database."""
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        yield f"sqlite:///{shutil.copy(database, folder)}"


def open_ours(url: str) -> Callable[[], float]:
    def read() -> None:
        storage = Storage(url)
        _CachedStorage(storage).get_all_trials(1, deepcopy=False)
        storage.engine.dispose()

    return lambda: seconds(read)


def open_theirs(url: str) -> Callable[[], float]:
    def read() -> None:
        optuna.load_study(study_name=NAME, storage=url).get_trials(deepcopy=False)

    return lambda: seconds(read)


def trial_ours(url: str) -> Callable[[], float]:
    context = bench_context(url)
    owner = this_process("bench")

    def run_trial() -> None:
        claim = claims.claim(context.storage, context.study.id, owner)
        assert claim is not None
        trial = recorder.open_trial(context, claim)
        trial, _ = recorder.draw(context, claim, trial)
        decide(TrialRecorder(context=context, claim=claim, trial=trial))
        loop.tell(context, trial, Outcome(value=0.95))

    def run_with_tpe() -> float:
        if tpe.is_random(context.storage.get_n_trials(context.study.id)):
            run_trial()
        return seconds(run_trial)

    return run_with_tpe


def decide(trial_recorder: TrialRecorder) -> None:
    """Record every step and its pruning decision; no step falls behind."""
    for step in range(1, STEPS + 1):
        assert trial_recorder.record(step, 0.9 + step / 1000, epochs=float(step), seconds=float(step)) is None


def bench_context(url: str) -> TrialContext:
    """The context of a worker; it has no images, and nothing here needs them."""
    return open_context(WorkerConfig(url=url, study=NAME, token="bench", cache="", device="cpu"))


def trial_theirs(url: str) -> Callable[[], float]:
    space = study_spec.build(TABLES).space
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    loaded = optuna.load_study(study_name=NAME, storage=url, sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)

    def run_trial() -> None:
        trial = loaded.ask()
        sample(space, cast("Any", trial))
        for step in range(1, STEPS + 1):
            trial.report(0.9 + step / 1000, step)
            assert not trial.should_prune()
        loaded.tell(trial, 0.95)

    return lambda: seconds(run_trial)


# -- the dashboard ------------------------------------------------------------------------------------------------

#: The cache of the dashboard for a study of at least 500 trials is stale after ten seconds.
STALE_S = 10.5
#: Number of the last trials that a browser does not have yet.
MISSING = 10


def polls(database: Path, size: int, running: int, repeats: int) -> dict[str, Any]:
    """Seconds of a browser's poll in a study of `size` trials, when it already has all but the last MISSING."""
    import optuna_dashboard

    with copied(database) as our_url, copied(database) as their_url:
        for url in (our_url, their_url):
            start_last(url, running)
        apps = server._dashboard(our_url), optuna_dashboard.wsgi(their_url)
        after = size - MISSING
        for app in apps:
            poll(app, after)  # an earlier request of the browser
        values = [poll_seconds(apps, after) for _ in range(repeats)]
    return {"ours": tuple(our for our, _ in values), "theirs": tuple(their for _, their in values)}


def start_last(url: str, running: int) -> None:
    """Set the last `running` trials to RUNNING."""
    storage = Storage(url)
    numbers = sa.select(TRIALS.c.number).order_by(TRIALS.c.number.desc()).limit(running)
    update = sa.update(TRIALS).where(TRIALS.c.number.in_(numbers)).values(state="RUNNING")
    storage.write(lambda connection: connection.execute(update))
    storage.engine.dispose()


def poll_seconds(apps: tuple[Any, Any], after: int) -> tuple[float, float]:
    """Seconds of one poll of each application with a stale cache."""
    time.sleep(STALE_S)
    ours, theirs = apps
    return seconds(lambda: poll(ours, after)), seconds(lambda: poll(theirs, after))


def poll(app: Any, after: int) -> None:
    """Send the request of a browser that has the first `after` trials to an application."""
    answer: list[str] = []
    environ = get_request("/api/studies/1", f"after={after}")
    body = b"".join(app(environ, lambda status, *_: answer.append(status)))
    assert answer == ["200 OK"], (answer, body[:200])


# -- growth -------------------------------------------------------------------------------------------------------


def growth_at(database: Path, size: int, repeats: int) -> tuple[Figure, Figure]:
    """Bookkeeping of a trial in a study of `size` trials, and its share of TPE arithmetic with all trials in memory."""
    with copied(database) as url:
        run_trial = trial_ours(url)
        run_trial()
        times = tuple(run_trial() for _ in range(repeats))
        arithmetic = draw_seconds(url, repeats)
    return (
        Figure(what=f"bookkeeping of a trial at {size:,} trials", unit="s", values=times),
        Figure(what=f"tpe arithmetic in it at {size:,} trials", unit="s", values=arithmetic),
    )


def draw_seconds(url: str, repeats: int) -> tuple[float, ...]:
    """Seconds to draw a trial with all others in memory, without reads and writes of a database."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(Storage(url).get_all_trials(1, deepcopy=False))
    space = study_spec.build(TABLES).space
    subset = tpe.TrialSubset(study._storage, study._study_id)
    subset.read()

    def draw(number: int) -> float:
        seen = optuna_internals.SubsetStudy(study.study_name, study._storage, subset.read())
        study.sampler = tpe.build("tpe", study_seed=0, number=number, startup_trials=10, seen=seen)
        trial = study.ask()
        spent = seconds(lambda: sample(space, cast("Any", trial)))
        study.tell(trial, 0.5)
        return spent

    size = len(study.trials)
    numbers = [number for number in range(size, size + 2 * repeats) if not tpe.is_random(number)]
    return tuple(draw(number) for number in numbers[:repeats])
