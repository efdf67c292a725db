"""A stored study keeps its spec and images and refuses different ones."""

import json
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import _CachedStorage

from search.errors import SpecError, UsageError
from search.seeds import trial_seed
from search.spec import stored_spec, study_file, study_spec
from search.spec.study_spec import StudySpec
from search.storage import attr_keys, queries
from search.storage.rdb import Storage
from search.study import stored_study, strategy
from search.study.stored_study import StoredStudy
from search.workers import local
from tests.harness import DATA

#: Stored specs of shipped studies, whose files then did not refer to a recipe.
EARLIER: dict[str, Any] = json.loads((Path(__file__).parents[1] / "earlier_versions" / "studies.json").read_text())


def build(**changes: dict[str, Any]) -> StudySpec:
    tables: dict[str, dict[str, Any]] = {
        "budget": {"trials": 5, "epochs": 9},
        "space": {"width": [8, 16], "learning_rate": 0.1},
    }
    return study_spec.build({name: tables.get(name, {}) | changes.get(name, {}) for name in {**tables, **changes}})


def create(url: str, wanted: StudySpec, *, data: dict[str, Any] = DATA) -> StoredStudy:
    return stored_study.open_or_create(Storage(url, create=True), wanted, name="s", data=data)


def create_and_send(url: str, pipe: Connection) -> None:
    pipe.send(create(url, build()).uid)


def test_a_created_study_can_be_opened_and_loaded(url: str) -> None:
    created = create(url, build())

    assert create(url, build()) == created
    assert stored_study.load(Storage(url), "s") == created
    assert (created.spec, created.data) == (build(), DATA)


@pytest.mark.parametrize("name", EARLIER)
def test_a_study_goes_on_as_it_was_begun_before_its_file_referred_to_a_recipe(url: str, name: str) -> None:
    begun = stored_spec.restore(EARLIER[name])
    storage = Storage(url, create=True)
    stored_study.open_or_create(storage, begun, name=name, data=DATA)
    shipped = study_spec.load(study_file.STUDY_DIRS[-1] / f"{name}.toml")

    wanted, _ = stored_study.check(storage, shipped, name=name)
    stored = stored_study.open_or_create(storage, wanted, name=name, data=DATA)

    assert not wanted.is_provisional
    assert stored_spec.difference(begun, stored.spec, but={*stored_spec.MAY_CHANGE, ("[data]", "validation")}) == []
    assert study_spec.fixed_trials(begun) == study_spec.fixed_trials(stored.spec)


@pytest.mark.slow
def test_processes_that_create_one_study_at_once_get_the_same_study(url: str) -> None:
    Storage(url, create=True)
    context = local.start_server()
    pipes = [context.Pipe(duplex=False) for _ in range(4)]
    processes = [context.Process(target=create_and_send, args=(url, theirs)) for _, theirs in pipes]

    for process in processes:
        process.start()
    uids = {ours.recv() for ours, _ in pipes}
    for process in processes:
        process.join()

    assert len(uids) == 1
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_different_spec_is_refused_with_every_difference_and_a_remedy(url: str) -> None:
    create(url, build())

    with pytest.raises(SpecError) as refused:
        create(url, build(budget={"epochs": 3}, search={"seed": 1}, space={"width": [8, 32], "flip": True}))

    assert str(refused.value).splitlines() == [
        "the study 's' exists with another spec, and one study has one spec:",
        "  [budget] epochs: 9.0 -> 3.0",
        "  [search] seed: 0 -> 1",
        "  [space] width: [8, 16] -> [8, 32]",
        "  [space] flip: false -> true",
        "only [budget] trials and hours may change; run the new spec under another name: --name OTHER",
    ]


def test_different_images_are_refused(url: str) -> None:
    create(url, build())

    with pytest.raises(SpecError, match=r"\[data\] the images themselves are not the same"):
        create(url, build(), data=DATA | {"fingerprint": "0" * 64})


