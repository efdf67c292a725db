"""`convsearch run` with real workers: budgets, resuming, several workers and launchers, stopping."""

import io
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from search.artifacts import study_dir
from search.errors import DatabaseError, SpecError
from search.service import session
from search.spec import study_spec
from search.storage import attr_keys, claims, leases, queries
from search.storage.rdb import Storage
from search.study import inputs, stored_study
from search.study.stored_study import StoredStudy
from search.trial.context import WorkerConfig
from search.workers.backend import WorkerBackend, WorkerHandle, WorkerSlot
from search.workers.live_view import PlainView
from search.workers.local import LocalBackend
from search.workers.signals import STOPPING
from search.workers.stop_rules import SAME_FAILURES, StopReason
from tests.harness import COLOURS, IDLE, PATIENCE_S, Harness, Launcher, equal, locked, long_study, quiet, reader
from tests.remote_owners import HASTY, far

SHORT = {"epochs": 1}


def test_the_budget_is_exact_and_no_trial_is_thrown_away(harness: Harness) -> None:
    file = harness.write(budget=SHORT | {"trials": 5})

    begun = harness.run("run", file, "--workers", "2")
    drawn = harness.trials()
    again = harness.run("run", file, "--workers", "2")
    raised = harness.run("run", file, "--workers", "2", "--trials", "7")
    lowered = harness.run("run", file, "--trials", "3")

    assert [begun.code, again.code, raised.code, lowered.code] == [0, 0, 0, 0]
    assert [trial.state for trial in drawn] == ["COMPLETE"] * 5
    assert len({trial.params["learning_rate"] for trial in drawn}) == len({trial.seed for trial in drawn}) == 5
    assert "going on: 5 of 5 trials done, 0 taken up again" in again.err
    assert "going on: 5 of 7 trials done" in raised.err
    assert "the budget is 7 trials, not 3: that number was begun already, and none is thrown away" in lowered.err
    assert [trial.number for trial in harness.trials()] == list(range(7))
    assert harness.trials()[:5] == drawn
    assert harness.counts().budget == 7


def test_a_grid_runs_every_cell_once_with_two_workers(harness: Harness) -> None:
    space = {"learning_rate": [0.01, 0.1], "width": [4, 8, 12]}
    file = harness.write(space=space, search={"sampler": "grid"}, budget=SHORT | {"trials": 6})

    answer = harness.run("run", file, "--workers", "2", "--trials", "6")
    beyond = harness.run("run", file, "--trials", "9")

    assert answer.code == 0
    cells = [(trial.params["learning_rate"], trial.params["width"]) for trial in harness.trials()]
    assert sorted(cells) == [(rate, width) for rate in (0.01, 0.1) for width in (4, 8, 12)]
    assert beyond.code == 78
    assert "[budget] trials must be at most 6, the cells there are, but got 9" in beyond.err


def test_a_comparison_ends_with_its_verdicts(harness: Harness) -> None:
    rows: list[dict[str, object]] = [{"name": "base"}, {"name": "idle", "learning_rate": IDLE}]
    file = harness.write(compare=rows, space={"learning_rate": 0.05}, search={"repeats": 3}, budget={"trials": 6})

    run = harness.run("run", file, "--workers", "2")
    answer = harness.run("compare", "s", "--json")

    assert (run.code, answer.code) == (0, 0)
    assert "idle" in run.out
    assert answer.json["schema"] == 1
    (idle,) = [row for row in answer.json["rows"] if row["name"] == "idle"]
    assert idle["verdict"] == "hurt"


def test_resume_needs_no_study_file_and_reports_when_there_is_nothing_to_do(harness: Harness) -> None:
    assert harness.train(budget=SHORT | {"trials": 1}).code == 0
    before = harness.trials()
    (harness.folder / "s.toml").unlink()

    done = harness.run("resume", "s")
    more = harness.run("resume", "s", "--trials", "2", "--workers", "1")

    assert (done.code, more.code) == (0, 0)
    assert done.err == "nothing to resume: all 1 trials of 's' are done; --trials N raises its budget\n"
    assert "going on: 1 of 2 trials done" in more.err
    assert harness.trials()[:1] == before
    assert harness.counts().complete == 2


