"""A dashboard that stays open: ids that are given again, databases that are replaced, trials that are retried."""

import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from search.dashboard import server
from search.dashboard.pages import HISTORY, SCRIPT, Pages
from search.storage import leases
from search.storage.rdb import Storage
from tests.databases import SHORT_STORAGES
from tests.harness import Harness
from tests.wsgi import get_request

pytestmark = SHORT_STORAGES


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    """Close the connections of all engines: the garbage collector would do it with a warning in another test."""
    yield
    for engine in [found for found in gc.get_objects() if type(found) is sa.Engine]:
        engine.dispose()


def make_study(url: str, name: str, parameter: str, values: Sequence[float]) -> optuna.Study:
    """Create a study with a complete trial for each value; two values depend on the parameter."""
    Storage(url, create=True)
    study = optuna.create_study(study_name=name, storage=url, direction="maximize")
    for value in values:
        trial = study.ask({parameter: FloatDistribution(0.0, 1.0), "other": FloatDistribution(0.0, 1.0)})
        study.tell(trial, value)
    return study


def get(pages: Pages, path: str) -> tuple[str, dict[str, Any]]:
    """The id of the study and of its history in the answer to a browser, and the answer."""
    headers, body = send(pages, path, "after=0")
    return headers[HISTORY], json.loads(body)


