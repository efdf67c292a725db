"""A worker on a machine of a Ray cluster, in the process that Ray has started for it there."""

import faulthandler
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType

from data.errors import DataError
from search.errors import ConvsearchError
from search.process import die_with_parent
from search.storage.rdb import Storage
from search.study import inputs, provenance, stored_study
from search.trial.context import WorkerConfig
from search.workers import worker


class RayWorkerActor:
    """A worker as Ray runs it, in a process of its own; `work` is its life, the rest is asked meanwhile."""

    def __init__(self) -> None:
        die_with_parent()  # Ray lets it train on when its node's own process is killed
        self._stop = threading.Event()
        self._beats: int | None = None
        signal.signal(signal.SIGTERM, self._note)  # of `ray stop`

    def work(self, worker_config: WorkerConfig, folder: str) -> tuple[int, str]:
        """Run trials; see `worker.work`. Relative paths are meant from `folder` on, where that exists."""
        with suppress(OSError):
            os.chdir(folder)
        try:
            prepare_node(worker_config, self._stop.is_set)
        except (ConvsearchError, DataError) as error:
            return (worker.TERMINATED, "") if self._stop.is_set() else (error.exit_code, str(error))
        self._beats = 0
        return worker.work(worker_config, self._beat, self._stop.is_set)

    def beats(self) -> int | None:
        """How many batches it has done; None as long as it does not train."""
        return self._beats

    def stop(self) -> None:
        """Put the trial back with a checkpoint, and end."""
        self._stop.set()

    def stacks(self) -> str:
        """Where its threads stand."""
        with tempfile.TemporaryFile("w+") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
            stream.seek(0)
            return stream.read()

    def _beat(self) -> None:
        self._beats = (self._beats or 0) + 1

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop.set()


def prepare_node(worker_config: WorkerConfig, should_stop: Callable[[], bool]) -> None:
    """Load torch, and have all on this machine, which may see the study for the first time; see `inputs`."""
    for name in worker.PRELOAD:
        import_module(name)
    storage = Storage(
        worker_config.url,
        token=worker_config.token,
        retry_timeout_s=worker_config.retry_timeout_s,
        should_stop=should_stop,
    )
    stored = stored_study.load(storage, worker_config.study)
    storage.engine.dispose()
    inputs.check_same_code(stored, provenance.code_version())
    if worker_config.images is not None:
        stored = replace(stored, spec=stored_study.with_data_path(stored.spec, worker_config.images))
    inputs.ensure_inputs(stored, Path(worker_config.cache), lambda _: None)
