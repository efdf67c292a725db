"""Commands in whose processes faults are injected."""

from collections.abc import Sequence

import pytest

from tests.faults.injector.sitecustomize import Fault, environment
from tests.harness import Harness, Launcher


def start_with_faults(harness: Harness, faults: Sequence[Fault], *words: str) -> Launcher:
    """Start a command with these faults; each fault leaves a file in the folder of the harness when it is injected."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(faults, harness.folder).items():
            patch.setenv(name, value)
        return harness.start(*words)
