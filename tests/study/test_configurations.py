"""A search tries each configuration once: with every sampler, from several processes, and until none is left."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from search.process import this_process
from search.service import session
from search.spec import study_spec
from search.storage import attr_keys, claims, leases
from search.storage.claims import Claim
from search.storage.rdb import Storage
from search.storage.tables import TRIAL_SYSTEM_ATTRS
from search.study import stored_study, strategy
from search.study.configurations import TriedConfigurations
from search.trial import loop, recorder
from search.trial.context import TrialContext, WorkerConfig, open_context
from search.trial.outcome import Outcome
from search.workers import local
from tests.databases import SHORT_STORAGES
from tests.harness import DATA, Harness, quiet, wait_until

SAMPLERS = ("tpe", "random", "evolution", "nsga2")
#: A network of 8 x 8 pixels has at most three convolutions, each followed by a pooling.
IMAGES = DATA | {"train_counts": [200, 200], "image_size": 8}
BRANCHES: dict[str, Any] = {
    "learning_rate": 0.1,
    "optimizer": ["sgd", "adam"],
    "momentum": [0.5, 0.9],
    "dropout_conv": {"low": 0.0, "high": 0.3, "step": 0.1},
    "when": {"optimizer": {"adam": {"dropout_conv": [0.0, 0.5]}}},
}
SPACES: Mapping[str, tuple[dict[str, Any], int]] = {
    "branches": (BRANCHES, 2 * 4 + 2),
    "impossible networks": ({"conv_layers": {"low": 1, "high": 6}, "width": [8, 16], "learning_rate": 0.1}, 3 * 2),
    "a value or a range": ({"cutout": [0, {"low": 2, "high": 6, "step": 2}, 7], "learning_rate": [0.1, 0.2]}, 5 * 2),
    "batches of any size": ({"batch_size": [512, 1024], "width": {"low": 4, "high": 8, "log": True}}, 5),
}


def store(url: str, space: Mapping[str, Any], *, points: Sequence[object] = (), **tables: Any) -> WorkerConfig:
    """Store a study of 500 trials on images of 8 x 8 pixels, and return the configuration of a worker."""
    built = study_spec.build(
        {"data": {"validation": 80}, "budget": {"trials": 500, "epochs": 3}, "space": space, "try": list(points)}
        | tables
    )
    stored_study.open_or_create(Storage(url, create=True), built, name="s", data=IMAGES)
    return WorkerConfig(url=url, study="s", token="a", cache="")


def begin(context: TrialContext) -> Claim | None:
    """Claim the next trial as a worker does."""
    owner, points = this_process(context.storage.token or ""), strategy.queue(context.study)
    return claims.claim(context.storage, context.study.id, owner, points, None, context.configurations)


def draw(context: TrialContext, claim: Claim) -> tuple[optuna.Trial, dict[str, Any]]:
    return recorder.draw(context, claim, recorder.open_trial(context, claim))


def run_trial(context: TrialContext) -> dict[str, Any] | None:
    """Claim, draw and complete a trial with a random value; returns its configuration, or None if none is left."""
    claim = begin(context)
    if claim is None:
        return None
    trial, config = draw(context, claim)
    loop.tell(context, trial, Outcome(value=random.Random(claim.number).random()))
    return config


def run_all(contexts: Sequence[TrialContext]) -> list[dict[str, Any]]:
    """Run trials by these workers in turn until none is left."""
    configs: list[dict[str, Any]] = []
    while (config := run_trial(contexts[len(configs) % len(contexts)])) is not None:
        configs.append(config)
    return configs


def distinct(context: TrialContext, configs: Sequence[Mapping[str, Any]]) -> int:
    return len({context.configurations.space.identity(config) for config in configs})


def budget(context: TrialContext) -> int:
    return context.storage.read(lambda connection: claims.budget(connection, context.study.id))


def stored_configurations(context: TrialContext) -> object:
    return context.storage.get_study_user_attrs(context.study.id).get(attr_keys.CONFIGURATIONS)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("space", "count"), SPACES.values(), ids=SPACES)
def test_two_workers_try_each_configuration_once_and_then_the_study_ends(
    url: str, space: dict[str, Any], count: int, sampler: str
) -> None:
    worker_config = store(url, space, search={"sampler": sampler, "startup_trials": 3})
    contexts = [open_context(replace(worker_config, token=token)) for token in "ab"]

    configs = run_all(contexts)

    assert len(configs) == distinct(contexts[0], configs) == count
    assert (budget(contexts[0]), stored_configurations(contexts[0])) == (count, count)


def draw_all(worker_config: WorkerConfig, pipe: Connection) -> None:
    """Run trials until none is left and send their configurations; runs in a child process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    context = open_context(worker_config)
    pipe.send("ready")
    pipe.recv()
    configs = []
    while (config := run_trial(context)) is not None:
        configs.append(config)
    pipe.send(configs)


