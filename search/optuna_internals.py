"""Private members of Optuna and subclasses of its classes. Check this file after an upgrade of Optuna.

Also check `storage/rdb.py` and `storage/rdb_reads.py`, whose storage is a subclass of Optuna's.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages import _CachedStorage as CachedStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "CachedStorage",
    "FilteredStudy",
    "OverlayStorage",
    "StudyIdCache",
    "SubsetStudy",
    "SubsetTPESampler",
    "models",
    "set_system_attr",
]


def set_system_attr(trial: optuna.Trial, key: str, value: Any) -> None:
    """Store a system attribute of a trial; the public method is deprecated."""
    trial.storage.set_trial_system_attr(trial._trial_id, key, value)


class SubsetStudy(optuna.Study):
    """A study with exactly these trials."""

    def __init__(self, name: str, storage: BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(name, storage)
        self._trials = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class FilteredStudy(optuna.Study):
    """A study without the trials of some numbers, for a pruner. (Hyperband makes its own view.)"""

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
        *,
        left_out: Container[int],
    ) -> None:
        super().__init__(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        self._left_out = left_out

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [trial for trial in super().get_trials(*args, **kwargs) if trial.number not in self._left_out]


class SubsetTPESampler(optuna.samplers.TPESampler):
    """Optuna's TPE sampler, which learns from `seen` instead of the trial's study. `good`: size of the good set."""

    def __init__(self, seen: optuna.Study, *, good: int, **options: Any) -> None:
        super().__init__(**options)
        self._seen = seen
        self._gamma = lambda _: good  # the argument `gamma` is deprecated without a replacement

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._seen, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._seen, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(self._seen, trial, param_name, param_distribution)


class StudyIdCache(CachedStorage):
    """Optuna's cache with the fixed id of its only study. Otherwise Optuna queries the id twice per trial."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        super().__init__(storage)
        self._study_id = study_id

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._study_id


class OverlayStorage(CachedStorage):
    """A storage with additional system attributes of studies: `overlay` adds them by study id.

    It caches nothing: Optuna's cache is by the ids of studies, which SQLite gives again. (It would know trials by their
    ids only after `get_all_trials`.)
    """

    def __init__(self, backend: RDBStorage, overlay: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(backend)
        self._overlay = overlay

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._backend.get_study_directions(study_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._backend.get_all_trials(study_id, deepcopy=deepcopy, states=states)

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = super().get_all_studies()
        for study in studies:
            study.system_attrs = self._overlay(study._study_id, study.system_attrs)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._overlay(study_id, super().get_study_system_attrs(study_id))
