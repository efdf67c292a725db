"""Shared fixtures: a real database in a temporary folder, a study in it, and images."""

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import torch

from search.storage.rdb import Storage
from search.storage.tables import STUDY_ATTRS
from tests.harness import Harness, once, paint
from tests.service.postgres import Server, missing, serving

optuna.logging.set_verbosity(optuna.logging.ERROR)
torch.set_num_threads(1)  # several processes test at once, and threads that wait for each other spin
# Child processes must receive these signals, even if pytest itself runs under nohup or in the background of a script.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Folders of tests that start processes or wait.
SLOW_FOLDERS = {"service", "faults", "browser", "bench", "soak"}
#: Fixtures of tests that train, or that need a server.
SLOW_FIXTURES = {"images", "server"}
NO_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed; `make setup EXTRAS=ray`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, start them first, and keep all tests on Ray in one process, which has one cluster."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
            item.add_marker(NO_RAY)
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.path.parent.name not in SLOW_FOLDERS))


def _is_slow(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.path.parent.name in SLOW_FOLDERS or bool(SLOW_FIXTURES & fixtures) or "postgresql" in item.name


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server for this test session."""
    if missing():
        pytest.skip(missing())
    with serving() as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a SQLite database that does not exist yet, or of an empty PostgreSQL database for tests of both."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path / 'home' / 'studies.db'}"
        return
    server: Server = request.getfixturevalue("server")
    yield server.url(server.make_database()).render_as_string(hide_password=False)
    gc.collect()  # closes the connections of the test while their warnings are ignored


@pytest.fixture
def make_study(url: str) -> Callable[[int], int]:
    """A function that creates the database and the study "s" with a budget of `trials` trials, and returns its id."""

    def make(trials: int) -> int:
        storage = Storage(url, create=True)
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        row = {"study_id": study._study_id, "key": "trials", "value_json": json.dumps(trials)}
        storage.write(lambda connection: connection.execute(sa.insert(STUDY_ATTRS).values(row)))
        return study._study_id

    return make


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def images(shared: Path) -> Path:
    """A folder of images that a network of a few weights learns within a second."""
    return once(shared / "images", paint)


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """The cache of decoded images, shared by all tests of a run."""
    (shared / "cache").mkdir(exist_ok=True)
    return shared / "cache"


@pytest.fixture
def harness(tmp_path: Path, images: Path, cache: Path) -> Harness:
    """A service with its own database."""
    return Harness(tmp_path, images, cache)
