"""The ways in which a trial ends, or breaks off on purpose."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a trial ended: with a value, or pruned for a reason."""

    value: float | None = None
    """The objective on the validation images after the last step; None if the trial was pruned."""
    costs: tuple[float, ...] = ()
    """Values of the other objectives."""
    reason: str | None = None
    violation: float = 0.0
    """Above 0: the configuration cannot be trained at all, and the sampler ranks it below every other."""
    out_of_memory: bool = False
    """The process ran out of memory and must not run another trial."""


class TrialStopped(Exception):
    """The trial was asked to stop; its checkpoint is written and it can go back to the queue."""


class TrialPaused(Exception):  # not an error
    """The trial waits after a step for the condition `until`; its checkpoint is written."""

    def __init__(self, step: int, *, until: str) -> None:
        super().__init__(step)
        self.step, self.until = step, until
