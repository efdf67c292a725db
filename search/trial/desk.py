"""What a worker keeps the books of its trials with: the database and the folder of the study; no images, no torch."""

from collections.abc import Callable
from dataclasses import dataclass

from optuna.storages import _CachedStorage

from search.artifacts import remote_checkpoints as depot
from search.artifacts import study_dir as home
from search.artifacts.remote_checkpoints import RemoteCheckpoints
from search.artifacts.study_dir import StudyDirs
from search.samplers.tpe import TrialSubset
from search.storage.rdb import Storage
from search.study import stored_study as study
from search.study.stored_study import StoredStudy
from search.trial.post import WorkerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialContext:
    """Where a worker reads and writes trials."""

    storage: Storage
    cached: _CachedStorage
    excerpt: TrialSubset
    """What the sampler learns from, kept from trial to trial."""
    study: StoredStudy
    home: StudyDirs
    depot: RemoteCheckpoints | None = None
    """Where other machines find the checkpoints of the study, if it has such a place."""


class _Known(_CachedStorage):
    """Optuna's cache, which knows the id of its one study; else it asks for it twice a trial."""

    def __init__(self, storage: Storage, study_id: int) -> None:
        super().__init__(storage)
        self._known = study_id

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._known


def of(post: WorkerConfig, should_stop: Callable[[], bool] = lambda: False) -> TrialContext:
    """The desk of a worker that was told `post`; see `Storage.should_stop`."""
    storage = Storage(post.url, token=post.token, retry_timeout_s=post.retry_timeout_s, should_stop=should_stop)
    stored = study.load(storage, post.study)
    cached = _Known(storage, stored.id)
    return TrialContext(
        storage=storage,
        cached=cached,
        excerpt=TrialSubset(cached, stored.id, several=len(stored.spec.search.objectives) > 1),
        study=stored,
        home=home.of(post.url),
        depot=depot.of(stored.spec.checkpoints, stored.depot),
    )