def test_an_impossible_budget_is_refused_and_leaves_the_study_unchanged(harness: Harness) -> None:
    space = {"learning_rate": [0.01, 0.1]}
    assert harness.train(budget={"trials": 2, "epochs": 1}, search={"sampler": "grid"}, space=space).code == 0

    more = harness.run("resume", "s", "--trials", "3")
    after = harness.run("resume", "s")

    assert (more.code, after.code) == (78, 0)
    assert "[budget] trials" in more.err
    assert after.err == "nothing to resume: all 2 trials of 's' are done\n"


@contextmanager
def frozen_workers(harness: Harness, launcher: Launcher) -> Iterator[None]:
    """Freeze the workers of a launcher inside the block, from a moment when they hold no lock."""
    workers = [process for process in launcher.family() if process.pid in harness.workers()]
    with locked(harness.url):
        for worker in workers:
            worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def test_the_hours_limit_a_joined_launcher_after_the_first_one_is_gone(harness: Harness) -> None:
    file = harness.write(**long_study(trials=2, epochs=4000, hours=9.0))
    with harness.start("run", file, "--workers", "1") as first:
        first.until(harness.workers)
        with harness.start("run", file, "--join", "--workers", "1") as joined:
            joined.until(lambda: len(harness.workers()) == 2)
            first.sweep()
            row = queries.study(reader(harness.url), "s")
            storage = Storage(harness.url)
            stored_study.set_attrs(
                storage, stored_study.load(storage, "s").id, {attr_keys.HOURS: (row.seconds_run + 5.0) / 3600}
            )
            with frozen_workers(harness, joined):  # training would only take the time of other tests
                # Half a minute on an idle machine: the lease of the first launcher must end.
                joined.until(
                    lambda: queries.study(reader(harness.url), "s").seconds_run > row.seconds_run,
                    patience_s=2 * PATIENCE_S,
                )
            answer = joined.end()

    assert answer.code == 0
    assert "s: its hours are spent" in answer.err
    # The joined launcher went on counting the time.
    assert queries.study(reader(harness.url), "s").seconds_run >= row.seconds_run + 5.0


def test_a_run_ends_with_its_hours_and_the_next_one_goes_on(harness: Harness) -> None:
    file = harness.write(budget=SHORT | {"trials": 900}, search={"patience": 900})

    ended = harness.run("run", file, "--workers", "1", "--hours", "0.0005")
    left = harness.trials()
    row = queries.study(reader(harness.url), "s")
    again = harness.run("run", file, "--workers", "1", "--hours", "1", "--trials", str(len(left) or 1))

    assert (ended.code, again.code) == (0, 0)
    assert "s: its hours are spent" in ended.err
    assert row.seconds_run >= 1.8
    assert len(left) < 900
    assert {(trial.state, trial.attempts) for trial in left} <= {("WAITING", 0), ("COMPLETE", 1)}
    assert "s: done" in again.err
    assert [trial.state for trial in harness.trials()] == ["COMPLETE"] * (len(left) or 1)


def test_the_time_before_the_workers_start_counts_towards_the_hours(harness: Harness) -> None:
    harness.create(budget=SHORT | {"trials": 1})
    storage, options = Storage(harness.url), harness.options()
    stored = stored_study.load(storage, "s")
    view, hour_ago = PlainView(io.StringIO(), time.monotonic), time.monotonic() - 3600.0

    end = session.pool(options, storage, stored, LocalBackend(("cpu",)), view, since=hour_ago).run()

    assert end is StopReason.DONE
    assert stored_study.seconds_run(storage, stored.id) > 3600.0


def test_a_trial_run_again_ends_with_the_same_weights(harness: Harness) -> None:
    space = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "dropout_conv": 0.2, "ema": 0.9}
    assert harness.train(space=space, budget={"trials": 2}).code == 0
    (first, second) = harness.trials()

    answer = harness.run("run", "s", "--again", "1", "--workers", "1")

    assert answer.code == 0
    (again,) = harness.trials("s.again-1")
    assert (again.values, again.curve, again.seed) == (second.values, second.curve, second.seed)
    assert again.config == second.config
    assert equal(harness.trained(name="s.again-1"), harness.trained(1))
    assert harness.trials() == (first, second)


