"""`run --dry-run`: estimates the time, memory and disk space of a study without writing anything.

Networks of the search space are drawn at random, and some of them are trained for a moment on this machine; the speed
of the others is interpolated from their multiply-accumulates. The number of pruned trials follows from the rungs of the
pruner. The result is an estimate: the draws of the sampler and other load on the machine are unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from data.dataset import count_images
from models.config import Impossible, ModelConfig, TrainConfig
from search import hardware
from search.artifacts.cleanup import KEEP_BEST
from search.console import count_workers
from search.errors import SpecError
from search.service.session import searching
from search.spec import study_spec
from search.spec.domains import Value
from search.spec.feasibility import RandomDraws, check_feasible
from search.spec.fit import ImageLimits, check_fit, fitted
from search.spec.study_spec import StudySpec
from search.spec.trial_length import FORWARD_SHARE
from search.study.configurations import ConfigurationSpace
from search.study.inputs import devices, worker_bytes
from search.study.strategy import asha
from search.tables import Table, format_duration
from search.trial.speed import images_per_second, with_epochs

#: Number of configurations to draw, and quantiles of those to train: a small, a medium and a large network.
DRAWN, TIMED = 200, (0.1, 0.5, 0.9)
#: Size of a trial in the database in bytes, with 15 parameters and 10 steps (`make bench`, bookkeeping).
TRIAL_BYTES = 15_000
#: A checkpoint holds up to four numbers per weight: the weight, two of the optimizer, and an average. Two checkpoints
#: are kept.
CHECKPOINT_NUMBERS, KEPT = 4, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimated cost of a study."""

    trials: int
    configurations: int | None
    """Number of configurations of a finite search space, if the budget allows to try each; otherwise None."""
    workers: int
    images: int
    """Training images in a search."""
    impossible: float
    """Share of the configurations that cannot be trained. A search draws again; in a grid they cost nothing."""
    macs: tuple[float, float, float]
    """Forward pass of one image, for a small, a medium and a large network of those drawn."""
    images_per_second: tuple[float, float, float]
    """Training speed of one worker, for the same three networks."""
    share: float
    """Average trained share of a full trial, after pruning."""
    seconds: float
    """Wall-clock time, without the final training."""
    hours: float | None
    """Time limit of the study."""
    fits: int | None
    """Number of trials that fit into the hours of the search; None without a limit."""
    memory: int
    """Bytes for all workers together."""
    disk: int
    """Bytes at the end of the study."""
    notes: tuple[str, ...] = ()
    """The configurations that cannot be trained (`spec.feasibility`); empty if some of a search can be as drawn."""


def estimate(wanted: StudySpec, *, workers: int | None, device: str | None, hours: float | None = None) -> Estimate:
    """Estimate the cost of a study on this machine; trains for some seconds and writes nothing.

    Args:
        wanted: Spec of the study.
        workers: Number of workers; None is one per core or GPU.
        device: cpu or cuda; None is cuda if there is a GPU, otherwise cpu.
        hours: Time limit that replaces the one of the spec.

    Returns:
        The estimate.

    Raises:
        DataError: the folder or archive of its images cannot be read.
        AllTrialsImpossibleError: nothing can be trained.
        SpecError: none of the drawn cells of a grid can be trained.
    """
    device_names = devices(wanted, workers, device=device)
    if device_names[0] == "cpu":
        torch.set_num_threads(1)  # as in a worker
    counts = count_images(wanted.data)
    side = wanted.data.search_size or wanted.data.side
    limits = ImageLimits(side=side, classes=counts.classes, images=counts.train)
    feasible = check_feasible(wanted, limits)
    hours = wanted.budget.hours if hours is None else hours
    search_hours = searching(wanted, hours)
    wanted = with_epochs(
        wanted,
        limits,
        validation=counts.validation,
        search_s=None if search_hours is None else 3600 * search_hours,
        workers=len(device_names),
        device=torch.device(device_names[0]),
    )
    size = ConfigurationSpace(wanted, limits).size(beyond=wanted.budget.trials)
    if size is not None:
        wanted = replace(wanted, budget=wanted.budget.model_copy(update={"trials": size.trials}))
    drawn = _draw_networks(wanted, limits, changed=bool(feasible.changes))
    share = expected_share(wanted)
    timed = _measure_speeds(
        [drawn[round(quantile * (len(drawn) - 1))] for quantile in TIMED],
        classes=counts.classes,
        side=side,
        device_name=device_names[0],
    )
    logs = np.log([network.macs for network in drawn])
    speeds = np.exp(
        np.interp(logs, np.log([network.macs for network, _ in timed]), np.log([speed for _, speed in timed]))
    )
    budget = wanted.budget
    epochs = [budget.steps * float(budget.step_epochs(images=counts.train, macs=network.macs)) for network in drawn]
    validation_images = counts.validation * budget.steps * FORWARD_SHARE
    per_trial = float(np.mean((counts.train * np.array(epochs) + validation_images) * share / speeds))
    possible_share = 0.0 if feasible.changes else len(drawn) / DRAWN
    trained_share = possible_share if wanted.search.sampler == "grid" else 1.0  # a search draws again
    trial_s = per_trial * trained_share / concurrent_workers(device_names, trials=wanted.budget.trials)
    largest = max(network.parameters for network in drawn)
    kept_trials = KEEP_BEST if len(wanted.search.objectives) == 1 else round(wanted.budget.trials * trained_share)
    return Estimate(
        trials=wanted.budget.trials,
        configurations=None if size is None else size.configurations,
        workers=len(device_names),
        images=counts.train,
        impossible=1 - possible_share,
        macs=_as_triple([network.macs for network, _ in timed]),
        images_per_second=_as_triple([speed for _, speed in timed]),
        share=share,
        seconds=trial_s * wanted.budget.trials,
        hours=hours,
        fits=None if search_hours is None else min(wanted.budget.trials, round(3600 * search_hours / trial_s)),
        memory=len(device_names) * worker_bytes(wanted),
        disk=(counts.all_train + counts.test) * wanted.data.side**2 * 3
        + wanted.budget.trials * TRIAL_BYTES
        + kept_trials * KEPT * CHECKPOINT_NUMBERS * 4 * largest,
        notes=feasible.lines(),
    )


