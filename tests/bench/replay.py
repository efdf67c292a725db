"""Searches replayed on recorded learning curves: the training that each policy needs to find a good network.

`studies/curves.toml` has trained every cell of a small space once. A replayed trial reads the curve of its cell, at the
cost of the training. Every policy draws from the same 216 cells with the same seeds, one trial after the other, until a
complete trial has 95 % of the best cell's accuracy.

    convsearch run curves && .venv/bin/python -m tests.bench.replay sqlite:///runs/studies.db   # records them again
"""

import json
import statistics
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import hardware, optuna_internals
from search.pruners.asha import Asha
from search.samplers import tpe
from search.storage import attr_keys, queries
from search.storage.read_only import open_reader
from tests.bench.measure import ROOT, Comparison, Result

CURVES = ROOT / "studies" / "records" / "2026-11-24_curves" / "curves.json"
SEEDS = 100
"""Number of seeds: the first half chooses each policy's setting, the second half is reported."""
NEAR = 0.95
"""Share of the best cell's accuracy that a search must reach."""
MOST_EPOCHS = 1296.0
"""Limit of a search, the epochs of all cells together; a search without success counts with this number."""
KEYS = ("conv_layers", "batch_size", "optimizer", "learning_rate", "scheduler")
STARTUP = 10
"""Random trials before TPE learns, for every policy with TPE; Optuna's default."""
FIRST_RUNG, REDUCTION = 1, 3
"""Values of every shipped study; ours is replayed only with these."""

Cell = tuple[Any, ...]
Curve = Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """All cells with their curves, one value per step."""

    curves: Mapping[Cell, Curve]
    rates: Mapping[str, Sequence[float]]
    """The learning rates of each optimizer, ascending."""
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return len(next(iter(self.curves.values())))

    @property
    def target(self) -> float:
        return NEAR * max(curve[-1] for curve in self.curves.values())


Policy = Callable[[Table, int], Iterator[tuple[int, float | None]]]
"""(table, seed) -> for each part of training its steps, and the last value of a trial that it completed, or None."""


@cache
def table() -> Table:
    stored = json.loads(CURVES.read_text())
    cells = {tuple(row["cell"][key] for key in KEYS): row["curve"] for row in stored["trials"]}
    rates: dict[str, set[float]] = {}
    for _, _, optimizer, rate, _ in cells:
        rates.setdefault(optimizer, set()).add(rate)
    return Table(
        curves=cells,
        rates={name: sorted(values) for name, values in rates.items()},
        steps_per_epoch=stored["steps_per_epoch"],
    )


def draw(cells: Table, trial: optuna.Trial) -> Curve:
    """The curve of the drawn cell; for all samplers, learning rates are indices of a sorted list."""
    optimizer = trial.suggest_categorical("optimizer", sorted(cells.rates))
    rates = cells.rates[optimizer]
    cell = (
        trial.suggest_int("conv_layers", 2, 4),
        trial.suggest_categorical("batch_size", (64, 256)),
        optimizer,
        rates[trial.suggest_int(f"learning_rate[{optimizer}]", 0, len(rates) - 1)],
        trial.suggest_categorical("scheduler", ("none", "cosine", "one_cycle")),
    )
    return cells.curves[cell]


# -- policies -----------------------------------------------------------------------------------------------------


def optuna_loop(
    make_sampler: Callable[[int], optuna.samplers.BaseSampler],
    make_pruner: Callable[[Table], optuna.pruners.BasePruner],
    cells: Table,
    seed: int,
) -> Iterator[tuple[int, float | None]]:
    """Optuna's loop with its own sampler and pruner."""
    study = optuna.create_study(
        study_name=f"replay {seed}",  # Hyperband chooses brackets by the name
        direction="maximize",
        sampler=make_sampler(seed),
        pruner=make_pruner(cells),
    )
    while True:
        trial = study.ask()

        def stops(step: int, value: float, trial: optuna.Trial = trial) -> bool:
            trial.report(value, step)
            return trial.should_prune()

        yield run_trial(study, trial, draw(cells, trial), stops)


def run_trial(
    study: optuna.Study, trial: optuna.Trial, curve: Curve, stops: Callable[[int, float], bool]
) -> tuple[int, float | None]:
    """Train a trial until it is stopped or complete; the last step never stops it."""
    for step, value in enumerate(curve, 1):
        if stops(step, value) and step < len(curve):
            study.tell(trial, state=TrialState.PRUNED)
            return step, None
    study.tell(trial, curve[-1])
    return len(curve), curve[-1]


