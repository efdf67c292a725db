"""Rankings of trials: by value, or the Pareto front."""

import math
import operator
from collections.abc import Sequence

import sqlalchemy as sa

from search.storage import attr_keys
from search.storage.queries import find_study, read_study, trials
from search.storage.read_only import read_transaction
from search.storage.records import Ranking, StudyRecord, TrialRecord
from search.storage.tables import TRIAL_ATTRS, TRIALS
from search.storage.trial_loader import (
    is_maximized,
    load_trials,
    select_best_ids,
    select_obstructed_ids,
    select_trial_ids,
)


def best(engine: sa.Engine, name: str, *, top: int = 1) -> Ranking:
    """Return the best complete trials of a study.

    Args:
        engine: Read-only engine.
        name: Name of the study.
        top: Maximum number of trials.

    Returns:
        The trials with the best finite values of the first objective; of equal ones the earlier comes first. With
        several objectives, the trials of the Pareto front: no other trial is as good in all and better in one.

    Raises:
        UsageError: There is no such study.
    """
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        study = read_study(connection, study_id, name)
        if len(study.directions) > 1:
            front = _front(
                load_trials(connection, name, select_best_ids(study_id, study.directions, None)), study.directions
            )
            obstructed = _obstructed(connection, study_id, study)
            return Ranking(study=study, trials=tuple(front[:top]), front=len(front), obstructed=obstructed)
        leading = load_trials(connection, name, select_best_ids(study_id, study.directions, top))
        obstructed = _obstructed(connection, study_id, study)
    sign = -1.0 if is_maximized(study.directions) else 1.0
    ranked = tuple(sorted(leading, key=lambda t: (sign * t.values[0], t.number)))
    return Ranking(study=study, trials=ranked, obstructed=obstructed)


def _obstructed(connection: sa.Connection, study_id: int, study: StudyRecord) -> tuple[TrialRecord, ...]:
    """The trials that ended without a result; none if they are too few to matter, which the counts tell at once."""
    if study.counts.pruned + study.counts.failed <= study.counts.finished / 2:
        return ()
    return load_trials(connection, study.name, select_obstructed_ids(study_id))


def _front(trials: Sequence[TrialRecord], directions: Sequence[str]) -> list[TrialRecord]:
    """Non-dominated trials, sorted by the first objective, best first; equal trials are all included."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    ranked = sorted((tuple(s * v for s, v in zip(signs, t.values, strict=True)), t.number, t) for t in trials)
    front: list[tuple[tuple[float, ...], TrialRecord]] = []
    for losses, _, trial in ranked:  # a dominating trial is sorted before the dominated one
        if not any(other != losses and all(map(operator.le, other, losses)) for other, _ in front):
            front.append((losses, trial))
    return [trial for _, trial in front]


def ranked_by_best_value(engine: sa.Engine, name: str) -> tuple[tuple[TrialRecord, float], ...]:
    """Return all evaluated trials with their values, best first, whether they were trained completely or not.

    The value of a complete trial is its final one, and of any other trial its best one: a trial that is better after
    less training is better. Trials that failed or cannot be trained are excluded.

    Args:
        engine: Read-only engine.
        name: Name of the study.

    Returns:
        (trial, value) pairs.

    Raises:
        UsageError: There is no such study.
    """
    return ranked(trials(engine, name))


def ranked(trials: Sequence[TrialRecord]) -> tuple[tuple[TrialRecord, float], ...]:
    """Return those of these trials that were evaluated, with their values, best first; see `ranked_by_best_value`."""
    trainable = (trial for trial in trials if trial.state != "FAIL" and trial.violation <= 0)
    losses = [(-value, trial.number, trial) for trial in trainable if (value := _best_value(trial)) is not None]
    return tuple((trial, -loss) for loss, _, trial in sorted(losses))


def _best_value(trial: TrialRecord) -> float | None:
    values = trial.values[:1] if trial.state == "COMPLETE" else tuple(value for _, value in trial.curve)
    return max(filter(math.isfinite, values), default=None)


def complete_trials(engine: sa.Engine, name: str) -> tuple[tuple[TrialRecord, ...], int]:
    """Return trial 0 and all complete trials of a study, and a count of trials with stored correct images.

    Args:
        engine: Read-only engine.
        name: Name of the study.

    Returns:
        The trials, and the number of trials, except trial 0 and failed ones, that stored which images they classified
        correctly.

    Raises:
        UsageError: There is no such study.
    """
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        chosen = select_trial_ids(study_id).where((TRIALS.c.state == "COMPLETE") | (TRIALS.c.number == 0))
        with_correct = sa.select(sa.func.count()).where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.number != 0,
            TRIALS.c.state != "FAIL",
            TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
            TRIAL_ATTRS.c.key == attr_keys.CORRECT,
        )
        return load_trials(connection, name, chosen), connection.execute(with_correct).scalar_one()
