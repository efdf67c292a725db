"""Searches replayed on recorded learning curves: how much training each policy needs to find a good network.

`studies/curves.toml` has trained every cell of a small space once; here a trial that draws a cell reads its curve, at
the price that training it would have had. Every policy draws from the same 216 cells with the same seeds, one trial
after the other, until a trial that was trained to its end has 95 % of the best cell's accuracy.

    convsearch run curves && .venv/bin/python -m tests.bench.replay sqlite:///runs/studies.db   # records them anew
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
"""The first half of them chooses each policy's setting, the other half is reported."""
NEAR = 0.95
"""Share of the best cell's accuracy that counts as found."""
MOST_EPOCHS = 1296.0
"""After so many epochs, those of all cells together, any search has failed, and counts as one of so many."""
KEYS = ("conv_layers", "batch_size", "optimizer", "learning_rate", "scheduler")
STARTUP = 10
"""Random trials before TPE learns, Optuna's default, for every policy that has TPE."""
FIRST_RUNG, REDUCTION = 1, 3
"""Of every shipped study; ours is replayed with no others."""

Cell = tuple[Any, ...]
Curve = Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """All cells with their curves, one value a step."""

    curves: Mapping[Cell, Curve]
    rates: Mapping[str, Sequence[float]]
    """The learning rates of each optimizer, rising."""
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return len(next(iter(self.curves.values())))

    @property
    def target(self) -> float:
        return NEAR * max(curve[-1] for curve in self.curves.values())


Policy = Callable[[Table, int], Iterator[tuple[int, float | None]]]
"""(table, seed) -> after each piece of training: its steps, and the last value of a trial that it completed."""


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


def draw(known: Table, trial: optuna.Trial) -> Curve:
    """The curve of the cell that a sampler draws; learning rates are steps of a ladder, for all samplers alike."""
    optimizer = trial.suggest_categorical("optimizer", sorted(known.rates))
    rates = known.rates[optimizer]
    cell = (
        trial.suggest_int("conv_layers", 2, 4),
        trial.suggest_categorical("batch_size", (64, 256)),
        optimizer,
        rates[trial.suggest_int(f"learning_rate[{optimizer}]", 0, len(rates) - 1)],
        trial.suggest_categorical("scheduler", ("none", "cosine", "one_cycle")),
    )
    return known.curves[cell]


# -- policies -----------------------------------------------------------------------------------------------------


def optunas(
    make_sampler: Callable[[int], optuna.samplers.BaseSampler],
    make_pruner: Callable[[Table], optuna.pruners.BasePruner],
    known: Table,
    seed: int,
) -> Iterator[tuple[int, float | None]]:
    """Optuna's own loop with a sampler and a pruner of its own."""
    study = optuna.create_study(
        study_name=f"replay {seed}",  # Hyperband chooses brackets by it
        direction="maximize",
        sampler=make_sampler(seed),
        pruner=make_pruner(known),
    )
    while True:
        trial = study.ask()

        def stops(step: int, value: float, trial: optuna.Trial = trial) -> bool:
            trial.report(value, step)
            return trial.should_prune()

        yield lived(study, trial, draw(known, trial), stops)


def lived(
    study: optuna.Study, trial: optuna.Trial, curve: Curve, stops: Callable[[int, float], bool]
) -> tuple[int, float | None]:
    """Train a trial until it is stopped or done; nobody stops it at its last step."""
    for step, value in enumerate(curve, 1):
        if stops(step, value) and step < len(curve):
            study.tell(trial, state=TrialState.PRUNED)
            return step, None
    study.tell(trial, curve[-1])
    return len(curve), curve[-1]


def stopping(known: Table, seed: int) -> Iterator[tuple[int, float | None]]:
    """Our sampler, and pruner = "asha"."""
    study = optuna.create_study(direction="maximize")
    asha = Asha(first_rung=FIRST_RUNG, reduction=REDUCTION, steps=known.steps)
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

        yield lived(study, trial, draw(known, trial), stops)


