"""Workers from anywhere, and the service that stays: what is open is worked on, by its own code, on its own images."""

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

SHORT: dict[str, Any] = {"budget": {"trials": 3, "epochs": 1}}


def stored_but_not_run(harness: Harness, name: str = "s", **changes: Any) -> None:
    answer = harness.run("run", harness.write(name, **(SHORT | changes)), "--detach")
    assert answer.code == 0, answer.err
    assert "stored, for `convsearch serve` or `convsearch worker`" in answer.err


def test_a_worker_does_all_that_is_open_with_its_last_trainings_and_leaves(harness: Harness) -> None:
    stored_but_not_run(harness, final={"epochs": 1})
    stored_but_not_run(harness, "other")
    assert harness.trials() == ()

    answer = harness.run("worker", "--workers", "2")

    assert answer.code == 0, answer.err
    assert answer.err.endswith("nothing is left to do\n")
    for name in ("s", "other"):
        assert [trial.state for trial in harness.trials(name)] == ["COMPLETE"] * 3
    (verdict,) = harness.trials("s.final")
    assert verdict.test is not None
    assert queries.study(open_reader(harness.url), "s").seconds_run > 0


def test_a_study_that_was_stopped_is_left_alone_until_somebody_stores_it_again(harness: Harness) -> None:
    stored_but_not_run(harness)
    harness.run("stop", "s")

    idle = harness.run("worker", "--workers", "1")
    stopped = harness.counts()
    again = harness.run("resume", "s", "--detach", "--trials", "1")
    worked = harness.run("worker", "--workers", "1")

    assert [answer.code for answer in (idle, again, worked)] == [0, 0, 0]
    assert (stopped.finished, harness.counts().complete) == (0, 1)


def test_other_code_is_refused_with_what_differs_until_the_study_is_run_by_it(harness: Harness) -> None:
    stored_but_not_run(harness)
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


def test_images_that_are_elsewhere_or_others_are_refused_and_the_right_ones_are_taken(
    harness: Harness, tmp_path: Path
) -> None:
    there, others = paint(tmp_path / "there"), paint(tmp_path / "others")
    (others / "train" / "red" / "000.png").unlink()
    stored_but_not_run(harness, data={"path": str(there)})
    moved = there.rename(tmp_path / "moved")

    missing, wrong = harness.run("worker"), harness.run("worker", "--data", str(others))
    right = harness.run("worker", "--workers", "1", "--data", str(moved))

    assert [answer.code for answer in (missing, wrong, right)] == [65, 65, 0], right.err
    assert f"its images are not at {there} on this machine; --data names where they are" in missing.err
    assert "train_counts is" in wrong.err
    assert harness.counts().complete == 3
    assert queries.study(open_reader(harness.url), "s").spec["data"]["path"] == str(there)


def test_a_study_that_was_judged_long_ago_by_other_code_is_no_reason_to_complain(harness: Harness) -> None:
    harness.run("run", harness.write(**SHORT, final={"epochs": 1}), "--workers", "1")
    storage = Storage(harness.url)
    for name in ("s", "s.final"):
        stored_study.set_attrs(
            storage, stored_study.load(storage, name).id, {attr_keys.CURRENT_VERSIONS: {"torch": "1.0"}}
        )

    answer = harness.run("worker")

    assert answer.code == 0, answer.err


def test_where_all_trials_fail_the_worker_says_so_by_its_exit(harness: Harness) -> None:
    stored_but_not_run(harness, budget={"trials": 6, "epochs": 1})
    storage = Storage(harness.url, token="me")
    stored = stored_study.load(storage, "s")
    for _ in range(5):
        claim = claims.claim(storage, stored.id, this_process("me"))
        assert claim is not None
        storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 70
    assert "all 5 finished trials failed" in answer.err


def test_one_study_that_cannot_be_worked_on_keeps_nobody_from_the_others(harness: Harness) -> None:
    stored_but_not_run(harness, "a", data={"path": str(paint(harness.folder / "gone"))})
    stored_but_not_run(harness, "b")
    (harness.folder / "gone").rename(harness.folder / "went")

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 0
    assert "a is left alone: its images are not at" in answer.err
    assert harness.counts("b").complete == 3


def test_a_database_that_is_not_there_is_refused_and_not_made(harness: Harness) -> None:
    answer = harness.run("worker")

    assert answer.code == 69
    assert not (harness.folder / "home").exists()


def test_the_trial_of_a_machine_that_is_gone_is_taken_up_by_who_stays(harness: Harness) -> None:
    worker_config = harness.create(budget={"trials": 1, "epochs": 1})
    storage = Storage(harness.url, token=worker_config.token)
    gone = this_process("gone")
    claims.claim(storage, stored_study.load(storage, "s").id, replace(gone, started=gone.started - 3600))

    answer = harness.run("worker", "--workers", "1")

    assert answer.code == 0
    (trial,) = harness.trials()
    assert (trial.state, trial.attempts) == ("COMPLETE", 2)


