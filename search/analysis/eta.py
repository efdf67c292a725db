"""Progress of a run: its speed since it began, and its estimated end."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp, sqrt

from search.storage.records import RunningTrial, StudyProgress, TrialCounts, TrialRecord

#: The 80 % range of a standard normal variable, on both sides.
_Z80 = 1.2816


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLine:
    """A running trial."""

    trial: int
    epoch: float
    """Epochs done, up to the last complete step."""
    value: float | None
    """Value at the last step; None before the first."""
    since_last_step_s: float
    """Seconds since its last step, or since the first snapshot that had that step."""
    where: str
    """The process that runs it: `host:pid`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Eta:
    """Seconds until the budget is spent, with an 80 % range."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """State of a run at one moment, for the live view."""

    study: str
    counts: TrialCounts
    objective: str = "value"
    epochs: float | None = None
    """Epochs of a trial that is not pruned."""
    best: TrialRecord | None = None
    seconds: float = 0.0
    """Seconds since this run began."""
    trials_per_hour: float | None = None
    """Trials finished per hour since this run began; None before the first."""
    eta: Eta | None = None
    time_left_s: float | None = None
    """Seconds left of the time limit; None without a limit."""
    time_share: float = 0.0
    """Spent share of the time limit, from 0 to 1; 0 without a limit."""
    compared: str = ""
    """Comparison of the trials with the baseline, in one line."""
    obstacles: Mapping[str, int] = field(default_factory=dict)
    """Number of trials that ended without a result, by the reason."""
    workers: tuple[WorkerLine, ...] = ()
    finished: tuple[TrialRecord, ...] = ()
    """Trials that have finished since the last snapshot."""


@dataclass(kw_only=True, slots=True)
class ProgressTracker:
    """Tracks the speed of a run: the trials finished before it, and the last step of each running trial."""

    clock: Callable[[], float]
    """Monotonic clock in seconds."""
    _began: float | None = None
    _done_before: int = 0
    _seen: frozenset[int] = frozenset()
    _obstacles: Counter[str] = field(default_factory=Counter)
    _steps: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Trial number -> (number of reports, time of the last report)."""

    @property
    def seen(self) -> frozenset[int]:
        """Numbers of finished trials in earlier snapshots, which `queries.progress` may leave out."""
        return self._seen

    def snapshot(self, progress: StudyProgress) -> Snapshot:
        """Takes a snapshot of `progress`.

        Args:
            progress: The study, its running trials, and its newly finished trials.

        Returns:
            The snapshot. Trials that finished before the first call are not in its `finished`.
        """
        now, study = self.clock(), progress.study
        news = tuple(trial for trial in progress.finished if trial.number not in self._seen)
        self._seen |= {trial.number for trial in news}
        self._obstacles.update(str(trial.obstacle) for trial in news if trial.obstacle is not None)
        if self._began is None:
            self._began, self._done_before, news = now, study.counts.finished, ()
        seconds, done = now - self._began, study.counts.finished - self._done_before
        left = study.counts.budget - study.counts.finished
        left_s = None if study.hours is None else max(0.0, study.hours * 3600 - study.seconds_run)
        return Snapshot(
            study=study.name,
            counts=study.counts,
            objective=study.objective,
            epochs=study.epochs,
            best=study.best,
            seconds=seconds,
            trials_per_hour=3600 * done / seconds if done > 0 and seconds > 0 else None,
            eta=None if study.counts.paused else _within(eta(done=done, left=left, seconds=seconds), left_s),
            time_left_s=left_s,
            time_share=0.0 if not study.hours else min(1.0, study.seconds_run / (study.hours * 3600)),
            compared=progress.compared,
            obstacles=dict(self._obstacles),
            workers=self._workers(progress, now),
            finished=news,
        )

    def _workers(self, progress: StudyProgress, now: float) -> tuple[WorkerLine, ...]:
        self._steps = {running.trial.number: self._last_step(running.trial, now) for running in progress.running}
        return tuple(
            WorkerLine(
                trial=running.trial.number,
                epoch=float(running.trial.epochs),
                value=running.trial.curve[-1][1] if running.trial.curve else None,
                since_last_step_s=now - self._steps[running.trial.number][1],
                where=_where(running),
            )
            for running in progress.running
        )

    def _last_step(self, trial: TrialRecord, now: float) -> tuple[int, float]:
        steps = len(trial.curve)
        previous = self._steps.get(trial.number)
        return previous if previous is not None and previous[0] == steps else (steps, now)


def eta(*, done: int, left: int, seconds: float) -> Eta | None:
    """Estimated time for the remaining trials.

    The range assumes a Poisson process: the logarithm of the ratio of the times for `left` and `done` trials has a
    standard deviation of about sqrt(1/(left - 0.5) + 1/(done - 0.5)) (the trigamma function at both). Trials vary less
    than that, so the range is wide.

    Args:
        done: Number of finished trials.
        left: Number of remaining trials.
        seconds: Time that the finished trials took.

    Returns:
        The estimate; None if an argument is 0 or negative.
    """
    if done <= 0 or left <= 0 or seconds <= 0:
        return None
    middle = seconds * left / done
    spread = exp(_Z80 * sqrt(1 / (left - 0.5) + 1 / (done - 0.5)))
    return Eta(seconds=middle, low=middle / spread, high=middle * spread)


def _within(estimate: Eta | None, left_s: float | None) -> Eta | None:
    """The estimate; None if its lower end exceeds the time limit."""
    return estimate if estimate is None or left_s is None or estimate.low <= left_s else None


def _where(running: RunningTrial) -> str:
    return "" if running.pid is None else f"{running.host}:{running.pid}"
