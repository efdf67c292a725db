"""What a worker is told, and what it reads and writes its trials with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from search.artifacts import remote_checkpoints, study_dir
from search.artifacts.remote_checkpoints import RemoteCheckpoints
from search.artifacts.study_dir import StudyDirs
from search.optuna_internals import CachedStorage, StudyIdCache
from search.samplers.tpe import TrialSubset
from search.spec.fit import ImageLimits
from search.spec.study_spec import StudySpec
from search.storage.rdb import Storage
from search.storage.retry import Timeouts
from search.study import stored_study
from search.study.stored_study import StoredStudy

if TYPE_CHECKING:
    import torch

    from data.parts import TrainData


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What a pool tells its worker: plain values that travel to another process."""

    url: str = field(repr=False)  # it may hold a password
    study: str
    token: str
    """What the worker signs its leases with; its pool renews and ends them by it."""
    cache: str
    """Folder of the decoded images."""
    images: str | None = None
    """Where they are decoded from on this machine; None is where the study says."""
    device: str = ""
    """As torch names it: cpu, cuda:0, ..."""
    threads: int = 1
    """That compute for it."""
    workers: int = 1
    """That work at the same time, this one included."""
    core: int | None = None
    """The one it runs on; None is any."""
    retry_timeout_s: float = Timeouts().retry_timeout_s
    """How long a storage call tries again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialContext:
    """Where a worker reads and writes trials: the database and the folder of the study; no images, no torch."""

    storage: Storage
    cached: CachedStorage
    subset: TrialSubset
    """What the sampler learns from, kept from trial to trial."""
    study: StoredStudy
    dirs: StudyDirs
    remote: RemoteCheckpoints | None = None
    """Where other machines find the checkpoints of the study, if it has such a place."""

    @property
    def spec(self) -> StudySpec:
        """The settings of the study."""
        return self.study.spec


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingContext(TrialContext):
    """A context with images and a device, where trials are trained."""

    data: "TrainData"
    device: "torch.device"
    cache: Path
    """Folder of the decoded images."""
    workers: int = 1
    """That work at the same time on this machine, this one included."""

    @property
    def limits(self) -> ImageLimits:
        """What its images allow."""
        return image_limits(self.data)


def open_context(worker_config: WorkerConfig, should_stop: Callable[[], bool] = lambda: False) -> TrialContext:
    """The context of a worker; `should_stop` as `Storage` has it."""
    storage = Storage(
        worker_config.url,
        token=worker_config.token,
        retry_timeout_s=worker_config.retry_timeout_s,
        should_stop=should_stop,
    )
    study = stored_study.load(storage, worker_config.study)
    cached = StudyIdCache(storage, study.id)
    return TrialContext(
        storage=storage,
        cached=cached,
        subset=TrialSubset(cached, study.id, several=len(study.spec.search.objectives) > 1),
        study=study,
        dirs=study_dir.of(worker_config.url),
        remote=remote_checkpoints.of(study.spec.checkpoints, study.remote_key),
    )


def image_limits(data: "TrainData") -> ImageLimits:
    """What the images allow that are trained on."""
    return ImageLimits(side=data.info.image_size, classes=len(data.info.classes), images=len(data.train))
