"""`convsearch copy-study`: copy a study from one database to another, with its verdicts and files.

The rows keep all values except the IDs that a database assigns. They are written and read back in one transaction: a
copy is complete and equal, field by field, or does not exist. The files are copied first: `convsearch clean` removes
files without a study, but a study without files would train its trials again.
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
from search.storage import attr_keys, queries
from search.storage.leases import has_no_live_owner
from search.storage.rdb import Storage
from search.study import stored_study
from search.study.stored_study import StoredStudy

#: Optuna's own tables: a copy has all their columns, and `search.storage.tables` only those that are used.
STUDIES: sa.Table = models.StudyModel.__table__
TRIALS: sa.Table = models.TrialModel.__table__
#: Every Optuna table with rows of a study, except the table of studies.
TABLES: tuple[sa.Table, ...] = tuple(
    table
    for table in models.BaseModel.metadata.sorted_tables
    if table is not STUDIES and {"study_id", "trial_id"} & set(table.columns.keys())
)
#: Rows per INSERT statement: PostgreSQL allows 65,535 values in one statement.
ROWS = 5000

Rows = Mapping[sa.Table, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyResult:
    """The copied studies, with the numbers of their trials, rows and bytes."""

    studies: tuple[str, ...]
    trials: int
    rows: int
    """Rows in all tables."""
    size: int
    """Size of the files in bytes."""


def copy(source_url: str, target_url: str, name: str, *, say: Say) -> CopyResult:
    """Copy a study, its verdicts and their files.

    Args:
        source_url: The URL of the database that has the study.
        target_url: The URL of the other database, which is created if missing.
        name: The name of the study.
        say: Prints progress messages.

    Raises:
        UsageError: There is no such study, or the target has a study of this name.
        BusyError: Another process works on the study.
        DatabaseError, DiskError: A database or a disk does not answer; nothing was copied.
    """
    source = Storage(source_url)
    row = queries.study(source.engine, name)
    names = (name, *queries.verdicts(source.engine, name))
    source_dirs, target_dirs = study_dir.of(source_url), study_dir.of(target_url)
    target_dirs.make()
    target = Storage(target_url, create=True)
    with ExitStack() as locks:
        for study in names if row.spec else ():
            locks.enter_context(source_dirs.running(study))
        for study in names if row.spec else ():
            stored = stored_study.load(source, study)
            requeue_stopped(source, stored, source_dirs)
            if not has_no_live_owner(source, stored.id, say):
                raise BusyError(f"others work on {study!r}; `convsearch stop {study}` first")
        rows_of = {study: source.read(partial(_read, name=study)) for study in names}
        for study in names:
            target.read(partial(_check_free, name=study))  # before any file is copied
        size = sum(target_dirs.copy(study, source_dirs) for study in names) if row.spec else 0
        keys = {study: uuid.uuid4().hex for study in names if row.spec.get("checkpoints")}
        target.write(partial(_write_all, rows_of=rows_of, storage=target, keys=keys))
        for study, key in keys.items():
            _copy_remote(stored_study.load(source, study), key, say)
        if row.spec and target_dirs.root == source_dirs.root:
            for study in names:
                target_dirs.claim_directory(study)
            say(f"both databases keep files in {target_dirs.root}: those of {name!r} belong to the copy from now on")
    return CopyResult(
        studies=names,
        trials=sum(len(tables[TRIALS]) for tables in rows_of.values()),
        rows=sum(len(rows) for tables in rows_of.values() for rows in tables.values()),
        size=size,
    )


def _read(connection: sa.Connection, name: str) -> Rows:
    """All rows of a study by table, in the order of their IDs."""
    study_id = queries.find_study(connection, name)
    trial_ids = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    rows_of: dict[sa.Table, Sequence[Mapping[str, Any]]] = {}
    for table in TABLES:
        is_in_study = table.c.study_id == study_id if "study_id" in table.c else table.c.trial_id.in_(trial_ids)
        rows = connection.execute(sa.select(table).where(is_in_study).order_by(*table.primary_key)).mappings()
        rows_of[table] = [dict(row) for row in rows]
    running = [row["number"] for row in rows_of[TRIALS] if row["state"] == TrialState.RUNNING]
    if running:
        raise BusyError(f"{len(running)} trials of {name!r} are running; `convsearch stop {name}` first")
    return rows_of


def _copy_remote(stored: StoredStudy, key: str, say: Say) -> None:
    """Copy the remote checkpoints as well: one study may remove files that the other still needs."""
    remote = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
    if remote is None:
        return
    try:
        remote.copy(key)
    except RemoteStoreError as error:
        say(f"the copy has no checkpoints of {stored.name!r} in {remote.client.url}, but those on this disk: {error}")


def _write_all(
    connection: sa.Connection, rows_of: Mapping[str, Rows], storage: Storage, keys: Mapping[str, str]
) -> None:
    for name, rows in rows_of.items():
        study_id = _write(connection, name, rows)
        if name in keys:
            stored_study.write_attrs(storage, connection, study_id, {attr_keys.REMOTE_FOLDER: keys[name]})


def _write(connection: sa.Connection, name: str, rows: Rows) -> int:
    """Write the rows of a study with new IDs, check them and return the new study ID."""
    _check_free(connection, name)
    insert_study = sa.insert(STUDIES).values(study_name=name).returning(STUDIES.c.study_id)
    study_id = int(connection.execute(insert_study).scalar_one())
    trial_ids: dict[int, int] = {}
    for table in sorted(rows, key=lambda table: table is not TRIALS):
        renumbered = [_renumbered(table, row, study_id, trial_ids) for row in rows[table]]
        for first in range(0, len(renumbered), ROWS):
            batch = renumbered[first : first + ROWS]
            if table is TRIALS:
                insert = sa.insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)
                new_ids = connection.execute(insert, batch).scalars()
                old_ids = (row["trial_id"] for row in rows[table][first : first + ROWS])
                trial_ids.update(zip(old_ids, new_ids, strict=True))
            else:
                connection.execute(sa.insert(table), batch)
    _check_equal(rows, _read(connection, name), trial_ids)
    return study_id


def _check_free(connection: sa.Connection, name: str) -> None:
    if connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).first():
        raise UsageError(f"the other database has a study {name!r} already; delete one of the two first")


def _renumbered(table: sa.Table, row: Mapping[str, Any], study_id: int, trial_ids: Mapping[int, int]) -> dict[str, Any]:
    """A row without its primary key, and with the IDs of the new study and trial."""
    primary_key = {column.name for column in table.primary_key}
    kept = {name: value for name, value in row.items() if name not in primary_key}
    if "study_id" in kept:
        kept["study_id"] = study_id
    if "trial_id" in kept:
        kept["trial_id"] = trial_ids[kept["trial_id"]]
    return kept


def _check_equal(before: Rows, after: Rows, trial_ids: Mapping[int, int]) -> None:
    """Compare every field of every row except the IDs."""
    for table in TABLES:
        expected = [_renumbered(table, row, 0, trial_ids) for row in before[table]]
        actual = [_renumbered(table, row, 0, {new: new for new in trial_ids.values()}) for row in after[table]]
        if expected != actual:
            raise DatabaseError(f"the rows of {table.name} did not come back as they were written; nothing was copied")
