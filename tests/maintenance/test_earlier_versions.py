"""Studies of an earlier version of this project open, answer as before, and go on.

tests/earlier_versions/ holds them: the databases as SQL, whose first lines say how they were made, the files of a trial
whose run was killed, and the answers of that version.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.process import this_process
from tests.harness import Answer, Harness
from tests.service.postgres import PostgresHarness, Server

DATA = Path(__file__).parents[1] / "earlier_versions"
ANSWERS: dict[str, dict[str, Any]] = json.loads((DATA / "answers.json").read_text())


@pytest.fixture
def stored(harness: Harness) -> Harness:
    """A harness with the SQLite database and the files of the earlier version."""
    home = Path(harness.dirs.root)
    home.mkdir(parents=True)
    with closing(sqlite3.connect(home / "studies.db", isolation_level=None)) as connection:
        connection.executescript((DATA / "sqlite.sql").read_text())
        owner = this_process("")  # a lease of another machine would first have to expire
        connection.execute("UPDATE convsearch_leases SET host = ?, boot = ?", (owner.host, owner.boot))
    shutil.copytree(DATA / "killed", harness.dirs.study("killed"))
    return harness


@pytest.fixture
def on_server(tmp_path: Path, images: Path, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A harness with the PostgreSQL database of the earlier version."""
    url = server.url(server.make_database()).render_as_string(hide_password=False)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql((DATA / "postgresql.sql").read_text())
    engine.dispose()
    monkeypatch.setenv("CONVSEARCH_STORAGE", url)
    return PostgresHarness(tmp_path, images, cache, url)


def content(answer: Answer, words: str) -> Any:
    """The output of a command, as it is stored in answers.json."""
    assert answer.code == 0, answer.err
    if "--json" not in words:
        return answer.out
    document = answer.json
    return {key: value for key, value in document.items() if key != "log"}  # the path of the log is that of the folder


@pytest.mark.parametrize("words", ANSWERS["sqlite"])
def test_a_database_of_an_earlier_version_answers_as_it_did(stored: Harness, words: str) -> None:
    answer = stored.run(*words.split())

    assert content(answer, words) == ANSWERS["sqlite"][words]


@pytest.mark.parametrize("words", ANSWERS["postgresql"])
def test_a_database_of_an_earlier_version_on_a_server_answers_as_it_did(on_server: Harness, words: str) -> None:
    answer = on_server.run(*words.split())

    assert content(answer, words) == ANSWERS["postgresql"][words]


def test_a_killed_run_of_an_earlier_version_goes_on_from_its_checkpoint(stored: Harness) -> None:
    (before,) = [trial for trial in stored.trials("killed") if trial.state == "RUNNING"]

    answer = stored.run("resume", "killed", "--workers", "1")

    assert answer.code == 0, answer.err
    (after,) = stored.trials("killed")
    assert (after.state, after.attempts, len(after.curve)) == ("COMPLETE", 2, 150)
    assert after.curve[: len(before.curve)] == before.curve
    assert after.retrained_attempts == ()
