"""Which trials are stopped early. Ours is asynchronous successive halving; hyperband and median are Optuna's.

ASHA (Li et al. 2020, https://arxiv.org/abs/1810.05934) in its stopping form: a trial that reaches a rung goes on only
if it is in the best `1/reduction` of all trials that have reached that rung until now. In its promoting form each
pauses there (`promotion`). Optuna's SuccessiveHalvingPruner keeps its rungs in attributes that die with the
process, and prunes at the last step too; this one is a pure function of the stored curves. Hyperband:
https://arxiv.org/abs/1603.06560.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import optuna

from search.spec.settings import PrunerName

#: Trials at a rung before it decides: of two, the second one would be stopped half of the time.
MIN_TRIALS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneDecision:
    """A trial is stopped: at which step, with which value, and why."""

    step: int
    value: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Asha:
    """Rungs at first_rung, first_rung * reduction, first_rung * reduction**2, ... steps; the last step is none."""

    first_rung: int
    """Steps until the first rung."""
    reduction: int
    """One of this number of trials at a rung goes on."""
    steps: int
    """Steps of a whole trial."""
    updates: int = 0
    """Of the weights, before a rung judges a network, or compares others with it."""
    least: int = MIN_TRIALS
    """Trials at a rung before one is stopped."""

    def is_rung(self, step: int) -> bool:
        return step < self.steps and step in self.rungs()

    def rungs(self) -> tuple[int, ...]:
        """All rungs, in steps, rising."""
        rungs = []
        rung = self.first_rung
        while rung < self.steps:
            rungs.append(rung)
            rung *= self.reduction
        return tuple(rungs)

    def later(self, step: int) -> tuple[int, ...]:
        """The steps behind a rung at which a trial may be judged for the first time, its end included."""
        return tuple(rung for rung in (*self.rungs(), self.steps) if rung > step)

    def judged_from(self, batches: Sequence[int]) -> int:
        """The step of the first rung that judges a trial, whose steps end after `batches`; without such a rung its last
        step.
        """
        enough = (rung for rung in self.rungs() if batches[rung - 1] >= self.updates)
        return next(enough, self.steps)

    def decide(self, step: int, value: float, *, better: int, others: int) -> PruneDecision | None:
        """Whether to stop a trial with `value` at `step`, which `others` trials have reached, `better` of them with a
        higher value.
        """
        if not self.is_rung(step):
            return None
        reached = others + 1
        if reached < self.least:
            return None
        keep = max(1, reached // self.reduction)
        if better < keep:
            return None
        why = f"rank {better + 1} of {reached} at step {step}; the best {keep} went on"
        return PruneDecision(step=step, value=value, reason=why)


def build(name: PrunerName, *, first_rung: int, reduction: int, steps: int) -> optuna.pruners.BasePruner:
    """Optuna's pruner of that name; asha and none are Optuna's NopPruner, because asha is decided by `Asha`.

    Every argument is set by hand: Optuna would find `max_resource` out by itself, differently in every process.
    """
    match name:
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first_rung, max_resource=steps, reduction_factor=reduction, bootstrap_count=0
            )
        case "median":
            # Five finished trials first, as in Google Vizier's median rule (Golovin et al. 2017); two at a step.
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first_rung, n_min_trials=2)
        case "asha" | "promote" | "none":
            return optuna.pruners.NopPruner()
        case _:
            assert_never(name)
