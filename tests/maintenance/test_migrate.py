"""Databases of other versions of Optuna are recognised, refused, and migrated completely or not at all.

tests/optuna_dumps/ holds them as SQL; the first line of each file says how it was made.
"""

import hashlib
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from optuna.storages import _rdb

from search.errors import BusyError, DatabaseError
from search.maintenance.migrate import Waits, by_hand, migrate
from search.process import LeaseOwner, start_time, this_process
from search.storage import queries, schema
from search.storage.rdb import Storage
from search.storage.read_only import open_reader
from search.storage.records import TrialRecord
from search.storage.tables import LEASES
from tests import forks
from tests.harness import PATIENCE_S, Harness, quiet, wait_until

OLD = Path(__file__).parents[1] / "optuna_dumps"
REVISIONS = {"2.10": "v2.6.0.a", "3.0": "v3.0.0.d"}
SOON = Waits(lock_s=0.2, lease_timeout_s=0.5, look_s=0.05)

#: Writes attributes one by one until it is killed, and prints the number of each committed one.
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
number = 0
while True:
    row = (1, f"k{number}", "1")
    connection.execute("INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (?, ?, ?)", row)
    print(number, flush=True)
    number += 1
    time.sleep(0.02)
"""


def old_database(folder: Path, version: str, *, journal: str = "delete") -> Path:
    """A database made by that version of Optuna."""
    file = folder / "studies.db"
    file.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((OLD / f"optuna-{version}.sql").read_text())
        connection.execute(f"PRAGMA journal_mode = {journal}")
    return file


def url(file: Path) -> str:
    return f"sqlite:///{file}"


def set_revision(file: Path, revision: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def content(file: Path) -> str:
    """Hash of everything in a database, after an integrity check."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


def revision_of(file: Path) -> str | None:
    """The revision of the tables in a database."""
    with open_reader(url(file)).connect() as connection:
        return schema.revision(connection)


def stored_trials(file: Path) -> tuple[TrialRecord, ...]:
    return queries.trials(open_reader(url(file)), "old")


