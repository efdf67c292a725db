"""Early stopping. This module has asynchronous successive halving; hyperband and median are Optuna's pruners.

ASHA (Li et al. 2020, https://arxiv.org/abs/1810.05934) in its stopping form: a trial that reaches a rung goes on only
if it is in the best `1/reduction` of all trials that have reached that rung until now. In its promoting form each trial
pauses at the rung (`promotion`). Optuna's SuccessiveHalvingPruner keeps its rungs in attributes that are lost with the
process, and prunes at the last step too; this one is a pure function of the stored curves. Hyperband:
https://arxiv.org/abs/1603.06560.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import optuna

from search.spec.settings import PrunerName

#: Minimum number of trials at a rung for a decision: of two trials, the second would be stopped half of the time.
MIN_TRIALS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneDecision:
    """The decision to stop a trial: the step, the value there, and the reason."""

    step: int
    value: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Asha:
    """Rungs at first_rung, first_rung * reduction, first_rung * reduction**2, ... steps; the last step is no rung."""

    first_rung: int
    """Steps until the first rung."""
    reduction: int
    """One of `reduction` trials at a rung goes on."""
    steps: int
    """Steps of a complete trial."""
    updates: int = 0
    """Minimum number of weight updates before a rung judges a network or compares others with it."""
    least: int = MIN_TRIALS
    """Minimum number of trials at a rung before one is stopped."""

    def is_rung(self, step: int) -> bool:
        return step < self.steps and step in self.rungs()

    def rungs(self) -> tuple[int, ...]:
        """All rungs in steps, ascending."""
        rungs = []
        rung = self.first_rung
        while rung < self.steps:
            rungs.append(rung)
            rung *= self.reduction
        return tuple(rungs)

    def later(self, step: int) -> tuple[int, ...]:
        """The steps after a rung at which a trial may be judged for the first time, its last step included."""
        return tuple(rung for rung in (*self.rungs(), self.steps) if rung > step)

    def judged_from(self, batches: Sequence[int]) -> int:
        """The step of the first rung that judges a trial.

        Args:
            batches: The last batch of each step of the trial.

        Returns:
            The first rung after at least `updates` batches; the last step if there is none.
        """
        enough = (rung for rung in self.rungs() if batches[rung - 1] >= self.updates)
        return next(enough, self.steps)

    def decide(self, step: int, value: float, *, better: int, others: int) -> PruneDecision | None:
        """Decide whether to stop a trial at a step.

        Args:
            step: The step; every step but a rung returns None.
            value: The value of the trial at this step.
            better: Number of other trials with a higher value at this step.
            others: Number of other trials that have reached this step.

        Returns:
            The decision to stop, or None.
        """
        if not self.is_rung(step):
            return None
        reached = others + 1
        if reached < self.least:
            return None
        keep = max(1, reached // self.reduction)
        if better < keep:
            return None
        reason = f"rank {better + 1} of {reached} at step {step}; the best {keep} went on"
        return PruneDecision(step=step, value=value, reason=reason)


def build(name: PrunerName, *, first_rung: int, reduction: int, steps: int) -> optuna.pruners.BasePruner:
    """Build the Optuna pruner of this name; NopPruner for asha and promote, which `Asha` decides, and for none.

    All arguments are explicit: Optuna would infer `max_resource`, differently in every process.

    Args:
        name: The pruner.
        first_rung: Steps until the first decision.
        reduction: One of this number of trials goes on.
        steps: Steps of a complete trial.
    """
    match name:
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first_rung, max_resource=steps, reduction_factor=reduction, bootstrap_count=0
            )
        case "median":
            # Five finished trials at least, as in Google Vizier's median rule (Golovin et al. 2017); two at the step.
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first_rung, n_min_trials=2)
        case "asha" | "promote" | "none":
            return optuna.pruners.NopPruner()
        case _:
            assert_never(name)