def test_a_second_launcher_needs_join_and_one_stop_ends_all_launchers(harness: Harness) -> None:
    file = harness.write(**long_study(trials=3, epochs=400, steps_per_epoch=3))
    with harness.start("run", file, "--workers", "1") as first:
        first.until(harness.workers)
        second = harness.run("run", file, "--trials", "4")
        delete = harness.run("delete", "s", "--yes")
        refused = harness.run("run", file, "--join", "--trials", "9")
        with harness.start("run", file, "--join", "--workers", "1") as joined:
            joined.until(lambda: len(harness.workers()) == 2)
            stop = harness.run("stop", "s")
            answers = [first.end(), joined.end()]

    assert (second.code, delete.code, refused.code, stop.code) == (75, 75, 2, 0)
    assert f"process {first.process.pid} on this machine is already running the study 's'" in second.err
    assert harness.counts().budget == 4  # a command that is refused as a second launcher still raises the budget
    assert "--join only adds workers" in refused.err
    assert [answer.code for answer in answers] == [0, 0]
    assert all("s: asked to stop" in answer.err for answer in answers)
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("WAITING", 0)] * 2
    assert harness.run("stop", "s", "--json").json["running"] == 0


def test_a_run_whose_study_is_deleted_ends_and_leaves_another_one_with_its_id_alone(harness: Harness) -> None:
    with harness.start("run", harness.write(**long_study(trials=50, epochs=20)), "--workers", "1") as launcher:
        launcher.until(harness.workers)
        optuna.delete_study(study_name="s", storage=harness.url)  # `convsearch delete` refuses it
        harness.create("other", **long_study(trials=50, epochs=20))
        answer = launcher.end()

    stored = stored_study.load(Storage(harness.url), "other")
    assert answer.code == 78
    assert "the study 's' was deleted while it ran" in answer.err
    assert "Traceback" not in answer.err
    assert (stored.id, queries.trials(reader(harness.url), "other")) == (1, ())
    assert stored_study.seconds_run(Storage(harness.url), stored.id) == 0.0


def test_a_launcher_with_other_code_cannot_join_a_running_study(harness: Harness) -> None:
    harness.create()
    storage, options = Storage(harness.url), harness.options(workers=None)
    stored = stored_study.load(storage, "s")
    stored_study.set_attrs(storage, stored.id, {attr_keys.CURRENT_VERSIONS: {**stored.versions, "torch": "1.0"}})

    with (
        study_dir.of(harness.url).running("s"),
        pytest.raises(SpecError, match=r"torch \S+ here, 1\.0 there; install theirs here"),
        session.joined(stored_study.load(storage, "s"), options),
    ):
        pytest.fail("it joined")


def study_of_other_code(harness: Harness) -> tuple[Storage, StoredStudy]:
    """A study that was last run by other code, and of which another machine holds a trial."""
    harness.create(budget=SHORT | {"trials": 2})
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    stored_study.set_attrs(storage, stored.id, {attr_keys.CURRENT_VERSIONS: {**stored.versions, "code": "0badc0de"}})
    claims.claim(storage, stored.id, far("far"))
    return storage, stored_study.load(storage, "s")


def test_an_upgrade_goes_on_with_a_study_whose_machine_is_gone(harness: Harness) -> None:
    storage, stored = study_of_other_code(harness)
    options = harness.options(workers=None, times=HASTY)

    with session.exclusive(storage, stored, options, quiet):
        pass

    assert stored_study.load(storage, "s").versions["code"] != "0badc0de"
    assert [trial.state for trial in harness.trials()] == ["WAITING"]


def test_an_upgrade_is_refused_while_others_work_on_the_study(harness: Harness) -> None:
    storage, stored = study_of_other_code(harness)
    options = harness.options(workers=None, times=replace(HASTY, lease_timeout_s=600.0))

    with (
        pytest.raises(SpecError, match=r"others work on 's' now, by other code: code .* 0badc0de there"),
        session.exclusive(storage, stored, options, lambda _: leases.renew(storage, ["far"])),
    ):
        pytest.fail("it runs")


