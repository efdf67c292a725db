"""Shared fixtures: a real database in a temporary folder, a study in it, and images."""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
import torch

from search.storage.rdb import Storage
from search.storage.tables import STUDY_ATTRS
from search.workers import local
from tests.harness import Harness, once, paint
from tests.service.postgres import Server, missing, serving

optuna.logging.set_verbosity(optuna.logging.ERROR)
torch.set_num_threads(1)  # several processes test at once, and threads that wait for each other spin


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
def fork_server() -> None:
    """Start the fork server of this process; it would keep the folder and environment of the first test to need it."""
    local.start_server()


@pytest.fixture(scope="session")
def images(shared: Path, fork_server: None) -> Path:
    """A folder of images that a network of a few weights learns within a second, for tests that train."""
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
