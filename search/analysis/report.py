"""Everything that a study came to, read from its database alone, like every answer."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from search.analysis import ablation, charts, effects, pruner_audit, selection, study_tables, test_report, test_results
from search.analysis.effects import Effects
from search.analysis.importance import Importances, importances
from search.analysis.pruner_audit import Audit
from search.analysis.test_results import ConfigResult, FinalResult
from search.errors import UsageError
from search.storage import queries, ranking
from search.storage.records import StudyRecord, TestSetAccess, TrialRecord, is_search, is_verdict
from search.tables import Table, format_number, format_values

#: Best trials in the table.
TOP = 10
#: Values that a best trial may have reached; how much that cost is told for each.
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a study has cost, in seconds of training of all its workers together."""

    seconds: float
    wall_s: float
    """Of the clock on the wall, over all runs."""
    saved_s: float | None
    """What the pruned trials would have cost more, trained to their end; None where trials differ in length."""
    reached: tuple[tuple[float, int, float], ...]
    """(value, the first trial that had it, seconds until its end)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the page says."""

    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    best: tuple[TrialRecord, ...]
    verdict: FinalResult | None
    standing: ConfigResult | None
    """What of it is delivered."""
    looks: tuple[TestSetAccess, ...]
    insights: Effects
    importances: Importances
    comparison: Table | None
    """Of a [[compare]] study."""
    audit: Audit
    spent: Cost
    reasons: tuple[tuple[str, int], ...]
    """Why trials were pruned or failed, and how many."""
    delivered: str = ""
    """Which configuration a search delivers, and why."""

    @property
    def answer(self) -> tuple[str, ...]:
        """The answer in two or three sentences."""
        return tuple(filter(None, (_found(self), self.delivered, _judged(self))))


def build_report(engine: sa.Engine, name: str) -> Report:
    """What there is to say of a study.

    Raises UsageError if there is none of that name, or convsearch did not make it.
    """
    study, trials = queries.study(engine, name), queries.trials(engine, name)
    if not study.spec:
        raise UsageError(
            f"the study {name!r} was not made by convsearch, so that nothing is known of its images and epochs; "
            "`convsearch dashboard` shows it"
        )
    verdicts = (name,) if is_verdict(name) else queries.verdicts(engine, name)
    loaded = (test_results.load(engine, each) for each in reversed(verdicts))
    verdict = next((each for each in loaded if each.standings), None)
    fingerprint = study.data.get("fingerprint", "")
    rows = study.spec.get("compare")
    return Report(
        study=study,
        trials=trials,
        best=ranking.best(engine, name, top=TOP if len(study.objectives) == 1 else len(trials)).trials,
        verdict=verdict,
        standing=None if verdict is None else selection.of_verdict(engine, verdict),
        looks=queries.test_set_accesses(engine, fingerprint),
        insights=effects.effects(study, trials),
        importances=importances(engine, name),
        comparison=ablation.ablation_table(ablation.compare_rows(study, trials))
        if rows and not is_verdict(name)
        else None,
        audit=pruner_audit.audit(study, trials),
        spent=cost(study, trials),
        reasons=reasons(trials),
        delivered=selection.delivered(engine, study).sentence if is_search(study) else "",
    )


def cost(study: StudyRecord, trials: Sequence[TrialRecord]) -> Cost:
    """What the trials have cost."""
    pruned = [each for each in trials if each.state == "PRUNED" and each.epochs > 0 and each.violation <= 0]
    whole = study.epochs
    return Cost(
        seconds=sum(each.seconds for each in trials),
        wall_s=study.seconds_run,
        saved_s=None if whole is None else sum((whole - each.epochs) * each.seconds / each.epochs for each in pruned),
        reached=tuple(_reached(charts.sorted_by_end(trials))),
    )


def _reached(ended: Sequence[TrialRecord]) -> list[tuple[float, int, float]]:
    told, best = [], -math.inf
    for trial, hours in zip(ended, charts.hours_spent(ended), strict=True):
        value = trial.values[0] if trial.state == "COMPLETE" and trial.values else -math.inf
        passed = [level for level in LEVELS if best < level <= value]
        told += [(passed[-1], trial.number, 3600 * hours)] if passed else []
        best = max(best, value)
    return told


def reasons(trials: Sequence[TrialRecord]) -> tuple[tuple[str, int], ...]:
    """Why trials were pruned or failed, the most frequent first."""
    counted = Counter(
        f"{trial.state.lower()}: {_kind(trial.reason or '')}" for trial in trials if trial.state in ("PRUNED", "FAIL")
    )
    return tuple(counted.most_common())


def _kind(reason: str) -> str:
    """A reason without the numbers of its trial."""
    if found := re.match(r"rank \d+ of \d+ (at step \d+)", reason):
        return f"fell behind {found[1]}"
    if found := re.match(r"[\d.]+ behind the baseline (at step \d+)", reason):
        return f"fell behind the baseline {found[1]}"
    head = reason.split(":", 1)[0]
    return head if head in ("impossible", "diverged", "out of memory") else reason.split("\n", 1)[0][:80] or "no reason"


def _found(report: Report) -> str:
    study, best, counts = report.study, report.study.best, report.study.counts
    if best is None:
        return f"There is no answer yet: {study_tables.explain_no_best(study)}."
    if is_verdict(study.name):
        return f"{counts.complete} of {counts.budget} trainings were judged on the test images."
    which = f"The best of {counts.finished} trials"
    if len(study.objectives) > 1:
        which = f"{len(report.best)} of {counts.finished} trials are on the Pareto front; first in {study.objective}"
    return (
        f"{which} is trial {best.number}, with {study.objective} {format_number(best.values[0])} on validation images: "
        f"{format_values(best.params) or 'as its file says'}."
    )


def _judged(report: Report) -> str:
    if report.verdict is None or report.standing is None:
        looked = ", ".join(look.study for look in report.looks)
        others = f" ({looked} looked at the same test images)" if looked else ""
        return f"How good it is on images that it was not chosen by is not known: there is no verdict{others}."
    lead = report.standing
    spread = "" if lead.interval is None else f" (95 % interval {lead.interval[0]:.4f} to {lead.interval[1]:.4f})"
    duels = [
        test_report.comparison_sentence(duel) for duel in report.verdict.duels if lead.name in (duel.first, duel.second)
    ]
    told = f"On {report.verdict.images:,} test images {lead.name} comes to {format_number(lead.test)}{spread}"
    return "; ".join((told, *duels)) + "."
