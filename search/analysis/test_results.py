"""Test results of a study `NAME.final`: the score of each configuration on the test images, with intervals.

A score varies with the training seeds and with the sample of test images. The intervals cover both sources
(`intervals.crossed_interval`). Seed n is the same in every configuration, and all configurations are tested on the same
images. Two configurations are therefore compared run by run and image by image. The best one is picked after the
scores are known, so Holm's method adjusts the p values of all pairs together. A lead is clear if it survives that.
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from models.config import TestTimeAugmentation
from search.analysis.intervals import CONFIDENCE, Interval, crossed_interval, holm, mean_interval, wilson_interval
from search.errors import SpecError, UsageError
from search.storage import queries, ranking
from search.storage.attr_keys import AVERAGED
from search.storage.records import StudyRecord, TrialRecord, search_name

Scores = NDArray[np.float64]
"""(runs, images): 1 for a correctly classified image, otherwise 0. For balanced accuracy: class-weighted influence
values, whose mean is the balanced accuracy of the run.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragedResult:
    """Test results of one configuration with test-time augmentation, over the same runs and images."""

    augmentation: TestTimeAugmentation
    test: float
    interval: tuple[float, float] | None
    """As in `ConfigResult`."""
    gain: float
    """`test` minus that of single images."""
    gain_interval: Interval | None
    """Interval of `gain`, over seeds and images; None if it is the same for every image (no spread)."""
    confusion: NDArray[np.int64]
    """(classes, classes), summed over the runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigResult:
    """Test results of one configuration over its runs."""

    name: str
    runs: int
    test: float
    """Objective on the test images, mean over the runs."""
    interval: tuple[float, float] | None
    """Interval of `test` over seeds and images; over images alone for a single run."""
    search: float | None
    """Objective on the validation images, the selection criterion; None for a configuration from outside the search."""
    confusion: NDArray[np.int64]
    """(classes, classes), summed over the runs."""
    parameters: int | None
    macs: int | None
    latency_ms: float | None
    """Latency of a single image in milliseconds; median over the runs."""
    epochs: float
    seconds: float
    """Training time in seconds. `epochs` and `seconds` are means over the runs."""
    averaged: AveragedResult | None = None
    """Results with test-time augmentation, if the verdict has them; all other fields are without it."""

    @property
    def gap(self) -> float | None:
        """Validation score minus test score."""
        return None if self.search is None else self.search - self.test


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """Two configurations, compared run by run and image by image."""

    first: str
    second: str
    runs: int
    """Runs with the same seeds in both configurations; only these are compared."""
    difference: float
    """Mean of the first minus the second; NaN without a common run."""
    is_enough: bool = True
    """False if several seeds were run but only one is shared: the variance over seeds is unknown."""
    interval: Interval | None = None
    """None if `is_enough` is false, or if the difference is the same for every image of every run (no spread)."""
    p_holm: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the difference exceeds chance, adjusted for all pairs."""
        return self.p_holm is not None and self.p_holm < 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalResult:
    """Test results of all configurations."""

    study: str
    question: str
    objective: str
    classes: tuple[str, ...]
    images: int
    configs: tuple[ConfigResult, ...]
    """Best first; empty until the test images have been evaluated."""
    comparisons: tuple[PairedComparison, ...]
    """All pairs; the better configuration over the common runs comes first."""
    missing: tuple[str, ...]
    """Trainings without a result, with the reason."""
    seen_images: int = 0
    """Test images that are training images, too, with equal pixels."""


def load(engine: sa.Engine, name: str) -> FinalResult:
    """Loads the test results of a final study, finished or not.

    Args:
        engine: Database that stores the study.
        name: Name of the final study, `NAME.final`.

    Returns:
        The results of the trials that have finished.

    Raises:
        UsageError: there is no such study, or it is not a verdict that convsearch made.
        SpecError: this version cannot score the objective of the study.
    """
    study = queries.study(engine, name)
    if study.spec.get("verdict_on") is None:
        raise UsageError(f"the study {name!r} is not a verdict that convsearch made, despite its name")
    search = search_name(name)
    has_search = name in queries.verdicts(engine, search)
    values = (
        {trial.number: value for trial, value in ranking.ranked_by_best_value(engine, search)} if has_search else {}
    )
    return final_result(study, queries.trials(engine, name), values)