def test_the_service_takes_up_what_is_stored_shows_it_and_puts_it_back_when_it_is_stopped(harness: Harness) -> None:
    service = harness.start("serve", "--port", "0", "--workers", "1")
    try:
        service.until(lambda: "http://127.0.0.1:" in service.said)
        stored_but_not_run(harness)
        service.until(lambda: harness.counts().complete == 3)
        stored_but_not_run(harness, "long", **LONG)
        service.until(lambda: harness.steps(name="long") >= 2)
        listed = harness.run("workers", "--json").json
        url = re.search(r"http://\S+", service.said)
        assert url is not None
        with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(url[0]) as page:
            shown = page.read()
        service.process.send_signal(signal.SIGTERM)
        answer = service.end()
    finally:
        service.sweep()

    assert answer.code == 143, answer.err
    assert [(each["study"], each["trial"]) for each in listed["workers"]] == [("long", 0)]
    assert b"Optuna Dashboard" in shown
    (trial,) = harness.trials("long")
    assert (trial.state, trial.attempts) == ("WAITING", 0)


def test_who_runs_a_study_here_is_left_to_it(harness: Harness) -> None:
    launcher = harness.start("run", harness.write(budget={"trials": 2, "epochs": 4000}), "--workers", "1")
    launcher.until(lambda: harness.dirs.study("s").exists() and harness.steps() >= 1)
    worker = harness.start("worker", "--workers", "1", "--stay")
    try:
        worker.until(lambda: "on this machine is already running the study 's'" in worker.said)
        held = harness.workers()
        worker.process.send_signal(signal.SIGTERM)
        worker.end()
        launcher.signal(signal.SIGTERM)
        answer = launcher.end()
    finally:
        worker.sweep()
        launcher.sweep()

    assert len(held) == 1
    assert answer.code == 143, answer.err


def test_nobody_is_listed_where_nobody_works(harness: Harness) -> None:
    stored_but_not_run(harness)

    assert harness.run("workers").out == "no worker is running a trial\n"


def test_the_unit_runs_the_command_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "100% sure"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONVSEARCH_STORAGE", "postgresql://me:secret@server/studies")

    assert main(["serve", "--workers", "3", "--port", "8090", "--unit"]) == 0
    told = capsys.readouterr().out

    assert re.search(r"^ExecStart=\S+/convsearch serve --port 8090 .*--workers 3", told, re.MULTILINE)
    assert f"WorkingDirectory={str(folder).replace('%', '%%')}\n" in told
    assert "secret" not in told
    assert "has a password" in told
    monkeypatch.setenv("CONVSEARCH_STORAGE", "postgresql://me@server/studies")
    assert main(["serve", "--unit"]) == 0
    assert "Environment=CONVSEARCH_STORAGE=postgresql://me@server/studies\n" in capsys.readouterr().out


def test_a_worker_that_stays_sees_within_seconds_what_is_stored(harness: Harness) -> None:
    stored_but_not_run(harness)
    harness.run("worker", "--workers", "1")
    worker = harness.start("worker", "--stay", "--workers", "1")
    try:
        worker.until(lambda: "nothing to do now" in worker.said)
        harness.run("resume", "s", "--detach", "--trials", "4")
        wait_until(lambda: harness.counts().complete == 4)
    finally:
        worker.sweep()

    assert [trial.number for trial in harness.trials()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("sign", "codes"), [(signal.SIGTERM, {143, -signal.SIGTERM}), (signal.SIGINT, {130})])
def test_a_service_that_has_nothing_to_do_ends_when_it_is_told_to(
    harness: Harness, sign: signal.Signals, codes: set[int]
) -> None:
    service = harness.start("serve", "--port", "0", "--workers", "1")
    try:
        service.until(lambda: "nothing to do now" in service.said)
        service.signal(sign)
        answer = service.end()
    finally:
        service.sweep()

    assert answer.code in codes
    assert "Traceback" not in answer.err


def test_trials_that_pause_are_seen_to_their_end_by_a_worker(harness: Harness) -> None:
    space = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
    search = {"pruner": "promote", "first_rung": 1, "startup_trials": 2}
    file = harness.write(search=search, space=space, budget={"trials": 6, "epochs": 4})
    assert harness.run("run", file, "--set", f"checkpoints={harness.folder / 'store'}", "--detach").code == 0

    answer = harness.run("worker", "--workers", "2")

    assert answer.code == 0, answer.err
    states = [trial.state for trial in harness.trials()]
    assert sorted(set(states)) == ["COMPLETE", "PRUNED"]
    assert len(states) == 6
    left = {path.parent.name for path in (harness.folder / "store").rglob("*.ckpt")}
    here = {path.parent.name for path in harness.dirs.study("s").rglob("*.ckpt")}
    assert left == here
