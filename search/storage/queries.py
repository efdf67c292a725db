"""Read-only queries: plain SELECTs whose rows are converted to frozen records at once.

Neither Optuna nor torch is loaded, because a query must take well under a second.
"""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from search.errors import UsageError
from search.storage import attr_keys
from search.storage.read_only import display_name, read_transaction
from search.storage.records import (
    FINAL,
    RunningTrial,
    StudyProgress,
    StudyRecord,
    StudySummary,
    TestSetAccess,
    TrialCounts,
    TrialRecord,
    is_verdict,
    search_name,
)
from search.storage.tables import DIRECTIONS, LEASES, STUDIES, STUDY_ATTRS, TRIALS
from search.storage.trial_loader import (
    load_trials,
    paused_ids,
    select_best_ids,
    select_obstructed_ids,
    select_trial_ids,
)

FINISHED = ("COMPLETE", "PRUNED", "FAIL")
#: Maximum number of trials that are listed in a statement: SQLite allows 32766 values.
MAX_NAMED = 1000
_NO_OWNER: Mapping[str, Any] = {"host": None, "pid": None}


def studies(engine: sa.Engine) -> tuple[StudyRecord, ...]:
    """Return all studies, sorted by name."""
    with read_transaction(engine) as connection:
        rows = connection.execute(sa.select(STUDIES).order_by(STUDIES.c.study_name)).all()
        return tuple(read_study(connection, study_id, name) for study_id, name in rows)


def study_summaries(engine: sa.Engine) -> tuple[StudySummary, ...]:
    """Return all studies made by convsearch, verdicts first, then by name. Two SELECTs serve any number of studies."""
    wanted = (
        attr_keys.UID,
        attr_keys.BUDGET,
        attr_keys.HOURS,
        attr_keys.SECONDS_RUN,
        attr_keys.STOP,
        attr_keys.NOTHING_FOUND,
        attr_keys.SPEC,
    )
    pairs = sa.select(STUDY_ATTRS.c.study_id, STUDIES.c.study_name, STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_ATTRS.c.key.in_(wanted)
    )
    states = sa.select(TRIALS.c.study_id, TRIALS.c.state, sa.func.count()).group_by(TRIALS.c.study_id, TRIALS.c.state)
    with read_transaction(engine) as connection:
        study_attrs: dict[int, dict[str, Any]] = {}
        for study_id, name, key, text in connection.execute(pairs):
            study_attrs.setdefault(study_id, {"name": name})[key] = json.loads(text)
        counts = {(study_id, state): count for study_id, state, count in connection.execute(states)}
    verdict_keys = {
        (attrs["name"], attrs[attr_keys.SPEC].get("verdict_on"))
        for attrs in study_attrs.values()
        if attr_keys.SPEC in attrs
    }
    summaries = [
        StudySummary(
            name=attrs["name"],
            uid=attrs[attr_keys.UID],
            budget=attrs[attr_keys.BUDGET],
            finished=sum(counts.get((study_id, state), 0) for state in FINISHED),
            running=counts.get((study_id, "RUNNING"), 0),
            hours=attrs.get(attr_keys.HOURS),
            seconds_run=attrs.get(attr_keys.SECONDS_RUN) or 0.0,
            stop=bool(attrs.get(attr_keys.STOP)),
            nothing_found=bool(attrs.get(attr_keys.NOTHING_FOUND)),
            has_final=attrs[attr_keys.SPEC].get("final") is not None,
            has_verdict=(f"{attrs['name']}{FINAL}", attrs[attr_keys.UID]) in verdict_keys,
            is_verdict=attrs[attr_keys.SPEC].get("verdict_on") is not None,
        )
        for study_id, attrs in study_attrs.items()
        if attr_keys.SPEC in attrs
    ]
    return tuple(sorted(summaries, key=lambda summary: (not summary.is_verdict, summary.name)))


def study(engine: sa.Engine, name: str) -> StudyRecord:
    """Return the study called `name`.

    Raises:
        UsageError: There is no such study; the message has similar names.
    """
    with read_transaction(engine) as connection:
        return read_study(connection, find_study(connection, name), name)


