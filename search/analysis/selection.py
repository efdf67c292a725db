"""Which configuration a search delivers: its baseline, unless another one beats that by more than chance explains.

The best of many trials looks better than it is: it was chosen for its luck, too (overtuning, Schneider et al. 2025,
https://arxiv.org/abs/2506.19540). So a challenger is compared with the baseline image by image (`correctness`), at the
end of a whole trial, and its lead has to be larger than the best of all challengers would have by chance: that of
the images, and that of two trainings with other seeds. The chance of error is divided by their number (Bonferroni).
"""

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from search.analysis import correctness
from search.analysis.correctness import Pair
from search.storage import queries, ranking
from search.storage.records import StudyRecord, TrialRecord
from search.tables import format_number

if TYPE_CHECKING:
    from search.analysis.test_results import ConfigResult, FinalResult

#: With this chance a search that has found nothing replaces its baseline all the same.
CHANCE = 0.05
#: Standard deviation of an accuracy over the seeds of a training: the median of eleven networks, each trained five
#: times (studies/LOG.md, 2026-11-22). Without it, of made-up searches in which all networks are alike, 17 % replaced
#: their baseline with 2,000 images, and 5 % with 200 (studies/LOG.md, 2026-11-29).
SEED_SD = 0.0066


@dataclass(frozen=True, kw_only=True, slots=True)
class Lead:
    """A trial beside the baseline, at one step of both."""

    trial: TrialRecord
    pair: Pair
    challengers: int
    """Trials that were judged beside the baseline."""

    @property
    def needed(self) -> float:
        """The lead that chance explains. (1 / images: Edwards 1948, https://doi.org/10.1007/BF02289261.)"""
        quantile = NormalDist().inv_cdf(1 - CHANCE / max(1, self.challengers))
        return quantile * math.hypot(self.pair.error, SEED_SD, SEED_SD) + 1 / self.pair.images

    @property
    def is_significant(self) -> bool:
        """Whether it leads by more than chance explains."""
        return self.pair.lead > self.needed


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """The trials of a search beside its baseline."""

    study: StudyRecord
    trials: Sequence[TrialRecord]
    judged: int
    """Trials but the baseline that were judged, at a rung or at their end; of these `trials` may be a part."""

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The trial that others are compared with; None if there is none, or it cannot be trained."""
        first = (each for each in self.trials if each.number == self.study.baseline and each.config)
        return next((each for each in first if each.state != "FAIL" and each.violation <= 0), None)

    @cached_property
    def ended(self) -> tuple[Lead, ...]:
        """The challengers that were trained to their end, beside the baseline there; the one that leads most first."""
        found = self._leads([each for each in self.trials if each.state == "COMPLETE"])
        return tuple(sorted(found, key=lambda each: (-each.pair.lead, each.trial.number)))

    @cached_property
    def significant(self) -> tuple[Lead, ...]:
        """Those of them that lead by more than chance explains."""
        return tuple(each for each in self.ended if each.is_significant)

    @property
    def is_open(self) -> bool:
        """Whether a trial that may go on leads by more than chance explains where it was judged last."""
        going_on = [each for each in self.trials if each.state != "PRUNED"]
        return any(each.is_significant for each in self._leads(going_on))

    def has_found_nothing(self, *, patience: int, before: int) -> bool:
        """Whether `patience` challengers were judged, `before` left out, and none leads the whole baseline clearly."""
        is_whole = self.baseline is not None and self.baseline.state == "COMPLETE"
        return is_whole and self.judged - before >= patience and not self.is_open

    def status(self, *, patience: int, before: int) -> str:
        """Where the search stands, on one line."""
        if self.baseline is None:
            return ""
        if self.significant:
            best = self.significant[0]
            lead = format_number(best.pair.lead)
            return f"trial {best.trial.number} leads trial 0, the baseline, by {lead}: more than chance"
        judged = min(self.judged - before, patience)
        return f"trial 0, the baseline, leads; {judged} of {patience} trials judged until the search gives up"

    def _leads(self, trials: Sequence[TrialRecord]) -> list[Lead]:
        """These beside the baseline, each at the last step where both were judged."""
        if self.baseline is None:
            return []
        is_balanced = self.study.objective == "balanced_accuracy"
        found = []
        for trial in trials:
            steps = correctness.steps(trial.correct)
            if trial.number == 0 or not steps or trial.state == "FAIL" or trial.violation > 0:
                continue
            pair = correctness.pair(trial.correct, self.baseline.correct, steps[-1], balanced=is_balanced)
            if pair is not None:
                found.append(Lead(trial=trial, pair=pair, challengers=self.judged))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What a search delivers, and why."""

    trial: int | None
    """None as long as nothing was trained."""
    reason: str
    """One sentence, with figures."""

    @property
    def sentence(self) -> str:
        """The reason with a capital and a full stop."""
        return f"{self.reason[:1].upper()}{self.reason[1:]}."

    def as_json(self) -> dict[str, Any]:
        """What is stored of it."""
        return {"trial": self.trial, "reason": self.reason}