class Told(optuna.storages.InMemoryStorage):
    """A storage whose trials are as they are told, paused ones included; Optuna's own loop knows no pause."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[FrozenTrial] = []

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self.told


def promoting(known: Table, seed: int, *, others: int = tpe.MAX_BAD) -> Iterator[tuple[int, float | None]]:
    """Our sampler, and pruner = "promote": trials pause at rungs, until they are among the best there. `others`: of the
    trials that are not good, tpe learns from at most so many.
    """
    told = Told()
    study = optuna.create_study(direction="maximize")
    excerpt = tpe.TrialSubset(told, 0, others=others)
    ends = (*Asha(first_rung=FIRST_RUNG, reduction=REDUCTION, steps=known.steps).rungs(), known.steps)
    curves: list[Curve] = []
    reached: list[dict[int, float]] = [{} for _ in ends]
    """For each rung: trial -> value there."""
    while True:
        number, place = next(promotable(reached), (len(curves), 0))
        if number == len(curves):
            study.sampler = tpe.build(
                "tpe",
                study_seed=seed,
                number=number,
                startup_trials=STARTUP,
                seen=optuna_internals.SubsetStudy(study.study_name, study._storage, excerpt.read()),
            )
            trial = study.ask()
            curves.append(draw(known, trial))
            told.told.append(deepcopy(study.trials[number]))
        begun, end = ends[place - 1] if place else 0, ends[place]
        curve, mine = curves[number], told.told[number]
        mine.intermediate_values.update(dict(enumerate(curve[:end], 1)))
        mine.state, mine.user_attrs[attr_keys.PAUSED] = TrialState.WAITING, end
        if end == known.steps:
            mine.state, mine.value = TrialState.COMPLETE, curve[-1]
        reached[place][number] = curve[end - 1]
        yield end - begun, curve[-1] if end == known.steps else None


def promotable(reached: Sequence[Mapping[int, float]]) -> Iterator[tuple[int, int]]:
    """(trial, next rung) of those that pause, are among the best, and whose turn has come, the highest rung first."""
    for place in range(len(reached) - 2, -1, -1):
        ranked, above = sorted(reached[place], key=lambda number: -reached[place][number]), reached[place + 1]
        places = len(ranked) // REDUCTION
        turn = [each for each in ranked[:places] if each not in above]
        yield from ((each, place + 1) for each in turn[: max(0, places - len(above))])


def one_epoch(first: int, known: Table, seed: int) -> Iterator[tuple[int, float | None]]:
    """Train so many random trials for one epoch, then the best to their ends, best first (Egele et al. 2023,
    https://arxiv.org/abs/2307.15422); again, if none was good enough.
    """
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    epoch = known.steps_per_epoch
    while True:
        curves = [draw(known, study.ask()) for _ in range(first)]
        yield from ((epoch, None) for _ in curves)
        for curve in sorted(curves, key=lambda curve: curve[epoch - 1], reverse=True)[: max(1, first // 4)]:
            yield known.steps - epoch, curve[-1]


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _none(_: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


def _hyperband(reduction: int, known: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=known.steps, reduction_factor=reduction)


def _halving(reduction: int, _: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)


POLICIES: Mapping[str, Mapping[str, Policy]] = {
    "random search": {"": partial(optunas, lambda seed: optuna.samplers.RandomSampler(seed=seed), _none)},
    "Optuna's defaults": {"": partial(optunas, _tpe, lambda _: optuna.pruners.MedianPruner())},
    "TPE, Hyperband": {f"reduction {each}": partial(optunas, _tpe, partial(_hyperband, each)) for each in (3, 4)},
    "TPE, Optuna's ASHA": {f"reduction {each}": partial(optunas, _tpe, partial(_halving, each)) for each in (2, 3, 4)},
    "one epoch, top k": {f"{first} at once": partial(one_epoch, first) for first in (8, 16, 32)},
    "ours": {"": promoting},
    "ours, from 25 others": {"": partial(promoting, others=25)},
    "ours, stopping": {"": stopping},
}
"""Each policy with the settings among which the tuning seeds choose."""


# -- what they need -----------------------------------------------------------------------------------------------


def epochs_to_target(name: str, setting: str, seed: int) -> float:
    """Epochs of training until a complete trial reaches the target; MOST_EPOCHS if none does by then."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known, spent = table(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for steps, value in POLICIES[name][setting](known, seed):
            spent += steps
            if (value is not None and value >= known.target) or spent >= MOST_EPOCHS * known.steps_per_epoch:
                break
    return min(MOST_EPOCHS, spent / known.steps_per_epoch)


def measured(quick: bool) -> Result:
    """Every policy, tuned on half of the seeds, reported on the others."""
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
        about=about(known=table(), tuned=tuned, reported=reported, half=half),
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
    """The setting that needed least."""
    return min(means, key=means.__getitem__)


TARGETS = {"Optuna's defaults": 2.0, "one epoch, top k": 1.0}
"""How many times less training ours is to need."""


def about(
    *, known: Table, tuned: Mapping[str, Mapping[str, float]], reported: Mapping[str, Sequence[float]], half: int
) -> tuple[str, ...]:
    """What was replayed, what each setting needed on the tuning seeds, and how many searches failed."""
    failed = ", ".join(f"{name} {sum(each >= MOST_EPOCHS for each in row)}" for name, row in reported.items())
    settings = [
        f"{name}: {', '.join(f'{setting} {mean:.1f}' for setting, mean in means.items())}"
        for name, means in tuned.items()
    ]
    best = max(curve[-1] for curve in known.curves.values())
    good = sum(curve[-1] >= known.target for curve in known.curves.values())
    return (
        f"{len(known.curves)} cells of {known.steps} steps; the best ends at {best:.4f}, {good} reach 95 % of that.",
        f"Epochs of training until a complete trial is one of them; {half} seeds to tune, the rest to report.",
        f"Mean epochs of each setting on the tuning seeds, the best of which is reported: {'; '.join(settings)}.",
        f"Ours has first_rung = {FIRST_RUNG} and reduction = {REDUCTION}, as every study that is shipped. How many "
        "trials its tpe takes for good, and how many it draws at random, was chosen on these curves, with other seeds.",
        f"Searches that found none in {MOST_EPOCHS:.0f} epochs, which count as so many: {failed}.",
    )


# -- recording ----------------------------------------------------------------------------------------------------


def record(url: str, name: str = "curves") -> None:
    """Write the curves of a finished study into the records."""
    engine = open_reader(url)
    trials = queries.trials(engine, name)
    done = [trial for trial in trials if trial.state == "COMPLETE"]
    rows = [
        {
            "cell": {key: trial.config[key] for key in KEYS},
            "curve": [round(value, 4) for _, value in trial.curve],
            "seconds": trial.seconds,
        }
        for trial in done
    ]
    per_epoch = queries.study(engine, name).spec["budget"]["steps_per_epoch"]
    CURVES.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    CURVES.write_text(f'{{"study": "{name}", "steps_per_epoch": {per_epoch}, "trials": [\n{lines}\n]}}\n')
    print(f"{len(rows)} of {len(trials)} curves in {CURVES.relative_to(ROOT)}")


if __name__ == "__main__":
    record(sys.argv[1])
