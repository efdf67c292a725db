"""`convsearch copy-study`: a study from one database into another, with the verdicts on it and its files.

The rows keep all but the numbers that a database counts by itself. They are written in one transaction and read back in
it, so that a copy is there whole and equal, field by field, or not at all. The files come first: without their study
they are litter, which `convsearch clean` removes; a study without them would train its trials again.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from data.progress import Say
from search.artifacts import remote_checkpoints, study_dir
from search.artifacts.remote_store import RemoteStoreError
from search.errors import BusyError, DatabaseError, UsageError
from search.optuna_internals import models
from search.service.session import requeue_stopped
from search.storage import queries
from search.storage.lease_expiry import has_no_live_owner
from search.storage.rdb import Storage
from search.storage.tables import STUDIES, TRIALS
from search.study import stored_study
from search.study.stored_study import StoredStudy

#: Every table of Optuna's with rows of a study, but the study's own.
TABLES: tuple[sa.Table, ...] = tuple(
    table
    for table in models.BaseModel.metadata.sorted_tables
    if table is not STUDIES and {"study_id", "trial_id"} & set(table.columns.keys())
)
#: Rows that are written by one statement: PostgreSQL takes 65,535 values in one.
ROWS = 5000

Rows = Mapping[sa.Table, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyResult:
    """What has come into the other database."""

    studies: tuple[str, ...]
    trials: int
    rows: int
    """In all tables together."""
    size: int
    """Bytes of files."""


def copy(source_url: str, target_url: str, name: str, *, say: Say) -> CopyResult:
    """Copy the study `name`, the verdicts on it and their files.

    Raises:
        UsageError: there is no such study, or one of that name in the other database.
        BusyError: somebody works on it.
        DatabaseError, DiskError: a database or a disk does not answer; nothing was copied.
    """
    source = Storage(source_url)
    row = queries.study(source.engine, name)
    names = (name, *queries.verdicts(source.engine, name))
    old, new = study_dir.of(source_url), study_dir.of(target_url)
    new.make()
    target = Storage(target_url, create=True)
    with ExitStack() as locks:
        for each in names if row.spec else ():
            locks.enter_context(old.running(each))
        for each in names if row.spec else ():
            stored = stored_study.load(source, each)
            requeue_stopped(source, stored, old)
            if not has_no_live_owner(source, stored.id, say):
                raise BusyError(f"others work on {each!r}; `convsearch stop {each}` first")
        found = {each: source.read(partial(_read, name=each)) for each in names}
        for each in names:
            target.read(partial(_check_free, name=each))  # before any file is copied
        size = sum(new.copy(each, old) for each in names) if row.spec else 0
        keys = {each: uuid.uuid4().hex for each in names if row.spec.get("checkpoints")}
        target.write(partial(_write_all, found=found, storage=target, keys=keys))
        for each, key in keys.items():
            _copy_depot(stored_study.load(source, each), key, say)
        if row.spec and new.root == old.root:
            for each in names:
                new.claim_directory(each)
            say(f"both databases keep files in {new.root}: those of {name!r} belong to the copy from now on")
    return CopyResult(
        studies=names,
        trials=sum(len(rows[TRIALS]) for rows in found.values()),
        rows=sum(len(rows) for tables in found.values() for rows in tables.values()),
        size=size,
    )


def _read(connection: sa.Connection, name: str) -> Rows:
    """All rows of a study, in the order in which they were made."""
    study_id = queries.find_study(connection, name)
    theirs = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    found: dict[sa.Table, Sequence[Mapping[str, Any]]] = {}
    for table in TABLES:
        own = table.c.study_id == study_id if "study_id" in table.c else table.c.trial_id.in_(theirs)
        rows = connection.execute(sa.select(table).where(own).order_by(*table.primary_key)).mappings()
        found[table] = [dict(row) for row in rows]
    at_work = [row["number"] for row in found[TRIALS] if row["state"] == TrialState.RUNNING]
    if at_work:
        raise BusyError(f"{len(at_work)} trials of {name!r} are running; `convsearch stop {name}` first")
    return found


def _copy_depot(stored: StoredStudy, key: str, say: Say) -> None:
    """Copy the far checkpoints, too: both may go on, and what one removes the other may need."""
    far = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
    if far is None:
        return
    try:
        far.copy(key)
    except RemoteStoreError as error:
        say(f"the copy has no checkpoints of {stored.name!r} in {far.client.url}, but those on this disk: {error}")


def _write_all(connection: sa.Connection, found: Mapping[str, Rows], storage: Storage, keys: Mapping[str, str]) -> None:
    for name, rows in found.items():
        study_id = _write(connection, name, rows)
        if name in keys:
            stored_study.write_attrs(storage, connection, study_id, depot=keys[name])


def _write(connection: sa.Connection, name: str, rows: Rows) -> int:
    """Write the rows of a study under new numbers, and read them back; its number."""
    _check_free(connection, name)
    made = sa.insert(STUDIES).values(study_name=name).returning(STUDIES.c.study_id)
    study_id = int(connection.execute(made).scalar_one())
    trial_ids: dict[int, int] = {}
    for table in sorted(rows, key=lambda table: table is not TRIALS):
        renumbered = [_renumbered(table, row, study_id, trial_ids) for row in rows[table]]
        for first in range(0, len(renumbered), ROWS):
            some = renumbered[first : first + ROWS]
            if table is TRIALS:
                insert = sa.insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
                ids = connection.execute(insert, some).scalars()
                old = (row["trial_id"] for row in rows[table][first : first + ROWS])
                trial_ids.update(zip(old, ids, strict=True))
            else:
                connection.execute(sa.insert(table), some)
    _check_equal(rows, _read(connection, name), trial_ids)
    return study_id


def _check_free(connection: sa.Connection, name: str) -> None:
    if connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).first():
        raise UsageError(f"the other database has a study {name!r} already; delete one of the two first")


def _renumbered(table: sa.Table, row: Mapping[str, Any], study_id: int, trial_ids: Mapping[int, int]) -> dict[str, Any]:
    """A row without the number that the database gives it, and with those of the new study and trial."""
    own = {column.name for column in table.primary_key}
    kept = {name: value for name, value in row.items() if name not in own}
    if "study_id" in kept:
        kept["study_id"] = study_id
    if "trial_id" in kept:
        kept["trial_id"] = trial_ids[kept["trial_id"]]
    return kept


def _check_equal(before: Rows, after: Rows, trial_ids: Mapping[int, int]) -> None:
    """Compare every field of every row but the numbers of the database."""
    for table in TABLES:
        expected = [_renumbered(table, row, 0, trial_ids) for row in before[table]]
        found = [_renumbered(table, row, 0, {new: new for new in trial_ids.values()}) for row in after[table]]
        if expected != found:
            raise DatabaseError(f"the rows of {table.name} did not come back as they were written; nothing was copied")
