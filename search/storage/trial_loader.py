"""Trials from Optuna's tables (optuna/storages/_rdb/models.py), without Optuna: one SELECT per table."""

import gc
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from search.spec.search_space import REPEAT, base_name
from search.storage import attr_keys
from search.storage.records import Obstacle, TrialRecord
from search.storage.tables import CURVES, TRIAL_ATTRS, TRIAL_PARAMS, TRIAL_SYSTEM_ATTRS, TRIAL_VALUES, TRIALS

_NUMBERS = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
#: The type of the values of a curve, as text. SQLAlchemy would look up each of many rows in the enum.
_CURVE_VALUE_TYPE = sa.type_coerce(CURVES.c.intermediate_value_type, sa.types.NullType()).label("value_type")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTrial:
    """One trial as stored in the tables."""

    id: int
    number: int
    state: str
    started: datetime | None
    """UTC without a time zone, as Optuna stores it, like `completed`."""
    completed: datetime | None
    attrs: Mapping[str, Any]
    system: Mapping[str, Any]
    params: Sequence[tuple[str, float, str]]
    """(name, internal value, distribution as JSON), in the order of sampling."""
    values: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    """(step, value), in order."""


def paused_ids(study_id: int, rung: int | None = None) -> sa.Select[Any]:
    """Select the ids of the paused trials of a study, at one rung or, without `rung`, at any."""
    at_rung = TRIAL_ATTRS.c.value_json != "null" if rung is None else TRIAL_ATTRS.c.value_json == json.dumps(rung)
    return sa.select(TRIALS.c.trial_id).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == "WAITING",
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
        TRIAL_ATTRS.c.key == attr_keys.PAUSED,
        at_rung,
    )


def select_trial_ids(study_id: int) -> sa.Select[Any]:
    return sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)


def is_maximized(directions: Sequence[str]) -> bool:
    """Whether the first objective is maximized, which is also the default."""
    return not directions or directions[0] == "maximize"


def select_best_ids(study_id: int, directions: Sequence[str], top: int | None) -> sa.Select[Any]:
    """Select the ids of the `top` complete trials, or of all with None, by their first objective, best first."""
    order = TRIAL_VALUES.c.value.desc() if is_maximized(directions) else TRIAL_VALUES.c.value.asc()
    return (
        select_trial_ids(study_id)
        .where(
            TRIALS.c.state == "COMPLETE",
            TRIAL_VALUES.c.trial_id == TRIALS.c.trial_id,
            TRIAL_VALUES.c.objective == 0,
            TRIAL_VALUES.c.value_type == "FINITE",
            TRIAL_VALUES.c.value.is_not(None),  # SQLite stores NaN as NULL
        )
        .order_by(order, TRIALS.c.number)
        .limit(top)
    )


def select_obstructed_ids(study_id: int) -> sa.Select[Any]:
    """Select the ids of the trials that ended without a result (`TrialRecord.obstacle`)."""
    begins = [TRIAL_ATTRS.c.value_json.startswith(f'"{obstacle}:', autoescape=True) for obstacle in Obstacle]
    of_reason = sa.select(TRIAL_ATTRS.c.trial_id).where(
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id, TRIAL_ATTRS.c.key == attr_keys.REASON, sa.or_(*begins)
    )
    return select_trial_ids(study_id).where(
        sa.or_(TRIALS.c.state == "FAIL", sa.and_(TRIALS.c.state == "PRUNED", of_reason.exists()))
    )


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable Python's garbage collector: 5,000 trials create a quarter million objects without garbage, and repeated
    scans of them take nearly half of the loading time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def stored_trials(
    connection: sa.Connection, chosen: sa.Select[Any], *, include_running_details: bool = True
) -> list[StoredTrial]:
    """Load trials with one SELECT per table.

    Args:
        connection: Connection in a transaction.
        chosen: Selects the trial ids.
        include_running_details: Whether running trials have their user attributes and curves.

    Returns:
        The trials, sorted by number.
    """
    ids = sa.select(chosen.subquery().c.trial_id)
    detailed_ids = (
        ids if include_running_details else sa.select(chosen.where(TRIALS.c.state != "RUNNING").subquery().c.trial_id)
    )

    def rows_of(
        table: sa.Table, *columns: sa.ColumnElement[Any], trial_ids: sa.Select[Any] = ids
    ) -> Mapping[int, list[Sequence[Any]]]:
        """Rows of a table by trial id, which is also the first cell of each row."""
        rows = sa.select(table.c.trial_id, *columns).where(table.c.trial_id.in_(trial_ids))
        grouped: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
        for row in connection.execute(rows).all():
            grouped[row[0]].append(row)
        return grouped

    attrs = rows_of(TRIAL_ATTRS, TRIAL_ATTRS.c.key, TRIAL_ATTRS.c.value_json, trial_ids=detailed_ids)
    system = rows_of(TRIAL_SYSTEM_ATTRS, TRIAL_SYSTEM_ATTRS.c.key, TRIAL_SYSTEM_ATTRS.c.value_json)
    of_param = TRIAL_PARAMS.c
    params = rows_of(
        TRIAL_PARAMS, of_param.param_id, of_param.param_name, of_param.param_value, of_param.distribution_json
    )
    values = rows_of(TRIAL_VALUES, TRIAL_VALUES.c.objective, TRIAL_VALUES.c.value, TRIAL_VALUES.c.value_type)
    curves = rows_of(CURVES, CURVES.c.step, CURVES.c.intermediate_value, _CURVE_VALUE_TYPE, trial_ids=detailed_ids)
    rows = connection.execute(sa.select(TRIALS).where(TRIALS.c.trial_id.in_(ids)).order_by(TRIALS.c.number)).all()
    return [
        StoredTrial(
            id=row.trial_id,
            number=row.number,
            state=row.state,
            started=row.datetime_start,
            completed=row.datetime_complete,
            attrs={key: _decoded(text) for _, key, text in attrs[row.trial_id]},
            system={key: _decoded(text) for _, key, text in system[row.trial_id]},
            params=[(name, value, text) for _, _, name, value, text in sorted(params[row.trial_id], key=_second)],
            values=tuple(_number(value, kind) for _, _, value, kind in sorted(values[row.trial_id], key=_second)),
            curve=tuple(
                (step, _number(value, kind)) for _, step, value, kind in sorted(curves[row.trial_id], key=_second)
            ),
        )
        for row in rows
    ]


