"""How fast a run goes: what changed since it began, and when it may end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, sqrt

from search.storage.records import RunningTrial, StudyProgress, TrialCounts, TrialRecord

#: The 80 % range of a standard normal variable, on both sides.
_Z80 = 1.2816


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLine:
    """A trial at work."""

    trial: int
    epoch: float
    """Epochs done, in whole steps."""
    value: float | None
    """At the last step; None before the first."""
    since_last_step_s: float
    """Seconds since its last step, as far as we have watched."""
    where: str
    """The process that works on it: `host:pid`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Eta:
    """Seconds until the budget is spent, with a range that holds 4 times out of 5."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All that the live view shows, at one moment."""

    study: str
    counts: TrialCounts
    objective: str = "value"
    epochs: float | None = None
    """Of a trial that is not pruned."""
    best: TrialRecord | None = None
    seconds: float = 0.0
    """Since this run began."""
    trials_per_hour: float | None = None
    """Finished since this run began; None before the first."""
    eta: Eta | None = None
    time_left_s: float | None = None
    """Of the hours that the study may run; None without such a limit."""
    time_share: float = 0.0
    """Of these hours, what is spent."""
    compared: str = ""
    """How trials compare with the baseline."""
    workers: tuple[WorkerLine, ...] = ()
    finished: tuple[TrialRecord, ...] = ()
    """Trials that have finished since the last snapshot."""


@dataclass(kw_only=True, slots=True)
class ProgressTracker:
    """How fast a run goes: what was there at its start, and when each trial last made a step."""

    clock: Callable[[], float]
    """Seconds, monotonic."""
    _began: float | None = None
    _done_before: int = 0
    _seen: frozenset[int] = frozenset()
    _steps: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Trial number -> (reports so far, when the last came)."""

    @property
    def seen(self) -> frozenset[int]:
        """The finished trials that were told already: what `query.progress` may leave out."""
        return self._seen

    def snapshot(self, progress: StudyProgress) -> Snapshot:
        """What `progress` looks like now. Trials that had finished before the first call are not news."""
        now, study = self.clock(), progress.study
        news = tuple(trial for trial in progress.finished if trial.number not in self._seen)
        self._seen |= {trial.number for trial in news}
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
            workers=self._workers(progress, now),
            finished=news,
        )

    def _workers(self, progress: StudyProgress, now: float) -> tuple[WorkerLine, ...]:
        self._steps = {each.trial.number: self._last_step(each.trial, now) for each in progress.running}
        return tuple(
            WorkerLine(
                trial=each.trial.number,
                epoch=float(each.trial.epochs),
                value=each.trial.curve[-1][1] if each.trial.curve else None,
                since_last_step_s=now - self._steps[each.trial.number][1],
                where=_where(each),
            )
            for each in progress.running
        )

    def _last_step(self, trial: TrialRecord, now: float) -> tuple[int, float]:
        steps = len(trial.curve)
        known = self._steps.get(trial.number)
        return known if known is not None and known[0] == steps else (steps, now)


def eta(*, done: int, left: int, seconds: float) -> Eta | None:
    """How long `left` trials will take when `done` took `seconds`; None while nothing can be said.

    The range takes trials for a Poisson process: the ratio of two times for `left` and `done` trials has a logarithm
    with a standard deviation of about sqrt(1/(left - 0.5) + 1/(done - 0.5)) (the trigamma function at both). Trials
    vary less than that, so the range is a wide one.
    """
    if done <= 0 or left <= 0 or seconds <= 0:
        return None
    middle = seconds * left / done
    spread = exp(_Z80 * sqrt(1 / (left - 0.5) + 1 / (done - 0.5)))
    return Eta(seconds=middle, low=middle / spread, high=middle * spread)


def _within(found: Eta | None, left_s: float | None) -> Eta | None:
    """When the trials will be done, if the hours let them be."""
    return found if found is None or left_s is None or found.low <= left_s else None


def _where(running: RunningTrial) -> str:
    return "" if running.pid is None else f"{running.host}:{running.pid}"
