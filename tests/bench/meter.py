"""Measures the duration of calls from outside; a call excludes the metered calls inside it."""

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Meter:
    """Seconds of every call by name, over all threads of this process, while `is_on`."""

    is_on: bool = False
    calls: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _thread: threading.local = field(default_factory=threading.local)

    def put_on(self, owner: Any, attribute: str, name: str) -> None:
        """Replace an attribute of `owner` by a metered function."""
        call: Callable[..., Any] = getattr(owner, attribute)

        @functools.wraps(call)
        def metered(*args: Any, **kwargs: Any) -> Any:
            with self.metering(name):
                return call(*args, **kwargs)

        setattr(owner, attribute, metered)

    @contextmanager
    def metering(self, name: str) -> Iterator[None]:
        """Meter a block; a block that raises counts, too."""
        outer: float = getattr(self._thread, "inner", 0.0)
        self._thread.inner = 0.0
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            if self.is_on:
                self.calls[name].append(spent - self._thread.inner)
            self._thread.inner = outer + spent
