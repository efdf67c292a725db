"""A worker on a machine of a Ray cluster, in a process that Ray starts."""

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
from search.study import inputs, provenance, stored_study
from search.trial.context import WorkerConfig, open_storage
from search.workers import worker


class RayWorkerActor:
    """A worker as a Ray actor, in a separate process; `work` runs trials, the other methods are called meanwhile."""

    def __init__(self) -> None:
        die_with_parent()  # Ray would let it train on after its raylet was killed
        self._stop = threading.Event()
        self._beats: int | None = None
        signal.signal(signal.SIGTERM, self._on_sigterm)  # sent by `ray stop`

    def work(self, worker_config: WorkerConfig, folder: str) -> tuple[int, str]:
        """Run trials; see `worker.work`.

        Args:
            worker_config: Configuration of the worker.
            folder: Working directory, to resolve relative paths; ignored where it does not exist.

        Returns:
            Exit code and message, as from `worker.work`.
        """
        with suppress(OSError):
            os.chdir(folder)
        try:
            prepare_node(worker_config, self._stop.is_set)
        except (ConvsearchError, DataError) as error:
            return (worker.TERMINATED, "") if self._stop.is_set() else (error.exit_code, str(error))
        self._beats = 0
        return worker.work(worker_config, self._beat, self._stop.is_set)

    def beats(self) -> int | None:
        """Number of finished batches; None before it trains."""
        return self._beats

    def stop(self) -> None:
        """Ask it to put the trial back with a checkpoint and end."""
        self._stop.set()

    def stacks(self) -> str:
        """Stack traces of its threads."""
        with tempfile.TemporaryFile("w+") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
            stream.seek(0)
            return stream.read()

    def _beat(self) -> None:
        self._beats = (self._beats or 0) + 1

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop.set()


def prepare_node(worker_config: WorkerConfig, should_stop: Callable[[], bool]) -> None:
    """Load torch and provide the inputs of the study on this machine; see `inputs`.

    Args:
        worker_config: Configuration of the worker; `images` replaces the data path of the study.
        should_stop: Whether storage calls must stop retrying.

    Raises:
        ConvsearchError, DataError: this machine has other code, or cannot provide the inputs.
    """
    import_module(worker.PRELOAD)
    storage = open_storage(worker_config, should_stop)
    study = stored_study.load(storage, worker_config.study)
    storage.engine.dispose()
    inputs.check_same_code(study, provenance.code_version())
    if worker_config.images is not None:
        study = replace(study, spec=stored_study.with_data_path(study.spec, worker_config.images))
    inputs.ensure_inputs(study, Path(worker_config.cache), lambda _: None)
