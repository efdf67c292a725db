"""Libraries that would send or keep data of their own, used without that."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

#: Environment variable for torch's folder of compiled code.
TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def load_onnxruntime() -> Any:
    """Load onnxruntime without its telemetry, unless the user has set its variable.

    On import it would store a device ID and queued events in the user's cache folder, and later send the events to its
    makers. The variable is read on import (onnxruntime/Privacy.md); it also holds for child processes.

    Returns:
        The module.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def load_dynamo() -> None:
    """Load `torch._dynamo`, as torch does with the first optimizer, and leave no folder behind."""
    if "torch._dynamo" not in sys.modules:
        with no_compiled_code():
            import_module("torch._dynamo")


@contextmanager
def no_compiled_code() -> Iterator[None]:
    """Remove torch's folder of compiled code after the block, unless the user has named one. Nothing is compiled here.

    `torch._dynamo` makes the folder on import, and torch's exporter when it runs.
    """
    if TORCH_CACHE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[TORCH_CACHE] = folder
        try:
            yield
        finally:
            del os.environ[TORCH_CACHE]