def test_a_second_machine_keeps_the_budget_that_the_first_one_set(harness: Harness) -> None:
    harness.create(budget=SHORT | {"trials": 5})
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    stored_study.set_attrs(storage, stored.id, {attr_keys.BUDGET: 7, attr_keys.HOURS: 8.0})
    claims.claim(storage, stored.id, far("far"))
    options = harness.options(workers=None)

    messages: list[str] = []

    def record_and_renew(text: str) -> None:
        messages.append(text)
        leases.renew(storage, ["far"])

    with session.exclusive(storage, stored, options, record_and_renew):
        kept = queries.study(storage.engine, "s")
    with session.exclusive(storage, stored, replace(options, trials=9), record_and_renew):
        asked = queries.study(storage.engine, "s")

    assert "other workers run this study: budget settings that are not given here stay as they are" in messages
    assert (kept.counts.budget, kept.hours) == (7, 8.0)
    assert (asked.counts.budget, asked.hours) == (9, 8.0)


@dataclass(frozen=True, slots=True)
class WrongDatabaseBackend(LocalBackend):
    """A backend that starts its first workers with the URLs in `wrong_urls`."""

    wrong_urls: list[str]

    def start(self, worker_config: WorkerConfig, slot: WorkerSlot) -> WorkerHandle:
        return LocalBackend.start(
            self, replace(worker_config, url=self.wrong_urls.pop()) if self.wrong_urls else worker_config, slot
        )


@dataclass(frozen=True, slots=True)
class DyingWorkersBackend(LocalBackend):
    """A backend whose first workers, one for each item of `deaths_left`, die at once; its slots can be excluded."""

    deaths_left: list[int]

    def start(self, worker_config: WorkerConfig, slot: WorkerSlot) -> WorkerHandle:
        handle = LocalBackend.start(self, worker_config, slot)
        if self.deaths_left:
            self.deaths_left.pop()
            handle.kill()
        return handle

    def exclude(self, slot: WorkerSlot) -> bool:
        return True


def run_one_trial(harness: Harness, backend: WorkerBackend) -> StopReason:
    """Run a study of one trial on `backend`; returns why the run ended."""
    harness.create(budget=SHORT | {"trials": 1})
    storage, options = Storage(harness.url), harness.options()
    view = PlainView(io.StringIO(), time.monotonic)
    return session.pool(options, storage, stored_study.load(storage, "s"), backend, view, since=time.monotonic()).run()


def test_a_worker_that_cannot_open_the_database_of_its_pool_is_replaced(harness: Harness) -> None:
    missing = f"sqlite:///{harness.folder}/missing.db"

    end = run_one_trial(harness, WrongDatabaseBackend(("cpu",), [missing] * (SAME_FAILURES - 1)))

    assert end is StopReason.DONE
    assert [(trial.state, trial.attempts) for trial in harness.trials()] == [("COMPLETE", 1)]


def test_workers_that_repeatedly_cannot_open_the_database_end_the_run(harness: Harness) -> None:
    missing = f"sqlite:///{harness.folder}/missing.db"

    with pytest.raises(DatabaseError, match="a worker could not go on"):
        run_one_trial(harness, WrongDatabaseBackend(("cpu",), [missing] * SAME_FAILURES))


def test_workers_that_die_at_once_in_excludable_slots_do_not_end_the_run(harness: Harness) -> None:
    end = run_one_trial(harness, DyingWorkersBackend(("cpu",), list(range(2 * SAME_FAILURES))))

    assert end is StopReason.DONE
    assert [trial.state for trial in harness.trials()] == ["COMPLETE"]


def test_a_study_whose_trials_all_fail_alike_ends_with_their_reason(harness: Harness) -> None:
    separate = replace(harness, cache=harness.folder / "cache")
    file = separate.write(budget=SHORT | {"trials": 9})
    inputs.prepare_data(study_spec.load(Path(file)), separate.cache, quiet)
    (labels,) = separate.cache.glob("sets/*/train_labels.npy")
    # An unknown class makes every trial fail.
    np.save(labels, np.concatenate([[len(COLOURS)] * 40, np.load(labels)[40:]]))

    answer = separate.run("run", file, "--workers", "1")

    assert answer.code == 70
    assert "all 5 finished trials failed, the last one with: IndexError: Target " in answer.err
    assert "convsearch resume s --retry-failed" in answer.err
    assert {trial.state for trial in harness.trials()} <= {"FAIL", "WAITING"}


def test_a_run_restores_the_previous_signal_handlers(undisturbed: Harness) -> None:
    before = [signal.getsignal(number) for number in STOPPING]

    answer = undisturbed.run("run", str(undisturbed.folder / "s.toml"))

    assert "s: done" in answer.err
    assert [signal.getsignal(number) for number in STOPPING] == before
