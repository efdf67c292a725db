"""Trials by plain SELECTs are those that Optuna builds: the contract of what we do in its place."""

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.storage.rdb import Storage
from search.storage.rdb_reads import FastReadStorage

SPACE: dict[str, Any] = {
    "kind": CategoricalDistribution(["a", 1, 2.5, True, None]),
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "share": FloatDistribution(0.0, 0.5, step=0.1),
    "layers": IntDistribution(1, 8),
    "units": IntDistribution(8, 512, log=True),
}
CURVES: tuple[dict[int, float], ...] = ({}, {1: 0.5}, {3: math.nan, 1: math.inf, 2: -math.inf})


@pytest.fixture
def stock(url: str, make_study: Callable[[int], int]) -> RDBStorage:
    """Optuna's own storage on a database with trials of every kind."""
    make_study(99)
    storage = RDBStorage(url)
    study = optuna.load_study(study_name="s", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    values = {TrialState.COMPLETE: (0.5, -math.inf, math.inf), TrialState.PRUNED: (0.25,)}
    for state in TrialState:
        for value in values.get(state, (None,)):
            for curve in CURVES:
                drawn = {} if state == TrialState.WAITING else study.ask(SPACE).params
                study.add_trial(
                    create_trial(
                        state=state,
                        value=value,
                        params=drawn,
                        distributions={name: SPACE[name] for name in drawn},
                        user_attrs={"text": "ä", "list": [1, {"a": None}]},
                        system_attrs={"constraints": [0.5], "fixed_params": {"layers": 3}},
                        intermediate_values=curve,
                    )
                )
    return storage


def told(trials: list[FrozenTrial]) -> list[str]:
    """Everything that they are; as text, because a NaN is no other NaN."""
    return [f"{trial._trial_id} {trial}" for trial in trials]


@pytest.mark.parametrize(
    ("states", "also", "after"),
    [
        (None, set(), -1),
        (None, {2, 5, 9}, 20),
        (None, {2, 99_999}, 99_998),
        (None, set(), 10),
        ((TrialState.COMPLETE, TrialState.PRUNED), set(), -1),
        ((TrialState.RUNNING,), {1}, 5),
        ((), set(), -1),
    ],
)
def test_all_trials_are_those_that_optuna_builds(
    stock: RDBStorage, url: str, states: tuple[TrialState, ...] | None, also: set[int], after: int
) -> None:
    ours = FastReadStorage(url)._get_trials(1, states, also, after)

    assert told(ours) == told(stock._get_trials(1, states, also, after))


def test_who_draws_sees_of_those_that_run_all_but_their_attributes_and_curves(stock: RDBStorage, url: str) -> None:
    expected = stock.get_all_trials(1)
    for trial in expected:
        if trial.state == TrialState.RUNNING:
            trial.user_attrs, trial.intermediate_values = {}, {}

    assert told(Storage(url).get_all_trials(1)) == told(expected)


def test_each_trial_is_the_one_that_optuna_builds(stock: RDBStorage, url: str) -> None:
    storage, trials = Storage(url), stock.get_all_trials(1)

    assert {trial.state for trial in trials} == set(TrialState)
    assert told([storage.get_trial(trial._trial_id) for trial in trials]) == told(trials)


def test_a_trial_that_is_not_there_is_missed_as_optuna_misses_it(stock: RDBStorage, url: str) -> None:
    for storage in (stock, Storage(url)):
        with pytest.raises(KeyError):
            storage.get_trial(99_999)


def test_a_trial_that_is_changed_by_its_reader_changes_nobody_elses(stock: RDBStorage, url: str) -> None:
    storage = Storage(url)
    first = storage.get_trial(1)

    first.params.clear()
    first.user_attrs["text"] = "other"
    first.intermediate_values[9] = 0.0

    assert told([storage.get_trial(1)]) == told([stock.get_trial(1)])
