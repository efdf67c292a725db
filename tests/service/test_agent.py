"""`convsearch worker` and `convsearch serve`: they work on open studies, with the code and the images of the study."""

import re
import signal
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.cli.main import main
from search.process import this_process
from search.storage import attr_keys, claims, queries
from search.storage.rdb import Storage
from search.storage.read_only import open_reader
from search.study import stored_study
from tests.harness import LONG, Harness, paint, wait_until
from tests.storage.claimers import take

SHORT: dict[str, Any] = {"budget": {"trials": 3, "epochs": 1}}


def store_without_running(harness: Harness, name: str = "s", **changes: Any) -> None:
    answer = harness.run("run", harness.write(name, **(SHORT | changes)), "--detach")
    assert answer.code == 0, answer.err
    assert "stored, for `convsearch serve` or `convsearch worker`" in answer.err


def test_a_worker_finishes_all_open_studies_with_their_final_trainings_and_exits(harness: Harness) -> None:
    store_without_running(harness, final={"epochs": 1})
    store_without_running(harness, "other")
    assert harness.counts().begun == 0

    answer = harness.run("worker", "--workers", "2")

    assert answer.code == 0, answer.err
    assert answer.err.endswith("nothing is left to do\n")
    for name in ("s", "other"):
        assert [trial.state for trial in harness.trials(name)] == ["COMPLETE"] * 3
    (verdict,) = harness.trials("s.final")
    assert verdict.test is not None
    assert queries.study(open_reader(harness.url), "s").seconds_run > 0


def test_a_study_whose_first_trials_have_no_result_is_skipped_until_it_is_resumed(harness: Harness) -> None:
    store_without_running(harness, budget={"trials": 90, "epochs": 1, "max_latency_ms": 1e-6})

    first = harness.run("worker", "--workers", "1")
    begun = [harness.counts().begun]
    again = harness.run("worker", "--workers", "1")
    begun.append(harness.counts().begun)
    resumed = harness.run("resume", "s", "--detach")
    second = harness.run("worker", "--workers", "1")
    begun.append(harness.counts().begun)

    assert [answer.code for answer in (first, again, resumed, second)] == [76, 76, 0, 76]
    assert begun == [11, 11, 21]
    assert "s is skipped: 's' has no result: all 11 finished trials ended without a result:" in again.err


def test_a_stopped_study_is_not_worked_on_until_it_is_stored_again(harness: Harness) -> None:
    store_without_running(harness)
    harness.run("stop", "s")

    idle = harness.run("worker", "--workers", "1")
    stopped = harness.counts()
    again = harness.run("resume", "s", "--detach", "--trials", "1")
    worked = harness.run("worker", "--workers", "1")

    assert [answer.code for answer in (idle, again, worked)] == [0, 0, 0]
    assert (stopped.finished, harness.counts().complete) == (0, 1)


def test_a_worker_with_other_code_is_refused_until_the_study_is_resumed_with_that_code(harness: Harness) -> None:
    store_without_running(harness)
    storage = Storage(harness.url)
    stored = stored_study.load(storage, "s")
    stored_study.set_attrs(
        storage, stored.id, {attr_keys.CURRENT_VERSIONS: {**stored.versions, "torch": "1.0", "code": "0badc0de"}}
    )

    refused = harness.run("worker", "--workers", "1")
    again = harness.run("resume", "s", "--detach")
    worked = harness.run("worker", "--workers", "1")

    assert refused.code == 78
    assert re.search(r"torch \S+ here, 1\.0 there", refused.err)
    assert "0badc0de there" in refused.err
    assert "`convsearch resume s`" in refused.err
    assert (again.code, worked.code, harness.counts().complete) == (0, 0, 3)


def test_missing_or_different_images_are_refused_and_moved_ones_are_accepted(harness: Harness, tmp_path: Path) -> None:
    original, others = paint(tmp_path / "there"), paint(tmp_path / "others")
    (others / "train" / "red" / "000.png").unlink()
    (original / "train" / "blue" / "001.png").unlink()  # a set of its own, to be forgotten
    store_without_running(harness, data={"path": str(original)})
    moved = original.rename(tmp_path / "moved")
    harness.forget_images()

    missing, wrong = harness.run("worker"), harness.run("worker", "--data", str(others))
    right = harness.run("worker", "--workers", "1", "--data", str(moved))

    assert [answer.code for answer in (missing, wrong, right)] == [65, 65, 0], right.err
    assert f"the images are not at {original}, and" in missing.err
    assert "train_counts is" in wrong.err
    assert harness.counts().complete == 3
    assert queries.study(open_reader(harness.url), "s").spec["data"]["path"] == str(original)


def test_a_finished_study_of_other_code_is_no_error(harness: Harness) -> None:
    assert harness.train(budget={"trials": 3, "epochs": 2}, final={"epochs": 1}).code == 0
    storage = Storage(harness.url)
    for name in ("s", "s.final"):
        stored_study.set_attrs(
            storage, stored_study.load(storage, name).id, {attr_keys.CURRENT_VERSIONS: {"torch": "1.0"}}
        )

    answer = harness.run("worker")

    assert answer.code == 0, answer.err


def test_a_worker_whose_trials_all_fail_exits_with_code_70(harness: Harness) -> None:
    store_without_running(harness, budget={"trials": 6, "epochs": 1})
    storage = Storage(harness.url, token="me")
    stored = stored_study.load(storage, "s")
    for _ in range(5):
        claim = take(storage, stored.id)
        storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 70
    assert "all 5 finished trials failed" in answer.err


