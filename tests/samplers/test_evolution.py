"""The evolution sampler starts at one point and changes the best trial."""

import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from search.samplers.evolution import (
    CHANGES,
    MIN_TRIALS_AT_STEP,
    Effects,
    EvolutionSampler,
    Point,
    best_of,
    candidates,
    default_point,
    default_value,
    from_unit,
    is_judged,
    to_unit,
)
from search.spec.domains import Choice, Float, Int, OneOf, Value
from search.spec.search_space import SearchSpace, one_of_domains, sample
from search.trial import runner
from tests.harness import Harness, work

DEFAULTS: Mapping[str, Value] = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "layers": 3, "flip": False}

SPACE = SearchSpace(
    parameters={
        "optimizer": Choice(("adam", "sgd")),
        "learning_rate": Float(1e-4, 1.0, log=True),
        "momentum": Float(0.5, 0.99),
        "layers": Int(2, 6),
        "width": Int(16, 48, step=8),
        "flip": Choice((True, False, "alternating")),
    },
    when={("optimizer", "adam"): {"learning_rate": Float(1e-4, 1e-2, log=True)}},
    conditions={"momentum": ("optimizer", frozenset({"sgd"}))},
)

START = default_point(SPACE, DEFAULTS)


def ended(
    number: int, curve: Mapping[int, float], *, violation: float = 0.0, state: TrialState = TrialState.PRUNED
) -> FrozenTrial:
    """A trial of width 8 * number."""
    attrs = {"constraints:trainable": violation} if violation else {}
    trial = optuna.create_trial(
        state=state,
        value=max(curve.values()) if state == TrialState.COMPLETE else None,
        params={"width": 8 * number},
        distributions={"width": IntDistribution(0, 8000, step=8)},
        intermediate_values=dict(curve),
        system_attrs=attrs,
    )
    trial.number = number
    return trial


def drawn(seen: Sequence[FrozenTrial], *, number: int, seed: int = 0, space: SearchSpace = SPACE) -> dict[str, Value]:
    """Optuna name -> value of a trial."""
    sampler = EvolutionSampler(seen, number=number, start=START, defaults=DEFAULTS, seed=seed)
    trial = optuna.create_study(sampler=sampler).ask()
    sample(space, trial)
    return dict(trial.params)


def test_the_start_point_has_the_usual_values_or_the_middle_of_the_range() -> None:
    assert START.params == {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "layers": 3,
        "width": 32,
        "flip": False,
    }
    assert drawn([], number=0) == START.params


def test_a_usual_value_out_of_range_is_replaced_by_the_middle() -> None:
    only_adam = SearchSpace(parameters={**SPACE.parameters, "optimizer": Choice(("adam",))}, when=SPACE.when)

    assert default_point(only_adam, DEFAULTS).params["learning_rate[adam]"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("usual", "params"), [(0.0, {"decay": 0}), (0.01, {"decay": "0.001 to 0.1"}), (0.5, {"decay": 0})]
)
def test_the_start_point_has_the_option_that_offers_the_usual_value(usual: float, params: dict[str, Value]) -> None:
    space = SearchSpace(parameters={"decay": OneOf((0, Float(0.001, 0.1, log=True)))})

    point = default_point(space, {"decay": usual}).params

    assert point["decay"] == params["decay"]
    assert point.get("decay[0.001 to 0.1]", usual) == usual


def test_a_child_with_another_option_has_the_usual_value_in_its_range() -> None:
    space = SearchSpace(parameters={"decay": OneOf((0, Float(0.001, 0.1, log=True)))})
    start = default_point(space, {"decay": 0})
    sampler = EvolutionSampler(
        [], number=1, start=start, defaults={"decay": 0.05}, seed=0, one_ofs=one_of_domains(space)
    )
    trial = optuna.create_study(sampler=sampler).ask()

    assert sample(space, trial) == {"decay": 0.05}


@pytest.mark.parametrize("seed", range(20))
def test_the_next_trials_are_the_start_point_with_some_changes(seed: int) -> None:
    child = drawn([], number=1, seed=seed)

    different = {name for name, value in START.params.items() if name in child and child[name] != value}
    gone = set(START.params) - set(child)
    assert 1 <= len(different | gone) <= CHANGES + len({"learning_rate", "momentum"} & gone)


WIDE = SearchSpace(parameters={f"p{index}": Choice(tuple(range(10))) for index in range(20)})


def uniform(number: int) -> FrozenTrial:
    """A trial of WIDE with its number as every parameter, and a value that grows with it."""
    trial = ended(number, {1: number / 10})
    trial.params = dict.fromkeys(WIDE.parameters, number)
    trial.distributions = dict.fromkeys(WIDE.parameters, CategoricalDistribution(tuple(range(10))))
    return trial


@pytest.mark.parametrize("seed", range(20))
def test_a_child_is_the_best_trial_with_some_changes(seed: int) -> None:
    child = drawn([uniform(number) for number in range(1, 9)], number=9, seed=seed, space=WIDE)

    assert list(child.values()).count(8) == len(child) - CHANGES


