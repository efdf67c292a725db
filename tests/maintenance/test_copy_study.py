"""A study is copied into another database completely or not at all."""

import shutil
import signal

import optuna
import pytest
import sqlalchemy as sa

from search.maintenance import copy_study
from search.maintenance.copy_study import STUDIES, TABLES, TRIALS
from search.storage import queries
from search.storage.rdb import Storage
from search.storage.read_only import open_reader
from tests.harness import Harness

SEARCH = {"pruner": "asha", "sampler": "random", "reduction": 2}


@pytest.fixture
def ended(harness: Harness) -> Harness:
    """A search with complete and pruned trials and its final training."""
    assert harness.train(budget={"trials": 6, "epochs": 2}, search=SEARCH, final={"epochs": 1}).code == 0
    return harness


def test_a_copy_keeps_files_and_remote_checkpoints_when_the_original_is_deleted(harness: Harness) -> None:
    store = harness.folder / "store"
    harness.run(
        "run", harness.write(budget={"trials": 1, "epochs": 1}), "--workers", "1", "--set", f"checkpoints={store}"
    )
    other = f"sqlite:///{harness.dirs.root / 'copies.db'}"

    copied = harness.run("copy-study", "s", "--to", other)
    remote_folders = {path.parent.parent.name for path in store.rglob("*.ckpt")}
    deleted = harness.run("delete", "s", "--yes")
    kept = harness.run("export", "s", "--to", str(harness.folder / "out"), "--storage", other)

    assert (copied.code, deleted.code, kept.code) == (0, 0, 0), deleted.err
    assert f"`convsearch delete s --storage {harness.url}` removes the original" in copied.out
    assert len(remote_folders) == 2  # original and copy have their own, because each may resume
    assert len(list(store.rglob("*.ckpt"))) == 1


def test_a_copy_without_its_remote_checkpoints_prints_a_warning(harness: Harness) -> None:
    store = harness.folder / "store"
    harness.run(
        "run", harness.write(budget={"trials": 1, "epochs": 1}), "--workers", "1", "--set", f"checkpoints={store}"
    )
    shutil.rmtree(store)
    store.write_text("in the way")

    copied = harness.run("copy-study", "s", "--to", f"sqlite:///{harness.folder / 'elsewhere' / 'copies.db'}")

    assert copied.code == 0
    assert f"the copy has no checkpoints of 's' in {store}, but those on this disk: NotADirectoryError" in copied.err


def test_a_study_whose_launcher_was_killed_can_be_copied(harness: Harness) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 4000})
    with harness.start("run", file, "--workers", "1") as killed:
        killed.until(lambda: harness.steps() >= 1)  # the end of the block kills it

    answer = harness.run("copy-study", "s", "--to", f"sqlite:///{harness.folder / 'other' / 'copies.db'}")

    assert answer.code == 0, answer.err


def test_all_queries_give_the_same_answers_on_the_copy(ended: Harness) -> None:
    other = f"sqlite:///{ended.folder / 'other' / 'copies.db'}"

    answer = ended.run("copy-study", "s", "--to", other, "--json")

    assert answer.json["studies"] == ["s", "s.final"]
    for name in ("s", "s.final"):
        assert queries.study(open_reader(other), name) == queries.study(open_reader(ended.url), name)
        assert queries.trials(open_reader(other), name) == queries.trials(open_reader(ended.url), name)
    reports = [ended.run("report", "s", "--markdown", *flags).out for flags in ((), ("--storage", other))]
    assert reports[0] == reports[1]


def test_a_copy_resumes_where_the_original_stopped(harness: Harness) -> None:
    harness.run_until(harness.write(budget={"trials": 2, "epochs": 4000}), lambda: harness.steps() >= 6)
    (before, *_) = harness.trials()
    other = f"sqlite:///{harness.folder / 'other' / 'copies.db'}"

    copied = harness.run("copy-study", "s", "--to", other)
    log = harness.folder / "other" / "s" / "trial-00000" / "log.txt"
    with harness.start("resume", "s", "--workers", "1", "--storage", other) as launcher:
        launcher.until(lambda: f"going on after step {len(before.curve)}" in log.read_text())
        launcher.signal(signal.SIGTERM)
        resumed = launcher.end()

    assert (copied.code, resumed.code) == (0, 143)
    assert queries.trials(open_reader(other), "s")[0].curve[: len(before.curve)] == before.curve


def test_a_study_of_plain_optuna_keeps_every_field(harness: Harness) -> None:
    harness.dirs.make()
    plain = optuna.create_study(study_name="a/b", storage=harness.url, directions=["minimize", "maximize"])
    plain.set_user_attr("who", "näme")
    plain.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.COMPLETE,
            values=[float("inf"), 1e-300],
            params={"x": 0.1, "c": "b"},
            distributions={
                "x": optuna.distributions.FloatDistribution(0, 1),
                "c": optuna.distributions.CategoricalDistribution(["a", "b"]),
            },
            intermediate_values={0: float("nan"), 1: float("-inf"), 7: 0.1},
            user_attrs={"k": [1, None]},
        )
    )
    plain.enqueue_trial({"x": 0.2})
    other = f"sqlite:///{harness.folder / 'copies.db'}"

    assert harness.run("copy-study", "a/b", "--to", other).code == 0

    copy = optuna.load_study(study_name="a/b", storage=other)
    assert copy.directions == plain.directions
    assert copy.user_attrs == plain.user_attrs
    assert [repr(trial) for trial in without_ids(copy)] == [repr(trial) for trial in without_ids(plain)]


def without_ids(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study, without the ids that its database gives them."""
    trials = study.get_trials()
    for trial in trials:
        trial._trial_id = 0
    return trials


def test_copying_an_existing_running_or_unknown_study_is_refused(ended: Harness) -> None:
    other = f"sqlite:///{ended.folder / 'other' / 'copies.db'}"
    assert ended.run("copy-study", "s", "--to", other).code == 0
    with ended.dirs.running("s"):
        busy = ended.run("copy-study", "s", "--to", f"sqlite:///{ended.folder / 'third' / 'copies.db'}")

    again, unknown = ended.run("copy-study", "s", "--to", other), ended.run("copy-study", "nobody", "--to", other)

    assert [busy.code, again.code, unknown.code] == [75, 2, 2]
    assert "has a study 's' already" in again.err
    assert not (ended.folder / "third" / "s").exists()


def test_a_copy_that_differs_from_the_original_is_rolled_back(ended: Harness) -> None:
    other = f"sqlite:///{ended.folder / 'copies.db'}"
    storage = Storage(other, create=True)
    with storage.engine.begin() as connection:  # like a database that rounds
        connection.execute(
            sa.text("CREATE TRIGGER r AFTER INSERT ON trial_values BEGIN UPDATE trial_values SET value = 0.5; END")
        )

    answer = ended.run("copy-study", "s", "--to", other)

    assert answer.code == 69
    assert "the rows of trial_values did not come back as they were written" in answer.err
    with storage.engine.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(TRIALS)).scalar_one() == 0


def test_all_tables_with_rows_of_a_study_are_copied() -> None:
    assert {table.name for table in TABLES} | {STUDIES.name, "version_info"} == {
        table.name for table in STUDIES.metadata.sorted_tables
    }
    assert copy_study.ROWS * max(len(table.columns) for table in TABLES) < 65_535
