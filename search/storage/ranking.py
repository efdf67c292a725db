"""Which trials lead: by their value, or the Pareto front."""

import math
import operator
from collections.abc import Sequence

import sqlalchemy as sa

from search.storage.queries import find_study, is_maximized, read_study, select_best_ids, select_trial_ids, trials
from search.storage.read_only import read_transaction
from search.storage.records import (
    CORRECT,
    Ranking,
    TrialRecord,
)
from search.storage.trial_loader import (
    TRIAL_ATTRS,
    TRIALS,
    load_trials,
)


def best(engine: sa.Engine, name: str, *, top: int = 1) -> Ranking:
    """The `top` complete trials with the best finite values of the first objective, earlier ones first among equals.

    With several objectives, those of the Pareto front: no other trial is as good in all and better in one.
    """
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        row = read_study(connection, study_id, name)
        if len(row.directions) > 1:
            front = _front(
                load_trials(connection, name, select_best_ids(study_id, row.directions, None)), row.directions
            )
            return Ranking(study=row, trials=tuple(front[:top]), front=len(front))
        chosen = load_trials(connection, name, select_best_ids(study_id, row.directions, top))
    sign = -1.0 if is_maximized(row.directions) else 1.0
    return Ranking(study=row, trials=tuple(sorted(chosen, key=lambda t: (sign * t.values[0], t.number))))


def _front(trials: Sequence[TrialRecord], directions: Sequence[str]) -> list[TrialRecord]:
    """The trials that no other one dominates, the best of the first objective first; equal ones are all there."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]
    ranked = sorted((tuple(s * v for s, v in zip(signs, t.values, strict=True)), t.number, t) for t in trials)
    front: list[tuple[tuple[float, ...], TrialRecord]] = []
    for losses, _, trial in ranked:  # a trial that dominates another one comes before it
        if not any(other != losses and all(map(operator.le, other, losses)) for other, _ in front):
            front.append((losses, trial))
    return [trial for _, trial in front]


def ranked_by_best_value(engine: sa.Engine, name: str) -> tuple[tuple[TrialRecord, float], ...]:
    """All trials that were judged, whether they were trained to their end or not, and their values, the best first.

    Of a complete one its last value counts, of any other its best one: a trial that is better after less training is
    better. One that failed, or cannot be trained, is none of them.
    """
    return ranked(trials(engine, name))


def ranked(trials: Sequence[TrialRecord]) -> tuple[tuple[TrialRecord, float], ...]:
    """Of these trials those that were judged, and their values, the best first; see `ranked_by_best_value`."""
    able = (each for each in trials if each.state != "FAIL" and each.violation <= 0)
    judged = [(-value, each.number, each) for each in able if (value := _came_to(each)) is not None]
    return tuple((each, -value) for value, _, each in sorted(judged))


def _came_to(trial: TrialRecord) -> float | None:
    values = trial.values[:1] if trial.state == "COMPLETE" else tuple(value for _, value in trial.curve)
    return max(filter(math.isfinite, values), default=None)


def complete_trials(engine: sa.Engine, name: str) -> tuple[tuple[TrialRecord, ...], int]:
    """Trial 0 and all complete trials of a study, and how many but trial 0 have kept which images they recognised."""
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        chosen = select_trial_ids(study_id).where((TRIALS.c.state == "COMPLETE") | (TRIALS.c.number == 0))
        kept = sa.select(sa.func.count()).where(
            TRIALS.c.study_id == study_id,
            TRIALS.c.number != 0,
            TRIALS.c.state != "FAIL",
            TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
            TRIAL_ATTRS.c.key == CORRECT,
        )
        return load_trials(connection, name, chosen), connection.execute(kept).scalar_one()
