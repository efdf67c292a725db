"""The configuration of a worker, and its access to the database, the files and the images of a study."""

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
from search.study.configurations import TriedConfigurations
from search.study.stored_study import StoredStudy

if TYPE_CHECKING:
    import torch

    from data.parts import TrainData


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """The configuration that a pool passes to a worker: plain values that can be pickled."""

    url: str = field(repr=False)  # it may hold a password
    study: str
    token: str
    """Owner token of the worker's leases; the pool renews and ends the leases by this token."""
    cache: str
    """Folder of the decoded images."""
    images: str | None = None
    """Path of the original images on this machine; None uses the path in the study."""
    device: str = ""
    """The torch device: cpu, cuda:0, ..."""
    threads: int = 1
    """Number of compute threads."""
    workers: int = 1
    """Number of concurrent workers, including this one."""
    core: int | None = None
    """The CPU core that the worker is pinned to; None is any."""
    retry_timeout_s: float = Timeouts().retry_timeout_s
    """Retries transient storage errors for this number of seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialContext:
    """Access of a worker to the database and the folder of a study; without images and without torch."""

    storage: Storage
    cached: CachedStorage
    subset: TrialSubset
    """The trials that the sampler learns from, kept between trials."""
    configurations: TriedConfigurations
    """The configurations that trials have, kept between trials."""
    study: StoredStudy
    dirs: StudyDirs
    remote: RemoteCheckpoints | None = None
    """The remote checkpoints of the study, if it has a remote store."""

    @property
    def spec(self) -> StudySpec:
        """The settings of the study."""
        return self.study.spec


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingContext(TrialContext):
    """A context with images and a device, for training."""

    data: "TrainData"
    device: "torch.device"
    cache: Path
    """Folder of the decoded images."""
    workers: int = 1
    """Number of concurrent workers on this machine, including this one."""

    @property
    def limits(self) -> ImageLimits:
        """The limits that its images set."""
        return image_limits(self.data)


def open_storage(worker_config: WorkerConfig, should_stop: Callable[[], bool]) -> Storage:
    """Open the storage of a worker; for `should_stop` see `Storage.should_stop`."""
    return Storage(
        worker_config.url,
        token=worker_config.token,
        retry_timeout_s=worker_config.retry_timeout_s,
        should_stop=should_stop,
    )


def open_context(worker_config: WorkerConfig, should_stop: Callable[[], bool] = lambda: False) -> TrialContext:
    """Open the context of a worker; for `should_stop` see `Storage.should_stop`."""
    storage = open_storage(worker_config, should_stop)
    study = stored_study.load(storage, worker_config.study)
    cached = StudyIdCache(storage, study.id)
    return TrialContext(
        storage=storage,
        cached=cached,
        subset=TrialSubset(cached, study.id, several=len(study.spec.search.objectives) > 1),
        configurations=TriedConfigurations(study),
        study=study,
        dirs=study_dir.of(worker_config.url),
        remote=remote_checkpoints.of(study.spec.checkpoints, study.remote_key),
    )


def image_limits(data: "TrainData") -> ImageLimits:
    """The limits that the training images set."""
    return ImageLimits(side=data.info.image_size, classes=len(data.info.classes), images=len(data.train))
