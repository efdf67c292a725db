"""Collects all results of a study from its database."""

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

#: Maximum number of trials in the table of best trials.
TOP = 10
#: Values of the first objective; the report has the cost of reaching each.
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of a study in seconds."""

    seconds: float
    """Training time, summed over all workers."""
    wall_s: float
    """Wall-clock time, summed over all runs."""
    saved_s: float | None
    """Further training time that the pruned trials would have cost; None if trials differ in length."""
    reached: tuple[tuple[float, int, float], ...]
    """(value, first trial that reached it, training time of all workers until the end of that trial)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All contents of the report."""

    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    best: tuple[TrialRecord, ...]
    verdict: FinalResult | None
    final_config: ConfigResult | None
    """The delivered configuration of `verdict`."""
    accesses: tuple[TestSetAccess, ...]
    """All accesses to the test images of the study."""
    insights: Effects
    importances: Importances
    comparison: Table | None
    """None unless the study is a [[compare]] study."""
    audit: Audit
    spent: Cost
    reasons: tuple[tuple[str, int], ...]
    """Reasons why trials were pruned or failed, with the number of trials."""
    delivered: str = ""
    """The configuration that a search delivers, with the reason."""

    @property
    def answer(self) -> tuple[str, ...]:
        """The answer in two or three sentences."""
        return tuple(filter(None, (_found(self), _state(self), self.delivered, _judged(self))))


def build_report(engine: sa.Engine, name: str) -> Report:
    """Builds the report of a study.

    Args:
        engine: Database that stores the study.
        name: Name of the study.

    Raises:
        UsageError: there is no such study, or convsearch did not make it.
    """
    study, trials = queries.study(engine, name), queries.trials(engine, name)
    if not study.spec:
        raise UsageError(
            f"the study {name!r} was not made by convsearch, and its images and epochs are not known; "
            "`convsearch dashboard` shows it"
        )
    verdicts = (name,) if is_verdict(name) else queries.verdicts(engine, name)
    results = (test_results.load(engine, verdict_name) for verdict_name in reversed(verdicts))
    verdict = next((result for result in results if result.configs), None)
    fingerprint = study.data.get("fingerprint", "")
    rows = study.spec.get("compare")
    return Report(
        study=study,
        trials=trials,
        best=ranking.best(engine, name, top=TOP if len(study.objectives) == 1 else len(trials)).trials,
        verdict=verdict,
        final_config=None if verdict is None else selection.of_verdict(engine, verdict),
        accesses=queries.test_set_accesses(engine, fingerprint),
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
    """Computes the cost of the trials of a study."""
    pruned = [trial for trial in trials if trial.state == "PRUNED" and trial.epochs > 0 and trial.violation <= 0]
    epochs = study.epochs
    return Cost(
        seconds=sum(trial.seconds for trial in trials),
        wall_s=study.seconds_run,
        saved_s=None
        if epochs is None
        else sum((epochs - trial.epochs) * trial.seconds / trial.epochs for trial in pruned),
        reached=tuple(_reached(charts.sorted_by_end(trials))),
    )


def _reached(ended: Sequence[TrialRecord]) -> list[tuple[float, int, float]]:
    reached, best = [], -math.inf
    for trial, hours in zip(ended, charts.hours_spent(ended), strict=True):
        value = trial.values[0] if trial.state == "COMPLETE" and trial.values else -math.inf
        passed = [level for level in LEVELS if best < level <= value]
        reached += [(passed[-1], trial.number, 3600 * hours)] if passed else []
        best = max(best, value)
    return reached


def reasons(trials: Sequence[TrialRecord]) -> tuple[tuple[str, int], ...]:
    """Reasons why trials were pruned or failed, with their counts, the most frequent first."""
    counted = Counter(
        f"{trial.state.lower()}: {_kind(trial.reason or '')}" for trial in trials if trial.state in ("PRUNED", "FAIL")
    )
    return tuple(counted.most_common())


def _kind(reason: str) -> str:
    """The reason without the numbers of a single trial."""
    if match := re.match(r"rank \d+ of \d+ (at step \d+)", reason):
        return f"fell behind {match[1]}"
    if match := re.match(r"[\d.]+ behind the baseline (at step \d+)", reason):
        return f"fell behind the baseline {match[1]}"
    head = reason.split(":", 1)[0]
    return head if head in ("impossible", "diverged", "out of memory") else reason.split("\n", 1)[0][:80] or "no reason"


def _found(report: Report) -> str:
    study, best, counts = report.study, report.study.best, report.study.counts
    if best is None:
        first, *others = map(str.strip, study_tables.explain_no_best(study, report.trials))
        return " ".join(filter(None, (f"There is no answer yet: {first}", "; ".join(others)))) + "."
    if is_verdict(study.name):
        return f"{counts.complete} of {counts.budget} trainings were judged on the test images."
    subject = f"The best of {counts.finished} trials"
    if len(study.objectives) > 1:
        subject = f"{len(report.best)} of {counts.finished} trials are on the Pareto front; first in {study.objective}"
    return (
        f"{subject} is trial {best.number}, with {study.objective} {format_number(best.values[0])} on validation "
        f"images: {format_values(best.params) or 'as its file says'}."
    )


def _state(report: Report) -> str:
    """Whether the search has tried all that its space has."""
    if not report.study.is_exhausted:
        return ""
    text = study_tables.all_tried(report.study)
    return f"{text[0].upper()}{text[1:]}."


def _judged(report: Report) -> str:
    if report.verdict is None or report.final_config is None:
        studies = ", ".join(access.study for access in report.accesses)
        others = f" ({studies} used the same test images)" if studies else ""
        return f"Its performance on images outside the search is not known: there is no verdict{others}."
    result = report.final_config
    interval = (
        "" if result.interval is None else f" (95 % interval {result.interval[0]:.4f} to {result.interval[1]:.4f})"
    )
    comparisons = [
        test_report.comparison_sentence(comparison)
        for comparison in report.verdict.comparisons
        if result.name in (comparison.first, comparison.second)
    ]
    score = f"On {report.verdict.images:,} test images {result.name} reaches {format_number(result.test)}{interval}"
    averaged = filter(None, [test_report.averaged_sentence(result)])
    return "; ".join((score, *averaged, *comparisons)) + "."
