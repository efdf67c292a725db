"""Plain SELECTs that load trials for Optuna's samplers, pruners and dashboard.

Optuna loads trials through SQLAlchemy's ORM, and parses the distribution of every parameter twice; that takes ten times
as long (`make bench`).
"""

from collections.abc import Callable, Container
from functools import lru_cache
from typing import TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.storage.read_only import snapshot
from search.storage.tables import TRIALS
from search.storage.trial_loader import StoredTrial, gc_paused, select_trial_ids, stored_trials

#: Maximum number of parsed distributions in the cache: a study has one for each parameter and condition.
DISTRIBUTIONS = 1024

T = TypeVar("T")


class FastReadStorage(RDBStorage):
    """Optuna's storage with faster reads of trials."""

    include_running_details = True
    """Whether running trials have their user attributes and curves when all trials are read."""

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run the read-only `work` on one snapshot of the database, and return its result."""
        with snapshot(self.engine).begin() as connection:
            return work(connection)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        chosen = sa.select(TRIALS.c.trial_id).where(TRIALS.c.trial_id == trial_id)
        trials = self.read(lambda connection: frozen_trials(connection, chosen))
        if not trials:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return trials[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return trials in these states with ids above `trial_id_greater_than` or in `included_trial_ids`."""
        chosen = select_trial_ids(study_id)
        if trial_id_greater_than >= 0:
            chosen = chosen.where(
                (TRIALS.c.trial_id > trial_id_greater_than) | TRIALS.c.trial_id.in_(sorted(included_trial_ids))
            )
        if states is not None:
            chosen = chosen.where(TRIALS.c.state.in_([state.name for state in TrialState if state in states]))
        return self.read(
            lambda connection: frozen_trials(connection, chosen, include_running_details=self.include_running_details)
        )


def frozen_trials(
    connection: sa.Connection, chosen: sa.Select[tuple[int]], *, include_running_details: bool = True
) -> list[FrozenTrial]:
    """Load trials as Optuna's `FrozenTrial`.

    Args:
        connection: Connection in a transaction.
        chosen: Selects the trial ids.
        include_running_details: Whether running trials have their user attributes and curves.

    Returns:
        The trials, sorted by number.
    """
    with gc_paused():
        return [
            _frozen(stored)
            for stored in stored_trials(connection, chosen, include_running_details=include_running_details)
        ]


def _frozen(stored: StoredTrial) -> FrozenTrial:
    distributions = {name: _distribution(text) for name, _, text in stored.params}
    return FrozenTrial(
        number=stored.number,
        state=TrialState[stored.state],
        value=None,
        values=stored.values or None,
        datetime_start=stored.started,
        datetime_complete=stored.completed,
        params={name: distributions[name].to_external_repr(value) for name, value, _ in stored.params},
        distributions=distributions,
        user_attrs=dict(stored.attrs),
        system_attrs=dict(stored.system),
        intermediate_values=dict(stored.curve),
        trial_id=stored.id,
    )


@lru_cache(maxsize=DISTRIBUTIONS)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
