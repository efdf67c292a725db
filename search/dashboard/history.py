"""Trials in memory for the dashboard, each under an identity that no other trial ever gets.

SQLite gives the ids of deleted rows again, and another file, such as a backup, may take the place of a database. A
finished trial is therefore kept by its id, number, state and end together, and each read checks that it is still there.
"""

import copy
import threading
import uuid
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from search.storage import attr_keys
from search.storage.queries import FINISHED, MAX_NAMED
from search.storage.rdb_reads import FastReadStorage, frozen_trials
from search.storage.tables import STUDIES, STUDY_ATTRS, TRIALS
from search.storage.trial_loader import select_trial_ids


class TrialKey(NamedTuple):
    """Identity of a trial; that of a finished one belongs to no other trial, ever."""

    trial_id: int
    number: int
    state: str
    end: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyHistory:
    """A study and its trials at one point in time."""

    id: str
    """Random. It changes when another study has got the id of this one, and when a finished trial is gone."""
    study: tuple[str, str | None]
    """Name and uid of the study; a study of plain Optuna has no uid."""
    trials: Sequence[FrozenTrial]
    """All trials, sorted by number."""
    finished: Mapping[TrialKey, FrozenTrial]
    until: datetime | None
    """When the last finished trial ended."""
    id_sum: int
    """Sum of the ids of the finished trials."""

    @property
    def name(self) -> str:
        return self.study[0]


class HistoryStorage(FastReadStorage):
    """A storage for reading that keeps the finished trials of each study in memory."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = threading.Lock()
        self._histories: dict[int, StudyHistory] = {}

    def check(self, study_id: int) -> StudyHistory:
        """Return the study with this id. Trials that began or ended since the last read may be missing.

        Raises:
            KeyError: There is no such study.
        """
        return self._update(study_id, is_check=True)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        history = self._update(study_id, is_check=False)
        trials = [trial for trial in history.trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _update(self, study_id: int, *, is_check: bool) -> StudyHistory:
        with self._lock:
            before = self._histories.get(study_id)
            try:
                now = self.read(lambda connection: _read(connection, study_id, before, is_check=is_check))
            except KeyError:
                self._histories.pop(study_id, None)
                raise
            self._histories[study_id] = now
            return now


def _read(connection: sa.Connection, study_id: int, before: StudyHistory | None, *, is_check: bool) -> StudyHistory:
    study = _study(connection, study_id)
    if before is None or before.study != study:
        return _history(uuid.uuid4().hex, study, _load(connection, study_id, sa.true(), {}))
    if _holds(connection, study_id, before):  # the usual case: 5,000 trials are neither read nor compared
        if is_check:
            return before
        new = _load(connection, study_id, ~_ended_until(before.until), {})
        return _history(before.id, study, {**before.finished, **new})
    trials = _load(connection, study_id, sa.true(), before.finished)
    is_later = before.finished.keys() <= trials.keys()
    return _history(before.id if is_later else uuid.uuid4().hex, study, trials)


def _study(connection: sa.Connection, study_id: int) -> tuple[str, str | None]:
    uid = sa.select(STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == study_id, STUDY_ATTRS.c.key == attr_keys.UID
    )
    row = connection.execute(
        sa.select(STUDIES.c.study_name, uid.scalar_subquery()).where(STUDIES.c.study_id == study_id)
    ).one_or_none()
    if row is None:
        raise KeyError(f"there is no study with the id {study_id}")
    return row[0], row[1]


def _holds(connection: sa.Connection, study_id: int, history: StudyHistory) -> bool:
    """Whether the trials that ended until then are those in memory, by their number, ids and last end."""
    columns = sa.func.count(), sa.func.sum(TRIALS.c.trial_id), sa.func.max(TRIALS.c.datetime_complete)
    row = connection.execute(
        sa.select(*columns).where(TRIALS.c.study_id == study_id, _ended_until(history.until))
    ).one()
    return tuple(row) == (len(history.finished), history.id_sum or None, history.until)


def _ended_until(end: datetime | None) -> sa.ColumnElement[bool]:
    if end is None:
        return sa.false()
    completed = TRIALS.c.datetime_complete
    return sa.and_(TRIALS.c.state.in_(FINISHED), completed.is_not(None), completed <= end)


def _load(
    connection: sa.Connection, study_id: int, chosen: sa.ColumnElement[bool], known: Mapping[TrialKey, FrozenTrial]
) -> dict[TrialKey, FrozenTrial]:
    """The chosen trials of a study; those in `known` are not loaded again."""
    columns = TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, TRIALS.c.datetime_complete
    rows = connection.execute(sa.select(*columns).where(TRIALS.c.study_id == study_id, chosen))
    keys = [TrialKey(*row) for row in rows]
    missing = [key.trial_id for key in keys if key not in known]
    ids = select_trial_ids(study_id)
    if len(missing) <= MAX_NAMED:
        ids = ids.where(TRIALS.c.trial_id.in_(missing))
    loaded = {trial._trial_id: trial for trial in frozen_trials(connection, ids)} if missing else {}
    return {key: known.get(key) or loaded[key.trial_id] for key in keys}


def _history(id: str, study: tuple[str, str | None], trials: Mapping[TrialKey, FrozenTrial]) -> StudyHistory:
    finished = {key: trial for key, trial in trials.items() if key.state in FINISHED and key.end is not None}
    return StudyHistory(
        id=id,
        study=study,
        trials=sorted(trials.values(), key=attrgetter("number")),
        finished=finished,
        until=max((key.end for key in finished if key.end is not None), default=None),
        id_sum=sum(key.trial_id for key in finished),
    )
