"""The result of a study `NAME.final`: the best configuration on the test images, and how sure that is.

Every number has two sources of chance: the seeds of the trainings, and which images happened to be test images. The
intervals hold for both (`intervals.crossed_interval`). Seed n is the same in every configuration, and all see the
same images, so that two are compared run by run and image by image. The best is found by looking, so that the p values
of all pairs are adjusted together by Holm's method: a clear lead is one that survives that.
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

from search.analysis.intervals import CONFIDENCE, Interval, crossed_interval, holm, mean_interval, wilson_interval
from search.errors import SpecError, UsageError
from search.storage import queries, ranking
from search.storage.records import StudyRecord, TrialRecord, searched

Scores = NDArray[np.float64]
"""(runs, images): 1 where an image was classified correctly, otherwise 0. For balanced accuracy: class-weighted
influence
values, whose mean is the run's balanced accuracy.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigResult:
    """What the runs of one configuration have come to."""

    name: str
    runs: int
    test: float
    """The objective on the test images, mean over the runs."""
    interval: tuple[float, float] | None
    """Of that, over seeds and images; over images alone where there is one run."""
    search: float | None
    """The value on the validation images, for which it was chosen; None for a configuration that was not."""
    confusion: NDArray[np.int64]
    """(classes, classes), of all runs together."""
    parameters: int | None
    macs: int | None
    latency_ms: float | None
    """Of one image by itself; median over the runs."""
    epochs: float
    seconds: float
    """Of training; means over the runs."""

    @property
    def gap(self) -> float | None:
        """What the validation images had promised, less what the test images gave."""
        return None if self.search is None else self.search - self.test


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """Two configurations, run by run and image by image."""

    first: str
    second: str
    runs: int
    """That both have, with the same seeds: what they are compared by."""
    difference: float
    """Mean of the first minus the second; not a number where they have no run in common."""
    is_enough: bool = True
    """False if several seeds were run but only one is shared: the variance of seeds cannot be estimated."""
    interval: Interval | None = None
    """None where they are not enough, or each image of each run has the same difference: no spread to judge by."""
    p_holm: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the difference is more than chance, all pairs taken together."""
        return self.p_holm is not None and self.p_holm < 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalResult:
    """The whole answer."""

    study: str
    question: str
    objective: str
    classes: tuple[str, ...]
    images: int
    standings: tuple[ConfigResult, ...]
    """The best first; empty as long as nobody has looked at the test images."""
    duels: tuple[PairedComparison, ...]
    """Each pair, the better one of their common runs first."""
    missing: tuple[str, ...]
    """Trainings without a result, and why."""


def load(engine: sa.Engine, name: str) -> FinalResult:
    """The verdict of the study `name`, as far as it has come."""
    if queries.study(engine, name).spec.get("verdict_on") is None:
        raise UsageError(f"the study {name!r} is no verdict of convsearch's, whatever it is called")
    search = searched(name)
    is_there = name in queries.verdicts(engine, search)
    values = {trial.number: value for trial, value in ranking.ranked_by_best_value(engine, search)} if is_there else {}
    return final_result(queries.study(engine, name), queries.trials(engine, name), values)


def final_result(study: StudyRecord, trials: Sequence[TrialRecord], values: Mapping[int, float]) -> FinalResult:
    """What the finished trials of a study `NAME.final` come to. `values`: of the trials of the search."""
    names = [row["name"] for row in study.spec["compare"]] or [_old_name(study)]
    runs = {name: _runs(name, trials) for name in names}
    scores = {name: _scores(found, study.objective) for name, found in runs.items() if found}
    is_plain = study.objective == "accuracy"
    found = [_standing(name, runs[name], scores[name], values.get(_number(name)), is_plain=is_plain) for name in scores]
    ranked = sorted(found, key=lambda each: -each.test)
    duels = [_duel(first.name, second.name, runs, scores) for first, second in combinations(ranked, 2)]
    return FinalResult(
        study=study.name,
        question=study.question,
        objective=study.objective,
        classes=tuple(study.data.get("classes", ())),
        images=scores[ranked[0].name].shape[1] if ranked else 0,
        standings=tuple(ranked),
        duels=_adjusted(duels),
        missing=tuple(_missing(trial) for trial in trials if trial.state in ("FAIL", "PRUNED")),
    )


def unpack(test: Mapping[str, Any]) -> NDArray[np.bool_]:
    """What `correctness.pack` made the text of; older versions kept none of a single run, but its counts."""
    if "bits" not in test:
        counts = np.asarray(test["confusion"])
        taken = [[True] * own[place] + [False] * (own.sum() - own[place]) for place, own in enumerate(counts)]
        return np.array([each for row in taken for each in row], dtype=bool)
    packed = np.frombuffer(base64.b64decode(test["bits"]), np.uint8)
    return np.unpackbits(packed, count=test["images"]).astype(bool)


def _old_name(study: StudyRecord) -> str:
    """What the one configuration of a verdict is called that an older version made, which had no rows."""
    found = re.search(r"trial \d+", study.question)
    return found[0] if found else "its training"


def _number(name: str) -> int:
    """Which trial of the search a configuration is of; -1 for one that is of none."""
    found = re.match(r"trial (\d+)", name)
    return int(found[1]) if found else -1


def _runs(name: str, trials: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    """The runs of a configuration that were tested, by seed."""
    return {
        trial.repeat or 0: trial
        for trial in trials
        if trial.test is not None and trial.state == "COMPLETE" and trial.config.get("row", name) == name
    }


def _scores(runs: Mapping[int, TrialRecord], objective: str) -> Scores:
    return np.stack([_score(trial.test or {}, objective) for _, trial in sorted(runs.items())])


def _score(test: Mapping[str, Any], objective: str) -> NDArray[np.float64]:
    right = unpack(test).astype(np.float64)
    if objective == "accuracy":
        return right
    if objective != "balanced_accuracy":
        raise SpecError(f"the stored study maximises {objective!r}, which this convsearch cannot score; upgrade it")
    counts = np.asarray(test["confusion"]).sum(axis=1)
    weights = [len(right) / (np.count_nonzero(counts) * count) if count else 0.0 for count in counts]
    recall = np.asarray(test["confusion"]).diagonal() / np.maximum(1, counts)
    # The classes are given, and only images within them are drawn: what differs between classes is no spread.
    scores: NDArray[np.float64] = recall[counts > 0].mean() + np.repeat(weights, counts) * (
        right - np.repeat(recall, counts)
    )
    return scores


def _standing(
    name: str, runs: Mapping[int, TrialRecord], scores: Scores, searched: float | None, *, is_plain: bool
) -> ConfigResult:
    found = list(runs.values())
    latencies = [trial.latency_ms for trial in found if trial.latency_ms is not None]
    return ConfigResult(
        name=name,
        runs=len(found),
        test=float(scores.mean()),
        interval=_share(scores, is_plain=is_plain),
        search=searched,
        confusion=np.sum([(trial.test or {})["confusion"] for trial in found], axis=0),
        parameters=found[0].parameters,
        macs=found[0].macs,
        latency_ms=float(np.median(latencies)) if latencies else None,
        epochs=float(np.mean([trial.epochs for trial in found])),
        seconds=float(np.mean([trial.seconds for trial in found])),
    )


def _share(scores: Scores, *, is_plain: bool) -> tuple[float, float] | None:
    """The interval of a mean score, which is a share. Of one run, or of runs without an error, the shares of right
    images are `is_plain` ones, and have Wilson's.
    """
    found = _interval(scores)
    if is_plain and (len(scores) == 1 or found is None):
        return wilson_interval(int(scores[0].sum()), scores.shape[1])
    return None if found is None else (max(0.0, found.low), min(1.0, found.high))


def _interval(scores: Scores) -> Interval | None:
    return crossed_interval(scores) if len(scores) > 1 else mean_interval(scores[0].tolist())


def _duel(
    first: str, second: str, runs: Mapping[str, Mapping[int, TrialRecord]], scores: Mapping[str, Scores]
) -> PairedComparison:
    shared = sorted(runs[first].keys() & runs[second].keys())
    if not shared:
        return PairedComparison(first=first, second=second, runs=0, difference=math.nan, is_enough=False)
    one, other = (scores[name][[sorted(runs[name]).index(repeat) for repeat in shared]] for name in (first, second))
    if (one - other).mean() < 0:  # other runs than the common ones may have put it first
        first, second, one, other = second, first, other, one
    is_enough = len(shared) > 1 or len(runs[first]) == len(runs[second]) == 1
    return PairedComparison(
        first=first,
        second=second,
        runs=len(shared),
        difference=float((one - other).mean()),
        is_enough=is_enough,
        interval=_interval(one - other) if is_enough else None,
    )


def _adjusted(duels: Sequence[PairedComparison]) -> tuple[PairedComparison, ...]:
    adjusted = iter(holm([duel.interval.p for duel in duels if duel.interval]))
    return tuple(replace(duel, p_holm=next(adjusted)) if duel.interval else duel for duel in duels)


def _missing(trial: TrialRecord) -> str:
    where = f"{trial.config.get('row', 'a training')}, run {(trial.repeat or 0) + 1}"
    return f"{where}: {trial.state.lower()}, {trial.reason or 'for no recorded reason'}"
