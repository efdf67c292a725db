"""`run --dry-run`: what a study would take, in time, memory and disk, before anything of it is written.

Networks of the space are drawn at random, and some of them trained for a moment on this machine; how fast the others
train follows from their multiply-accumulates. How many trials the pruner stops, its rungs say. It is an estimate: what
a sampler will draw, and what else the machine will be used for, is not known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

import numpy as np
import torch

from data.archive import open_store
from data.config import DataConfig
from data.dataset import searched as searched_count
from data.folder import list_images
from models.config import Impossible, ModelConfig, TrainConfig
from search import hardware
from search.artifacts.cleanup import KEEP_BEST
from search.console import count_workers
from search.errors import SpecError
from search.service.session import searching
from search.spec import study_spec
from search.spec.domains import Value
from search.spec.fit import ImageLimits, check_fit
from search.spec.study_spec import StudySpec
from search.spec.trial_length import FORWARD_SHARE
from search.study.inputs import devices, worker_bytes
from search.study.strategy import asha
from search.tables import Table, format_duration
from search.trial.speed import images_per_second, with_epochs

#: Configurations that are drawn, and those of them that are trained: a small, a middle and a large network.
DRAWN, TIMED = 200, (0.1, 0.5, 0.9)
#: Images of CIFAR-10: for training, for the test.
CIFAR10: Final = (50_000, 10_000)
#: Bytes that a trial takes in the database: of 15 parameters and 10 steps (`make bench`, bookkeeping).
TRIAL_BYTES = 15_000
#: A checkpoint holds the weights, up to two numbers of the optimizer for each, and an average; two are kept.
CHECKPOINT_NUMBERS, KEPT = 4, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a study would take."""

    trials: int
    workers: int
    images: int
    """For training, in a search."""
    impossible: float
    """Share of the configurations that cannot be trained; a search draws again, in a grid they cost nothing."""
    macs: tuple[float, float, float]
    """For one image, forward: of a small, a middle and a large network that were drawn."""
    images_per_second: tuple[float, float, float]
    """Of one worker, for the same three."""
    share: float
    """Of a whole trial that a trial is trained for on average, after pruning."""
    seconds: float
    """On the clock, without the last training."""
    hours: float | None
    """What the study may take at the most."""
    fits: int | None
    """Trials that the hours of the search have room for; None where there is no such limit."""
    memory: int
    """Bytes, of all workers together."""
    disk: int
    """Bytes, when it is done."""


def estimate(wanted: StudySpec, *, workers: int | None, device: str | None, hours: float | None = None) -> Estimate:
    """What a study would take on this machine; it trains for some seconds, and writes nothing. `hours` of a command are
    in place of those of the study.

    Raises DataError where its images are a folder or archive that cannot be read.
    """
    seats = devices(wanted, workers, device=device)
    if seats[0] == "cpu":
        torch.set_num_threads(1)  # as a worker has
    train, test, classes = _counts(wanted.data)
    side = wanted.data.search_size or wanted.data.side
    searched = searched_count(wanted.data, train, classes=classes)
    limits = ImageLimits(side=side, classes=classes, images=searched)
    held_out = wanted.data.held_out(train, classes=classes)
    validation = held_out if isinstance(held_out, int) else round(held_out * train)
    hours = wanted.budget.hours if hours is None else hours
    search_hours = searching(wanted, hours)
    wanted = with_epochs(
        wanted,
        limits,
        validation=validation,
        search_s=None if search_hours is None else 3600 * search_hours,
        workers=len(seats),
        device=torch.device(seats[0]),
    )
    drawn = _draw(wanted, limits)
    share = expected_share(wanted)
    timed = _timed(
        [drawn[round(place * (len(drawn) - 1))] for place in TIMED], classes=classes, side=side, seat=seats[0]
    )
    logs = np.log([each.macs for each in drawn])
    speeds = np.exp(np.interp(logs, np.log([each.macs for each, _ in timed]), np.log([speed for _, speed in timed])))
    budget = wanted.budget
    epochs = [budget.steps * float(budget.step_epochs(images=searched, macs=each.macs)) for each in drawn]
    judged = validation * budget.steps * FORWARD_SHARE
    per_trial = float(np.mean((searched * np.array(epochs) + judged) * share / speeds))
    possible = len(drawn) / DRAWN
    trained = possible if wanted.search.sampler == "grid" else 1.0  # a search draws again in place of the others
    trial_s = per_trial * trained / at_once(seats, trials=wanted.budget.trials)
    largest = max(each.parameters for each in drawn)
    kept = KEEP_BEST if len(wanted.search.objectives) == 1 else round(wanted.budget.trials * trained)
    return Estimate(
        trials=wanted.budget.trials,
        workers=len(seats),
        images=searched,
        impossible=1 - possible,
        macs=_three([each.macs for each, _ in timed]),
        images_per_second=_three([speed for _, speed in timed]),
        share=share,
        seconds=trial_s * wanted.budget.trials,
        hours=hours,
        fits=None if search_hours is None else min(wanted.budget.trials, round(3600 * search_hours / trial_s)),
        memory=len(seats) * worker_bytes(wanted),
        disk=(train + test) * wanted.data.side**2 * 3
        + wanted.budget.trials * TRIAL_BYTES
        + kept * KEPT * CHECKPOINT_NUMBERS * 4 * largest,
    )


