"""How the learning rate changes: functions from progress (0 at the first batch, 1 after the last) to a factor."""

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any, Final

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from models.config import TrainConfig

Schedule = Callable[[float], float]

RISE_FROM: Final = 0.04
"""Where a rise begins: 1/25 of the highest rate, as in torch's OneCycleLR."""

ONE_CYCLE_PEAK: Final = 0.25
"""Share of the training that rises; between the 0.21 to 0.23 of the fast CIFAR-10 recipes (Page 2018, Jordan 2024,
arXiv:2404.00498) and the 0.3 of torch's OneCycleLR."""

TURNS: Final = 20
"""The most times that a plateau looks at the loss: a trial of `cifar10` has 16 steps, a last training may have 75."""


def make_schedule(config: TrainConfig) -> Schedule:
    """The configured schedule, after its warmup; of plateau this is the warmup alone."""
    match config.scheduler:
        case "none" | "plateau":
            return with_warmup(constant, share=config.warmup)
        case "step":
            return with_warmup(step, share=config.warmup)
        case "linear":
            return with_warmup(linear, share=config.warmup)
        case "cosine":
            return with_warmup(cosine, share=config.warmup)
        case "one_cycle":
            return one_cycle(peak=ONE_CYCLE_PEAK)


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def step(progress: float) -> float:
    """A tenth after half of the training, a hundredth after three quarters (He 2015, arXiv:1512.03385, section 4.2)."""
    if progress < 0.5:
        return 1.0
    return 0.1 if progress < 0.75 else 0.01


def linear(progress: float) -> float:
    """A straight line from 1 to 0 (Defazio et al. 2023, arXiv:2310.07831: best of eleven schedules on most tasks)."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def one_cycle(*, peak: float) -> Schedule:
    """Rise linearly to 1 at `peak`, then fall linearly to 0 (Smith and Topin 2017, arXiv:1708.07120)."""
    return lambda progress: _rise(progress / peak) if progress < peak else (1.0 - progress) / (1.0 - peak)


def with_warmup(schedule: Schedule, *, share: float) -> Schedule:
    """Rise linearly over the first `share` of the training, then run `schedule` over the rest of it."""
    if share == 0.0:
        return schedule

    def warmed(progress: float) -> float:
        if progress < share:
            return _rise(progress / share) * schedule(0.0)
        return schedule((progress - share) / (1.0 - share))

    return warmed


class Plateau:
    """A factor that falls where the training loss stops falling: torch's ReduceLROnPlateau, fed after each step.

    Where a training has more than TURNS steps it is fed with the mean of several, so that its patience is a share
    of the training, as every other schedule's time is, and not shorter the shorter the steps are.
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._fed = 0.0
        self._holder = SGD([torch.zeros(1)], lr=1.0)
        # Torch's patience of 10 would never act in trials of ten steps; the threshold is relative.
        self._torch = ReduceLROnPlateau(self._holder, factor=0.2, patience=1, threshold=0.01)

    @property
    def factor(self) -> float:
        return float(self._holder.param_groups[0]["lr"])

    def step(self, loss: float, *, progress: float) -> None:
        """Take note of the mean training loss of one more step, which ends at `progress` (0 to 1) of the training."""
        self._losses.append(loss)
        if progress - self._fed < 1.0 / TURNS - 1e-9:
            return
        self._torch.step(fmean(self._losses))
        self._losses, self._fed = [], progress

    def stretch(self, share: float) -> None:
        """Take it that the training has come only to this share of where it was thought to be."""
        self._fed *= share

    def state_dict(self) -> dict[str, Any]:  # plain values, as torch gives them
        return {
            "torch": self._torch.state_dict(),
            "factor": self.factor,
            "losses": [*self._losses],
            "fed": self._fed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._torch.load_state_dict(state["torch"])
        self._losses, self._fed = [*state.get("losses", ())], state.get("fed", 0.0)  # old states have none
        self._holder.param_groups[0]["lr"] = state["factor"]


def _rise(share: float) -> float:
    return RISE_FROM + (1.0 - RISE_FROM) * share
