"""Queries on a real database that plain Optuna wrote, with the attributes that convsearch adds."""

import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from search.errors import DatabaseError, DiskError, UsageError
from search.storage import queries, ranking
from search.storage.read_only import open_reader, read_transaction
from search.storage.records import TrialCounts

Make = Callable[..., optuna.Study]
SPEC = {"search": {"objective": "balanced_accuracy"}, "budget": {"epochs": 3.0, "steps_per_epoch": 2}}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a study in tmp_path/studies.db with a budget of that number of trials."""

    def make_study(
        name: str = "s", *, budget: int | None = 10, direction: Literal["maximize", "minimize"] = "maximize"
    ) -> optuna.Study:
        study = optuna.create_study(study_name=name, storage=url_of(tmp_path), direction=direction)
        if budget is not None:
            study.set_user_attr("trials", budget)
        return study

    return make_study


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def engine_of(folder: Path) -> sa.Engine:
    return open_reader(url_of(folder))


def add(
    study: optuna.Study,
    value: float | None,
    state: TrialState = TrialState.COMPLETE,
    *,
    curve: dict[int, float] | None = None,
    attrs: dict[str, Any] | None = None,
    system: dict[str, Any] | None = None,
) -> None:
    study.add_trial(
        create_trial(
            state=state,
            value=value,
            params={"conv_layers": 3, "optimizer": "sgd", "learning_rate[sgd]": 0.25, "norm": True, "repeat": 1},
            distributions={
                "conv_layers": IntDistribution(1, 6),
                "optimizer": CategoricalDistribution(["adam", "sgd"]),
                "learning_rate[sgd]": FloatDistribution(0.01, 1.0, log=True),
                "norm": CategoricalDistribution([None, False, True]),
                "repeat": IntDistribution(0, 4),
            },
            intermediate_values=curve,
            user_attrs=attrs,
            system_attrs=system,
        )
    )


def test_the_best_trials_come_first_and_ties_are_ordered_by_number(make: Make, tmp_path: Path) -> None:
    study = make()
    for value in (0.5, 0.9, 0.7, 0.9):
        add(study, value)

    shown = ranking.best(engine_of(tmp_path), "s", top=3)

    assert [(t.number, t.values) for t in shown.trials] == [(1, (0.9,)), (3, (0.9,)), (2, (0.7,))]
    assert shown.study.best == shown.trials[0]


def test_neither_an_infinite_value_nor_a_pruned_trial_is_best(make: Make, tmp_path: Path) -> None:
    study = make()
    add(study, math.inf)
    add(study, 0.99, TrialState.PRUNED)
    add(study, 0.4)

    shown = ranking.best(engine_of(tmp_path), "s", top=5)

    assert [t.number for t in shown.trials] == [2]
    assert queries.trial(engine_of(tmp_path), "s", 0).values == (math.inf,)


def test_a_value_or_a_range_is_read_as_its_value(make: Make, tmp_path: Path) -> None:
    study, option = make(), CategoricalDistribution([0.0, "1e-06 to 0.01"])
    name, inside = "weight_decay[1e-06 to 0.01]", FloatDistribution(1e-6, 1e-2, log=True)
    study.add_trial(
        create_trial(
            value=0.5,
            params={"weight_decay": "1e-06 to 0.01", name: 3e-4},
            distributions={"weight_decay": option, name: inside},
        )
    )
    study.add_trial(create_trial(value=0.5, params={"weight_decay": 0.0}, distributions={"weight_decay": option}))

    trials = queries.trials(engine_of(tmp_path), "s")

    assert [trial.params for trial in trials] == [{"weight_decay": 3e-4}, {"weight_decay": 0.0}]


def test_the_smallest_value_is_best_when_the_direction_is_minimize(make: Make, tmp_path: Path) -> None:
    study = make(direction="minimize")
    for value in (0.5, 0.1, 0.7):
        add(study, value)

    shown = ranking.best(engine_of(tmp_path), "s", top=2)

    assert shown.study.directions == ("minimize",)
    assert [t.number for t in shown.trials] == [1, 0]


def test_the_leading_trial_has_the_best_value_whether_complete_or_pruned(make: Make, tmp_path: Path) -> None:
    study = make()
    assert ranking.ranked_by_best_value(engine_of(tmp_path), "s") == ()
    add(study, None, TrialState.PRUNED, curve={1: 0.9, 2: 0.9}, system={"constraints:trainable": 1.0})  # it diverged
    add(study, None, TrialState.FAIL, curve={1: 0.9, 2: 0.9})
    assert ranking.ranked_by_best_value(engine_of(tmp_path), "s") == ()

    leaders = []
    for curve, value in (
        ({1: 0.1, 2: 0.3}, None),
        ({1: 0.4, 2: 0.2}, None),  # better, after less training
        ({1: 0.4, 2: math.nan}, None),  # equal, but later
        ({1: 0.7, 2: 0.35}, 0.35),  # a complete trial counts by its final value only
        ({1: 0.1, 2: 0.5}, 0.5),
    ):
        add(study, value, TrialState.PRUNED if value is None else TrialState.COMPLETE, curve=curve)
        leaders.append([trial.number for trial, _ in ranking.ranked_by_best_value(engine_of(tmp_path), "s")][:1])

    assert leaders == [[2], [3], [3], [3], [6]]


def test_parameters_have_the_keys_and_values_of_a_study_file(make: Make, tmp_path: Path) -> None:
    add(make(), 0.5)

    row = queries.trial(engine_of(tmp_path), "s", 0)

    assert row.params == {"conv_layers": 3, "optimizer": "sgd", "learning_rate": 0.25, "norm": True}
    assert isinstance(row.params["conv_layers"], int)
    assert row.repeat == 1


def test_a_trial_is_read_with_all_of_its_attributes(make: Make, tmp_path: Path) -> None:
    attrs: dict[str, Any] = {
        "attempts": 2,
        "seconds": 4.5,
        "epochs": 1.5,
        "parameters": 1000,
        "macs": 2000,
        "images_per_second": 99.5,
    }
    attrs |= {"reason": "too slow", "crashes": ["attempt 1: gone"], "seed": 7}
    curve = {2: math.inf, 1: 0.25, 3: math.nan}
    add(make(), 0.5, TrialState.PRUNED, curve=curve, attrs=attrs, system={"config": {"width": 32}})

    row = queries.trial(engine_of(tmp_path), "s", 0)

    assert (row.state, row.attempts, row.seconds, row.epochs) == ("PRUNED", 2, 4.5, 1.5)
    assert (row.parameters, row.macs, row.images_per_second, row.seed) == (1000, 2000, 99.5, 7)
    assert (row.reason, row.crashes, row.config) == ("too slow", ("attempt 1: gone",), {"width": 32})
    assert row.curve[:2] == ((1, 0.25), (2, math.inf))
    assert math.isnan(row.curve[2][1])
    assert row.started is not None
    assert row.started.tzinfo is not None


def test_a_waiting_trial_shows_its_fixed_parameters(make: Make, tmp_path: Path) -> None:
    make().enqueue_trial({"learning_rate[sgd]": 0.5, "repeat": 3})

    row = queries.trial(engine_of(tmp_path), "s", 0)

    assert (row.state, row.params, row.repeat) == ("WAITING", {"learning_rate": 0.5}, 3)


def test_counts_add_up_to_the_budget(make: Make, tmp_path: Path) -> None:
    study = make(budget=10)
    add(study, 0.5)
    add(study, 0.4, TrialState.PRUNED)
    add(study, None, TrialState.FAIL)
    study.ask()
    study.enqueue_trial({"x": 1})

    counts = queries.study(engine_of(tmp_path), "s").counts

    assert counts == TrialCounts(budget=10, complete=1, pruned=1, failed=1, running=1, waiting=1)
    assert (counts.finished, counts.remaining) == (3, 5)


def test_a_trial_counts_as_paused_until_it_resumes(make: Make, tmp_path: Path) -> None:
    study = make(budget=10)
    for number, rung in enumerate((3, None)):  # the second trial was resumed and then interrupted
        study.enqueue_trial({"x": 1})
        study._storage.set_trial_user_attr(study.trials[number]._trial_id, "paused", rung)

    row = queries.study(engine_of(tmp_path), "s")

    assert (row.counts.paused, row.counts.waiting, row.counts.remaining, row.counts.to_do) == (1, 1, 8, 10)
    assert [queries.trial(engine_of(tmp_path), "s", number).paused for number in (0, 1)] == [3, None]


def test_the_budget_of_a_plain_optuna_study_is_its_number_of_trials(make: Make, tmp_path: Path) -> None:
    add(make(budget=None), 0.5)

    row = queries.study(engine_of(tmp_path), "s")

    assert (row.counts.budget, row.counts.remaining, row.objective, row.epochs) == (1, 0, "value", None)


def test_studies_are_listed_by_name_with_their_settings(make: Make, tmp_path: Path) -> None:
    make("zebra")
    study = make("ant")
    for key, value in {"question": "Which?", "spec": SPEC, "hours": 2.0, "seconds_run": 60.5, "stop": True}.items():
        study.set_user_attr(key, value)

    rows = queries.studies(engine_of(tmp_path))

    assert [row.name for row in rows] == ["ant", "zebra"]
    assert (rows[0].question, rows[0].hours, rows[0].seconds_run, rows[0].stop) == ("Which?", 2.0, 60.5, True)
    assert (rows[0].objective, rows[0].epochs) == ("balanced_accuracy", 3.0)
    assert rows[1].best is None


def test_all_trials_are_returned_in_order_of_number(make: Make, tmp_path: Path) -> None:
    study = make()
    for value in (0.5, 0.9, 0.7):
        add(study, value)

    rows = queries.trials(engine_of(tmp_path), "s")

    assert [(row.number, row.values) for row in rows] == [(0, (0.5,)), (1, (0.9,)), (2, (0.7,))]


def test_progress_has_the_running_trials_and_the_newly_finished_ones(make: Make, tmp_path: Path) -> None:
    study = make()
    for value in (0.5, 0.9):
        add(study, value)
    trial = study.ask()
    trial.report(0.3, 1)
    trial.report(0.6, 2)
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("CREATE TABLE convsearch_leases (trial_id INT, host TEXT, pid INT)")
        connection.execute("INSERT INTO convsearch_leases VALUES (?, 'anvil', 42)", (trial._trial_id,))
    connection.close()

    progress = queries.progress(engine_of(tmp_path), "s", seen={0})

    assert [row.number for row in progress.finished] == [1]
    assert [(running.trial.number, running.host, running.pid) for running in progress.running] == [(2, "anvil", 42)]
    assert progress.running[0].trial.curve == ((1, 0.3), (2, 0.6))


def test_progress_can_have_more_finished_trials_than_a_statement_has_variables(make: Make, tmp_path: Path) -> None:
    make().ask()
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        rows = [(number,) for number in range(1, 33_001)]
        connection.executemany("INSERT INTO trials (study_id, number, state) VALUES (1, ?, 'FAIL')", rows)
    connection.close()

    progress = queries.progress(engine_of(tmp_path), "s", seen={1})

    assert [row.number for row in progress.finished] == list(range(2, 33_001))


def test_progress_works_without_a_lease_table(make: Make, tmp_path: Path) -> None:
    make().ask()

    progress = queries.progress(engine_of(tmp_path), "s")

    assert [(running.trial.number, running.host, running.pid) for running in progress.running] == [(0, None, None)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("cifar01", "did you mean 'cifar10'?", id="near"),
        pytest.param("qqq", "`convsearch studies` lists all", id="far"),
    ],
)
def test_an_unknown_study_is_refused_and_the_nearest_name_is_suggested(
    make: Make, tmp_path: Path, name: str, words: str
) -> None:
    make("cifar10")

    with pytest.raises(UsageError, match=f"there is no study '{name}'") as refused:
        ranking.best(engine_of(tmp_path), name)

    assert words in str(refused.value)


def test_an_unknown_trial_is_refused_and_the_existing_trials_are_named(make: Make, tmp_path: Path) -> None:
    study = make()

    with pytest.raises(UsageError, match="'s' has no trial 5; it has no trials yet"):
        queries.trial(engine_of(tmp_path), "s", 5)
    add(study, 0.5)
    add(study, 0.5)
    with pytest.raises(UsageError, match="'s' has no trial 5; it has trials 0 to 1"):
        queries.trial(engine_of(tmp_path), "s", 5)


def test_the_error_for_a_database_without_studies_names_the_run_command(make: Make, tmp_path: Path) -> None:
    make("only")
    optuna.delete_study(study_name="only", storage=url_of(tmp_path))

    with pytest.raises(UsageError, match=r"holds none yet; `convsearch run s` begins it"):
        queries.study(engine_of(tmp_path), "s")


def test_a_missing_database_is_refused_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(
        DatabaseError, match=r"there is no database at .*studies\.db yet; `convsearch run STUDY` makes it"
    ):
        engine_of(tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"x = 1\n" * 1000, "cannot be read as a SQLite database", id="text"),
        pytest.param(b"", "holds no studies", id="empty"),
        pytest.param(None, "is no file", id="folder"),
    ],
)
def test_a_path_without_a_study_database_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "studies.db"
    file.mkdir() if content is None else file.write_bytes(content)

    with pytest.raises(DatabaseError, match=words):
        queries.studies(engine_of(tmp_path))

    assert content is None or file.read_bytes() == content


@pytest.mark.parametrize("url", ["runs/studies.db", "", "sqlite://", "nosuchdb://host/name"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(DatabaseError):
        open_reader(url)


def test_a_database_with_special_characters_in_its_path_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "a b#?%41"
    folder.mkdir()
    sqlite3.connect(folder / "studies.db").close()
    (folder / "studies.db").touch()

    engine = open_reader(sa.URL.create("sqlite", database=str(folder / "studies.db")).render_as_string())

    with read_transaction(engine) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


def test_a_reader_cannot_write(make: Make, tmp_path: Path) -> None:
    make()

    with (
        pytest.raises(DatabaseError, match="attempt to write a readonly database"),
        read_transaction(engine_of(tmp_path)) as connection,
    ):
        connection.exec_driver_sql("DELETE FROM studies")


def test_a_read_transaction_blocks_writers(make: Make, tmp_path: Path) -> None:
    make()
    writer = sqlite3.connect(tmp_path / "studies.db", timeout=0)

    with read_transaction(engine_of(tmp_path)) as connection:
        connection.exec_driver_sql("SELECT * FROM studies").all()
        with pytest.raises(sqlite3.OperationalError, match="locked"), writer:
            writer.execute("UPDATE studies SET study_name = 'other'")
    writer.close()

    assert queries.studies(engine_of(tmp_path))[0].name == "s"


KILLED_WHILE_WRITING = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 5")  # so small that half of the change reaches the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE study_user_attributes SET value_json = value_json || ' '")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_half_written_change_of_a_killed_writer_is_not_visible(make: Make, tmp_path: Path) -> None:
    study = make()
    study.set_user_attr("question", "before")
    for index in range(30):
        study.set_user_attr(f"filler {index}", "x" * 2000)
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path / "studies.db")], check=False)
    assert (tmp_path / "studies.db-journal").stat().st_size > 0

    row = queries.study(engine_of(tmp_path), "s")

    assert row.question == "before"


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
def test_a_disk_error_is_distinguished_from_an_invalid_database(make: Make, tmp_path: Path, code: int) -> None:
    """A reader meets such errors when it rolls back the journal of a killed writer."""
    make()
    engine = open_reader(f"sqlite:///{tmp_path / 'studies.db'}")

    def fail(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = code
        raise error

    sa.event.listen(engine, "do_execute", fail)
    with pytest.raises(DiskError, match=r"studies\.db cannot be read \(database or disk is full\); see to its disk"):
        queries.studies(engine)


def test_a_failed_open_does_not_print_the_password() -> None:
    code = "from search.storage.read_only import open_reader; open_reader('postgresql+psycopg2://me:geheim@host/name')"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ())

    assert done.returncode == 1
    assert "geheim" not in done.stderr.replace(code, "")


def test_queries_load_neither_torch_nor_optuna(make: Make, tmp_path: Path) -> None:
    add(make(), 0.5)
    code = (
        "import sys\n"
        "from search import tables\nfrom search.analysis import study_tables, trial_tables\n"
        "from search.storage import queries, ranking\n"
        "from search.storage.read_only import open_reader\n"
        f"engine = open_reader({url_of(tmp_path)!r})\n"
        "tables.to_json(study_tables.best_json(ranking.best(engine, 's')))\n"
        "tables.to_text(trial_tables.trial_table(queries.trial(engine, 's', 0)), width=80)\n"
        "print(sorted({'torch', 'optuna', 'scipy'} & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())

    assert done.stdout == "[]\n"


def environ() -> Mapping[str, str]:
    root = Path(queries.__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": str(root)}