@pytest.mark.parametrize("seed", range(20))
def test_no_trial_is_drawn_again_while_its_neighbours_are_untried(seed: int) -> None:
    pair = CategoricalDistribution((0, 1))
    keys = ["p0", "p1", "p2", "p3"]
    space = SearchSpace(parameters={key: Choice((0, 1)) for key in keys})
    seen = [ended(number, {1: 1.0 - number / 10}) for number in range(6)]
    flips: list[tuple[str, ...]] = [(), ("p0", "p1", "p2"), ("p0", "p1", "p3"), ("p0", "p2", "p3"), ("p1", "p2", "p3")]
    for trial, flipped in zip(seen, [*flips, ("p0",)], strict=True):
        trial.params = {key: int(key in flipped) for key in keys}
        trial.distributions = dict.fromkeys(keys, pair)

    child = drawn(seen, number=6, seed=seed, space=space)

    assert child not in [trial.params for trial in seen]


PAIR = SearchSpace(parameters={"p0": Choice((0, 1)), "p1": Choice((0, 1))})


def pairs(*params: tuple[Value, ...]) -> list[FrozenTrial]:
    """Trials of PAIR, each a little better than the one before."""
    trials = [ended(number, {1: number / 10}) for number in range(len(params))]
    for trial, values in zip(trials, params, strict=True):
        trial.params = dict(zip(PAIR.parameters, values, strict=True))
        trial.distributions = dict.fromkeys(trial.params, CategoricalDistribution((0, 1)))
    return trials


@pytest.mark.parametrize("seed", range(20))
def test_a_space_with_fewer_parameters_than_changes_is_searched_completely(seed: int) -> None:
    seen = pairs((0, 0))
    while len(seen) < 4:
        child = drawn(seen, number=len(seen), seed=seed, space=PAIR)
        seen = pairs(*[tuple(trial.params.values()) for trial in seen], (child["p0"], child["p1"]))

    assert len({str(trial.params) for trial in seen}) == 4
    assert set(drawn(seen, number=4, seed=seed, space=PAIR)) == {"p0", "p1"}


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.FAIL])
def test_a_running_or_failed_point_is_not_drawn_again(state: TrialState) -> None:
    seen = pairs((0, 0), (0, 1), (1, 0))
    for trial in seen[1:]:
        trial.state, trial.intermediate_values = state, {}

    assert {str(drawn(seen, number=3, seed=seed, space=PAIR)) for seed in range(20)} == {"{'p0': 1, 'p1': 1}"}


def test_trial_0_is_the_start_point_even_if_it_is_drawn_late() -> None:
    assert drawn([ended(1, {1: 0.9})], number=0) == START.params


def test_a_study_starts_at_its_first_point_and_continues_from_the_best_trial(harness: Harness) -> None:
    point = {"width": 16, "activation": "gelu", "learning_rate": 0.02}
    space = {
        "width": {"low": 8, "high": 32, "step": 8},
        "activation": ["relu", "gelu", "silu", "elu"],
        "norm": ["batch", "group", "none"],
        "pool": ["max", "avg"],
        "flip": [True, False],
        "residual": [True, False],
    }
    search = {"sampler": "evolution", "pruner": "promote", "reduction": 2, "seed": 3}
    context = runner.open_training_context(
        harness.create(points=[point], space=space, search=search, budget={"trials": 9, "epochs": 2})
    )

    rows = [work(context) for _ in range(9)]

    configs = [{key: row.config[key] for key in (*space, "learning_rate")} for row in rows]
    assert configs[0] == {"norm": "batch", "pool": "max", "flip": False, "residual": False, **point}
    assert (rows[0].state, len(rows[0].curve)) == ("COMPLETE", 2)
    assert all(row.paused == 1 or "behind the baseline at step 1" in (row.reason or "") for row in rows[1:])
    for number, config in enumerate(configs[1:], 1):
        best = max(rows[:number], key=lambda row: (row.curve[0], -row.number)).config
        assert 1 <= sum(best[key] != value for key, value in config.items()) <= CHANGES
    assert len(set(map(str, configs))) == 9


def test_the_same_seed_and_history_draw_the_same_point() -> None:
    seen = [uniform(number) for number in range(1, 9)]

    assert drawn(seen, number=9, seed=1, space=WIDE) == drawn(seen, number=9, seed=1, space=WIDE)
    assert len({str(drawn(seen, number=9, seed=seed, space=WIDE)) for seed in range(10)}) == 10


def test_a_changed_choice_keeps_the_parent_value_if_it_is_in_range() -> None:
    assert _rate_under_adam(0.003) == 0.003
    assert _rate_under_adam(0.5) == pytest.approx(1e-3)  # the middle: 0.5 and the usual value are out of range


def _rate_under_adam(rate: float) -> object:
    """The learning rate under adam if the parent has this rate under sgd, and only the optimizer is changed."""
    parent = Point({**START.params, "learning_rate": rate}, {"optimizer": CategoricalDistribution(("adam", "sgd"))})
    sampler = EvolutionSampler([], number=1, start=parent, defaults=DEFAULTS, seed=0)
    trial = optuna.create_study(sampler=sampler).ask()
    return sample(SPACE, trial)["learning_rate"]