def is_known(engine: sa.Engine, name: str) -> bool:
    """Whether convsearch has made a study of that name; a launcher that died can leave a row without a spec."""
    made = sa.select(STUDIES.c.study_id).where(
        STUDIES.c.study_name == name, STUDY_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_ATTRS.c.key == attr_keys.SPEC
    )
    with read_transaction(engine) as connection:
        return connection.execute(made).first() is not None


def verdicts(engine: sa.Engine, name: str) -> tuple[str, ...]:
    """Return the names of the verdicts on a search, in the order of their creation.

    Verdicts on a deleted search of the same name are excluded, and so are rows without a spec, which a launcher that
    died can leave.
    """
    specs = sa.select(STUDIES.c.study_name, STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_ATTRS.c.key == attr_keys.SPEC
    )
    uid_of_search = sa.select(STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_ATTRS.c.key == attr_keys.UID, STUDIES.c.study_name == name
    )
    with read_transaction(engine) as connection:
        uid = connection.execute(uid_of_search).scalar()
        rows = connection.execute(specs.order_by(STUDIES.c.study_id)).all()
    named = [
        (verdict, json.loads(spec)) for verdict, spec in rows if is_verdict(verdict) and search_name(verdict) == name
    ]
    return tuple(verdict for verdict, spec in named if uid is not None and spec.get("verdict_on") == json.loads(uid))


def test_set_accesses(engine: sa.Engine, fingerprint: str) -> tuple[TestSetAccess, ...]:
    """Return the studies that have used the test images of the data set with this fingerprint, and when."""
    accesses = []
    for record in studies(engine):
        if record.data.get("fingerprint") == fingerprint and record.spec.get("verdict_on") is not None:
            times = sorted(trial.test["time"] for trial in trials(engine, record.name) if trial.test is not None)
            accesses += (
                [TestSetAccess(study=record.name, networks=len(times), first=times[0], last=times[-1])] if times else []
            )
    return tuple(accesses)


def trial(engine: sa.Engine, name: str, number: int) -> TrialRecord:
    """Return trial `number` of a study.

    Raises:
        UsageError: There is no such study, or no such trial in it.
    """
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        records = load_trials(connection, name, select_trial_ids(study_id).where(TRIALS.c.number == number))
        count = connection.execute(
            sa.select(sa.func.count()).select_from(select_trial_ids(study_id).subquery())
        ).scalar_one()
    if records:
        return records[0]
    range_hint = f"it has trials 0 to {count - 1}" if count else "it has no trials yet"
    raise UsageError(f"study {name!r} has no trial {number}; {range_hint}")


def trials(engine: sa.Engine, name: str) -> tuple[TrialRecord, ...]:
    """Return all trials of a study, sorted by number. Raises `UsageError` if there is no such study."""
    with read_transaction(engine) as connection:
        return load_trials(connection, name, select_trial_ids(find_study(connection, name)))


def obstructed(engine: sa.Engine, name: str) -> tuple[TrialRecord, ...]:
    """Return the trials of a study that ended without a result (`TrialRecord.obstacle`), sorted by number.

    Raises:
        UsageError: There is no such study.
    """
    with read_transaction(engine) as connection:
        return load_trials(connection, name, select_obstructed_ids(find_study(connection, name)))


def progress(
    engine: sa.Engine,
    name: str,
    *,
    seen: Collection[int] = frozenset(),
    tokens: Collection[str] | None = None,
    known: StudyRecord | None = None,
) -> StudyProgress:
    """Return the progress of a study in one cheap read.

    Args:
        engine: Read-only engine.
        name: Name of the study.
        seen: Numbers of finished trials to leave out.
        tokens: Owners whose running trials are read; None for all owners. On many machines, each reads its own.
        known: The study as read before; its constant fields are not read again.

    Returns:
        The study, its running trials, and its finished trials that are not in `seen`.

    Raises:
        UsageError: There is no such study.
    """
    with read_transaction(engine) as connection:
        study_id = find_study(connection, name)
        new = _finished(connection, study_id).difference(seen)
        finished = _numbered(connection, study_id, name, new) if new else ()
        running = _running(connection, study_id, name, tokens)
        record = read_study(connection, study_id, name) if known is None else _refresh(connection, study_id, known)
    return StudyProgress(study=record, running=running, finished=finished)


