"""Parameter effects: reported only if they exceed chance, and over all trials, not only the survivors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from search.analysis.effects import caveat, effects, sentence
from search.spec import stored_spec, study_spec
from search.spec.search_space import base_name
from search.storage.records import StudyRecord, TrialRecord
from tests.analysis.records import study_record, trial_record

SPACE: dict[str, Any] = {
    "activation": ["relu", "gelu", "silu"],
    "residual": [False, True],
    "width": {"low": 8, "high": 64},
    "optimizer": ["sgd", "adam"],
    "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
    "when": {"optimizer": {"adam": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}},
}
#: Simulated studies of each sampler; a study of TPE takes a tenth of a second.
SIMULATIONS = {"random": 60, "tpe": 40}


def simulated_study(
    value: Callable[[dict[str, Any], np.random.Generator], float],
    *,
    sampler: optuna.samplers.BaseSampler,
    trials: int,
    seed: int,
    space: dict[str, Any] = SPACE,
) -> tuple[StudyRecord, list[TrialRecord]]:
    """A study that Optuna's sampler runs on a synthetic objective; each trial is first evaluated after one step."""
    built = study_spec.build({"space": space, "budget": {"trials": trials, "epochs": 3}})
    rng = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rows = []
    for number in range(trials):
        trial = study.ask()
        config = study_spec.sample_config(built, trial)
        result = value(config, rng)
        study.tell(trial, result)
        params = {base_name(name): chosen for name, chosen in trial.params.items()}
        rows.append(trial_record(number, config=config, params=params, curve=((1, result), (3, result))))
    return study_record(stored_spec.dump(built)), rows


def noise(_: dict[str, Any], rng: np.random.Generator) -> float:
    return float(rng.normal(0.7, 0.05))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_without_real_effects_at_most_one_study_in_twenty_reports_one(kind: str) -> None:
    simulations, studies_with_effect, reported, significant = SIMULATIONS[kind], 0, 0, 0
    for seed in range(simulations):
        sampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if kind == "random"
            else optuna.samplers.TPESampler(seed=seed, n_startup_trials=10)
        )
        result = effects(*simulated_study(noise, sampler=sampler, trials=40, seed=seed))
        studies_with_effect += bool(result.significant)
        reported, significant = reported + len(result.effects), significant + len(result.significant)

    assert reported > 5 * simulations
    assert significant / reported <= 0.05
    assert studies_with_effect / simulations <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / simulations)


def test_a_real_effect_is_reported_with_its_direction_and_size() -> None:
    def value(config: dict[str, Any], rng: np.random.Generator) -> float:
        return float(0.5 + 0.1 * (config["activation"] == "gelu") + rng.normal(0.0, 0.02))

    study, trials = simulated_study(value, sampler=optuna.samplers.RandomSampler(seed=0), trials=60, seed=0)

    result = effects(study, trials)

    first = result.effects[0]
    assert (first.parameter, first.group) == ("activation", "= gelu")
    assert first.interval.low < 0.1 < first.interval.high
    assert first.n + first.others == result.trials == 60
    text = sentence(first, result, objective="accuracy")
    assert text.startswith("activation = gelu goes with 0.")
    assert "higher accuracy" in text
    assert caveat(result).startswith("Associations, not effects")


def test_a_conditional_range_is_analysed_separately() -> None:
    def value(config: dict[str, Any], rng: np.random.Generator) -> float:
        return float(0.5 + 0.1 * math.log10(config["learning_rate"]) * (config["optimizer"] == "adam"))

    study, trials = simulated_study(value, sampler=optuna.samplers.RandomSampler(seed=0), trials=60, seed=0)

    differences = {effect.parameter: effect.difference for effect in effects(study, trials).significant}

    assert differences["learning_rate[adam]"] > 0.05
    assert "learning_rate" not in differences


def test_a_value_or_a_range_is_analysed_as_a_choice_and_a_range() -> None:
    def value(config: dict[str, Any], rng: np.random.Generator) -> float:
        decay = config["weight_decay"]
        return float(0.5 + (0.2 + 0.05 * math.log10(decay) if decay else 0.2))

    space = {"weight_decay": [0, {"low": 1e-4, "high": 1e-1, "log": True}], "width": [8, 16]}
    study, trials = simulated_study(
        value, sampler=optuna.samplers.RandomSampler(seed=0), trials=60, seed=0, space=space
    )

    groups = {effect.parameter: effect for effect in effects(study, trials).significant}

    assert groups["weight_decay"].group == "= 0.0001 to 0.1"
    assert groups["weight_decay"].difference < -0.05
    assert groups["weight_decay[0.0001 to 0.1]"].group.startswith("> 0.00")
    assert groups["weight_decay[0.0001 to 0.1]"].difference > 0.05


def test_pruned_trials_count_with_their_value_at_the_common_step() -> None:
    built = study_spec.build({"space": {"residual": [False, True]}, "budget": {"trials": 20, "epochs": 3}})
    trials = [
        trial_record(
            number,
            curve=((1, 0.5 + 0.2 * (number % 2) + 0.001 * number),) + (((3, 0.9),) if number % 2 else ()),
            state="COMPLETE" if number % 2 else "PRUNED",
            params={"residual": bool(number % 2)},
            config={"residual": bool(number % 2)},
        )
        for number in range(20)
    ]
    trials.append(trial_record(20, curve=((1, 0.1),), state="PRUNED", violation=1.0))

    result = effects(study_record(stored_spec.dump(built)), trials)

    assert (result.step, result.epochs, result.trials) == (1, 1.0, 20)
    (only,) = result.effects
    assert only.difference == pytest.approx(0.201)
    assert only.is_significant


def test_differences_in_a_complete_grid_are_effects() -> None:
    built = study_spec.build(
        {
            "space": {"residual": [False, True]},
            "search": {"sampler": "grid", "pruner": "none", "repeats": 6},
            "budget": {"epochs": 1},
        }
    )
    trials = [
        trial_record(
            number,
            curve=((1, 0.5 + 0.1 * (number % 2) + 0.01 * (number % 3)),),
            params={"residual": bool(number % 2)},
            config={"residual": bool(number % 2)},
        )
        for number in range(12)
    ]

    result = effects(study_record(stored_spec.dump(built)), trials)

    assert result.is_designed
    assert " gives 0." in sentence(result.effects[0], result, objective="accuracy")
    assert caveat(result).startswith("All combinations were trained")
    assert not effects(study_record(stored_spec.dump(built)), trials[:-1]).is_designed


def test_too_few_trials_give_no_effects() -> None:
    result = effects(*simulated_study(noise, sampler=optuna.samplers.RandomSampler(seed=0), trials=4, seed=0))

    assert (result.effects, result.trials) == ((), 4)
    empty = study_spec.build({"space": SPACE, "budget": {"trials": 9, "epochs": 1}})
    assert effects(study_record(stored_spec.dump(empty)), []).effects == ()