def at_once(seats: Sequence[str], *, trials: int) -> int:
    """Workers that train at the same time: no more than there are trials, or cores."""
    return min(len(seats), trials, hardware.cores() if seats[0] == "cpu" else len(seats))


def expected_share(wanted: StudySpec) -> float:
    """How much of a whole trial is trained on average, if of those at each rung one in `reduction` goes on."""
    if wanted.search.pruner == "none":
        return 1.0
    ends = (*asha(wanted).rungs(), wanted.budget.steps)
    steps, alive, before = 0.0, 1.0, 0
    for end in ends:
        steps += alive * (end - before)
        alive, before = alive / wanted.search.reduction, end
    pruned = steps / wanted.budget.steps
    return pruned + wanted.search.audit * (1 - pruned)


def estimate_table(found: Estimate) -> Table:
    """The estimate for people."""
    rows = {
        "trials": f"{_trials(found)} on {count_workers(found.workers)}",
        "of them impossible": f"{100 * found.impossible:.0f} %" if found.impossible else "",
        "images": f"{found.images:,} for training",
        "networks": " / ".join(f"{macs / 1e6:.1f} million MACs" for macs in found.macs),
        "images a second": " / ".join(f"{speed:,.0f}" for speed in found.images_per_second),
        "trained on average": f"{100 * found.share:.0f} % of a whole trial",
        "time": _time(found),
        "memory": f"{found.memory / 1e9:.1f} GB",
        "disk": f"{found.disk / 1e9:.2f} GB",
    }
    return Table(
        columns=("", ""),
        rows=tuple((name, text) for name, text in rows.items() if text),
        after=(
            "",
            "An estimate, from some seconds of training here; to start workers and decode images takes longer.",
        ),
    )


def _trials(found: Estimate) -> str:
    is_cut = found.fits is not None and found.fits < found.trials
    return f"about {found.fits:,}, which is what fits," if is_cut else f"{found.trials:,}"


def _time(found: Estimate) -> str:
    if found.hours is not None and found.fits is not None and found.fits < found.trials:
        return f"{format_duration(3600 * found.hours)}, last training included"
    return f"about {format_duration(found.seconds)}" + (f", at most {found.hours:g} h" if found.hours else "")


def estimate_json(found: Estimate) -> dict[str, Any]:
    """`run --dry-run --json`."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawn:
    model: ModelConfig
    train: TrainConfig
    macs: int
    parameters: int


class _Dice:
    """Draws at random, without Optuna's study behind it."""

    def __init__(self, seed: int) -> None:
        self._dice = np.random.default_rng(seed)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        if log:
            return float(math.exp(self._dice.uniform(math.log(low), math.log(high))))
        return float(self._dice.uniform(low, high)) if step is None else self._stepped(low, high, step)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        if log:
            return round(math.exp(self._dice.uniform(math.log(low), math.log(high))))
        return round(self._stepped(low, high, step))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return choices[int(self._dice.integers(len(choices)))]

    def _stepped(self, low: float, high: float, step: float) -> float:
        return float(low + step * self._dice.integers(int((high - low) / step + 1e-9) + 1))


def _draw(wanted: StudySpec, limits: ImageLimits) -> list[_Drawn]:
    """Configurations that can be trained, by the work that they need."""
    dice, found = _Dice(wanted.search.seed), []
    for _ in range(DRAWN):
        values: Mapping[str, Value] = study_spec.sample_config(wanted, dice)
        model, train, _ = study_spec.to_model_configs(wanted, values)
        try:
            shape = check_fit(wanted, values, limits)
        except Impossible:
            continue
        found.append(_Drawn(model=model, train=train, macs=shape.macs, parameters=shape.parameters))
    if not found:
        raise SpecError(f"none of {DRAWN} configurations that were drawn can be trained; loosen [space] or [budget]")
    return sorted(found, key=lambda each: each.macs)


def _timed(chosen: Sequence[_Drawn], *, classes: int, side: int, seat: str) -> list[tuple[_Drawn, float]]:
    """The images that each trains a second, by one worker."""
    device = torch.device(seat)
    return [
        (each, images_per_second(each.model, each.train, classes=classes, side=side, device=device)) for each in chosen
    ]


def _counts(data: DataConfig) -> tuple[int, int, int]:
    """Training images, test images, classes; counted without decoding any."""
    match data.source:
        case "cifar10":
            return min(data.train_images or CIFAR10[0], CIFAR10[0]), CIFAR10[1], 10
        case "shapes":
            train = data.train_images or 10_000
            return train, train // 5, 10
        case "folder":
            listing = list_images(open_store(Path(data.path or "").expanduser()))
            train, test = (sum(map(len, part.values())) for part in (listing.train, listing.test))
            return min(data.train_images or train, train), test, len(listing.train)
        case _:
            assert_never(data.source)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    small, middle, large = values
    return small, middle, large