def workers(engine: sa.Engine) -> tuple[RunningTrial, ...]:
    """Return all running trials of all studies with their workers, sorted by start time."""
    with read_transaction(engine) as connection:
        rows = connection.execute(sa.select(STUDIES).order_by(STUDIES.c.study_name)).all()
        running = [active for study_id, name in rows for active in _running(connection, study_id, name)]
    return tuple(sorted(running, key=lambda active: (active.trial.started is None, active.trial.started)))


def _running(
    connection: sa.Connection, study_id: int, name: str, tokens: Collection[str] | None = None
) -> tuple[RunningTrial, ...]:
    chosen = select_trial_ids(study_id).where(TRIALS.c.state == "RUNNING")
    if tokens is not None:
        held = sa.select(LEASES.c.trial_id).where(LEASES.c.token.in_(tokens))
        chosen = chosen.where(TRIALS.c.trial_id.in_(held))
    ids = connection.execute(chosen).scalars().all()  # selected once, not for each table
    active = load_trials(connection, name, select_trial_ids(study_id).where(TRIALS.c.trial_id.in_(ids))) if ids else ()
    owners = _owners(connection, study_id) if active else {}
    return tuple(RunningTrial(trial=trial, **owners.get(trial.number, _NO_OWNER)) for trial in active)


def find_study(connection: sa.Connection, name: str) -> int:
    """Return the id of the study called `name`.

    Raises:
        UsageError: There is no such study.
    """
    ids = dict(connection.execute(sa.select(STUDIES.c.study_name, STUDIES.c.study_id)).all())
    if name in ids:
        return int(ids[name])
    where = display_name(connection.engine)
    if not ids:
        raise UsageError(f"there is no study {name!r}: {where} holds none yet; `convsearch run {name}` begins it")
    near = difflib.get_close_matches(name, ids, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`convsearch studies` lists all"
    raise UsageError(f"there is no study {name!r} in {where}; {hint}")


def read_study(connection: sa.Connection, study_id: int, name: str) -> StudyRecord:
    """Return the study with this id, which is called `name`."""
    rows = sa.select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == study_id)
    ordered = connection.execute(rows.order_by(DIRECTIONS.c.objective)).scalars()
    directions = tuple(direction.lower() for direction in ordered)
    pairs = sa.select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(STUDY_ATTRS.c.study_id == study_id)
    attrs = {key: json.loads(value) for key, value in connection.execute(pairs)}
    return StudyRecord(
        name=name,
        question=attrs.get(attr_keys.QUESTION) or "",
        directions=directions,
        counts=_counts(connection, study_id, attrs.get(attr_keys.BUDGET)),
        best=_best(connection, study_id, name, directions),
        **_changing_fields(attrs),
        spec=attrs.get(attr_keys.SPEC) or {},
        data=attrs.get(attr_keys.DATA) or {},
        uid=attrs.get(attr_keys.UID),
        versions=attrs.get(attr_keys.VERSIONS) or {},
        remote_key=attrs.get(attr_keys.REMOTE_FOLDER) or attrs.get(attr_keys.UID),
    )


def _refresh(connection: sa.Connection, study_id: int, known: StudyRecord) -> StudyRecord:
    """Update a known study: its counts, the attributes that launchers write, and its best trial if that has changed."""
    if known.spec and known.spec["budget"].get("epochs") is None:  # the epochs were not set yet
        return read_study(connection, study_id, known.name)
    changing = (
        attr_keys.UID,
        attr_keys.BUDGET,
        attr_keys.CONFIGURATIONS,
        attr_keys.SECONDS_RUN,
        attr_keys.HOURS,
        attr_keys.STOP,
        attr_keys.NOTHING_FOUND,
        attr_keys.JUDGED_BEFORE,
        attr_keys.OBSTRUCTED_BEFORE,
        attr_keys.SELECTION,
    )
    pairs = sa.select(STUDY_ATTRS.c.key, STUDY_ATTRS.c.value_json).where(
        STUDY_ATTRS.c.study_id == study_id, STUDY_ATTRS.c.key.in_(changing)
    )
    attrs = {key: json.loads(value) for key, value in connection.execute(pairs)}
    if attrs.get(attr_keys.UID) != known.uid:  # deleted, and created again under its name
        return read_study(connection, study_id, known.name)
    best = select_best_ids(study_id, known.directions, 1).with_only_columns(TRIALS.c.number)
    number = connection.execute(best).scalar()
    is_same = number == (known.best and known.best.number)  # a finished trial never changes
    return replace(
        known,
        counts=_counts(connection, study_id, attrs.get(attr_keys.BUDGET)),
        best=known.best if is_same else _best(connection, study_id, known.name, known.directions),
        **_changing_fields(attrs),
    )


