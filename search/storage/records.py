"""What is stored of a study and its trials, as frozen values: what every question is answered with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

FINAL = ".final"
"""What the study of a study's last trainings is called: its name, and this; a further one has `-2` and so on behind."""

TRAINABLE = "trainable"
"""Name of the Optuna constraint that marks configurations that cannot be trained."""

PAUSED = "paused"
"""The user attribute of a trial that pauses: the step of its rung; null once it goes on."""


DECISION = "decision"
"""The user attribute of a trial that is to be stopped: at which step, with which value, and the reason."""

SPARED = "spared"
"""The user attribute of a trial that is audited: what the pruner would have decided, and where."""

FITTED = "fitted"
"""The user attribute of a trial whose values were changed because they could not be trained: a text for each."""

JUDGED_FROM = "judged_from"
"""The user attribute of a trial that is not judged at the first rung: the step of the one that first does."""

CORRECT = "correct"
"""The user attribute of a trial: which validation images it recognised, at rungs and at its end."""


def is_verdict(name: str) -> bool:
    """Whether a study of that name is of the last trainings of another one."""
    return re.search(rf"{re.escape(FINAL)}(-\d+)?$", name) is not None


def searched(name: str) -> str:
    """The study that a verdict is on, by their names; any other study itself."""
    return name.rsplit(FINAL, 1)[0] if is_verdict(name) else name


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCounts:
    """How many trials of a study are in which state."""

    budget: int
    """Trials that the study may have, in all states together."""
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    """Broken off, and to be taken up again under their numbers."""
    paused: int = 0
    """At a rung, until they are among the best there."""

    @property
    def finished(self) -> int:
        """Trials that will not change any more."""
        return self.complete + self.pruned + self.failed

    @property
    def begun(self) -> int:
        """Trials that there are, in whatever state."""
        return self.finished + self.running + self.waiting + self.paused

    @property
    def remaining(self) -> int:
        """Trials that are still to be begun."""
        return max(0, self.budget - self.begun)

    @property
    def to_do(self) -> int:
        """Trials that a run could go on with, or begin."""
        return self.remaining + self.waiting + self.paused


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial, as stored."""

    study: str
    number: int
    state: str
    """RUNNING, WAITING, COMPLETE, PRUNED or FAIL."""
    paused: int | None = None
    """The step at which it waits for its rank among the others; None if it does not."""
    values: tuple[float, ...] = ()
    """Final values, one for each direction of the study; empty until the trial has finished with some."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What was drawn, or will be, under the keys of a study file; without the repeat."""
    curve: tuple[tuple[int, float], ...] = ()
    """(step, value) of every report, in order; a value may be infinite or not a number."""
    attempts: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    """Own training and evaluation time, added up over all attempts."""
    reason: str | None = None
    """Why it was pruned or failed."""
    violation: float = 0.0
    """Above 0 for a trial that cannot be trained: it does not fit, it diverged, or it ran out of memory."""
    spared: Mapping[str, Any] | None = None
    """Of a trial that is audited: that the pruner would have stopped it, at which `step`, with which `value`, and the
    `reason`.
    """
    fitted: tuple[str, ...] = ()
    """Values that were changed because they could not be trained: `batch_size 256 -> 128`."""
    correct: Mapping[str, Any] = field(default_factory=dict)
    """Which validation images it recognised (`analysis.correctness`); empty for a trial of an older version."""
    crashes: tuple[str, ...] = ()
    """What broke each lost attempt off."""
    retrained_attempts: tuple[int, ...] = ()
    """Attempts that retrained recorded steps because no checkpoint was found."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The full configuration, fixed and default values included."""
    repeat: int | None = None
    """Which repeat of its grid cell or [[compare]] row this is."""
    parameters: int | None = None
    """Weights of the model."""
    macs: int | None = None
    """Multiply-accumulates for one image."""
    images_per_second: float | None = None
    latency_ms: float | None = None
    """Of a last training: in which it classifies one image by itself."""
    seed: int | None = None
    test: Mapping[str, Any] | None = None
    """Of a last training: what its look at the test images counted (`search.trial.final_training.to_stored_result`)."""
    started: datetime | None = None
    """UTC; of the last attempt."""
    completed: datetime | None = None
    """UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRecord:
    """One study, as stored."""

    name: str
    question: str
    directions: tuple[str, ...]
    """maximize or minimize, one for each objective."""
    counts: TrialCounts
    best: TrialRecord | None
    """The complete trial with the best finite value of the first objective; the earliest among equals."""
    seconds_run: float = 0.0
    """Wall-clock in which the study ran, added up over its runs."""
    hours: float | None = None
    stop: bool = False
    """It was asked to stop."""
    nothing_found: bool = False
    """Its search has ended because no trial beats the baseline (`[search] patience`)."""
    judged_before: int = 0
    """Trials that count no more for that, because somebody has asked for more since."""
    selection: Mapping[str, Any] | None = None
    """What its last training was begun with, or of a last training, what it trains (`search.analysis.selection`)."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The resolved study file; empty for a study that convsearch did not make."""
    data: Mapping[str, Any] = field(default_factory=dict)
    uid: str | None = None
    """Unique for ever; None for a study that convsearch did not make."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages, the machine and the commit that it was begun with."""
    remote_key: str | None = None
    """Its folder among those of the far checkpoints of several studies."""

    @property
    def baseline(self) -> int | None:
        """The number of the trial that all others are compared with; None where there is none, as in older studies."""
        search = self.spec.get("search", {})
        is_search = search.get("sampler") != "grid" and len(self.directions) == 1
        return 0 if search.get("baseline") and is_search else None

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the values of a trial are, e.g. accuracy and macs; the first is maximised."""
        found = self.spec.get("search", {}).get("objective", "value")
        if isinstance(found, str):
            return (found, *(f"value_{index}" for index in range(1, len(self.directions))))
        return tuple(found)

    @property
    def objective(self) -> str:
        """What is maximised, e.g. accuracy."""
        return self.objectives[0]

    @property
    def epochs(self) -> float | None:
        """Epochs of a trial that is not pruned; None where they differ, or convsearch did not make the study."""
        budget = self.spec.get("budget", {})
        if budget.get("epochs") is None or budget.get("trial_macs") is not None:
            return None
        return float(budget["epochs"])


def is_search(study: StudyRecord) -> bool:
    """Whether a study chooses a configuration: no comparison, no verdict, no trial run again, nothing that convsearch
    did not make.
    """
    spec = study.spec
    is_one_again = spec.get("search", {}).get("trial_seed") is not None
    is_other = bool(spec.get("compare")) or spec.get("verdict_on") is not None or len(study.directions) > 1
    return bool(spec) and not is_other and not is_one_again


@dataclass(frozen=True, kw_only=True, slots=True)
class TestSetAccess:
    """That a study has looked at test images."""

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
    """With several objectives: trials on the Pareto front, of which these are some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """Of a study, what tells whether there is something to do for it."""

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
    """A last training follows on it."""
    has_verdict: bool
    """It was made already."""
    is_verdict: bool
    """It is one."""

    @property
    def is_over(self) -> bool:
        """Whether all its trials are done, its hours are spent, or it has found nothing; a verdict ends by itself when
        its hours are spent.
        """
        is_late = self.hours is not None and not self.is_verdict and self.seconds_run >= self.hours * 3600
        return self.finished >= self.budget or is_late or self.nothing_found


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTrial:
    """A trial at work, and the process that works on it, where its lease names one."""

    trial: TrialRecord
    host: str | None
    pid: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """What is going on in a study at one moment."""

    study: StudyRecord
    running: tuple[RunningTrial, ...]
    finished: tuple[TrialRecord, ...]
    """Those that finished and that the caller had not seen, by number."""
    compared: str = ""
    """How trials compare with the baseline, in words."""