def asha_policy(cells: Table, seed: int) -> Iterator[tuple[int, float | None]]:
    """Our sampler, and pruner = "asha"."""
    study = optuna.create_study(direction="maximize")
    asha = Asha(first_rung=FIRST_RUNG, reduction=REDUCTION, steps=cells.steps)
    rungs: dict[int, list[float]] = {}
    for number in count():
        study.sampler = tpe.build("tpe", study_seed=seed, number=number, startup_trials=STARTUP, seen=study)
        trial = study.ask()

        def stops(step: int, value: float, trial: optuna.Trial = trial) -> bool:
            trial.report(value, step)
            reached = rungs.setdefault(step, [])
            better = sum(other > value for other in reached)
            reached.append(value)
            return asha.decide(step, value, better=better, others=len(reached) - 1) is not None

        yield run_trial(study, trial, draw(cells, trial), stops)


class PausableStorage(optuna.storages.InMemoryStorage):
    """A storage with a settable list of trials, paused ones included; Optuna's loop has no pause."""

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self.trials


def promote_policy(cells: Table, seed: int, *, others: int = tpe.MAX_BAD) -> Iterator[tuple[int, float | None]]:
    """Our sampler, and pruner = "promote": trials pause at rungs, until they are among the best there.

    Args:
        cells: All cells.
        seed: Seed of the search.
        others: Maximum number of trials outside the good set that tpe learns from.
    """
    storage = PausableStorage()
    study = optuna.create_study(direction="maximize")
    subset = tpe.TrialSubset(storage, 0, others=others)
    ends = (*Asha(first_rung=FIRST_RUNG, reduction=REDUCTION, steps=cells.steps).rungs(), cells.steps)
    curves: list[Curve] = []
    reached: list[dict[int, float]] = [{} for _ in ends]
    """For each rung: trial -> value at the rung."""
    while True:
        number, rung = next(promotable(reached), (len(curves), 0))
        if number == len(curves):
            study.sampler = tpe.build(
                "tpe",
                study_seed=seed,
                number=number,
                startup_trials=STARTUP,
                seen=optuna_internals.SubsetStudy(study.study_name, study._storage, subset.read()),
            )
            trial = study.ask()
            curves.append(draw(cells, trial))
            storage.trials.append(deepcopy(study.trials[number]))
        begun, end = ends[rung - 1] if rung else 0, ends[rung]
        curve, stored = curves[number], storage.trials[number]
        stored.intermediate_values.update(dict(enumerate(curve[:end], 1)))
        stored.state, stored.user_attrs[attr_keys.PAUSED] = TrialState.WAITING, end
        if end == cells.steps:
            stored.state, stored.value = TrialState.COMPLETE, curve[-1]
        reached[rung][number] = curve[end - 1]
        yield end - begun, curve[-1] if end == cells.steps else None


def promotable(reached: Sequence[Mapping[int, float]]) -> Iterator[tuple[int, int]]:
    """(trial, next rung) of the paused trials that may be promoted now, the highest rung first."""
    for rung in range(len(reached) - 2, -1, -1):
        ranked, above = sorted(reached[rung], key=lambda number: -reached[rung][number]), reached[rung + 1]
        slots = len(ranked) // REDUCTION
        candidates = [number for number in ranked[:slots] if number not in above]
        yield from ((number, rung + 1) for number in candidates[: max(0, slots - len(above))])