def send(pages: Pages, path: str, query: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of the answer to a browser."""
    sent: dict[str, str] = {}
    environ = get_request(path, query)

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        sent.update(headers)

    body = b"".join(pages(environ, start))
    return sent, body


def important(answer: dict[str, Any]) -> set[str]:
    """The parameters with an importance."""
    (importances,) = answer["param_importances"]
    return {importance["name"] for importance in importances}


def pages_of(url: str) -> Pages:
    pages = server._dashboard(url)
    assert isinstance(pages, Pages)
    return pages


def values_of(study: dict[str, Any]) -> list[float]:
    return [trial["values"][0] for trial in study["trials"]]


def test_a_study_with_the_id_of_a_deleted_one_has_its_own_trials_parameters_and_importances(url: str) -> None:
    old = make_study(url, "old", "depth", [0.1, 0.9, 0.5])
    pages = pages_of(url)
    old_history, before = get(pages, "/api/studies/1")
    _, old_importances = get(pages, "/api/studies/1/param_importances")

    optuna.delete_study(study_name="old", storage=url)
    new = make_study(url, "new", "width", [0.3, 0.2, 0.25])
    new_history, after = get(pages, "/api/studies/1")
    _, new_importances = get(pages, "/api/studies/1/param_importances")

    assert old._study_id == new._study_id
    assert values_of(before) == [0.1, 0.9, 0.5]
    assert old_history != new_history
    assert after["name"] == "new"
    assert values_of(after) == [0.3, 0.2, 0.25]
    assert [trial["values"] for trial in after["best_trials"]] == [[0.3]]
    assert {item["name"] for item in after["union_search_space"]} == {"width", "other"}
    assert important(old_importances) == {"depth", "other"}
    assert important(new_importances) == {"width", "other"}


def test_importances_are_not_those_of_the_same_id_in_another_database(url: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    make_study(url, "s", "depth", [0.1, 0.9, 0.5])
    make_study(other, "s", "width", [0.1, 0.9, 0.5])
    here, there = pages_of(url), pages_of(other)

    answers = [get(pages, "/api/studies/1/param_importances")[1] for pages in (here, there, here)]

    assert [important(answer) for answer in answers] == [{"depth", "other"}, {"width", "other"}, {"depth", "other"}]


def test_a_trial_with_the_id_of_a_deleted_one_of_another_study_is_not_taken_for_it(url: str) -> None:
    kept, deleted = make_study(url, "kept", "x", [0.1, 0.2]), make_study(url, "deleted", "x", [0.9])
    pages = pages_of(url)
    for path in ("/api/studies/1", "/api/studies/2"):
        get(pages, path)
    (old,) = deleted.trials

    optuna.delete_study(study_name="deleted", storage=url)
    new = kept.ask({"x": FloatDistribution(0.0, 1.0)})
    kept.tell(new, 0.3)
    _, study = get(pages, "/api/studies/1")

    assert new._trial_id == old._trial_id
    assert [(trial["number"], trial["values"]) for trial in study["best_trials"]] == [(2, [0.3])]


@pytest.mark.parametrize("is_in_place", [True, False], ids=["overwritten", "replaced"])
def test_a_restored_backup_shows_its_own_trials(url: str, is_in_place: bool) -> None:
    study = make_study(url, "s", "x", [0.1, 0.2])
    file = Path(url.removeprefix("sqlite:///"))
    backup = Path(shutil.copy(file, file.with_name("backup")))
    study.tell(study.ask({"x": FloatDistribution(0.0, 1.0)}), 0.8)
    study.tell(study.ask({"x": FloatDistribution(0.0, 1.0)}), 0.9)
    pages = pages_of(url)
    history, before = get(pages, "/api/studies/1")

    shutil.copy(backup, file) if is_in_place else backup.rename(file)
    study = optuna.load_study(study_name="s", storage=url)
    study.tell(study.ask({"x": FloatDistribution(0.0, 1.0)}), 0.3)
    restored_history, after = get(pages, "/api/studies/1")

    assert values_of(before) == [0.1, 0.2, 0.8, 0.9]
    assert values_of(after) == [0.1, 0.2, 0.3]
    assert after["best_trials"][0]["values"] == [0.3]
    assert history != restored_history


@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_a_failed_trial_that_is_retried_is_shown_as_waiting(url: str) -> None:
    study = make_study(url, "s", "x", [0.1])
    study.tell(study.ask(), state=TrialState.FAIL)
    pages = pages_of(url)
    _, before = get(pages, "/api/studies/1")

    leases.retry_failed(Storage(url), study._study_id)
    _, after = get(pages, "/api/studies/1")

    assert [trial["state"] for trial in before["trials"]] == ["Complete", "Fail"]
    assert [trial["state"] for trial in after["trials"]] == ["Complete", "Waiting"]


@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_a_history_stays_the_same_while_trials_begin_and_end(url: str) -> None:
    study = make_study(url, "s", "x", [0.1, 0.2])
    storage = server._history(url)
    before = storage.check(study._study_id)
    kept = storage.get_all_trials(study._study_id, deepcopy=False)

    late, early = study.ask(), study.ask()
    study.tell(early, 0.3)
    during = storage.get_all_trials(study._study_id, deepcopy=False)
    study.tell(late, 0.4)
    after = storage.get_all_trials(study._study_id, deepcopy=False)

    assert storage.check(study._study_id).id == before.id
    assert [trial.state.name for trial in during] == ["COMPLETE", "COMPLETE", "RUNNING", "COMPLETE"]
    assert [trial.value for trial in after] == [0.1, 0.2, 0.4, 0.3]
    assert all(one is other for one, other in zip(kept, after, strict=False))  # finished trials are read once


@pytest.mark.parametrize("name", ["s", "t"], ids=["the same name", "another name"])
def test_a_study_of_ours_without_a_finished_trial_has_a_history_of_its_own(harness: Harness, name: str) -> None:
    harness.create("s")
    pages = pages_of(harness.url)
    before, _ = get(pages, "/api/studies/1")

    assert harness.run("delete", "s", "--yes").code == 0
    harness.create(name)
    after, study = get(pages, "/api/studies/1")

    assert before != after
    assert study["name"] == name


def test_a_study_that_is_gone_has_no_history_and_an_unknown_one_neither(url: str) -> None:
    make_study(url, "s", "x", [0.1])
    pages = pages_of(url)
    before, _ = get(pages, "/api/studies/1")

    optuna.delete_study(study_name="s", storage=url)
    gone, answer = get(pages, "/api/studies/1")
    unknown, _ = get(pages, "/api/studies/7")

    assert before.startswith("1 ")
    assert (gone, unknown) == ("1", "7")
    assert answer == {"reason": "study_id=1 is not found"}


def test_the_note_of_a_deleted_study_is_not_shown_with_another_one(url: str) -> None:
    make_study(url, "s", "x", [0.1])
    pages = pages_of(url)
    _, before = get(pages, "/api/studies/1")

    optuna.delete_study(study_name="s", storage=url)
    make_study(url, "no name of ours: /", "x", [0.5])
    _, after = get(pages, "/api/studies/1")

    assert "0.1000" in before["note"]["body"]
    assert after["note"]["body"] == ""
    assert after["artifacts"] == []


def test_the_page_loads_the_script_first_and_is_not_kept_by_the_browser(url: str) -> None:
    make_study(url, "s", "x", [0.1])
    headers, page = send(pages_of(url), "/dashboard/studies/1", "")
    script = send(pages_of(url), SCRIPT, "")[1]

    assert page.index(SCRIPT.encode()) < page.index(b"/static/bundle.js")
    assert headers["Cache-Control"] == "no-store"
    assert HISTORY.encode() in script
