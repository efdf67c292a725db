"""Write transactions and fencing: the storage for Optuna and for all writes of this package.

`Storage` replaces the trial writes of Optuna's `RDBStorage`. On SQLite Optuna selects before it updates, in a
transaction that takes no lock until the update (`SELECT ... FOR UPDATE` is ignored there); two workers can then do the
same work (optuna/optuna#4002, #4621). Here every write is one transaction that holds the write lock from its first
statement. Every write to a trial first checks, inside that transaction, that this process owns the trial.

Every call is retried while the database is locked or its server restarts. A call may therefore run twice: the answer to
a COMMIT can be lost after the commit. Writes are upserts; a claim and a tell recognise their earlier attempt.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.errors import LeaseLostError
from search.optuna_internals import models
from search.storage import attr_keys
from search.storage.tables import (
    CURVES,
    LEASES,
    STUDY_SYSTEM_ATTRS,
    TRIAL_ATTRS,
    TRIAL_PARAMS,
    TRIAL_SYSTEM_ATTRS,
    TRIAL_VALUES,
    TRIALS,
)
from search.storage.transactions import TransactionalStorage, Upsert, Write, attr, fenced_upsert, group_statements

T = TypeVar("T")

#: Selects and locks the token that holds a running trial; no row if the trial is not held.
_LEASE_HOLDER = (
    sa.select(LEASES.c.token)
    .join(TRIALS, TRIALS.c.trial_id == LEASES.c.trial_id)
    .where(LEASES.c.trial_id == sa.bindparam("held_id"), TRIALS.c.state == "RUNNING")
    .with_for_update(of=LEASES)
)


def _retrying(call: Callable[..., T]) -> Callable[..., T]:
    """Wrap a method of Optuna's storage with retries while the database is busy or unreachable."""

    @functools.wraps(call)
    def method(self: "Storage", *args: Any, **kwargs: Any) -> T:
        return self.retry_transient(lambda: call(self, *args, **kwargs))

    return method