def guesses(seen: Sequence[FrozenTrial], value: Value) -> list[float]:
    effects = Effects(seen, random.Random(0))
    return [effects.guess("p0", CategoricalDistribution(tuple(range(10))), value) for _ in range(300)]


def test_the_estimate_of_a_value_follows_the_results_of_its_trials() -> None:
    seen = [uniform(number) for number in range(1, 9)]
    high, low, unknown = (guesses(seen, value) for value in (8, 1, 0))

    assert fmean(high) > 0.3 > -0.3 > fmean(low)
    assert abs(fmean(unknown)) < 0.2


@pytest.mark.parametrize(("attrs", "estimate"), [({"macs": 1000}, -1.0), ({}, 0.0)], ids=["diverged", "too large"])
def test_a_value_of_diverged_networks_has_a_low_estimate(attrs: Mapping[str, int], estimate: float) -> None:
    seen = [uniform(number) for number in range(1, 9)]
    for number in (9, 10):
        seen.append(ended(number, {}, violation=1.0))
        seen[-1].params, seen[-1].user_attrs = {"p0": 0}, dict(attrs)

    assert fmean(guesses(seen, 0)) == pytest.approx(estimate, abs=0.2)


def test_the_estimate_of_a_value_is_more_certain_with_more_trials() -> None:
    few, many = [uniform(1), uniform(2)], [uniform(1)] * 10 + [uniform(2)] * 10

    assert stdev(guesses(few, 1)) > 1.5 * stdev(guesses(many, 1))


def test_identical_trials_give_a_neutral_estimate() -> None:
    assert abs(fmean(guesses([uniform(3)] * 5, 3))) < 0.2


def number_of(trial: FrozenTrial | None) -> int | None:
    return None if trial is None else trial.number


def test_the_best_trial_is_chosen_at_the_highest_step_with_enough_trials() -> None:
    low = [ended(number, {1: 0.9 - number / 100}) for number in range(1, 20)]
    far = [ended(number, {1: 0.1, 9: number / 100}) for number in range(20, 20 + MIN_TRIALS_AT_STEP)]

    assert number_of(best_of(low + far)) == 25
    assert number_of(best_of(low + far[1:])) == 1


def test_the_best_of_few_trials_is_chosen_at_the_lowest_step() -> None:
    assert number_of(best_of([ended(1, {1: 0.2, 9: 0.9}), ended(2, {1: 0.3}), ended(3, {1: 0.3})])) == 2
    assert best_of([]) is None


def test_untrainable_failed_and_running_trials_are_never_the_best() -> None:
    seen = [
        ended(1, {1: 0.9}, violation=1.0),
        ended(2, {1: math.nan}),
        ended(3, {}),
        ended(4, {1: 0.9}, state=TrialState.RUNNING),
        ended(5, {1: 0.9}, state=TrialState.FAIL),
        ended(6, {1: 0.1}),
        ended(7, {1: 0.2}, state=TrialState.COMPLETE),
    ]

    assert [trial.number for trial in seen if is_judged(trial)] == [2, 6, 7]
    assert number_of(best_of([trial for trial in seen if is_judged(trial)])) == 7


DISTRIBUTIONS = [
    CategoricalDistribution((False, True, "alternating")),
    FloatDistribution(1e-4, 1.0, log=True),
    FloatDistribution(-1.0, 2.0),
    FloatDistribution(0.0, 0.3, step=0.1),
    IntDistribution(2, 6),
    IntDistribution(16, 48, step=8),
    IntDistribution(64, 512, log=True),
    IntDistribution(0, 1),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_a_change_is_another_value_of_the_same_range(distribution: BaseDistribution) -> None:
    rng, value = random.Random(0), default_value(distribution, None)
    for _ in range(200):
        before, value = value, rng.choice(candidates(distribution, value, rng))
        assert value != before
        assert distribution._contains(distribution.to_internal_repr(value))


def test_a_hand_written_value_is_changed_despite_different_rounding() -> None:
    distribution, rng = FloatDistribution(0.0, 0.6, step=0.1), random.Random(0)

    changed = [value for _ in range(200) for value in candidates(distribution, 0.3, rng)]

    assert from_unit(distribution, 0.5) == 0.30000000000000004
    assert min(abs(value - 0.3) for value in changed) > 0.05


@pytest.mark.parametrize("distribution", DISTRIBUTIONS[1:], ids=str)
def test_positions_in_a_range_convert_to_values_and_back(distribution: FloatDistribution | IntDistribution) -> None:
    assert from_unit(distribution, 0.0) == pytest.approx(distribution.low)
    assert from_unit(distribution, 1.0) == pytest.approx(distribution.high)
    for position in (0.0, 0.3, 0.5, 1.0):
        value = from_unit(distribution, position)
        assert from_unit(distribution, to_unit(distribution, value)) == pytest.approx(value)
