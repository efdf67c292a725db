"""Audit of the pruner: how often it stops a trial that would have been good.

Audited trials are trained to their end regardless of the pruner. The seed of the study and the trial number select them
before any result exists (`[search] audit`), which makes them a random sample. The pruner judges them like any other
trial, its decision is ignored, and no other trial is compared with them. Audited trials that the pruner would have
stopped show the results that the stopped trials would have had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from search.analysis.intervals import wilson_interval
from search.seeds import is_audited
from search.storage.records import StudyRecord, TrialRecord

#: Fewer trials cannot distinguish a rate of 0 from one of 20 % (Wilson's interval of 0 of 16 ends at 19.4 %).
MIN_AUDITED = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Results of the audited trials that the pruner would have stopped."""

    spared: tuple[TrialRecord, ...]
    """Trials that the pruner would have stopped, trained to their end."""
    survivors: int
    """Number of complete trials that the pruner let through."""
    above_median: int
    """Number of spared trials that ended above the median of the survivors."""
    above_best: int
    """Number of spared trials that ended above the best survivor."""

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the share of spared trials that ended above the median."""
        return wilson_interval(self.above_median, len(self.spared))


def audit(study: StudyRecord, trials: Sequence[TrialRecord]) -> Audit:
    """Compares the spared trials of a study with those that the pruner let through."""
    sign = -1.0 if study.directions[:1] == ("minimize",) else 1.0
    spared = [trial for trial in trials if trial.spared is not None and _is_stopped(study, trial, trials)]
    ended = [trial for trial in spared if trial.state == "COMPLETE" and trial.values]
    values = [sign * trial.values[0] for trial in trials if _survived(trial)]
    return Audit(
        spared=tuple(ended),
        survivors=len(values),
        above_median=sum(sign * trial.values[0] > median(values) for trial in ended) if values else 0,
        above_best=sum(sign * trial.values[0] > max(values) for trial in ended) if values else 0,
    )


def _survived(trial: TrialRecord) -> bool:
    return trial.state == "COMPLETE" and trial.spared is None and bool(trial.values)


def _is_stopped(study: StudyRecord, trial: TrialRecord, trials: Sequence[TrialRecord]) -> bool:
    """Whether the pruner would have stopped the trial for good: a paused trial may be promoted later."""
    search = study.spec.get("search", {})
    if search.get("pruner") != "promote" or "behind the baseline" in (trial.spared or {})["reason"]:
        return True
    step, value = (trial.spared or {})["step"], (trial.spared or {})["value"]
    ranked = [
        other
        for other in trials
        if other.state != "FAIL"
        and (other.number == study.baseline or not is_audited(search["seed"], other.number, search.get("audit", 0.0)))
    ]
    others = [reached for other in ranked for at, reached in other.curve if at == step]
    return sum(bool(reached > value) for reached in others) >= (len(others) + 1) // int(search["reduction"])


def lines(result: Audit) -> tuple[str, ...]:
    """Describes the audit in sentences."""
    n = len(result.spared)
    if n == 0:
        return ("No trial that would have been stopped was trained to its end: nothing is known of false stops.",)
    if result.survivors == 0:
        return (f"Trials that would have been stopped, but were trained to their end: {n}. No other trial was.",)
    low, high = result.interval
    sentences = [
        f"Trials that the pruner would have stopped, and that were trained on: {n}. {result.above_median} of them "
        f"ended above the median of the {result.survivors} that it let through ({100 * result.above_median / n:.0f} %, "
        f"95 % interval {100 * low:.0f} to {100 * high:.0f} %), {result.above_best} above the best of these.",
    ]
    if n < MIN_AUDITED:
        sentences.append(f"That is too few to tell a good pruner from a bad one; at least {MIN_AUDITED} are needed.")
    return tuple(sentences)