class Storage(TransactionalStorage):
    """Optuna's storage with atomic, fenced writes. Thread-safe, except for `batch()`, which belongs to one thread."""

    _batched: list[tuple[int, Write]] | None = None
    _check: Callable[[sa.Connection], None] | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Collect the trial writes of the block and apply them in one transaction at its end; none if it raises."""
        self._batched = []
        try:
            yield
            writes, check = self._batched, self._check
        finally:
            self._batched = self._check = None
        if writes:
            self._apply(writes, check)

    def check_batch(self, check: Callable[[sa.Connection], None]) -> None:
        """Call `check` in the transaction of the current batch, before its writes; an error of it discards them."""
        self._check = check

    def _write_trial(self, trial_id: int, *writes: Write) -> None:
        if self._batched is not None:
            self._batched.extend((trial_id, write) for write in writes)
            return
        self._apply([(trial_id, write) for write in writes])

    def _apply(self, writes: Sequence[tuple[int, Write]], check: Callable[[sa.Connection], None] | None = None) -> None:
        trial_ids = {trial_id for trial_id, _ in writes}
        upserts = [write for _, write in writes if isinstance(write, Upsert)]
        is_one_statement = check is None and len(trial_ids) == 1 and len(upserts) == len(writes)
        if self.engine.dialect.name == "postgresql" and is_one_statement:
            self._write_rows(trial_ids.pop(), upserts)
            return
        statements = group_statements(self.engine.dialect.name, [write for _, write in writes])
        was_attempted = False

        def apply(connection: sa.Connection) -> None:
            nonlocal was_attempted
            is_retry, was_attempted = was_attempted, True
            if is_retry and all(self._was_finished_here(connection, trial_id) for trial_id in trial_ids):
                return  # an earlier attempt was committed, and only its answer was lost
            if check is not None:
                check(connection)
            for trial_id in trial_ids:
                self._check_owner(connection, trial_id)
            for statement, rows in statements:
                connection.execute(statement, rows)

        self.write(apply)

    def _write_rows(self, trial_id: int, rows: Sequence[Upsert]) -> None:
        """Upsert rows of one trial in one statement: one round trip instead of five."""
        statement, parameters = fenced_upsert(_LEASE_HOLDER, rows, self.token or "")

        def upsert_rows() -> None:
            with self._at_once.connect() as connection:
                self._require_ownership(
                    trial_id, connection.execute(statement, parameters | {"held_id": trial_id}).scalar_one_or_none()
                )

        self.retry_transient(upsert_rows)

    def _was_finished_here(self, connection: sa.Connection, trial_id: int) -> bool:
        """Whether this process finished the trial."""
        of_trial = (TRIAL_SYSTEM_ATTRS.c.trial_id == trial_id, TRIAL_SYSTEM_ATTRS.c.key == attr_keys.FINISHED_BY)
        token = connection.execute(sa.select(TRIAL_SYSTEM_ATTRS.c.value_json).where(*of_trial)).scalar_one_or_none()
        return token is not None and json.loads(token) == self.token

    def _check_owner(self, connection: sa.Connection, trial_id: int) -> None:
        """The fence: only the lease holder writes to a trial, and only while the trial is RUNNING.

        The lease's row is locked. After a wait for a row lock, PostgreSQL reads that row again, and only that row
        (https://www.postgresql.org/docs/current/transaction-iso.html, Read Committed). A lease that ended during the
        wait is therefore not found.
        """
        self._require_ownership(trial_id, connection.execute(_LEASE_HOLDER, {"held_id": trial_id}).scalar_one_or_none())

    def _require_ownership(self, trial_id: int, token: str | None) -> None:
        if self.token is None or token != self.token:
            raise LeaseLostError(f"trial id {trial_id} is finished, or belongs to another process; nothing was written")

    def name_objectives(self, connection: sa.Connection, study_id: int, objectives: Sequence[str]) -> None:
        """Store the names of a study's objectives for the dashboard; Optuna's own method is experimental."""
        keys: dict[str, object] = {"study_id": study_id, "key": "study:metric_names"}
        connection.execute(self.upsert(STUDY_SYSTEM_ATTRS, keys, {"value_json": json.dumps(list(objectives))}))

    def trial_attr(self, trial_id: int, key: str, value: object) -> sa.Executable:
        """Return the statement that sets a user attribute of a trial."""
        return self.upsert(TRIAL_ATTRS, {"trial_id": trial_id, "key": key}, {"value_json": json.dumps(value)})

    # -- Optuna's trial writes, each in one locked and fenced transaction ------------------------------------

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        values = {"param_value": param_value_internal, "distribution_json": distribution_to_json(distribution)}
        self._write_trial(trial_id, Upsert(TRIAL_PARAMS, {"trial_id": trial_id, "param_name": param_name}, values))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Finish a trial and end its lease in one transaction.

        Claims are in `search.storage.claims`, and releases in `search.storage.leases`.
        """
        if not state.is_finished():
            raise ValueError(f"only search.storage.claims and leases set a trial to {state.name}")
        writes: list[Write] = []
        for objective, value in enumerate(values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            keys: dict[str, object] = {"trial_id": trial_id, "objective": objective}
            writes.append(Upsert(TRIAL_VALUES, keys, {"value": stored, "value_type": kind.name}))
        writes.append(attr(TRIAL_SYSTEM_ATTRS, trial_id, attr_keys.FINISHED_BY, self.token))
        self._write_trial(trial_id, *writes, *finish_statement(trial_id, state.name))
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        keys: dict[str, object] = {"trial_id": trial_id, "step": step}
        values: dict[str, object] = {"intermediate_value": stored, "intermediate_value_type": kind.name}
        self._write_trial(trial_id, Upsert(CURVES, keys, values))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write_trial(trial_id, attr(TRIAL_ATTRS, trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write_trial(trial_id, attr(TRIAL_SYSTEM_ATTRS, trial_id, key, value))

    # -- Optuna's study writes, unchanged, but under the write lock ------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._locked(lambda: super(Storage, self).create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        self.write(lambda connection: connection.execute(sa.delete(LEASES).where(LEASES.c.study_id == study_id)))
        was_attempted = False

        def delete() -> None:
            nonlocal was_attempted
            is_retry, was_attempted = was_attempted, True
            try:
                super(Storage, self).delete_study(study_id)
            except KeyError:
                if not is_retry:  # otherwise an earlier attempt was committed, and only its answer was lost
                    raise

        self._locked(delete)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._locked(lambda: super(Storage, self).set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._locked(lambda: super(Storage, self).set_study_system_attr(study_id, key, value))

    def _locked(self, call: Callable[[], T]) -> T:
        def locked() -> T:
            with self._locked_session():
                return call()

        return self.retry_transient(locked)

    @contextmanager
    def _locked_session(self) -> Iterator[None]:
        self.scoped_session.remove()
        self.scoped_session.configure(bind=self._writer)
        try:
            yield
        finally:
            self.scoped_session.remove()
            self.scoped_session.configure(bind=self.engine)

    # -- Optuna's reads, retried while the database is busy ---------------------------------------------------

    get_all_studies = _retrying(RDBStorage.get_all_studies)
    get_study_directions = _retrying(RDBStorage.get_study_directions)
    get_study_id_from_name = _retrying(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _retrying(RDBStorage.get_study_name_from_id)
    get_study_system_attrs = _retrying(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = _retrying(RDBStorage.get_study_user_attrs)

    # -- additional reads ------------------------------------------------------------------------------------

    def rank_at_step(
        self,
        study_id: int,
        step: int,
        value: float,
        *,
        but: int,
        left_out: frozenset[int] = frozenset(),
        later: tuple[int, ...] = (),
    ) -> tuple[int, int]:
        """Rank a value among the intermediate values of other trials at `step`. Failed trials do not count.

        Args:
            study_id: Id of the study.
            step: Step of the intermediate values.
            value: Value to rank; a higher value is better.
            but: Number of the trial to exclude.
            left_out: Numbers of further trials to exclude.
            later: Steps after `step`. Trials that are judged only from one of these on are excluded.

        Returns:
            The number of trials with a better value at `step`, and the number of trials with any value there.
        """
        intermediate_value = CURVES.c.intermediate_value
        count = sa.select(sa.func.count().filter(intermediate_value > value), sa.func.count()).where(
            CURVES.c.trial_id == TRIALS.c.trial_id,
            TRIALS.c.study_id == study_id,
            TRIALS.c.number != but,
            _none_of(left_out),
            ~judged_later(later),
            TRIALS.c.state != "FAIL",
            CURVES.c.step == step,
            intermediate_value.is_not(None),  # SQLite stores a NaN as NULL
        )
        better, others = self.read(lambda connection: connection.execute(count).one())
        return better, others


@lru_cache(maxsize=8)
def _none_of(numbers: frozenset[int]) -> sa.ColumnElement[bool]:
    """Condition that a trial has none of these numbers, as literal text: hundreds of parameters cost 6 ms per query."""
    number_list = ", ".join(map(str, sorted(numbers)))
    return sa.literal_column(f"trials.number NOT IN ({number_list})", sa.Boolean) if numbers else sa.true()


def judged_later(steps: tuple[int, ...]) -> sa.ColumnElement[bool]:
    """Return the condition that a trial is judged only from one of these steps on."""
    if not steps:
        return sa.false()
    return sa.exists().where(
        TRIAL_ATTRS.c.trial_id == TRIALS.c.trial_id,
        TRIAL_ATTRS.c.key == attr_keys.JUDGED_FROM,
        TRIAL_ATTRS.c.value_json.in_([json.dumps(step) for step in steps]),
    )


def finish_statement(trial_id: int, state: str) -> tuple[sa.Executable, sa.Executable]:
    """Return the statements that set the final state of a trial and end its lease."""
    finish = sa.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(state=state, datetime_complete=utc_now())
    return finish, sa.delete(LEASES).where(LEASES.c.trial_id == trial_id)


def utc_now() -> datetime:
    """Current time as Optuna stores it: UTC without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)
