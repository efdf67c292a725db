"""Trials as Optuna's samplers, its pruners and its dashboard see them, by plain SELECTs.

Optuna builds them through SQLAlchemy's object mapper, and parses the distribution of every parameter twice; that takes
ten times as long (`make bench`).
"""

from collections.abc import Callable, Container
from functools import lru_cache
from typing import TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.storage.read_only import snapshot
from search.storage.trial_loader import TRIALS, StoredTrial, gc_paused, stored_trials

#: Distinct distributions that are kept parsed: a study has one for each parameter and condition.
DISTRIBUTIONS = 1024

T = TypeVar("T")


class FastReadStorage(RDBStorage):
    """Optuna's storage, with its reads of trials done again."""

    whole = True
    """Whether trials that run come with their user attributes and curves, where all trials are asked for."""

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Do `work`, which only reads, so that all it sees is of one moment."""
        with snapshot(self.engine).begin() as connection:
            return work(connection)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        chosen = sa.select(TRIALS.c.trial_id).where(TRIALS.c.trial_id == trial_id)
        found = self.read(lambda connection: frozen_trials(connection, chosen))
        if not found:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Trials with ids above `trial_id_greater_than`, and those in `included_trial_ids`, in these states."""
        chosen = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
        if trial_id_greater_than >= 0:
            chosen = chosen.where(
                (TRIALS.c.trial_id > trial_id_greater_than) | TRIALS.c.trial_id.in_(sorted(included_trial_ids))
            )
        if states is not None:
            chosen = chosen.where(TRIALS.c.state.in_([state.name for state in TrialState if state in states]))
        return self.read(lambda connection: frozen_trials(connection, chosen, whole=self.whole))


def frozen_trials(connection: sa.Connection, chosen: sa.Select[tuple[int]], *, whole: bool = True) -> list[FrozenTrial]:
    """The trials whose ids `chosen` selects, by number; see `stored_trials`."""
    with gc_paused():
        return [_frozen(stored) for stored in stored_trials(connection, chosen, whole=whole)]


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
