"""Selects the configuration that a search delivers: the baseline, unless a trial beats it by more than chance explains.

The best of many trials looks better than it is, because selection also favours luck (overtuning, Schneider et al. 2025,
https://arxiv.org/abs/2506.19540). A challenger is therefore compared with the baseline image by image (`correctness`),
at the end of a complete trial. Its lead must exceed the lead that the best of all challengers would have by chance,
over images and over the seeds of two trainings. The error probability is divided by their number (Bonferroni).
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

#: Probability that a search without a better configuration still replaces its baseline.
CHANCE = 0.05
#: Standard deviation of the accuracy over training seeds: the median of eleven networks, each trained five times
#: (studies/LOG.md, 2026-11-22). Without this term, 17 % of simulated searches over equal networks replaced their
#: baseline with 2,000 images, and 5 % with 200 (studies/LOG.md, 2026-11-29).
SEED_SD = 0.0066


@dataclass(frozen=True, kw_only=True, slots=True)
class Lead:
    """A trial compared with the baseline at the same step."""

    trial: TrialRecord
    pair: Pair
    challengers: int
    """Number of trials judged against the baseline."""

    @property
    def needed(self) -> float:
        """Lead that chance explains. The term 1 / images: Edwards 1948, https://doi.org/10.1007/BF02289261."""
        quantile = NormalDist().inv_cdf(1 - CHANCE / max(1, self.challengers))
        return quantile * math.hypot(self.pair.error, SEED_SD, SEED_SD) + 1 / self.pair.images

    @property
    def is_significant(self) -> bool:
        """Whether the trial leads by more than chance explains."""
        return self.pair.lead > self.needed


@dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """The trials of a search, compared with its baseline."""

    study: StudyRecord
    trials: Sequence[TrialRecord]
    judged: int
    """Number of trials judged at a rung or at their end, without the baseline; `trials` may hold only some of them."""

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The trial that others are compared with; None if the search has none or cannot train it."""
        candidates = (trial for trial in self.trials if trial.number == self.study.baseline and trial.config)
        return next((trial for trial in candidates if trial.state != "FAIL" and trial.violation <= 0), None)

    @cached_property
    def ended(self) -> tuple[Lead, ...]:
        """Challengers trained to their end, compared with the baseline there; largest lead first."""
        leads = self._leads([trial for trial in self.trials if trial.state == "COMPLETE"])
        return tuple(sorted(leads, key=lambda lead: (-lead.pair.lead, lead.trial.number)))

    @cached_property
    def significant(self) -> tuple[Lead, ...]:
        """Challengers of `ended` that lead by more than chance explains."""
        return tuple(lead for lead in self.ended if lead.is_significant)

    @property
    def is_open(self) -> bool:
        """Whether a trial that was not pruned leads by more than chance explains at its last judged step."""
        unpruned = [trial for trial in self.trials if trial.state != "PRUNED"]
        return any(lead.is_significant for lead in self._leads(unpruned))

    def has_found_nothing(self, *, patience: int, before: int) -> bool:
        """Whether enough challengers were judged and none leads the complete baseline by more than chance explains.

        Args:
            patience: Number of judged challengers after which a search without a lead stops.
            before: Number of judged challengers that do not count towards `patience`.
        """
        is_complete = self.baseline is not None and self.baseline.state == "COMPLETE"
        return is_complete and self.judged - before >= patience and not self.is_open

    def status(self, *, patience: int, before: int) -> str:
        """State of the search in one line, empty without a baseline. Arguments as of `has_found_nothing`."""
        if self.baseline is None:
            return ""
        if self.significant:
            best = self.significant[0]
            lead = format_number(best.pair.lead)
            return f"trial {best.trial.number} leads trial 0, the baseline, by {lead}: more than chance"
        judged = min(self.judged - before, patience)
        return f"trial 0, the baseline, leads; {judged} of {patience} trials judged until the search gives up"

    def _leads(self, trials: Sequence[TrialRecord]) -> list[Lead]:
        """Compares each trial with the baseline at the last judged step of the trial.

        Trials without a result of the baseline at that step are left out.
        """
        if self.baseline is None:
            return []
        is_balanced = self.study.objective == "balanced_accuracy"
        leads = []
        for trial in trials:
            steps = correctness.steps(trial.correct)
            if trial.number == 0 or not steps or trial.state == "FAIL" or trial.violation > 0:
                continue
            pair = correctness.pair(trial.correct, self.baseline.correct, steps[-1], balanced=is_balanced)
            if pair is not None:
                leads.append(Lead(trial=trial, pair=pair, challengers=self.judged))
        return leads


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The trial that a search delivers, and the reason."""

    trial: int | None
    """Trial number; None if no trial was judged."""
    reason: str
    """One sentence, with figures."""

    @property
    def sentence(self) -> str:
        """`reason` with a capital and a full stop."""
        return f"{self.reason[:1].upper()}{self.reason[1:]}."

    def as_json(self) -> dict[str, Any]:
        """The JSON value to store."""
        return {"trial": self.trial, "reason": self.reason}


