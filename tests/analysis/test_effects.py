"""What goes with good trials: said only where it is more than chance, and of all trials, not of the survivors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from search.analysis.effects import caveat, effects, sentence
from search.spec import stored_spec, study_spec
from search.spec.search_space import base_name
from search.storage.records import StudyRecord, TrialCounts, TrialRecord

SPACE: dict[str, Any] = {
    "activation": ["relu", "gelu", "silu"],
    "residual": [False, True],
    "width": {"low": 8, "high": 64},
    "optimizer": ["sgd", "adam"],
    "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
    "when": {"optimizer": {"adam": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}},
}
#: Simulated studies of each kind.
SIMULATIONS = 100


def searched(
    value: Callable[[dict[str, Any], np.random.Generator], float],
    *,
    sampler: optuna.samplers.BaseSampler,
    trials: int,
    seed: int,
    space: dict[str, Any] = SPACE,
) -> tuple[StudyRecord, list[TrialRecord]]:
    """A study that Optuna's sampler has made of a made-up objective, each trial judged after one step."""
    built = study_spec.build({"space": space, "budget": {"trials": trials, "epochs": 3}})
    dice = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rows = []
    for number in range(trials):
        trial = study.ask()
        config = study_spec.sample_config(built, trial)
        result = value(config, dice)
        study.tell(trial, result)
        params = {base_name(name): chosen for name, chosen in trial.params.items()}
        rows.append(row(number, config=config, params=params, curve=((1, result), (3, result))))
    return study_of(stored_spec.dump(built)), rows


def study_of(stored: dict[str, Any]) -> StudyRecord:
    return StudyRecord(
        name="s", question="", directions=("maximize",), counts=TrialCounts(budget=9), best=None, spec=stored
    )


def row(number: int, *, curve: Sequence[tuple[int, float]], state: str = "COMPLETE", **others: Any) -> TrialRecord:
    return TrialRecord(study="s", number=number, state=state, curve=tuple(curve), epochs=float(curve[-1][0]), **others)


def noise(_: dict[str, Any], dice: np.random.Generator) -> float:
    return float(dice.normal(0.7, 0.05))


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_where_nothing_matters_at_most_one_study_in_twenty_names_anything(kind: str) -> None:
    named, told, clear = 0, 0, 0
    for seed in range(SIMULATIONS):
        sampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if kind == "random"
            else optuna.samplers.TPESampler(seed=seed, n_startup_trials=10)
        )
        found = effects(*searched(noise, sampler=sampler, trials=40, seed=seed))
        named += bool(found.significant)
        told, clear = told + len(found.found), clear + len(found.significant)

    assert told > 5 * SIMULATIONS
    assert clear / told <= 0.05
    assert named / SIMULATIONS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_what_matters_is_named_with_its_direction_and_size() -> None:
    def value(config: dict[str, Any], dice: np.random.Generator) -> float:
        return float(0.5 + 0.1 * (config["activation"] == "gelu") + dice.normal(0.0, 0.02))

    study, trials = searched(value, sampler=optuna.samplers.RandomSampler(seed=0), trials=60, seed=0)

    found = effects(study, trials)

    first = found.found[0]
    assert (first.parameter, first.group) == ("activation", "= gelu")
    assert first.interval.low < 0.1 < first.interval.high
    assert first.n + first.others == found.trials == 60
    words = sentence(first, found, objective="accuracy")
    assert words.startswith("activation = gelu goes with 0.")
    assert "higher accuracy" in words
    assert caveat(found).startswith("Associations, not effects")


def test_a_range_of_its_own_is_looked_at_by_itself() -> None:
    def value(config: dict[str, Any], dice: np.random.Generator) -> float:
        return float(0.5 + 0.1 * math.log10(config["learning_rate"]) * (config["optimizer"] == "adam"))

    study, trials = searched(value, sampler=optuna.samplers.RandomSampler(seed=0), trials=60, seed=0)

    clear = {each.parameter: each.difference for each in effects(study, trials).significant}

    assert clear["learning_rate[adam]"] > 0.05
    assert "learning_rate" not in clear


def test_pruned_trials_count_with_what_they_had_when_all_were_compared() -> None:
    built = study_spec.build({"space": {"residual": [False, True]}, "budget": {"trials": 20, "epochs": 3}})
    trials = [
        row(
            number,
            curve=((1, 0.5 + 0.2 * (number % 2) + 0.001 * number),) + (((3, 0.9),) if number % 2 else ()),
            state="COMPLETE" if number % 2 else "PRUNED",
            params={"residual": bool(number % 2)},
            config={"residual": bool(number % 2)},
        )
        for number in range(20)
    ]
    trials.append(row(20, curve=((1, 0.1),), state="PRUNED", violation=1.0))

    found = effects(study_of(stored_spec.dump(built)), trials)

    assert (found.step, found.epochs, found.trials) == (1, 1.0, 20)
    (only,) = found.found
    assert only.difference == pytest.approx(0.201)
    assert only.is_significant


def test_of_a_grid_differences_are_effects() -> None:
    built = study_spec.build(
        {
            "space": {"residual": [False, True]},
            "search": {"sampler": "grid", "pruner": "none", "repeats": 6},
            "budget": {"epochs": 1},
        }
    )
    trials = [
        row(
            number,
            curve=((1, 0.5 + 0.1 * (number % 2) + 0.01 * (number % 3)),),
            params={"residual": bool(number % 2)},
            config={"residual": bool(number % 2)},
        )
        for number in range(12)
    ]

    found = effects(study_of(stored_spec.dump(built)), trials)

    assert found.is_designed
    assert " gives 0." in sentence(found.found[0], found, objective="accuracy")
    assert caveat(found).startswith("All combinations were trained")
    assert not effects(study_of(stored_spec.dump(built)), trials[:-1]).is_designed


def test_without_enough_trials_nothing_is_said() -> None:
    found = effects(*searched(noise, sampler=optuna.samplers.RandomSampler(seed=0), trials=4, seed=0))

    assert (found.found, found.trials) == ((), 4)
    empty = study_spec.build({"space": SPACE, "budget": {"trials": 9, "epochs": 1}})
    assert effects(study_of(stored_spec.dump(empty)), []).found == ()