def one_epoch(first: int, cells: Table, seed: int) -> Iterator[tuple[int, float | None]]:
    """Train `first` random trials for one epoch, then the best quarter to their ends, the best first; repeat.

    Egele et al. 2023, https://arxiv.org/abs/2307.15422.
    """
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    epoch = cells.steps_per_epoch
    while True:
        curves = [draw(cells, study.ask()) for _ in range(first)]
        yield from ((epoch, None) for _ in curves)
        for curve in sorted(curves, key=lambda curve: curve[epoch - 1], reverse=True)[: max(1, first // 4)]:
            yield cells.steps - epoch, curve[-1]


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _none(_: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


def _hyperband(reduction: int, cells: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=cells.steps, reduction_factor=reduction)


def _halving(reduction: int, _: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)


POLICIES: Mapping[str, Mapping[str, Policy]] = {
    "random search": {"": partial(optuna_loop, lambda seed: optuna.samplers.RandomSampler(seed=seed), _none)},
    "Optuna's defaults": {"": partial(optuna_loop, _tpe, lambda _: optuna.pruners.MedianPruner())},
    "TPE, Hyperband": {
        f"reduction {factor}": partial(optuna_loop, _tpe, partial(_hyperband, factor)) for factor in (3, 4)
    },
    "TPE, Optuna's ASHA": {
        f"reduction {factor}": partial(optuna_loop, _tpe, partial(_halving, factor)) for factor in (2, 3, 4)
    },
    "one epoch, top k": {f"{first} at once": partial(one_epoch, first) for first in (8, 16, 32)},
    "ours": {"": promote_policy},
    "ours, from 25 others": {"": partial(promote_policy, others=25)},
    "ours, stopping": {"": asha_policy},
}
"""Each policy with the settings among which the tuning seeds choose."""


# -- cost of each policy ------------------------------------------------------------------------------------------


def epochs_to_target(name: str, setting: str, seed: int) -> float:
    """Epochs of training until a complete trial reaches the target; at most MOST_EPOCHS."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells, spent = table(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for steps, value in POLICIES[name][setting](cells, seed):
            spent += steps
            if (value is not None and value >= cells.target) or spent >= MOST_EPOCHS * cells.steps_per_epoch:
                break
    return min(MOST_EPOCHS, spent / cells.steps_per_epoch)


def run_benchmark(quick: bool) -> Result:
    """Replay every policy: half of the seeds choose its setting, the others are reported."""
    seeds = range(6 if quick else SEEDS)
    half = len(seeds) // 2
    with ProcessPoolExecutor(hardware.cores()) as pool:

        def needed(name: str, setting: str, seeds: range) -> tuple[float, ...]:
            return tuple(pool.map(partial(epochs_to_target, name, setting), seeds, chunksize=5))

        tuned = {
            name: {setting: statistics.mean(needed(name, setting, seeds[:half])) for setting in settings}
            for name, settings in POLICIES.items()
            if len(settings) > 1
        }
        chosen = {name: best_of(tuned.get(name, dict.fromkeys(settings, 0.0))) for name, settings in POLICIES.items()}
        reported = {name: needed(name, setting, seeds[half:]) for name, setting in chosen.items()}
    return Result(
        name="Replay",
        about=about(cells=table(), tuned=tuned, reported=reported, half=half),
        comparisons=tuple(
            Comparison(
                what=f"ours against {name}",
                unit="epochs",
                ours=reported["ours"],
                theirs=values,
                target=TARGETS.get(name),
                of_means=True,
            )
            for name, values in reported.items()
            if name != "ours"
        ),
    )


def best_of(means: Mapping[str, float]) -> str:
    """The setting with the lowest mean."""
    return min(means, key=means.__getitem__)


TARGETS = {"Optuna's defaults": 2.0, "one epoch, top k": 1.0}
"""Minimum factor by which ours needs less training: goals of this project."""


def about(
    *, cells: Table, tuned: Mapping[str, Mapping[str, float]], reported: Mapping[str, Sequence[float]], half: int
) -> tuple[str, ...]:
    """Lines about the cells, the mean epochs of each setting on the tuning seeds, and the failed searches."""
    failed = ", ".join(f"{name} {sum(epochs >= MOST_EPOCHS for epochs in row)}" for name, row in reported.items())
    settings = [
        f"{name}: {', '.join(f'{setting} {mean:.1f}' for setting, mean in means.items())}"
        for name, means in tuned.items()
    ]
    best = max(curve[-1] for curve in cells.curves.values())
    good = sum(curve[-1] >= cells.target for curve in cells.curves.values())
    return (
        f"{len(cells.curves)} cells of {cells.steps} steps; the best ends at {best:.4f}, {good} reach 95 % of that.",
        f"Epochs of training until a complete trial is one of them; {half} seeds for tuning, the others are reported.",
        f"Mean epochs of each setting on the tuning seeds, the best of which is reported: {'; '.join(settings)}.",
        f"Ours has first_rung = {FIRST_RUNG} and reduction = {REDUCTION}, as every study that is shipped. How many "
        "good trials its tpe has, and how many random trials, was chosen on these curves, with other seeds.",
        f"Searches without success in {MOST_EPOCHS:.0f} epochs, which count with this number: {failed}.",
    )


# -- recording ----------------------------------------------------------------------------------------------------


def record(url: str) -> None:
    """Write the curves of the finished study "curves" into the records."""
    name, engine = "curves", open_reader(url)
    trials = queries.trials(engine, name)
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    rows = [
        {
            "cell": {key: trial.config[key] for key in KEYS},
            "curve": [round(value, 4) for _, value in trial.curve],
            "seconds": trial.seconds,
        }
        for trial in complete
    ]
    per_epoch = queries.study(engine, name).spec["budget"]["steps_per_epoch"]
    CURVES.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    CURVES.write_text(f'{{"study": "{name}", "steps_per_epoch": {per_epoch}, "trials": [\n{lines}\n]}}\n')
    print(f"{len(rows)} of {len(trials)} curves in {CURVES.relative_to(ROOT)}")


if __name__ == "__main__":
    record(sys.argv[1])
