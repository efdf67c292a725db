"""What several tests need: a real database in a temporary folder, and a study in it."""

import gc
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from search.storage.rdb import Storage
from search.storage.tables import STUDY_ATTRS
from tests.harness import Harness, paint
from tests.service.postgres import Server, missing, serving

optuna.logging.set_verbosity(optuna.logging.ERROR)
# What we start is to hear these, though we may run under nohup, or in the background of a script, ourselves.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server of our own."""
    if missing():
        pytest.skip(missing())
    with serving() as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a SQLite database that does not exist yet; for tests of both, of an empty one on a server as well."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path / 'home' / 'studies.db'}"
        return
    server: Server = request.getfixturevalue("server")
    yield server.url(server.make_database()).render_as_string(hide_password=False)
    gc.collect()  # closes the connections of the test, while its warnings are ignored


@pytest.fixture
def make_study(url: str) -> Callable[[int], int]:
    """Make the database and in it the study "s" with a budget of so many trials; returns its id."""

    def make(trials: int) -> int:
        storage = Storage(url, create=True)
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        row = {"study_id": study._study_id, "key": "trials", "value_json": json.dumps(trials)}
        storage.write(lambda connection: connection.execute(sa.insert(STUDY_ATTRS).values(row)))
        return study._study_id

    return make


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images that a network of a few weights learns within a second."""
    return paint(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests of a run keep their decoded images."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def harness(tmp_path: Path, images: Path, cache: Path) -> Harness:
    """A place to try the service in."""
    return Harness(tmp_path, images, cache)