def concurrent_workers(device_names: Sequence[str], *, trials: int) -> int:
    """Number of workers that train at the same time, limited by the trials and the cores."""
    return min(len(device_names), trials, hardware.cores() if device_names[0] == "cpu" else len(device_names))


def expected_share(wanted: StudySpec) -> float:
    """Average trained share of a full trial, from 0 to 1, if one in `reduction` trials continues at each rung."""
    if wanted.search.pruner == "none":
        return 1.0
    ends = (*asha(wanted).rungs(), wanted.budget.steps)
    steps, alive_share, previous_end = 0.0, 1.0, 0
    for end in ends:
        steps += alive_share * (end - previous_end)
        alive_share, previous_end = alive_share / wanted.search.reduction, end
    pruned = steps / wanted.budget.steps
    return pruned + wanted.search.audit * (1 - pruned)


def estimate_table(estimated: Estimate) -> Table:
    """The estimate as a table."""
    rows = {
        "trials": f"{_trials_text(estimated)} on {count_workers(estimated.workers)}",
        "of them impossible": f"{100 * estimated.impossible:.0f} %" if estimated.impossible else "",
        "images": f"{estimated.images:,} for training",
        "networks": " / ".join(f"{macs / 1e6:.1f} million MACs" for macs in estimated.macs),
        "images a second": " / ".join(f"{speed:,.0f}" for speed in estimated.images_per_second),
        "trained on average": f"{100 * estimated.share:.0f} % of a whole trial",
        "time": _time_text(estimated),
        "memory": f"{estimated.memory / 1e9:.1f} GB",
        "disk": f"{estimated.disk / 1e9:.2f} GB",
    }
    return Table(
        columns=("", ""),
        rows=tuple((name, text) for name, text in rows.items() if text),
        after=(
            "",
            *estimated.notes,
            "An estimate, from some seconds of training here; to start workers and decode images takes longer.",
        ),
    )


def _trials_text(estimated: Estimate) -> str:
    is_cut = estimated.fits is not None and estimated.fits < estimated.trials
    if is_cut:
        return f"about {estimated.fits:,}, which is what fits,"
    return f"{estimated.trials:,}" + (", each configuration once," if estimated.configurations is not None else "")


def _time_text(estimated: Estimate) -> str:
    if estimated.hours is not None and estimated.fits is not None and estimated.fits < estimated.trials:
        return f"{format_duration(3600 * estimated.hours)}, last training included"
    return f"about {format_duration(estimated.seconds)}" + (
        f", at most {estimated.hours:g} h" if estimated.hours else ""
    )


def estimate_json(estimated: Estimate) -> dict[str, Any]:
    """The estimate for `run --dry-run --json`."""
    return asdict(estimated)


@dataclass(frozen=True, kw_only=True, slots=True)
class _DrawnNetwork:
    model: ModelConfig
    train: TrainConfig
    macs: int
    parameters: int


def _draw_networks(wanted: StudySpec, limits: ImageLimits, *, changed: bool) -> list[_DrawnNetwork]:
    """Random configurations that can be trained, sorted by multiply-accumulates.

    Args:
        wanted: Spec of the study.
        limits: Limits of its images.
        changed: Whether each is changed to the nearest one that can be trained, as in a search without another one.
    """
    draws, networks = RandomDraws(wanted.search.seed), []
    for _ in range(DRAWN):
        values: Mapping[str, Value] = study_spec.sample_config(wanted, draws)
        try:
            values = fitted(wanted, values, limits) if changed else values
            shape = check_fit(wanted, values, limits)
        except Impossible:
            continue
        model, train, _ = study_spec.to_model_configs(wanted, values)
        networks.append(_DrawnNetwork(model=model, train=train, macs=shape.macs, parameters=shape.parameters))
    if not networks:
        raise SpecError(f"none of {DRAWN} configurations that were drawn can be trained; loosen [space] or [budget]")
    return sorted(networks, key=lambda network: network.macs)


def _measure_speeds(
    chosen: Sequence[_DrawnNetwork], *, classes: int, side: int, device_name: str
) -> list[tuple[_DrawnNetwork, float]]:
    """Each network with its training speed in images per second, for one worker.

    The learning rate is tiny: a loss that diverges on random images tells nothing about those of the study.
    """
    device, still = torch.device(device_name), {"learning_rate": 1e-6}
    return [
        (
            network,
            images_per_second(
                network.model, network.train.model_copy(update=still), classes=classes, side=side, device=device
            ),
        )
        for network in chosen
    ]


def _as_triple(values: Sequence[float]) -> tuple[float, float, float]:
    small, middle, large = values
    return small, middle, large
