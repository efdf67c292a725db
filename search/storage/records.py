"""Frozen records of stored studies and trials: the results of all queries."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from search.storage.attr_keys import AVERAGED

FINAL = ".final"
"""Suffix of the name of a verdict, the study of a search's last trainings; further ones append `-2` and so on."""


def is_verdict(name: str) -> bool:
    """Whether a study of that name holds the last trainings of another study."""
    return re.search(rf"{re.escape(FINAL)}(-\d+)?$", name) is not None


def search_name(name: str) -> str:
    """Return the name of the search of a verdict; any other name is returned unchanged."""
    return name.rsplit(FINAL, 1)[0] if is_verdict(name) else name


class Obstacle(StrEnum):
    """Why a trial ended without a result. The stored reason begins with it, except that of a failed trial."""

    IMPOSSIBLE = "impossible"
    """No such network fits the images or the limits of [budget]."""
    DIVERGED = "diverged"
    """Its loss was not finite."""
    OUT_OF_MEMORY = "out of memory"
    FAILED = "failed"
    """An error ended it, or its processes died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCounts:
    """Number of trials of a study by state."""

    budget: int
    """Maximum number of trials, in all states together."""
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    """Interrupted, and to be resumed under the same numbers."""
    paused: int = 0
    """Paused at a rung until they are among the best there."""

    @property
    def finished(self) -> int:
        """Trials in a final state."""
        return self.complete + self.pruned + self.failed

    @property
    def begun(self) -> int:
        """Existing trials, in any state."""
        return self.finished + self.running + self.waiting + self.paused

    @property
    def remaining(self) -> int:
        """Trials that have not begun."""
        return max(0, self.budget - self.begun)

    @property
    def to_do(self) -> int:
        """Trials that a run can resume or begin."""
        return self.remaining + self.waiting + self.paused


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial, as stored."""

    study: str
    number: int
    state: str
    """RUNNING, WAITING, COMPLETE, PRUNED or FAIL."""
    paused: int | None = None
    """Step of the rung at which it is paused; None if it is not paused."""
    values: tuple[float, ...] = ()
    """Final values, one for each direction of the study; empty until the trial has finished with values."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Sampled or fixed parameters by their keys in a study file, without the repeat."""
    curve: tuple[tuple[int, float], ...] = ()
    """(step, value) of every report, in order; a value may be infinite or not a number."""
    attempts: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    """Training and evaluation time, summed over all attempts."""
    reason: str | None = None
    """Why it was pruned or failed."""
    violation: float = 0.0
    """Above 0 for an untrainable trial: it does not fit, it diverged, or it ran out of memory."""
    spared: Mapping[str, Any] | None = None
    """For an audited trial that the pruner would have stopped: the `step`, the `value` and the `reason`."""
    fitted: tuple[str, ...] = ()
    """Values that were changed because they could not be trained: `batch_size 256 -> 128`."""
    correct: Mapping[str, Any] = field(default_factory=dict)
    """Correctly classified validation images (`analysis.correctness`); empty for a trial of an older version."""
    crashes: tuple[str, ...] = ()
    """Cause of each lost attempt."""
    retrained_attempts: tuple[int, ...] = ()
    """Attempts that retrained recorded steps because no checkpoint was found."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The full configuration, including fixed and default values."""
    repeat: int | None = None
    """Repeat within its grid cell or [[compare]] row."""
    parameters: int | None = None
    """Number of weights of the model."""
    macs: int | None = None
    """Multiply-accumulates for one image."""
    images_per_second: float | None = None
    latency_ms: float | None = None
    """For a last training: time to classify one image in a batch of one."""
    seed: int | None = None
    test: Mapping[str, Any] | None = None
    """For a last training: its result on the test images (`search.trial.final_training.to_stored_result`)."""
    started: datetime | None = None
    """Start of the last attempt, in UTC."""
    completed: datetime | None = None
    """UTC."""

    @property
    def averaged(self) -> Mapping[str, Any] | None:
        """For a last training: its result on the test images with test-time augmentation, if it was evaluated."""
        return None if self.test is None else self.test.get(AVERAGED)

    @property
    def obstacle(self) -> Obstacle | None:
        """Why it ended without a result; None if it has a result, was stopped by the pruner, or has not ended."""
        if self.state == "FAIL":
            return Obstacle.FAILED
        if self.state != "PRUNED":
            return None
        kind = (self.reason or "").split(":", 1)[0]
        return next((obstacle for obstacle in Obstacle if obstacle == kind), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRecord:
    """One study, as stored."""

    name: str
    question: str
    directions: tuple[str, ...]
    """`maximize` or `minimize`, one for each objective."""
    counts: TrialCounts
    best: TrialRecord | None
    """The complete trial with the best finite value of the first objective; the earliest among equals."""
    seconds_run: float = 0.0
    """Wall-clock time of the study, summed over its runs."""
    hours: float | None = None
    configurations: int | None = None
    """Number of configurations of a finite search space, if the budget allows to try each; otherwise None."""
    stop: bool = False
    """Whether a stop was requested."""
    nothing_found: bool = False
    """Its search has ended because no trial beats the baseline (`[search] patience`)."""
    judged_before: int = 0
    """Number of trials that no longer count for the patience, because more trials were requested since."""
    obstructed_before: int = 0
    """Number of trials that no longer count when a search ends because its first trials have no result."""
    selection: Mapping[str, Any] | None = None
    """The delivered trial and the reason, stored before the last training and with it (`analysis.selection`)."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The resolved study file; empty for a study that convsearch did not make."""
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The inputs and settings of its recipe; empty without one."""
    uid: str | None = None
    """Permanently unique; None for a study that convsearch did not make."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages, the machine and the commit at its start."""
    remote_key: str | None = None
    """Its folder in the remote checkpoint store that several studies share."""

    @property
    def baseline(self) -> int | None:
        """Number of the trial that all others are compared with; None without a baseline, as in older studies."""
        search = self.spec.get("search", {})
        is_search = search.get("sampler") != "grid" and len(self.directions) == 1
        return 0 if search.get("baseline") and is_search else None

    @property
    def is_exhausted(self) -> bool:
        """Whether each configuration of a finite search space has been tried."""
        return self.configurations is not None and self.counts.finished >= self.counts.budget

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the values of a trial, e.g. accuracy and macs; the first is maximised."""
        names = self.spec.get("search", {}).get("objective", "value")
        if isinstance(names, str):
            return (names, *(f"value_{index}" for index in range(1, len(self.directions))))
        return tuple(names)

    @property
    def objective(self) -> str:
        """Name of the maximised value, e.g. accuracy."""
        return self.objectives[0]

    @property
    def epochs(self) -> float | None:
        """Epochs of an unpruned trial; None if they differ, or if convsearch did not make the study."""
        budget = self.spec.get("budget", {})
        if budget.get("epochs") is None or budget.get("trial_macs") is not None:
            return None
        return float(budget["epochs"])


def is_search(study: StudyRecord) -> bool:
    """Whether a study searches for a configuration: not a comparison, a verdict, a repeated trial, a study with several
    objectives, or a study that convsearch did not make.
    """
    spec = study.spec
    is_repeated_trial = spec.get("search", {}).get("trial_seed") is not None
    is_other = bool(spec.get("compare")) or spec.get("verdict_on") is not None or len(study.directions) > 1
    return bool(spec) and not is_other and not is_repeated_trial


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSetAccess:
    """Use of test images by a study."""

    study: str
    networks: int
    first: str
    last: str
    """UTC, as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """The best trials of a study, best first."""

    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    front: int = 0
    """With several objectives: number of trials on the whole Pareto front."""
    obstructed: tuple[TrialRecord, ...] = ()
    """The trials that ended without a result, if they may be more than half of the finished ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """The state of a study that decides whether it has work left."""

    name: str
    uid: str
    budget: int
    finished: int
    running: int
    hours: float | None
    seconds_run: float
    stop: bool
    nothing_found: bool
    """Its search has ended because no trial beats the baseline."""
    has_final: bool
    """Whether a last training follows it."""
    has_verdict: bool
    """Whether its last training was created already."""
    is_verdict: bool
    """Whether it is a verdict."""

    @property
    def is_over(self) -> bool:
        """Whether all its trials are finished, its hours are spent, or its search found nothing. A verdict ends by
        itself when its hours are spent, so they do not count for it.
        """
        is_late = self.hours is not None and not self.is_verdict and self.seconds_run >= self.hours * 3600
        return self.finished >= self.budget or is_late or self.nothing_found


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTrial:
    """A running trial, and its process if a lease names one."""

    trial: TrialRecord
    host: str | None
    pid: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """The progress of a study at one moment."""

    study: StudyRecord
    running: tuple[RunningTrial, ...]
    finished: tuple[TrialRecord, ...]
    """Finished trials that the caller had not seen, sorted by number."""
    compared: str = ""
    """Text that compares the trials with the baseline."""