def load_trials(connection: sa.Connection, study_name: str, chosen: sa.Select[Any]) -> tuple[TrialRecord, ...]:
    """Load trials as records.

    Args:
        connection: Connection in a transaction.
        study_name: Name of the study of the trials.
        chosen: Selects the trial ids.

    Returns:
        The trials, sorted by number.
    """
    with gc_paused():
        return tuple(_trial(study_name, stored) for stored in stored_trials(connection, chosen))


def _trial(study_name: str, stored: StoredTrial) -> TrialRecord:
    attrs = {**stored.attrs, **stored.system}
    # A trial that has not sampled its parameters can have fixed ones.
    drawn = {base_name(name): value for name, value in (attrs.get(attr_keys.FIXED_PARAMS) or {}).items()}
    drawn |= {base_name(name): _external(value, distribution) for name, value, distribution in stored.params}
    config = attrs.get(attr_keys.CONFIG) or {}
    drawn |= {key: config[key] for key in drawn if key in config}  # the trained value, if it was changed to fit
    return TrialRecord(
        study=study_name,
        number=stored.number,
        state=stored.state,
        paused=attrs.get(attr_keys.PAUSED) if stored.state == "WAITING" else None,
        values=stored.values,
        repeat=drawn.pop(REPEAT, None),
        params=drawn,
        curve=stored.curve,
        attempts=attrs.get(attr_keys.ATTEMPTS) or 0,
        epochs=attrs.get(attr_keys.EPOCHS) or 0.0,
        seconds=attrs.get(attr_keys.SECONDS) or 0.0,
        reason=attrs.get(attr_keys.REASON),
        violation=attrs.get(f"constraints:{attr_keys.TRAINABLE}") or 0.0,
        fitted=tuple(attrs.get(attr_keys.FITTED) or ()),
        correct=attrs.get(attr_keys.CORRECT) or {},
        crashes=tuple(attrs.get(attr_keys.CRASHES) or ()),
        retrained_attempts=tuple(attrs.get(attr_keys.RETRAINED_ATTEMPTS) or ()),
        config=config,
        parameters=attrs.get(attr_keys.PARAMETERS),
        macs=attrs.get(attr_keys.MACS),
        images_per_second=attrs.get(attr_keys.IMAGES_PER_SECOND),
        latency_ms=attrs.get(attr_keys.LATENCY_MS),
        seed=attrs.get(attr_keys.SEED),
        spared=attrs.get(attr_keys.SPARED),
        test=attrs.get(attr_keys.TEST),
        started=_utc(stored.started),
        completed=_utc(stored.completed),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """The configuration of a trial."""

    id: int
    number: int
    state: str
    config: Mapping[str, Any] | None
    """None if the trial has not drawn it."""


def configs_of_trials(
    connection: sa.Connection, study_id: int, *, after: int, among: Collection[int]
) -> list[TrialConfig]:
    """Load the configurations of trials.

    Args:
        connection: Connection in a transaction.
        study_id: Id of the study.
        after: Trials with higher ids are loaded.
        among: Ids of further trials.
    """
    has_config = sa.and_(
        TRIAL_SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id, TRIAL_SYSTEM_ATTRS.c.key == attr_keys.CONFIG
    )
    query = (
        sa.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, TRIAL_SYSTEM_ATTRS.c.value_json)
        .select_from(TRIALS.outerjoin(TRIAL_SYSTEM_ATTRS, has_config))
        .where(TRIALS.c.study_id == study_id, (TRIALS.c.trial_id > after) | TRIALS.c.trial_id.in_(among))
    )
    return [
        TrialConfig(id=trial_id, number=number, state=state, config=None if text is None else json.loads(text))
        for trial_id, number, state, text in connection.execute(query)
    ]


_second = itemgetter(1)


def _decoded(text: str) -> Any:
    """Decode a JSON value; a list or an object is not shared between calls."""
    return json.loads(text) if text.startswith(("[", "{")) else _decoded_scalar(text)


@lru_cache(maxsize=4096)
def _decoded_scalar(text: str) -> Any:
    return json.loads(text)


def _number(value: float | None, kind: str) -> float:
    """Value that Optuna stores as a kind and, if finite, a number."""
    if kind == "FINITE":
        return math.nan if value is None else value  # SQLite stores a NaN as NULL
    return _NUMBERS[kind]


def _external(value: float, distribution: str) -> Any:
    """Value as passed to the objective; Optuna stores the index of a choice, and integers as floats."""
    stored = json.loads(distribution)
    choices = stored["attributes"].get("choices")
    if choices is not None:
        return choices[int(value)]
    return int(value) if stored["name"].startswith("Int") else value


def _utc(stored: datetime | None) -> datetime | None:
    return stored and stored.replace(tzinfo=UTC)
