"""Trials read by plain SELECTs equal those that Optuna builds: the contract of our faster reads."""

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.storage.rdb import Storage
from search.storage.rdb_reads import FastReadStorage

pytestmark = pytest.mark.xdist_group("test_rdb_reads")  # one database for all
SPACE: dict[str, Any] = {
    "kind": CategoricalDistribution(["a", 1, 2.5, True, None]),
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "share": FloatDistribution(0.0, 0.5, step=0.1),
    "layers": IntDistribution(1, 8),
    "units": IntDistribution(8, 512, log=True),
}
CURVES: tuple[dict[int, float], ...] = ({}, {1: 0.5}, {3: math.nan, 1: math.inf, 2: -math.inf})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database that all tests of this file read."""
    return f"sqlite:///{tmp_path_factory.mktemp('reads') / 'home' / 'studies.db'}"


@pytest.fixture(scope="module")
def stock(url: str) -> RDBStorage:
    """Optuna's own storage on a database with trials in every state."""
    Storage(url, create=True)
    storage = RDBStorage(url)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize", sampler=sampler)
    values = {TrialState.COMPLETE: (0.5, -math.inf, math.inf), TrialState.PRUNED: (0.25,)}
    for state in TrialState:
        for value in values.get(state, (None,)):
            for curve in CURVES:
                sampled = {} if state == TrialState.WAITING else study.ask(SPACE).params
                study.add_trial(
                    create_trial(
                        state=state,
                        value=value,
                        params=sampled,
                        distributions={name: SPACE[name] for name in sampled},
                        user_attrs={"text": "ä", "list": [1, {"a": None}]},
                        system_attrs={"constraints": [0.5], "fixed_params": {"layers": 3}},
                        intermediate_values=curve,
                    )
                )
    return storage


def as_text(trials: list[FrozenTrial]) -> list[str]:
    """Every field of the trials; as text, because NaN does not equal NaN."""
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
def test_all_trials_equal_those_that_optuna_builds(
    stock: RDBStorage, url: str, states: tuple[TrialState, ...] | None, also: set[int], after: int
) -> None:
    ours = FastReadStorage(url)._get_trials(1, states, also, after)

    assert as_text(ours) == as_text(stock._get_trials(1, states, also, after))


def test_running_trials_are_read_without_their_attributes_and_curves(stock: RDBStorage, url: str) -> None:
    expected = stock.get_all_trials(1)
    for trial in expected:
        if trial.state == TrialState.RUNNING:
            trial.user_attrs, trial.intermediate_values = {}, {}

    assert as_text(Storage(url).get_all_trials(1)) == as_text(expected)


def test_each_trial_equals_the_one_that_optuna_builds(stock: RDBStorage, url: str) -> None:
    storage, trials = Storage(url), stock.get_all_trials(1)

    assert {trial.state for trial in trials} == set(TrialState)
    assert as_text([storage.get_trial(trial._trial_id) for trial in trials]) == as_text(trials)


def test_a_missing_trial_raises_key_error_as_in_optuna(stock: RDBStorage, url: str) -> None:
    for storage in (stock, Storage(url)):
        with pytest.raises(KeyError):
            storage.get_trial(99_999)


def test_changing_a_returned_trial_does_not_affect_later_reads(stock: RDBStorage, url: str) -> None:
    storage = Storage(url)
    first = storage.get_trial(1)

    first.params.clear()
    first.user_attrs["text"] = "other"
    first.intermediate_values[9] = 0.0

    assert as_text([storage.get_trial(1)]) == as_text([stock.get_trial(1)])