def test_the_budget_the_question_and_the_path_of_the_images_may_change(url: str) -> None:
    folder = {"source": "folder", "path": "/here"}
    first = create(url, build(data=folder))

    later = create(url, replace(build(data=folder | {"path": "/there"}, budget={"trials": 9}), question="Which?"))

    assert later.uid == first.uid
    assert (
        stored_study.load(Storage(url), "s").spec == later.spec
    )  # the next `resume` reads the images from their new path


def test_the_audited_share_does_not_change_after_creation(url: str) -> None:
    create(url, build(search={"audit": 0.1}))

    for _ in range(2):
        again = create(url, build(search={"audit": 0.2}))

    assert again.spec.search.audit == stored_study.load(Storage(url), "s").spec.search.audit == 0.1


def test_a_study_of_an_older_version_never_audits(url: str) -> None:
    stored, storage = create(url, build()), Storage(url)
    old = stored_spec.dump(build())
    del old["search"]["audit"]
    stored_study.set_attrs(storage, stored.id, {attr_keys.SPEC: old})

    audits = [create(url, build()).spec.search.audit for _ in range(2)]

    assert audits == [0.0, 0.0]


def test_a_study_of_plain_optuna_is_neither_adopted_nor_run(url: str) -> None:
    storage = Storage(url, create=True)
    plain = optuna.create_study(study_name="s", storage=optuna.storages.RDBStorage(url), direction="maximize")
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)

    with pytest.raises(SpecError, match="was not made by convsearch; choose another name with --name"):
        stored_study.open_or_create(storage, build(), name="s", data=DATA)
    with pytest.raises(SpecError, match="was not made by convsearch, so it cannot be run by it"):
        stored_study.load(storage, "s")


def test_an_unknown_study_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="there is no study 'nobody'"):
        stored_study.load(Storage(url, create=True), "nobody")


def test_the_budget_never_falls_below_the_number_of_started_trials(url: str) -> None:
    stored = create(url, build())
    optuna.load_study(study_name="s", storage=optuna.storages.RDBStorage(url)).add_trials(
        [optuna.create_trial(value=0.5) for _ in range(3)]
    )
    storage = Storage(url)

    budgets = [stored_study.set_trials(storage, stored, trials) for trials in (5, 1, 4)]

    assert budgets == [5, 3, 4]
    assert queries.study(storage.engine, "s").counts.budget == 4


def test_the_stop_request_and_the_run_time_are_stored(url: str) -> None:
    stored = create(url, build())
    storage = Storage(url)

    stored_study.ask_to_stop(storage, "s")
    stored_study.set_attrs(storage, stored.id, {attr_keys.SECONDS_RUN: 12.5})

    assert queries.study(storage.engine, "s").stop
    assert stored_study.seconds_run(storage, stored.id) == 12.5


def test_each_trial_has_a_different_seed_but_repeats_share_one(url: str) -> None:
    stored = create(url, build())

    individual = [trial_seed(stored.spec.search, number, None) for number in range(20)]
    shared = [trial_seed(stored.spec.search, number, 1) for number in range(20)]

    assert len(set(individual)) == 20
    assert len(set(shared)) == 1
    assert shared[0] not in individual


def test_a_fixed_trial_seed_holds_for_every_trial(url: str) -> None:
    stored = create(url, build(search={"trial_seed": 7}))

    assert {trial_seed(stored.spec.search, number, None) for number in range(5)} == {7}


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [
        ("hyperband", optuna.pruners.HyperbandPruner),
        ("median", optuna.pruners.MedianPruner),
        ("asha", optuna.pruners.NopPruner),
        ("none", optuna.pruners.NopPruner),
    ],
)
def test_a_trial_gets_the_pruner_and_direction_of_its_study(url: str, pruner: str, kind: type) -> None:
    stored = create(url, build(search={"pruner": pruner}))
    cached = _CachedStorage(Storage(url))

    study = strategy.for_trial(cached, stored, 0, [])

    assert type(study.pruner) is kind
    assert study.direction.name == "MAXIMIZE"
