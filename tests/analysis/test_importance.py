"""How much each parameter tells: Optuna's numbers, with an interval, and beside what chance would give."""

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial

from search.analysis.importance import LEAST, Importances, of_trials


def made(value: Callable[[FrozenTrial, np.random.Generator], float], *, trials: int, seed: int = 0) -> optuna.Study:
    """A study of random trials with a made-up value."""
    dice = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        trial.suggest_float("rate", 0.0, 1.0)
        trial.suggest_categorical("kind", ("a", "b", "c"))
        trial.suggest_int("width", 1, 20)
        study.tell(trial, value(study.trials[-1], dice))
    return study


def of(study: optuna.Study) -> Importances:
    return of_trials(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))


def test_what_matters_stands_out_from_chance_and_the_rest_does_not() -> None:
    study = made(lambda trial, dice: float(trial.params["rate"] + dice.normal(0, 0.05)), trials=100)

    found = of(study)

    first, *rest = found.found
    assert first.parameter == "rate"
    assert first.low > found.by_chance
    assert all(row.share < found.by_chance for row in rest)
    assert {row.parameter: row.share for row in found.found} == pytest.approx(get_param_importances(study))
    assert all(row.low <= row.share <= row.high for row in found.found)


def test_where_nothing_matters_the_first_one_seldom_passes_what_chance_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.analysis.importance.RESAMPLES", 60)
    passed = 0
    for seed in range(30):
        found = of(made(lambda _, dice: float(dice.normal()), trials=40, seed=seed))
        passed += found.found[0].share > found.by_chance

    assert passed / 30 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 30)


def test_of_too_few_trials_nothing_is_said() -> None:
    found = of(made(lambda _, dice: float(dice.normal()), trials=LEAST - 1))

    assert (found.found, found.trials) == ((), LEAST - 1)