def delivered(engine: sa.Engine, study: StudyRecord) -> Selection:
    """What a search has delivered, by its newest last training; as long as there is none, what it would deliver.

    Where the search went on since then and has found something else, that is told.
    """
    rows = (queries.study(engine, each) for each in reversed(queries.verdicts(engine, study.name)))
    known = next((found for row in rows if (found := stored(row)) is not None), None)
    now = select(engine, study)
    if known is None or now.trial == known.trial:
        return known or now
    since = f"; since then trial {now.trial} was found, which `convsearch final {shlex.quote(study.name)}` would train"
    return Selection(trial=known.trial, reason=known.reason + since)


def of_verdict(engine: sa.Engine, verdict: "FinalResult") -> "ConfigResult":
    """The configuration of a verdict that is delivered: the selected one, because test images judge and do not choose;
    of an older version's verdict, which had selected none, the best there.
    """
    selection = stored(queries.study(engine, verdict.study))
    own = None if selection is None else re.compile(rf"trial {selection.trial}\b")
    return next((each for each in verdict.standings if own and own.match(each.name)), verdict.standings[0])


def stored(row: StudyRecord) -> Selection | None:
    """What was selected when a last training was begun; None if none was, or by an older version."""
    return None if row.selection is None else Selection(trial=row.selection["trial"], reason=row.selection["reason"])


def whole(engine: sa.Engine, study: StudyRecord) -> BaselineComparison:
    """All trials of a search beside its baseline."""
    trials = queries.trials(engine, study.name)
    judged = sum(bool(each.number and each.correct and each.state != "FAIL") for each in trials)
    return BaselineComparison(study=study, trials=trials, judged=judged)


def ended(engine: sa.Engine, study: StudyRecord) -> BaselineComparison:
    """The complete trials of a search beside its baseline."""
    trials, judged = ranking.complete_trials(engine, study.name)
    return BaselineComparison(study=study, trials=trials, judged=judged)


def select(engine: sa.Engine, study: StudyRecord) -> Selection:
    """What a search delivers, as far as it has come."""
    if study.baseline is not None and (compared := ended(engine, study)).baseline is not None:
        return select_from(compared)
    leading = ranking.ranked_by_best_value(engine, study.name)
    if not leading:
        return Selection(trial=None, reason="nothing is delivered: no trial was judged")
    best, value = leading[0]
    why = "there is no baseline to compare it with" if study.baseline is None else "the baseline could not be trained"
    reason = f"trial {best.number} is delivered: it has the best {study.objective}, {format_number(value)}; {why}"
    return Selection(trial=best.number, reason=reason)


def select_from(compared: BaselineComparison) -> Selection:
    """What a search delivers that has a baseline."""
    if not compared.significant:
        return Selection(trial=0, reason=f"trial 0, the baseline, is delivered: {_why_baseline(compared)}")
    best = compared.significant[0]
    lead, needed = format_number(best.pair.lead), format_number(best.needed)
    return Selection(
        trial=best.trial.number,
        reason=f"trial {best.trial.number} is delivered: it beats trial 0, the baseline, by {lead} "
        f"on {best.pair.images:,} validation images, where chance explains {needed}",
    )


def _why_baseline(compared: BaselineComparison) -> str:
    if not compared.judged:
        return "no other trial was judged"
    others = f"of {compared.judged} other trials none beats it by more than chance"
    if not compared.ended:
        return f"{others}, nor was one trained to its end"
    best = compared.ended[0]
    apart = f"{format_number(abs(best.pair.lead))} {'ahead' if best.pair.lead > 0 else 'behind'}"
    return (
        f"{others}; the best one, trial {best.trial.number}, is {apart} on {best.pair.images:,} validation images, "
        f"where chance explains {format_number(best.needed)}"
    )
