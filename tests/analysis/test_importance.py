"""Parameter importances: Optuna's values with an interval, next to the values expected by chance."""

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial

from search.analysis.importance import LEAST, Importances, of_trials


def random_study(
    value: Callable[[FrozenTrial, np.random.Generator], float], *, trials: int, seed: int = 0
) -> optuna.Study:
    """A study of random trials with a synthetic value."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        trial.suggest_float("rate", 0.0, 1.0)
        trial.suggest_categorical("kind", ("a", "b", "c"))
        trial.suggest_int("width", 1, 20)
        study.tell(trial, value(study.trials[-1], rng))
    return study


def importances_of(study: optuna.Study) -> Importances:
    return of_trials(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))


def test_an_important_parameter_exceeds_chance_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.analysis.importance.RESAMPLES", 40)
    study = random_study(lambda trial, rng: float(trial.params["rate"] + rng.normal(0, 0.05)), trials=100)

    result = importances_of(study)

    first, *rest = result.importances
    assert first.parameter == "rate"
    assert first.low > result.by_chance
    assert all(row.share < result.by_chance for row in rest)
    assert {row.parameter: row.share for row in result.importances} == pytest.approx(get_param_importances(study))
    assert all(row.low <= row.share <= row.high for row in result.importances)


@pytest.mark.slow
def test_unimportant_parameters_rarely_exceed_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.analysis.importance.RESAMPLES", 40)
    exceeded = 0
    for seed in range(20):
        result = importances_of(random_study(lambda _, rng: float(rng.normal()), trials=40, seed=seed))
        exceeded += result.importances[0].share > result.by_chance

    # Of the 40 permutations 95 % lie below the chance level, so a share exceeds it with a probability of 7 %. Then more
    # than 4 of 20 shares exceed it with a probability of 1 %. If the level were the median, at most 4 would with 1 %.
    assert exceeded <= 4


def test_too_few_trials_give_no_importances() -> None:
    result = importances_of(random_study(lambda _, rng: float(rng.normal()), trials=LEAST - 1))

    assert (result.importances, result.trials) == ((), LEAST - 1)