@pytest.mark.slow
@SHORT_STORAGES
@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_processes_that_draw_at_once_never_draw_the_same_configuration(url: str) -> None:
    space = {"width": {"low": 4, "high": 13}, "norm": ["batch", "none"], "learning_rate": 0.1}
    worker_config = store(url, space, search={"sampler": "random", "baseline": False})
    server, pipes, processes = local.start_server(), [], []
    for index in range(4):
        ours, theirs = server.Pipe()
        processes.append(server.Process(target=draw_all, args=(replace(worker_config, token=f"{index}"), theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    assert [pipe.recv() for pipe in pipes] == ["ready"] * 4

    for pipe in pipes:
        pipe.send("go")
    configs = [config for pipe in pipes for config in pipe.recv()]

    for process in processes:
        process.join()
    context = open_context(worker_config)
    assert len(configs) == distinct(context, configs) == budget(context) == 20


@SHORT_STORAGES
@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_a_draw_that_another_worker_stored_meanwhile_is_drawn_again(url: str) -> None:
    worker_config = store(url, {"width": [4, 8, 12], "learning_rate": 0.1}, search={"baseline": False})
    first, second = (open_context(replace(worker_config, token=token)) for token in "ab")
    claim, later = begin(first), begin(second)
    assert claim is not None
    assert later is not None
    second.storage.read(second.configurations.read)

    _, stored = draw(first, claim)
    _, drawn = recorder.draw_given(second, later, stored)

    assert drawn["width"] != stored["width"]
    params = {trial.number: trial.params for trial in first.storage.get_all_trials(first.study.id)}
    assert params == {0: {"width": stored["width"]}, 1: {"width": drawn["width"]}}


class Interrupted(TriedConfigurations):
    """Calls `meanwhile` between the check of a draw and its writes, once the trials were read."""

    meanwhile: Callable[[], None]

    def read(self, connection: sa.Connection) -> None:
        was_read = self.is_read
        super().read(connection)
        if was_read:
            self.meanwhile()


@SHORT_STORAGES
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_draw_waits_for_the_draw_of_another_worker(url: str) -> None:
    worker_config = store(url, {"width": [4, 8, 12], "learning_rate": 0.1}, search={"baseline": False})
    first, second = (open_context(replace(worker_config, token=token)) for token in "ab")
    interrupted = Interrupted(first.study)
    claim, later = begin(first), begin(second)
    assert claim is not None
    assert later is not None
    wanted = {**strategy.known_point(first.spec), "width": 12}
    thread = Thread(target=recorder.draw_given, args=(second, later, wanted))
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    observer = sa.create_engine(url)

    def draw_the_same() -> None:
        thread.start()
        with observer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            wait_until(lambda: connection.execute(waiting).scalar_one() or not thread.is_alive())

    interrupted.meanwhile = draw_the_same
    recorder.draw_given(replace(first, configurations=interrupted), claim, wanted)
    thread.join()
    observer.dispose()

    widths = [trial.params["width"] for trial in first.storage.get_all_trials(first.study.id)]
    assert widths[0] == 12
    assert widths[1] in (4, 8)


def test_a_coarse_space_that_is_too_large_to_list_is_searched_without_repetitions(url: str) -> None:
    steps = {"low": 0.0, "high": 0.5, "step": 0.1}
    keys = ("momentum", "label_smoothing", "dropout_conv", "dropout_dense", "ema")
    space = {**dict.fromkeys(keys, steps), "dense_layers": 1, "learning_rate": 0.1, "width": [4, 8]}
    worker_config = store(url, space, search={"sampler": "tpe", "startup_trials": 5})
    context = open_context(worker_config)
    configs = []
    for _ in range(40):  # a sampler that has learnt draws near the best again and again
        claim = begin(context)
        assert claim is not None
        trial, config = draw(context, claim)
        configs.append(config)
        loop.tell(context, trial, Outcome(value=-sum(config[key] for key in keys)))

    assert distinct(context, configs) == len(configs)
    assert not context.configurations.space.is_finite


def test_a_search_that_has_learnt_that_zero_is_best_goes_on_in_the_range(url: str) -> None:
    space = {"weight_decay": [0, {"low": 1e-6, "high": 1e-2, "log": True}], "learning_rate": 0.1}
    context = open_context(store(url, space, search={"sampler": "tpe", "startup_trials": 3}))
    configs = []
    for _ in range(40):
        claim = begin(context)
        assert claim is not None
        trial, config = draw(context, claim)
        configs.append(config)
        loop.tell(context, trial, Outcome(value=float(config["weight_decay"] == 0)))

    assert distinct(context, configs) == len(configs)


def test_a_range_without_steps_is_searched_as_before(url: str) -> None:
    space = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "width": [4, 8]}
    context = open_context(store(url, space, search={"sampler": "random"}))

    configs = [run_trial(context) for _ in range(6)]

    assert not context.configurations.is_read  # nothing is compared where nothing can repeat
    assert all(configs)


def test_a_failed_trial_counts_as_tried_and_runs_again_under_its_number(url: str) -> None:
    context = open_context(store(url, {"width": [4, 8, 12], "learning_rate": 0.1}))
    assert run_trial(context) is not None
    claim = begin(context)
    assert claim is not None
    _, failed = draw(context, claim)
    context.storage.set_trial_state_values(claim.trial_id, TrialState.FAIL)

    rest = run_all([context])
    again = leases.retry_failed(context.storage, context.study.id)
    retried = begin(context)

    assert failed["width"] not in {config["width"] for config in rest}
    assert len(rest) == 1
    assert again == [1]
    assert retried is not None
    assert draw(context, retried)[1] == failed


def test_a_trial_that_could_not_be_trained_counts_as_tried(url: str) -> None:
    context = open_context(store(url, {"width": [4, 8, 12], "learning_rate": 0.1}))
    widths = []
    while (claim := begin(context)) is not None:
        trial, config = draw(context, claim)
        widths.append(config["width"])
        loop.tell(context, trial, Outcome(reason="out of memory: no memory", violation=1.0))

    assert sorted(widths) == [4, 8, 12]


def test_a_given_point_that_has_not_begun_to_train_keeps_its_configuration(url: str) -> None:
    points = [{"width": 8}, {"width": 12}]
    worker_config = store(url, {"width": [4, 8, 12], "learning_rate": 0.1}, points=points)
    contexts = [open_context(replace(worker_config, token=token)) for token in "abc"]
    begun = [begin(context) for context in contexts]  # all have claimed a trial, and none has drawn it

    drawn = [draw(context, claim)[1] for context, claim in reversed(list(zip(contexts, begun, strict=True))) if claim]

    assert [config["width"] for config in drawn] == [4, 12, 8]


def test_equal_points_run_as_they_are_written_and_the_others_once(url: str) -> None:
    points = [{"width": 8}, {"width": 12}, {"width": 12}]
    context = open_context(store(url, {"width": [4, 8, 12, 16], "learning_rate": 0.1}, points=points))

    widths = [config["width"] for config in run_all([context])]

    assert widths[:3] == [8, 12, 12]
    assert sorted(widths[3:]) == [4, 16]


def test_an_open_value_of_a_point_is_drawn_among_those_that_are_left(url: str) -> None:
    points = [{"width": 8}, *[{"optimizer": "adam"}] * 3]
    space = {"width": [4, 8, 12], "optimizer": ["sgd", "adam"], "learning_rate": 0.1}
    context = open_context(store(url, space, points=points))

    configs = run_all([context])

    assert [config["optimizer"] for config in configs[1:4]] == ["adam"] * 3
    assert len(configs) == distinct(context, configs) == 6


def set_config(context: TrialContext, *, number: int, config: Mapping[str, Any]) -> None:
    """Change the stored configuration of a trial."""
    trial_id = context.storage.get_trial_id_from_study_id_trial_number(context.study.id, number)
    of_trial = (TRIAL_SYSTEM_ATTRS.c.trial_id == trial_id, TRIAL_SYSTEM_ATTRS.c.key == attr_keys.CONFIG)
    context.storage.execute(sa.update(TRIAL_SYSTEM_ATTRS).where(*of_trial).values(value_json=json.dumps(dict(config))))


def test_a_study_of_an_older_version_goes_on_with_what_is_left(url: str) -> None:
    """Older versions drew a configuration several times."""
    context = open_context(store(url, {"width": [4, 8, 12], "learning_rate": 0.1}))
    first = run_trial(context)
    assert first is not None
    assert run_trial(context) is not None
    set_config(context, number=1, config=first)
    said: list[str] = []

    session.set_trials(context.storage, context.study, 500, said.append)
    rest = run_all([open_context(WorkerConfig(url=url, study="s", token="c", cache=""))])

    assert budget(context) == 4
    assert "the budget is 4 trials, not 500: [space] has 3 configurations to try" in said[0]
    assert {first["width"], *(config["width"] for config in rest)} == {4, 8, 12}


@pytest.mark.parametrize(("asked", "allowed", "known"), [(2, 2, None), (3, 3, 3), (500, 3, 3)])
def test_the_budget_ends_with_the_space(url: str, asked: int, allowed: int, known: int | None) -> None:
    context = open_context(store(url, {"width": [4, 8, 12], "learning_rate": 0.1}))

    session.set_trials(context.storage, context.study, asked, quiet)

    assert (budget(context), stored_configurations(context)) == (allowed, known)


def test_a_space_without_a_trainable_network_leaves_the_budget(url: str) -> None:
    limit = {"trials": 500, "epochs": 3, "max_parameters": 1}
    context = open_context(store(url, {"width": [4, 8], "learning_rate": 0.1}, budget=limit))

    size = context.storage.read(lambda connection: TriedConfigurations(context.study).size(connection, beyond=500))

    assert size is None


def test_a_small_search_that_promotes_ends_and_says_that_all_is_tried(harness: Harness) -> None:
    space = {"width": [4, 8], "activation": ["relu", "gelu"], "learning_rate": 0.05}
    tables: dict[str, Any] = {
        "budget": {"trials": 5000, "epochs": 3},
        "search": {"pruner": "promote"},
        "space": space,
    }

    answer = harness.train(**tables)

    assert answer.code == 0, answer.err
    assert "the budget is 4 trials, not 5000: [space] has 4 configurations to try" in answer.err
    assert "all 4 configurations of 's' are tried" in answer.out
    assert "more trials" not in answer.err
    counts = harness.counts()
    assert (counts.finished, counts.budget, counts.remaining, counts.failed) == (4, 4, 0, 0)
    assert counts.complete >= 1
    assert len({(trial.params["width"], trial.params["activation"]) for trial in harness.trials()}) == 4
    for words in ("resume s", "resume s --trials 50"):
        assert harness.run(*words.split()).err == "nothing to resume: all 4 configurations of 's' are tried\n"
    assert "4 of 4, all configurations" in harness.run("studies").out
    assert harness.run("why", "s").out.startswith("all 4 configurations of 's' are tried\n")
    assert "All 4 configurations of 's' are tried." in harness.run("report", "s", "--markdown").out
    best = harness.run("best", "s", "--json").json
    assert (best["configurations"], best["counts"]["remaining"]) == (4, 0)
    again = harness.run("run", harness.write(**tables), "--workers", "1")
    assert again.code == 0
    assert "all 4 configurations of 's' are tried; nothing is left to search" in again.err
    assert harness.counts() == counts