def final_result(study: StudyRecord, trials: Sequence[TrialRecord], values: Mapping[int, float]) -> FinalResult:
    """Evaluates the finished trials of a study `NAME.final`.

    Args:
        study: The final study.
        trials: Its trials, in any state.
        values: Validation scores of the trials of the search, by trial number.

    Raises:
        SpecError: this version cannot score the objective of the study.
    """
    names = [row["name"] for row in study.spec["compare"]] or [_old_name(study)]
    runs = {name: _runs(name, trials) for name in names}
    scores = {name: _scores(_tests(tested), study.objective) for name, tested in runs.items() if tested}
    is_plain = study.objective == "accuracy"
    results = [
        replace(
            _config_result(name, runs[name], scores[name], values.get(_number(name)), is_plain=is_plain),
            averaged=_averaged_result(_tests(runs[name]), scores[name], study.objective),
        )
        for name in scores
    ]
    ranked = sorted(results, key=lambda result: -result.test)
    comparisons = [_comparison(first.name, second.name, runs, scores) for first, second in combinations(ranked, 2)]
    return FinalResult(
        study=study.name,
        question=study.question,
        objective=study.objective,
        classes=tuple(study.data.get("classes", ())),
        images=scores[ranked[0].name].shape[1] if ranked else 0,
        configs=tuple(ranked),
        comparisons=_adjusted(comparisons),
        missing=tuple(_missing(trial) for trial in trials if trial.state in ("FAIL", "PRUNED")),
        seen_images=study.data.get("seen_test_images", 0),
    )