def _changing_fields(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `StudyRecord` from the attributes that launchers write while the study runs."""
    return {
        "seconds_run": attrs.get(attr_keys.SECONDS_RUN) or 0.0,
        "hours": attrs.get(attr_keys.HOURS),
        "configurations": attrs.get(attr_keys.CONFIGURATIONS),
        "stop": bool(attrs.get(attr_keys.STOP)),
        "nothing_found": bool(attrs.get(attr_keys.NOTHING_FOUND)),
        "judged_before": attrs.get(attr_keys.JUDGED_BEFORE) or 0,
        "obstructed_before": attrs.get(attr_keys.OBSTRUCTED_BEFORE) or 0,
        "selection": attrs.get(attr_keys.SELECTION),
        "recipe": attrs.get(attr_keys.RECIPE, {}),
    }


def _best(connection: sa.Connection, study_id: int, name: str, directions: Sequence[str]) -> TrialRecord | None:
    best_id = connection.execute(select_best_ids(study_id, directions, 1)).scalar()  # ranked once, not for each table
    if best_id is None:
        return None
    (record,) = load_trials(connection, name, select_trial_ids(study_id).where(TRIALS.c.trial_id == best_id))
    return record


def _counts(connection: sa.Connection, study_id: int, budget: int | None) -> TrialCounts:
    rows = sa.select(TRIALS.c.state, sa.func.count()).where(TRIALS.c.study_id == study_id).group_by(TRIALS.c.state)
    count: dict[str, int] = dict(connection.execute(rows).all())
    paused = paused_ids(study_id).with_only_columns(sa.func.count())
    paused_count = int(connection.execute(paused).scalar_one()) if "WAITING" in count else 0
    return TrialCounts(
        # A study of plain Optuna has no budget; its trials are counted instead.
        budget=sum(count.values()) if budget is None else budget,
        complete=count.get("COMPLETE", 0),
        pruned=count.get("PRUNED", 0),
        failed=count.get("FAIL", 0),
        running=count.get("RUNNING", 0),
        waiting=count.get("WAITING", 0) - paused_count,
        paused=paused_count,
    )


def _finished(connection: sa.Connection, study_id: int) -> frozenset[int]:
    rows = sa.select(TRIALS.c.number).where(TRIALS.c.study_id == study_id, TRIALS.c.state.in_(FINISHED))
    return frozenset(connection.execute(rows).scalars())


def _numbered(connection: sa.Connection, study_id: int, name: str, numbers: frozenset[int]) -> tuple[TrialRecord, ...]:
    chosen = select_trial_ids(study_id)
    if len(numbers) <= MAX_NAMED:
        return load_trials(connection, name, chosen.where(TRIALS.c.number.in_(numbers)))
    return tuple(trial for trial in load_trials(connection, name, chosen) if trial.number in numbers)


def _owners(connection: sa.Connection, study_id: int) -> dict[int, dict[str, Any]]:
    if not sa.inspect(connection).has_table(LEASES.name):
        return {}
    rows = sa.select(TRIALS.c.number, LEASES.c.host, LEASES.c.pid).where(
        LEASES.c.trial_id == TRIALS.c.trial_id, TRIALS.c.study_id == study_id
    )
    return {number: {"host": host, "pid": pid} for number, host, pid in connection.execute(rows)}
