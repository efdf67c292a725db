"""Trials from Optuna's tables (optuna/storages/_rdb/models.py), without Optuna: one SELECT for each table."""

import gc
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from search.spec.search_space import REPEAT, base_name
from search.storage.records import CORRECT, FITTED, PAUSED, SPARED, TRAINABLE, TrialRecord

# Typed as Optuna's own models type them, so that PostgreSQL compares its enums with enums.
_STATES = sa.Enum("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", name="trialstate")
_FINAL_KINDS = sa.Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")
_DIRECTION = sa.Enum("NOT_SET", "MINIMIZE", "MAXIMIZE", name="studydirection")
_NUMBERS = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}

STUDIES = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
DIRECTIONS = sa.table(
    "study_directions", sa.column("study_id"), sa.column("objective"), sa.column("direction", _DIRECTION)
)
STUDY_ATTRS = sa.table("study_user_attributes", sa.column("study_id"), sa.column("key"), sa.column("value_json"))
TRIALS = sa.table(
    "trials",
    sa.column("trial_id", sa.Integer),
    sa.column("study_id"),
    sa.column("number"),
    sa.column("state", _STATES),
    sa.column("datetime_start", sa.DateTime),
    sa.column("datetime_complete", sa.DateTime),
)
TRIAL_ATTRS = sa.table("trial_user_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))
SYSTEM_ATTRS = sa.table("trial_system_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json"))
PARAMS = sa.table(
    "trial_params",
    sa.column("trial_id"),
    sa.column("param_id"),
    sa.column("param_name"),
    sa.column("param_value"),
    sa.column("distribution_json"),
)
VALUES = sa.table(
    "trial_values",
    sa.column("trial_id"),
    sa.column("objective"),
    sa.column("value"),
    sa.column("value_type", _FINAL_KINDS),
)
CURVES = sa.table(
    "trial_intermediate_values",
    sa.column("trial_id"),
    sa.column("step"),
    sa.column("intermediate_value"),
    sa.column("intermediate_value_type"),  # untyped: nothing is compared with it, and there are many
)
LEASES = sa.table("convsearch_leases", *map(sa.column, ("trial_id", "token", "host", "pid")))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTrial:
    """What the tables hold of one trial."""

    id: int
    number: int
    state: str
    started: datetime | None
    """UTC, without a zone, as Optuna stores it; so is `completed`."""
    completed: datetime | None
    attrs: Mapping[str, Any]
    system: Mapping[str, Any]
    params: Sequence[tuple[str, float, str]]
    """(name, internal value, distribution as JSON), in the order of drawing."""
    values: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    """(step, value), in order."""


def paused_ids(study_id: int, rung: int | None = None) -> sa.Select[Any]:
    """The ids of the trials of a study that pause, at that rung or at any."""
    at_rung = TRIAL_ATTRS.c.value_json != "null" if rung is None else TRIAL_ATTRS.c.value_json == json.dumps(rung)
    return sa.select(TRIALS.c.trial_id).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == "WAITING",
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
        TRIAL_ATTRS.c.key == PAUSED,
        at_rung,
    )


@contextmanager
def gc_paused() -> Iterator[None]:
    """Let Python's collector rest: of a quarter million new objects none is garbage, and it would look at them again
    and again, for nearly half of the time that 5,000 trials take.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def stored_trials(connection: sa.Connection, chosen: sa.Select[Any], *, whole: bool = True) -> list[StoredTrial]:
    """The trials whose ids `chosen` selects, by number: one SELECT for each table, however many trials.

    Unless `whole`, those that run come without their user attributes and curves.
    """
    ids = sa.select(chosen.subquery().c.trial_id)
    told = ids if whole else sa.select(chosen.where(TRIALS.c.state != "RUNNING").subquery().c.trial_id)

    def of(table: sa.TableClause, *columns: str, which: sa.Select[Any] = ids) -> Mapping[int, list[Sequence[Any]]]:
        """The rows of a table by trial; the first cell of a row is the trial's id."""
        names = [table.c[name] for name in columns]
        grouped: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
        for row in connection.execute(sa.select(table.c.trial_id, *names).where(table.c.trial_id.in_(which))).all():
            grouped[row[0]].append(row)
        return grouped

    attrs, system = of(TRIAL_ATTRS, "key", "value_json", which=told), of(SYSTEM_ATTRS, "key", "value_json")
    params = of(PARAMS, "param_id", "param_name", "param_value", "distribution_json")
    values = of(VALUES, "objective", "value", "value_type")
    curves = of(CURVES, "step", "intermediate_value", "intermediate_value_type", which=told)
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
    """The trials whose ids `chosen` selects, by number, as answers show them."""
    with gc_paused():
        return tuple(_trial(study_name, stored) for stored in stored_trials(connection, chosen))


def _trial(study_name: str, stored: StoredTrial) -> TrialRecord:
    attrs = {**stored.attrs, **stored.system}
    # A trial that waits for its first start has no parameters yet, but may be bound to some.
    drawn = {base_name(name): value for name, value in (attrs.get("fixed_params") or {}).items()}
    drawn |= {base_name(name): _external(value, distribution) for name, value, distribution in stored.params}
    config = attrs.get("config") or {}
    drawn |= {key: config[key] for key in drawn if key in config}  # what was trained, where that was changed to fit
    return TrialRecord(
        study=study_name,
        number=stored.number,
        state=stored.state,
        paused=attrs.get(PAUSED) if stored.state == "WAITING" else None,
        values=stored.values,
        repeat=drawn.pop(REPEAT, None),
        params=drawn,
        curve=stored.curve,
        attempts=attrs.get("attempts") or 0,
        epochs=attrs.get("epochs") or 0.0,
        seconds=attrs.get("seconds") or 0.0,
        reason=attrs.get("reason"),
        violation=attrs.get(f"constraints:{TRAINABLE}") or 0.0,
        fitted=tuple(attrs.get(FITTED) or ()),
        correct=attrs.get(CORRECT) or {},
        crashes=tuple(attrs.get("crashes") or ()),
        retrained_attempts=tuple(attrs.get("anew") or ()),
        config=config,
        parameters=attrs.get("parameters"),
        macs=attrs.get("macs"),
        images_per_second=attrs.get("images_per_second"),
        latency_ms=attrs.get("latency_ms"),
        seed=attrs.get("seed"),
        spared=attrs.get(SPARED),
        test=attrs.get("test"),
        started=_utc(stored.started),
        completed=_utc(stored.completed),
    )


_second = itemgetter(1)


def _decoded(text: str) -> Any:
    """A value that is stored as JSON; a list or an object is a new one each time."""
    return json.loads(text) if text.startswith(("[", "{")) else _decoded_scalar(text)


@lru_cache(maxsize=4096)
def _decoded_scalar(text: str) -> Any:
    return json.loads(text)


def _number(value: float | None, kind: str) -> float:
    """The value that Optuna stores as a kind and, where it is finite, a number."""
    if kind == "FINITE":
        return math.nan if value is None else value  # SQLite stores a NaN as NULL
    return _NUMBERS[kind]


def _external(value: float, distribution: str) -> Any:
    """The value as the objective saw it; Optuna stores the index of a choice, and integers as floats."""
    stored = json.loads(distribution)
    choices = stored["attributes"].get("choices")
    if choices is not None:
        return choices[int(value)]
    return int(value) if stored["name"].startswith("Int") else value


def _utc(stored: datetime | None) -> datetime | None:
    return stored and stored.replace(tzinfo=UTC)
