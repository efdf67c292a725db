"""How often the pruner stops a trial that would have been good: some are trained on to find out.

Which ones is decided by the study's seed and their numbers (`[search] audit`), before anything is known of them, so
that they are a random sample. The pruner judges them like any other and is overruled, and no other trial is compared
with them. What became of those that it would have stopped tells what would have become of those that it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from search.analysis.intervals import wilson_interval
from search.seeds import is_audited
from search.storage.records import StudyRecord, TrialRecord

#: Of fewer, not even a rate of 0 can be told from one of 20 % (Wilson's interval of 0 of 16 ends at 19.4 %).
MIN_AUDITED = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What became of the trials that would have been stopped."""

    spared: tuple[TrialRecord, ...]
    """Those that have been trained to their end."""
    survivors: int
    """Complete trials that the pruner had let through."""
    above_median: int
    """Spared ones that ended above the median of the survivors."""
    above_best: int
    """Spared ones that ended above the best survivor."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share that ended above the median."""
        return wilson_interval(self.above_median, len(self.spared))


def audit(study: StudyRecord, trials: Sequence[TrialRecord]) -> Audit:
    """What the audited trials of a study have come to."""
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
    """Whether it would not have gone on later either: where trials pause, its turn may still have come."""
    search = study.spec.get("search", {})
    if search.get("pruner") != "promote" or "behind the baseline" in (trial.spared or {})["reason"]:
        return True
    step, value = (trial.spared or {})["step"], (trial.spared or {})["value"]
    ranked = [
        each
        for each in trials
        if each.state != "FAIL"
        and (each.number == study.baseline or not is_audited(search["seed"], each.number, search.get("audit", 0.0)))
    ]
    others = [there for each in ranked for at, there in each.curve if at == step]
    return sum(bool(there > value) for there in others) >= (len(others) + 1) // int(search["reduction"])


def lines(found: Audit) -> tuple[str, ...]:
    """The audit in words."""
    n = len(found.spared)
    if n == 0:
        return ("No trial that would have been stopped was trained to its end: nothing is known of false stops.",)
    if found.survivors == 0:
        return (f"Of trials that would have been stopped {n} were trained to their end; of the others none was.",)
    low, high = found.interval
    told = [
        f"Trials that the pruner would have stopped, and that were trained on: {n}. {found.above_median} of them ended "
        f"above the median of the {found.survivors} that it let through ({100 * found.above_median / n:.0f} %, 95 % "
        f"interval {100 * low:.0f} to {100 * high:.0f} %), {found.above_best} above the best of these.",
    ]
    if n < MIN_AUDITED:
        told.append(f"That is too few to tell a good pruner from a bad one; {MIN_AUDITED} would begin to.")
    return tuple(told)