def unpack(test: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Decodes the text of `correctness.pack`.

    Older versions stored no text for a single run; its bits are rebuilt from the confusion matrix.

    Args:
        test: Stored test result of a trial.

    Returns:
        (images,) whether each image was classified correctly, ordered by class.
    """
    if "bits" not in test:
        counts = np.asarray(test["confusion"])
        correct = [[True] * row[label] + [False] * (row.sum() - row[label]) for label, row in enumerate(counts)]
        return np.array([bit for row in correct for bit in row], dtype=bool)
    packed = np.frombuffer(base64.b64decode(test["bits"]), np.uint8)
    return np.unpackbits(packed, count=test["images"]).astype(bool)


def _old_name(study: StudyRecord) -> str:
    """Name of the only configuration of a verdict without rows, which an older version made."""
    match = re.search(r"trial \d+", study.question)
    return match[0] if match else "its training"


def _number(name: str) -> int:
    """Trial number of a configuration in the search; -1 for a configuration from outside the search."""
    match = re.match(r"trial (\d+)", name)
    return int(match[1]) if match else -1


def _runs(name: str, trials: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    """Tested runs of a configuration, by repeat."""
    return {
        trial.repeat or 0: trial
        for trial in trials
        if trial.test is not None and trial.state == "COMPLETE" and trial.config.get("row", name) == name
    }


def _tests(runs: Mapping[int, TrialRecord]) -> list[Mapping[str, Any]]:
    """The stored test results of the runs, in the order of the repeats."""
    return [trial.test or {} for _, trial in sorted(runs.items())]


def _scores(tests: Sequence[Mapping[str, Any]], objective: str) -> Scores:
    return np.stack([_score(test, objective) for test in tests])


def _score(test: Mapping[str, Any], objective: str) -> NDArray[np.float64]:
    correct = unpack(test).astype(np.float64)
    if objective == "accuracy":
        return correct
    if objective != "balanced_accuracy":
        raise SpecError(f"the stored study maximises {objective!r}, which this convsearch cannot score; upgrade it")
    counts = np.asarray(test["confusion"]).sum(axis=1)
    weights = [len(correct) / (np.count_nonzero(counts) * count) if count else 0.0 for count in counts]
    recall = np.asarray(test["confusion"]).diagonal() / np.maximum(1, counts)
    # The classes are fixed and images are sampled within them: differences between classes are not variance.
    scores: NDArray[np.float64] = recall[counts > 0].mean() + np.repeat(weights, counts) * (
        correct - np.repeat(recall, counts)
    )
    return scores


def _config_result(
    name: str, runs: Mapping[int, TrialRecord], scores: Scores, search_value: float | None, *, is_plain: bool
) -> ConfigResult:
    tested = list(runs.values())
    latencies = [trial.latency_ms for trial in tested if trial.latency_ms is not None]
    return ConfigResult(
        name=name,
        runs=len(tested),
        test=float(scores.mean()),
        interval=_share(scores, is_plain=is_plain),
        search=search_value,
        confusion=np.sum([(trial.test or {})["confusion"] for trial in tested], axis=0),
        parameters=tested[0].parameters,
        macs=tested[0].macs,
        latency_ms=float(np.median(latencies)) if latencies else None,
        epochs=float(np.mean([trial.epochs for trial in tested])),
        seconds=float(np.mean([trial.seconds for trial in tested])),
    )


def _averaged_result(tests: Sequence[Mapping[str, Any]], plain: Scores, objective: str) -> AveragedResult | None:
    """The results with test-time augmentation; None if a run has none, as in verdicts without it."""
    averaged = [test[AVERAGED] for test in tests if AVERAGED in test]
    if len(averaged) < len(tests):
        return None
    scores = _scores(averaged, objective)
    return AveragedResult(
        augmentation=averaged[0]["augmentation"],
        test=float(scores.mean()),
        interval=_share(scores, is_plain=objective == "accuracy"),
        gain=float((scores - plain).mean()),
        gain_interval=_interval(scores - plain),
        confusion=np.sum([test["confusion"] for test in averaged], axis=0),
    )


def _share(scores: Scores, *, is_plain: bool) -> tuple[float, float] | None:
    """Interval of a mean score, clipped to [0, 1].

    `is_plain`: the score is the share of correct images. A single run, or runs without spread, then get Wilson's.
    """
    interval = _interval(scores)
    if is_plain and (len(scores) == 1 or interval is None):
        return wilson_interval(int(scores[0].sum()), scores.shape[1])
    return None if interval is None else (max(0.0, interval.low), min(1.0, interval.high))


def _interval(scores: Scores) -> Interval | None:
    return crossed_interval(scores) if len(scores) > 1 else mean_interval(scores[0].tolist())


def _comparison(
    first: str, second: str, runs: Mapping[str, Mapping[int, TrialRecord]], scores: Mapping[str, Scores]
) -> PairedComparison:
    shared = sorted(runs[first].keys() & runs[second].keys())
    if not shared:
        return PairedComparison(first=first, second=second, runs=0, difference=math.nan, is_enough=False)
    first_scores, second_scores = (
        scores[name][[sorted(runs[name]).index(repeat) for repeat in shared]] for name in (first, second)
    )
    if (first_scores - second_scores).mean() < 0:  # runs outside the common ones may have ranked it first
        first, second, first_scores, second_scores = second, first, second_scores, first_scores
    is_enough = len(shared) > 1 or len(runs[first]) == len(runs[second]) == 1
    return PairedComparison(
        first=first,
        second=second,
        runs=len(shared),
        difference=float((first_scores - second_scores).mean()),
        is_enough=is_enough,
        interval=_interval(first_scores - second_scores) if is_enough else None,
    )


def _adjusted(comparisons: Sequence[PairedComparison]) -> tuple[PairedComparison, ...]:
    adjusted = iter(holm([comparison.interval.p for comparison in comparisons if comparison.interval]))
    return tuple(
        replace(comparison, p_holm=next(adjusted)) if comparison.interval else comparison for comparison in comparisons
    )


def _missing(trial: TrialRecord) -> str:
    where = f"{trial.config.get('row', 'a training')}, run {(trial.repeat or 0) + 1}"
    return f"{where}: {trial.state.lower()}, {trial.reason or 'for no recorded reason'}"