def trials_as_written(file: Path) -> dict[int, dict[str, Any]]:
    """Each trial of a database before its migration, from the columns of that version."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT trial_id, number, state FROM trials").fetchall()

        def rows_of(table: str, columns: str, trial_id: int) -> list[Any]:
            return connection.execute(f"SELECT {columns} FROM {table} WHERE trial_id = ?", (trial_id,)).fetchall()

        return {
            number: {
                "state": state,
                "values": tuple(value for (value,) in rows_of("trial_values", "value", trial_id)),
                "curve": tuple(rows_of("trial_intermediate_values", "step, intermediate_value", trial_id)),
                "params": dict(rows_of("trial_params", "param_name, param_value", trial_id)),
            }
            for trial_id, number, state in rows
        }


def trial_as_read(trial: TrialRecord) -> dict[str, Any]:
    """The same fields of a trial that was read; a categorical value is stored as its index."""
    choices = {"sgd": 0.0, "adam": 1.0}
    params = {name: choices.get(value, value) for name, value in trial.params.items()}
    return {"state": trial.state, "values": trial.values, "curve": trial.curve, "params": params}


@pytest.fixture
def enlarged(tmp_path: Path) -> Path:
    """An old database that takes a while to copy."""
    file = old_database(tmp_path, "2.10")
    with closing(sqlite3.connect(file)) as connection, connection:
        rows = ((1, f"key {number}", '"' + "x" * 2000 + '"') for number in range(6000))
        connection.executemany("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", rows)
    return file


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A running process."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


# -- detection of the version ---------------------------------------------------------------------------------


def test_the_revisions_are_those_of_the_installed_optuna() -> None:
    scripts = ScriptDirectory(str(Path(_rdb.__file__).with_name("alembic")))

    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == schema.REVISIONS


@pytest.mark.parametrize(
    ("version", "revision"), [("0.8", "v0.9.0.a"), *REVISIONS.items(), ("3.6", schema.HEAD_REVISION)]
)
def test_the_revision_of_a_database_is_detected(tmp_path: Path, version: str, revision: str) -> None:
    assert revision_of(old_database(tmp_path, version)) == revision


def test_a_half_created_database_has_no_revision(tmp_path: Path) -> None:
    file = old_database(tmp_path, "3.6")

    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript("DELETE FROM version_info; DROP TABLE alembic_version")

    assert revision_of(file) is None


def test_a_new_database_without_a_stored_revision_counts_as_current(tmp_path: Path) -> None:
    file = old_database(tmp_path, "3.6")

    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript("DROP TABLE alembic_version")

    assert revision_of(file) == schema.HEAD_REVISION


@pytest.mark.parametrize(
    ("version", "revision", "text"),
    [
        pytest.param("0.8", None, "older Optuna (tables of v0.9.0.a, needed are those of", id="without revisions"),
        pytest.param("2.10", None, "`convsearch migrate`, with the same --storage, brings it up", id="older"),
        pytest.param("3.6", "v9.0.0.a", "newer Optuna (tables of v9.0.0.a, known are those up to", id="newer"),
    ],
)
def test_a_database_of_another_optuna_is_refused_with_a_remedy(
    tmp_path: Path, version: str, revision: str | None, text: str
) -> None:
    file = old_database(tmp_path, version)
    if revision is not None:
        set_revision(file, revision)

    with open_reader(url(file)).connect() as connection, pytest.raises(DatabaseError) as failure:
        schema.check(connection, str(file))

    assert text in str(failure.value)
    assert str(failure.value).startswith(f"{file} was made by")


def test_the_tables_of_this_release_pass_the_check(tmp_path: Path) -> None:
    Storage(url(tmp_path / "new.db"), create=True)

    with open_reader(url(tmp_path / "new.db")).connect() as connection:
        schema.check(connection, "new.db")


# -- complete migrations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("version", REVISIONS)
def test_an_old_study_is_the_same_after_the_migration(tmp_path: Path, version: str, journal: str) -> None:
    file = old_database(tmp_path, version, journal=journal)
    before, trials = content(file), trials_as_written(file)
    messages: list[str] = []

    migrate(url(file), messages.append)

    kept = file.with_name(f"studies.db.before-{REVISIONS[version]}")
    assert revision_of(file) == schema.HEAD_REVISION
    assert {trial.number: trial_as_read(trial) for trial in stored_trials(file)} == trials
    assert content(kept) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["studies.db", kept.name]
    assert (
        messages[0]
        == f"{file} has the tables of {REVISIONS[version]}; convsearch needs those of {schema.HEAD_REVISION}"
    )
    assert messages[1] == f"kept a copy of the database in {kept}"


def test_optuna_reads_a_migrated_study(tmp_path: Path) -> None:
    file = old_database(tmp_path, "2.10")
    trials = trials_as_written(file)

    migrate(url(file), quiet)

    study = optuna.load_study(study_name="old", storage=Storage(url(file)))
    assert study.user_attrs == {"camera": "A7"}
    assert (study.best_trial.number, study.best_value) == (1, 0.5625)
    assert [trial.user_attrs["note"] for trial in study.trials] == ["trial 0", "trial 1", "trial 2"]
    assert study.trials[0].params["learning_rate"] == trials[0]["params"]["learning_rate"]


def test_the_read_commands_work_on_a_migrated_database(harness: Harness) -> None:
    file = old_database(harness.folder / "home", "2.10")

    migrated = harness.run("migrate")

    assert (migrated.code, migrated.out) == (0, "")
    assert harness.run("studies", "--json").json["studies"][0]["study"] == "old"
    assert [trial["values"] for trial in harness.run("best", "old", "--json").json["trials"]] == [[0.5625], [0.5]]
    assert harness.run("show", "old", "2", "--json").json["curve"] == [[1, 0.375], [2, 0.625]]
    assert file.with_name("studies.db.before-v2.6.0.a").exists()


def test_a_database_of_this_release_is_not_changed(tmp_path: Path) -> None:
    file = old_database(tmp_path, "3.6")
    before = file.read_bytes()
    left = tmp_path / "studies.db.migrating"
    left.mkdir()
    messages: list[str] = []

    migrate(url(file), messages.append)

    assert messages[-1] == "nothing to migrate"
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_backup_is_never_overwritten_and_has_the_permissions_of_the_database(tmp_path: Path) -> None:
    file = old_database(tmp_path, "2.10")
    file.chmod(0o600)
    earlier = tmp_path / "studies.db.before-v2.6.0.a"
    earlier.write_text("kept before")

    migrate(url(file), quiet)

    second = tmp_path / "studies.db.before-v2.6.0.a-2"
    assert earlier.read_text() == "kept before"
    assert second.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_to_a_database_stays_a_link(tmp_path: Path) -> None:
    file = old_database(tmp_path / "real", "2.10")
    link = tmp_path / "link.db"
    link.symlink_to(file)

    migrate(url(link), quiet)

    assert link.is_symlink()
    assert revision_of(file) == schema.HEAD_REVISION
    assert (tmp_path / "real" / "studies.db.before-v2.6.0.a").exists()


# -- refused migrations ---------------------------------------------------------------------------------------


def _make_newer(file: Path) -> None:
    set_revision(file, "v9.0.0.a")


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20_000])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _write_text(file: Path) -> None:
    file.write_text("this is no database\n" * 100)


def _drop_a_table(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DROP TABLE trial_intermediate_values")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(_make_newer, "install the convsearch or the optuna that made it", id="newer"),
        pytest.param(_truncate, "studies.db", id="cut"),
        pytest.param(_empty, "holds no studies, so there is nothing to migrate", id="empty"),
        pytest.param(_write_text, "cannot be read: file is not a database", id="no database"),
        pytest.param(_drop_a_table, "Optuna cannot migrate these tables", id="a table is missing"),
    ],
)
def test_a_database_that_cannot_be_migrated_is_refused_and_unchanged(
    harness: Harness, change: Callable[[Path], None], text: str
) -> None:
    file = old_database(harness.folder / "home", "2.10")
    change(file)
    before = file.read_bytes()

    answer = harness.run("migrate")

    assert answer.code == 69
    assert text in answer.err
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_postgresql_database_is_referred_to_pg_dump_and_optuna() -> None:
    engine = sa.create_engine("postgresql+psycopg://me:secret@host/studies")

    text = by_hand(engine, "v2.6.0.a")

    assert "`pg_dump --format=custom --file=before-v2.6.0.a.dump studies`" in text
    assert "`optuna storage upgrade --storage postgresql+psycopg://me:***@host/studies`" in text


def test_a_missing_database_is_not_created(harness: Harness) -> None:
    answer = harness.run("migrate")

    assert answer.code == 69
    assert "there is no database at " in answer.err
    assert list(harness.folder.iterdir()) == []


# -- databases in use -----------------------------------------------------------------------------------------


def add_lease(file: Path, owner: LeaseOwner) -> None:
    engine = sa.create_engine(url(file))
    with engine.begin() as connection:
        LEASES.create(connection, checkfirst=True)
        connection.execute(sa.insert(LEASES).values(asdict(owner) | {"trial_id": 1, "study_id": 1, "renewals": 0}))
    engine.dispose()


def owner_at(pid: int, *, host: str = "", since: float | None = None) -> LeaseOwner:
    this_owner = this_process(uuid.uuid4().hex)
    since = start_time(pid) or 0.0 if since is None else since
    return LeaseOwner(
        token=this_owner.token, host=host or this_owner.host, boot=this_owner.boot, pid=pid, started=since
    )


def busy_message(file: Path) -> str:
    """The message of a refused migration; asserts that the database is unchanged."""
    before = content(file)
    with pytest.raises(BusyError) as error:
        migrate(url(file), quiet, waits=SOON)
    assert content(file) == before
    assert not [path for path in file.parent.iterdir() if path.name.startswith("studies.db.")]
    return str(error.value)


def test_a_live_worker_prevents_a_migration(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    file = old_database(tmp_path, "2.10")
    add_lease(file, owner_at(sleeper.pid))

    assert f"process {sleeper.pid} works on a study of this database" in busy_message(file)


@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "its number is another process now"])
def test_the_lease_of_a_dead_process_does_not_prevent_a_migration(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", has_ended: bool
) -> None:
    file = old_database(tmp_path, "2.10")
    add_lease(file, owner_at(sleeper.pid, since=1.0))
    if has_ended:
        sleeper.kill()
        sleeper.wait()

    migrate(url(file), quiet, waits=SOON)

    assert revision_of(file) == schema.HEAD_REVISION


def test_a_remote_worker_without_renewals_counts_as_gone_after_its_lease(tmp_path: Path) -> None:
    file = old_database(tmp_path, "2.10")
    add_lease(file, owner_at(1, host="elsewhere"))
    messages: list[str] = []

    migrate(url(file), messages.append, waits=SOON)

    assert "waiting 0.5 s for lease renewals from elsewhere" in messages
    assert revision_of(file) == schema.HEAD_REVISION


def test_a_remote_worker_that_renews_its_lease_prevents_a_migration(tmp_path: Path) -> None:
    file = old_database(tmp_path, "2.10")
    add_lease(file, owner_at(1, host="elsewhere"))
    renew = (
        "import sqlite3, sys, time\n"
        "while True:\n"
        "    with sqlite3.connect(sys.argv[1]) as connection:\n"
        "        connection.execute('UPDATE convsearch_leases SET renewals = renewals + 1')\n"
        "    time.sleep(0.05)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", renew, str(file)])

    try:
        with pytest.raises(BusyError, match="on elsewhere; stop it, then migrate"):
            migrate(url(file), quiet, waits=Waits(lock_s=5.0, lease_timeout_s=60.0, look_s=0.2))
    finally:
        other.kill()
        other.wait()

    assert revision_of(file) == "v2.6.0.a"


def test_a_running_launcher_prevents_a_migration(harness: Harness) -> None:
    file = old_database(harness.folder / "home", "2.10")

    with harness.dirs.running("old"):
        answer = harness.run("migrate")

    assert answer.code == 75
    assert "the study 'old' of this database is running on this machine; stop it first" in answer.err
    assert revision_of(file) == "v2.6.0.a"


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM trials"])
def test_an_open_transaction_prevents_a_migration(tmp_path: Path, begin: str) -> None:
    file = old_database(tmp_path, "2.10")

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        for statement in begin.split("; "):
            other.execute(statement).fetchall()
        text = busy_message(file)

    assert "another process uses it; end it, then migrate" in text


def test_an_open_connection_in_wal_mode_prevents_a_migration(tmp_path: Path) -> None:
    file = old_database(tmp_path, "2.10", journal="wal")

    with closing(sqlite3.connect(file)) as other:
        other.execute("SELECT count(*) FROM trials").fetchall()
        with pytest.raises(BusyError):
            migrate(url(file), quiet, waits=SOON)

    assert revision_of(file) == "v2.6.0.a"


def test_a_migration_loses_no_committed_write(enlarged: Path) -> None:
    log = enlarged.with_name("written.txt")
    with log.open("w") as stream:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(enlarged)], stdout=stream)

    try:
        wait_until(lambda: log.read_text())
        migrate(url(enlarged), quiet, waits=Waits(lock_s=60.0))
        count_after_migration = len(log.read_text().split())
        wait_until(lambda: len(log.read_text().split()) > count_after_migration + 1)
    finally:
        writer.kill()
        writer.wait()

    committed = {f"k{number}" for number in log.read_text().split()}
    with closing(sqlite3.connect(enlarged)) as connection:
        stored = {key for (key,) in connection.execute("SELECT key FROM study_user_attributes")}
    assert committed <= stored
    assert revision_of(enlarged) == schema.HEAD_REVISION


# -- killed migrations ----------------------------------------------------------------------------------------


def exists(name: str) -> Callable[[Path], bool]:
    return lambda file: (file.parent / name).exists()


def is_large(name: str) -> Callable[[Path], bool]:
    def reached(file: Path) -> bool:
        path = file.parent / name
        return path.exists() and path.stat().st_size > 5_000_000

    return reached


def migrate_and_kill(file: Path, moment: Callable[[Path], bool]) -> None:
    process = forks.start(["migrate", "--storage", url(file)], file.with_name("said.txt"))
    deadline = time.monotonic() + PATIENCE_S
    while not moment(file) and process.poll() is None and time.monotonic() < deadline:
        pass  # without a pause: some moments last only milliseconds
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "is_kept"),
    [
        pytest.param(exists("studies.db.migrating"), False, id="begun"),
        pytest.param(exists("studies.db.migrating/before.db"), False, id="copying"),
        pytest.param(exists("studies.db.migrating/after.db"), False, id="copying again"),
        pytest.param(exists("studies.db.migrating/after.db-journal"), False, id="migrating the copy"),
        pytest.param(exists("studies.db.before-v2.6.0.a"), True, id="kept"),
        pytest.param(is_large("studies.db-journal"), True, id="writing the database"),
    ],
)
def test_a_kill_leaves_the_old_or_the_new_database_and_the_next_migration_completes(
    enlarged: Path, moment: Callable[[Path], bool], is_kept: bool
) -> None:
    before, trials = content(enlarged), trials_as_written(enlarged)

    migrate_and_kill(enlarged, moment)

    kept = [path for path in enlarged.parent.iterdir() if path.name.startswith("studies.db.before-")]
    assert revision_of(enlarged) == schema.HEAD_REVISION or content(enlarged) == before
    assert bool(kept) >= is_kept
    assert all(content(path) == before for path in kept)

    migrate(url(enlarged), quiet)

    assert revision_of(enlarged) == schema.HEAD_REVISION
    assert content(enlarged)
    assert {trial.number: trial_as_read(trial) for trial in stored_trials(enlarged)} == trials
    assert not [path for path in enlarged.parent.iterdir() if path.name.endswith(("-journal", ".migrating"))]