def delivered(engine: sa.Engine, study: StudyRecord) -> Selection:
    """Selection of the newest last training of a search; without a last training, the current selection.

    If the search has continued since then and now selects another trial, the reason names that trial too.

    Args:
        engine: Database that stores the study.
        study: The search.
    """
    rows = (queries.study(engine, name) for name in reversed(queries.verdicts(engine, study.name)))
    trained = next((selection for row in rows if (selection := stored(row)) is not None), None)
    now = select(engine, study)
    if trained is None or now.trial == trained.trial:
        return trained or now
    since = f"; since then trial {now.trial} was found, which `convsearch final {shlex.quote(study.name)}` would train"
    return Selection(trial=trained.trial, reason=trained.reason + since)


def of_verdict(engine: sa.Engine, verdict: "FinalResult") -> "ConfigResult":
    """The delivered configuration of a verdict: the selected one, because test images judge and do not select.

    A verdict of an older version has no selection; its best configuration is delivered.

    Args:
        engine: Database that stores the verdict.
        verdict: Test results with at least one configuration.
    """
    selection = stored(queries.study(engine, verdict.study))
    pattern = None if selection is None else re.compile(rf"trial {selection.trial}\b")
    return next((result for result in verdict.configs if pattern and pattern.match(result.name)), verdict.configs[0])


def stored(row: StudyRecord) -> Selection | None:
    """Selection stored at the start of a last training; None if `row` has none or is from an older version."""
    return None if row.selection is None else Selection(trial=row.selection["trial"], reason=row.selection["reason"])


def whole(engine: sa.Engine, study: StudyRecord) -> BaselineComparison:
    """Compares all trials of a search with its baseline."""
    trials = queries.trials(engine, study.name)
    judged = sum(bool(trial.number and trial.correct and trial.state != "FAIL") for trial in trials)
    return BaselineComparison(study=study, trials=trials, judged=judged)


def ended(engine: sa.Engine, study: StudyRecord) -> BaselineComparison:
    """Compares the complete trials of a search with its baseline."""
    trials, judged = ranking.complete_trials(engine, study.name)
    return BaselineComparison(study=study, trials=trials, judged=judged)


def select(engine: sa.Engine, study: StudyRecord) -> Selection:
    """Selects the trial to deliver from the trials judged by now.

    Args:
        engine: Database that stores the study.
        study: The search, with or without a baseline.
    """
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
    """Selects the trial to deliver in a search with a baseline."""
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
        return f"{others}, and none was trained to its end"
    best = compared.ended[0]
    distance = f"{format_number(abs(best.pair.lead))} {'ahead' if best.pair.lead > 0 else 'behind'}"
    return (
        f"{others}; the best one, trial {best.trial.number}, is {distance} on {best.pair.images:,} validation images, "
        f"where chance explains {format_number(best.needed)}"
    )