def test_a_study_that_cannot_be_worked_on_does_not_block_the_others(harness: Harness) -> None:
    gone = paint(harness.folder / "gone")
    (gone / "train" / "red" / "002.png").unlink()  # a set of its own, to be forgotten
    store_without_running(harness, "a", data={"path": str(gone)})
    store_without_running(harness, "b")
    gone.rename(harness.folder / "went")
    harness.forget_images("a")

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 0
    assert "a is skipped: the images are not at" in answer.err
    assert harness.counts("b").complete == 3


def test_a_missing_database_is_refused_and_not_created(harness: Harness) -> None:
    answer = harness.run("worker")

    assert answer.code == 69
    assert not (harness.folder / "home").exists()


def test_a_worker_takes_over_the_trial_of_a_process_that_is_gone(harness: Harness) -> None:
    worker_config = harness.create(budget={"trials": 1, "epochs": 1})
    storage = Storage(harness.url, token=worker_config.token)
    gone = this_process("gone")
    claims.claim(storage, stored_study.load(storage, "s").id, replace(gone, started=gone.started - 3600))

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 0
    (trial,) = harness.trials()
    assert (trial.state, trial.attempts) == ("COMPLETE", 2)


def test_the_service_runs_stored_studies_shows_them_and_requeues_trials_when_stopped(harness: Harness) -> None:
    with harness.start("serve", "--port", "0", "--workers", "1") as service:
        service.until(lambda: "http://127.0.0.1:" in service.said)
        store_without_running(harness)
        service.until(lambda: harness.counts().complete == 3)
        store_without_running(harness, "long", **LONG)
        service.until(lambda: harness.steps(name="long") >= 2)
        listed = harness.run("workers", "--json").json
        url = re.search(r"http://\S+", service.said)
        assert url is not None
        with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(url[0]) as page:
            shown = page.read()
        service.process.send_signal(signal.SIGTERM)
        answer = service.end()

    assert answer.code == 143, answer.err
    assert [(worker["study"], worker["trial"]) for worker in listed["workers"]] == [("long", 0)]
    assert b"Optuna Dashboard" in shown
    (trial,) = harness.trials("long")
    assert (trial.state, trial.attempts) == ("WAITING", 0)


def test_a_worker_skips_a_study_that_another_launcher_of_this_machine_runs(harness: Harness) -> None:
    file = harness.write(budget={"trials": 2, "epochs": 4000})
    with harness.start("run", file, "--workers", "1") as launcher:
        launcher.until(lambda: harness.steps() >= 1)
        with harness.start("worker", "--workers", "1", "--stay") as worker:
            worker.until(lambda: "on this machine is already running the study 's'" in worker.said)
            held = harness.workers()
            worker.process.send_signal(signal.SIGTERM)
            worker.end()
        launcher.signal(signal.SIGTERM)
        answer = launcher.end()

    assert len(held) == 1
    assert answer.code == 143, answer.err


def test_no_worker_is_listed_while_no_trial_runs(harness: Harness) -> None:
    store_without_running(harness)

    assert harness.run("workers").out == "no worker is running a trial\n"


def test_the_unit_file_has_the_given_options_and_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "100% sure"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONVSEARCH_STORAGE", "postgresql://me:secret@server/studies")

    assert main(["serve", "--workers", "3", "--port", "8090", "--unit"]) == 0
    unit = capsys.readouterr().out

    assert re.search(r"^ExecStart=\S+/convsearch serve --port 8090 .*--workers 3", unit, re.MULTILINE)
    assert f"WorkingDirectory={str(folder).replace('%', '%%')}\n" in unit
    assert "secret" not in unit
    assert "has a password" in unit
    monkeypatch.setenv("CONVSEARCH_STORAGE", "postgresql://me@server/studies")
    assert main(["serve", "--unit"]) == 0
    assert "Environment=CONVSEARCH_STORAGE=postgresql://me@server/studies\n" in capsys.readouterr().out


def test_a_worker_with_stay_finds_newly_stored_work_within_seconds(harness: Harness) -> None:
    store_without_running(harness)
    harness.run("worker", "--workers", "1")
    with harness.start("worker", "--stay", "--workers", "1") as worker:
        worker.until(lambda: "nothing to do now" in worker.said)
        harness.run("resume", "s", "--detach", "--trials", "4")
        wait_until(lambda: harness.counts().complete == 4)

    assert [trial.number for trial in harness.trials()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {143, -signal.SIGTERM}), (signal.SIGINT, {130})])
def test_an_idle_service_ends_at_a_signal(harness: Harness, number: signal.Signals, codes: set[int]) -> None:
    with harness.start("serve", "--port", "0", "--workers", "1") as service:
        service.until(lambda: "nothing to do now" in service.said)
        service.signal(number)
        answer = service.end()

    assert answer.code in codes
    assert "Traceback" not in answer.err


def test_a_worker_finishes_paused_trials(harness: Harness) -> None:
    space = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    search = {"pruner": "promote", "first_rung": 1, "startup_trials": 2}
    file = harness.write(search=search, space=space, budget={"trials": 6, "epochs": 4})
    assert harness.run("run", file, "--set", f"checkpoints={harness.folder / 'store'}", "--detach").code == 0

    answer = harness.run("worker", "--workers", "2")

    assert answer.code == 0, answer.err
    states = [trial.state for trial in harness.trials()]
    assert sorted(set(states)) == ["COMPLETE", "PRUNED"]
    assert len(states) == 6
    remote = {path.parent.name for path in (harness.folder / "store").rglob("*.ckpt")}
    local = {path.parent.name for path in harness.dirs.study("s").rglob("*.ckpt")}
    assert remote == local != set()
