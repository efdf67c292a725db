"""Learning rate schedules: functions from progress (0 at the first batch, 1 after the last) to a factor."""

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
"""Factor at the start of a rise: 1/25 of the maximum rate, as in torch's OneCycleLR."""

ONE_CYCLE_PEAK: Final = 0.25
"""Share of the training with a rising rate; between the 0.21 to 0.23 of the fast CIFAR-10 recipes (Page 2018, Jordan
2024, arXiv:2404.00498) and the 0.3 of torch's OneCycleLR."""

TURNS: Final = 20
"""Maximum number of updates of a plateau: a trial of `cifar10` has 16 steps, a final training may have 75."""


def make_schedule(config: TrainConfig) -> Schedule:
    """The configured schedule with its warmup; for plateau, the warmup alone."""
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
    """A factor that falls when the training loss stops falling: torch's ReduceLROnPlateau, updated after each step.

    A training with more than TURNS steps updates it with the mean loss of several steps. The patience is then a share
    of the training, as the durations of the other schedules are, and does not depend on the length of a step.
    """

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._fed = 0.0
        self._holder = SGD([torch.zeros(1)], lr=1.0)
        # Torch's patience of 10 would have no effect in trials of ten steps; the threshold is relative.
        self._torch = ReduceLROnPlateau(self._holder, factor=0.2, patience=1, threshold=0.01)

    @property
    def factor(self) -> float:
        return float(self._holder.param_groups[0]["lr"])

    def step(self, loss: float, *, progress: float) -> None:
        """Record the mean training loss of a step that ends at `progress` (0 to 1) of the training."""
        self._losses.append(loss)
        if progress - self._fed < 1.0 / TURNS - 1e-9:
            return
        self._torch.step(fmean(self._losses))
        self._losses, self._fed = [], progress

    def stretch(self, share: float) -> None:
        """Scale the recorded progress by `share`, after the planned end of the training moved."""
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
        self._losses, self._fed = [*state.get("losses", ())], state.get("fed", 0.0)  # old states lack both
        self._holder.param_groups[0]["lr"] = state["factor"]


def _rise(share: float) -> float:
    return RISE_FROM + (1.0 - RISE_FROM) * share
