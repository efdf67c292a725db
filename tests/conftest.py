"""How tests are collected: which are slow, and in which order they start. The fixtures are in fixtures.py."""

import atexit
import gc
import signal
from collections.abc import Generator
from importlib.util import find_spec

import pytest

gc.disable()  # until all tests are loaded: none of that is garbage, and collections would take a quarter of the time
atexit.register(gc.unfreeze)  # the bindings of triton report objects that are never freed as leaks
# Child processes must receive these signals, even if pytest itself runs under nohup or in the background of a script.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Folders of tests that start processes or wait.
SLOW_FOLDERS = {"service", "faults", "browser", "bench", "soak"}
#: Fixtures of tests that train, or that need a server.
SLOW_FIXTURES = {"images", "server"}
NO_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed; `make setup EXTRAS=ray`")


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures, except in the controller of xdist, which runs no test: they take seconds to load."""
    is_controller = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not is_controller:
        config.pluginmanager.import_plugin("tests.fixtures")


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups here too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, start them first, and keep all tests on Ray in one process, which has one cluster."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
            item.add_marker(NO_RAY)
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.path.parent.name not in SLOW_FOLDERS))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:  # also in the controller of xdist, which collects nothing itself
        gc.freeze()
        gc.enable()


def _is_slow(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.path.parent.name in SLOW_FOLDERS or bool(SLOW_FIXTURES & fixtures) or "postgresql" in item.name
