"""The search space: domains, dependences, Optuna names, grids and points."""

import random
from collections import Counter
from collections.abc import Callable

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import SpecError
from search.spec import search_space
from search.spec.domains import Choice, Domain, Fixed, Float, Int, OneOf, Value, describe, label
from search.spec.search_space import (
    MAX_CELLS,
    Condition,
    SearchSpace,
    base_name,
    configurations,
    count_configurations,
    grid,
    identity,
    irrelevance_reason,
    is_repeatable,
    is_searched,
    order,
    sample,
    to_fixed_params,
)

NEEDS: dict[str, Condition] = {"momentum": ("optimizer", frozenset({"sgd", "rmsprop"}))}

OPTIMIZERS = SearchSpace(
    parameters={
        "learning_rate": Float(1e-4, 1.0, log=True),
        "momentum": Float(0.5, 0.9),
        "optimizer": Choice(("sgd", "adam", "rmsprop")),
        "width": Fixed(16),
    },
    when={
        ("optimizer", "sgd"): {"learning_rate": Float(0.1, 1.0)},
        ("optimizer", "adam"): {"learning_rate": Float(1e-4, 1e-2, log=True)},
    },
    conditions=NEEDS,
)


def ask(
    space: SearchSpace, fixed: dict[str, Value] | None = None, seed: int = 0
) -> tuple[dict[str, Value], optuna.Trial]:
    """Draw once from a real study; returns the values and the trial."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.enqueue_trial(fixed or {})
    trial = study.ask()
    return sample(space, trial), trial


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_choice_selects_the_range_and_its_optuna_name(seed: int) -> None:
    values, trial = ask(OPTIMIZERS, seed=seed)

    name = {"sgd": "learning_rate[sgd]", "adam": "learning_rate[adam]", "rmsprop": "learning_rate"}[
        str(values["optimizer"])
    ]
    assert trial.params[name] == values["learning_rate"]
    assert values["learning_rate"] in (Float(0.1, 1.0) if values["optimizer"] == "sgd" else Float(1e-4, 1.0))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_an_irrelevant_parameter_is_neither_drawn_nor_returned(optimizer: str) -> None:
    values, trial = ask(OPTIMIZERS, {"optimizer": optimizer})

    assert ("momentum" in values) == ("momentum" in trial.params) == (optimizer != "adam")


def test_one_name_has_one_distribution_in_the_whole_study() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    study.optimize(lambda trial: float(len(sample(OPTIMIZERS, trial))), n_trials=40)

    seen: dict[str, set[optuna.distributions.BaseDistribution]] = {}
    for trial in study.trials:
        for name, distribution in trial.distributions.items():
            seen.setdefault(name, set()).add(distribution)
    assert {name: len(distributions) for name, distributions in seen.items()} == {
        "optimizer": 1,
        "learning_rate": 1,
        "learning_rate[sgd]": 1,
        "learning_rate[adam]": 1,
        "momentum": 1,
    }


@pytest.mark.parametrize(
    "domain", [Fixed(8), Choice((8,)), Int(8, 8), Float(8.0, 8.0)], ids=["fixed", "choice", "int", "float"]
)
def test_a_single_value_is_returned_and_never_drawn(domain: Domain) -> None:
    values, trial = ask(SearchSpace(parameters={"width": domain}))

    assert values == {"width": 8}
    assert trial.params == {}
    assert grid(SearchSpace(parameters={"width": domain})) == ({},)
    assert not is_searched(SearchSpace(parameters={"width": domain}))


def test_deciding_parameters_are_drawn_first_and_the_others_in_given_order() -> None:
    assert order(OPTIMIZERS) == ("optimizer", "width", "learning_rate", "momentum")


def test_a_conditional_range_applies_through_a_chain_of_choices() -> None:
    space = SearchSpace(
        parameters={"a": Fixed(0), "b": Choice(("x", "y")), "c": Choice(("u", "v"))},
        when={("c", "u"): {"b": Fixed("x")}, ("b", "x"): {"a": Choice((1, 2))}},
    )

    cells = grid(space)

    assert cells == (
        {"c": "u", "a[x]": 1},
        {"c": "u", "a[x]": 2},
        {"c": "v", "b": "x", "a[x]": 1},
        {"c": "v", "b": "x", "a[x]": 2},
        {"c": "v", "b": "y"},
    )


def test_a_parameter_that_depends_on_an_irrelevant_one_is_irrelevant() -> None:
    space = SearchSpace(
        parameters={"a": Choice((0, 1)), "b": Choice((0, 1)), "c": Choice((0, 1))},
        conditions={"b": ("a", frozenset({1})), "c": ("b", frozenset({0, 1}))},
    )

    cells = grid(space)

    assert cells[0] == {"a": 0}
    assert len(cells) == 5


def test_a_condition_on_a_key_that_is_not_a_parameter_is_met() -> None:
    space = SearchSpace(parameters={"momentum": Choice((0.8, 0.9))}, conditions=NEEDS)

    assert len(grid(space)) == 2


def test_a_circle_of_dependences_is_refused_and_shown() -> None:
    with pytest.raises(ValueError, match="circle: a > b > a"):
        SearchSpace(
            parameters={"a": Choice((0, 1)), "b": Choice((0, 1))},
            when={("a", 0): {"b": Fixed(0)}, ("b", 0): {"a": Fixed(0)}},
        )


def test_conditional_ranges_under_two_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="c may have ranges of its own under one parameter, not a and b"):
        SearchSpace(
            parameters={"a": Choice((0, 1)), "b": Choice((0, 1)), "c": Int(0, 9)},
            when={("a", 0): {"c": Int(0, 1)}, ("b", 0): {"c": Int(1, 2)}},
        )


def test_a_dependence_on_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="b decides or depends, but is no parameter"):
        SearchSpace(parameters={"a": Choice((0, 1))}, when={("b", 0): {"a": Fixed(0)}})


def test_a_grid_has_its_repeats_outermost_and_omits_irrelevant_parameters() -> None:
    space = SearchSpace(
        parameters={"optimizer": Choice(("sgd", "adam")), "momentum": Choice((0.8, 0.9))}, conditions=NEEDS
    )

    cells = grid(space, repeats=2)

    once = ({"optimizer": "sgd", "momentum": 0.8}, {"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "adam"})
    assert cells == tuple({"repeat": repeat, **cell} for repeat in (0, 1) for cell in once)


@pytest.mark.parametrize(
    ("domain", "cells"),
    [
        (Int(2, 8, step=3), [2, 5, 8]),
        (Float(0.1, 0.4, step=0.1), [0.1, 0.2, 0.3, 0.4]),
        (Choice((True, False)), [True, False]),
    ],
    ids=["int", "float", "choice"],
)
def test_the_cells_of_a_domain_are_exact(domain: Domain, cells: list[Value]) -> None:
    assert [cell["x"] for cell in grid(SearchSpace(parameters={"x": domain}))] == cells


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        (Float(0.1, 0.2), "a range without a step"),
        (Float(0.1, 0.2, log=True), "a range without a step"),
        (Int(1, 100, log=True), "a logarithmic range"),
    ],
    ids=["float", "log float", "log int"],
)
def test_a_grid_over_a_range_without_linear_steps_is_refused(domain: Domain, rule: str) -> None:
    with pytest.raises(SpecError, match=rf"\[space\] x is {rule}, which a grid cannot walk through; write a list"):
        grid(SearchSpace(parameters={"x": domain}))


def test_a_grid_with_too_many_cells_is_refused() -> None:
    with pytest.raises(SpecError, match="at most 10,000 grid cells"):
        grid(SearchSpace(parameters={name: Int(0, 10**9) for name in "abcdef"}))


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Int(9, 8), "low below high, but got low = 9 and high = 8"),
        (lambda: Float(0.0, 1.0, log=True), "low above 0 in a logarithmic range, but got low = 0.0"),
        (lambda: Float(0.1, 1.0, log=True, step=0.1), "either log or step"),
        (lambda: Int(1, 9, log=True, step=2), "either log or step"),
        (lambda: Int(8, 30, step=8), "the last value would be 24"),
        (lambda: Float(0.0, 1.0, step=0.3), "the last value would be 0.9"),
        (lambda: Int(1, 9, step=0), "a step above 0, but got step = 0"),
        (lambda: Float(0.0, float("inf")), "finite ends"),
        (lambda: Float(float("nan"), 1.0), "finite ends"),
        (lambda: Choice(()), "at least one value"),
        (lambda: Choice(("a", "b", "a")), "each value once, but has 'a' twice"),
        (lambda: OneOf((0.0, 0.0, Float(0.1, 1.0))), "each value once, but has 0.0 twice"),
        (lambda: OneOf((0.5, Float(0.1, 1.0))), "has 0.5 alone and in 0.1 to 1.0; leave 0.5 out"),
        (
            lambda: OneOf((Int(4, 9), Int(1, 4))),
            "but 1 to 4 and 4 to 9 share values; write them as one, or move an end",
        ),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_an_invalid_domain_is_refused(make: Callable[[], Domain], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()


def test_a_point_is_converted_to_its_optuna_names() -> None:
    assert to_fixed_params(OPTIMIZERS, {"learning_rate": 0.5, "optimizer": "sgd", "momentum": 0.7, "width": 16}) == {
        "optimizer": "sgd",
        "learning_rate[sgd]": 0.5,
        "momentum": 0.7,
    }


def test_a_fixed_parameter_applies_to_a_point_that_omits_it() -> None:
    space = SearchSpace(
        parameters={"optimizer": Fixed("sgd"), "momentum": Float(0.5, 0.9), "learning_rate": Fixed(0.1)},
        when={("optimizer", "sgd"): {"learning_rate": Float(0.1, 1.0)}},
        conditions=NEEDS,
    )

    assert to_fixed_params(space, {"momentum": 0.7, "learning_rate": 0.5}) == {
        "momentum": 0.7,
        "learning_rate[sgd]": 0.5,
    }


@pytest.mark.parametrize(
    ("point", "rule"),
    [
        ({"learning_rate": 0.5}, "learning_rate depends on optimizer, which the point leaves open"),
        ({"learning_rate": 0.5, "optimizer": "adam"}, "learning_rate must be 0.0001 to 0.01, but got 0.5"),
        ({"momentum": 0.7, "optimizer": "adam"}, "momentum has no meaning with optimizer = 'adam'"),
        ({"optimizer": "adamw"}, "optimizer must be 'sgd' or 'adam' or 'rmsprop', but got 'adamw'"),
        ({"width": 32}, r"width is fixed at 16 by \[space\], but got 32"),
    ],
    ids=["open", "outside", "meaningless", "no choice", "fixed"],
)
def test_a_point_outside_of_the_space_is_refused(point: dict[str, Value], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        to_fixed_params(OPTIMIZERS, point)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Float(0.1, 0.5, step=0.1), [0.1, 0.3, 0.5], [0.35, 0.6, "0.1"]),
        (Float(0.1, 0.5), [0.1, 0.35], [0.05, 0.6]),
        (Int(8, 32, step=8), [8, 24, 32], [9, 40, 0, "8", 8.5]),
        (Choice(("a", "b")), ["a"], ["c", 0]),
        (Fixed(8), [8], [9]),
        (OneOf((0, Int(2, 6, step=2), 7)), [0, 2, 6, 7], [1, 3, 8, "2 to 6"]),
    ],
    ids=["stepped float", "float", "int", "choice", "fixed", "one of"],
)
def test_a_domain_contains_only_its_values(domain: Domain, inside: list[Value], outside: list[Value]) -> None:
    assert all(value in domain for value in inside)
    assert not any(value in domain for value in outside)


def test_an_irrelevant_parameter_has_a_reason_and_a_relevant_one_has_none() -> None:
    assert irrelevance_reason(OPTIMIZERS, "momentum", {"optimizer": "adam"}) == "has no meaning with optimizer = 'adam'"
    assert irrelevance_reason(OPTIMIZERS, "momentum", {"optimizer": "sgd"}) is None


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (Int(8, 32, step=8), "8 to 32 in steps of 8"),
        (Float(0.1, 1.0), "0.1 to 1.0"),
        (Choice((1, "a")), "1 or 'a'"),
        (OneOf((0.0, Float(1e-6, 1e-2, log=True))), "0.0 or 1e-06 to 0.01"),
    ],
    ids=["int", "float", "choice", "one of"],
)
def test_a_domain_is_described_in_words(domain: Domain, words: str) -> None:
    assert describe(domain) == words


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (0, "0"), ("sgd", "sgd"), (0.5, "0.5")])
def test_base_name_removes_the_label_of_a_name(value: Value, text: str) -> None:
    assert label(value) == text
    assert base_name(f"learning_rate[{text}]") == "learning_rate"
    assert base_name("learning_rate") == "learning_rate"


domains: st.SearchStrategy[Domain] = st.one_of(
    st.sampled_from([Fixed(1), Fixed("a"), Choice((1,)), Int(1, 1)]),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True).map(lambda v: Choice(tuple(v))),
    st.tuples(st.integers(-3, 3), st.integers(1, 2), st.integers(0, 2)).map(
        lambda t: Int(t[0], t[0] + t[1] * t[2], step=t[1])
    ),
    st.integers(0, 3).map(lambda steps: Float(0.1, float(f"{0.1 + steps * 0.2:.1f}"), step=0.2)),
    st.sampled_from([OneOf((0, Int(2, 6, step=2))), OneOf((Int(0, 1), 5, Int(7, 8))), OneOf((0, 1, Int(3, 4)))]),
)


@st.composite
def spaces_with_grids(draw: st.DrawFn) -> SearchSpace:
    """Spaces of four parameters, where s may decide the range of q, q that of p, and s whether r is relevant."""
    controls: list[Domain] = [Choice(("a", "b", "c")), Int(0, 2), Fixed("a"), OneOf((0, Int(1, 2)))]
    parameters = {"p": draw(domains), "q": draw(domains), "r": draw(domains), "s": draw(st.sampled_from(controls))}
    when: dict[tuple[str, Value], dict[str, Domain]] = {
        ("s", "a"): {"q": draw(domains)},
        ("s", 1): {"q": draw(domains)},
    }
    if draw(st.booleans()):
        when["q", "b"] = {"p": draw(domains)}
    needs = draw(st.dictionaries(st.just("r"), st.just(("s", frozenset[object]({"b", 2})))))
    return SearchSpace(parameters=parameters, when=when, conditions=needs)


@settings(max_examples=100, deadline=None)
@given(space=spaces_with_grids(), repeats=st.integers(1, 2))
def test_each_cell_of_a_grid_is_drawn_exactly_and_is_unique(space: SearchSpace, repeats: int) -> None:
    cells = grid(space, repeats)

    counted = search_space.with_repeats(space, repeats)
    for cell in cells:
        trial = optuna.trial.FixedTrial(dict(cell))
        sample(counted, trial)
        assert trial.params == cell
    assert len({tuple(sorted(cell.items())) for cell in cells}) == len(cells)
    assert len(cells) % repeats == 0


@settings(max_examples=50, deadline=None)
@given(space=spaces_with_grids(), seed=st.integers(0, 99))
def test_drawn_values_can_be_given_as_a_point_and_are_drawn_again(space: SearchSpace, seed: int) -> None:
    values, trial = ask(space, seed=seed)

    names = to_fixed_params(space, values)

    assert names == trial.params
    assert set(names) in [set(cell) for cell in grid(space)]
    assert ask(space, names)[0] == values


@settings(max_examples=100, deadline=None)
@given(space=spaces_with_grids(), seed=st.integers(0, 99))
def test_the_configurations_of_a_finite_space_are_its_cells(space: SearchSpace, seed: int) -> None:
    drawn = list(configurations(space))
    shuffled = list(configurations(space, random.Random(seed)))

    assert len(drawn) == count_configurations(space) == len(grid(space))
    assert sorted(map(str, shuffled)) == sorted(map(str, drawn))
    assert all(is_repeatable(space, values) for values in drawn)
    assert len({identity(space, {**dict.fromkeys("pqrs", 0), **values}) for values in drawn}) == len(drawn)


@pytest.mark.parametrize(
    ("domains", "count"),
    [
        ({"x": Int(8, 64, log=True)}, 57),
        ({"x": Float(0.0, 0.3, step=0.1), "y": Choice((1, 2))}, 8),
        ({"x": Float(0.0, 0.3)}, None),
        ({"x": OneOf((0, Float(0.1, 0.3)))}, None),
        ({"x": Float(0.0, 1.0, step=1e-9)}, None),
        ({"x": Int(1, MAX_CELLS)}, MAX_CELLS),
        ({"x": Int(0, MAX_CELLS)}, None),
        (dict.fromkeys("abcdefgh", Int(0, 10**9)), None),
    ],
    ids=["log int", "steps", "float", "zero or float", "fine steps", "most", "more", "huge"],
)
def test_a_space_with_infinitely_many_or_too_many_configurations_is_not_counted(
    domains: dict[str, Domain], count: int | None
) -> None:
    assert count_configurations(SearchSpace(parameters=domains)) == count


def test_a_range_that_no_choice_uses_leaves_a_space_finite() -> None:
    space = SearchSpace(
        parameters={"optimizer": Choice(("sgd", "adam")), "learning_rate": Float(0.1, 1.0)},
        when={
            ("optimizer", "sgd"): {"learning_rate": Choice((0.1, 0.5))},
            ("optimizer", "adam"): {"learning_rate": Fixed(0.001)},
        },
    )

    assert count_configurations(space) == 3


def test_a_value_in_steps_is_one_configuration_in_all_its_floats() -> None:
    space = SearchSpace(parameters={"x": Float(0.0, 0.5, step=0.1), "y": Float(0.0, 1.0)})

    assert identity(space, {"x": 0.3, "y": 0.5}) == identity(space, {"x": 3 * 0.1, "y": 0.5})
    assert identity(space, {"x": 0.3, "y": 0.5}) != identity(space, {"x": 0.4, "y": 0.5})


@pytest.mark.parametrize(("value", "repeatable"), [(0.0, True), (0.2, False)])
def test_only_a_draw_from_a_range_without_steps_cannot_repeat(value: float, repeatable: bool) -> None:
    space = SearchSpace(parameters={"x": OneOf((0.0, Float(0.1, 0.3))), "y": Choice((1, 2))})

    assert is_repeatable(space, {"x": value, "y": 1}) == repeatable


ZERO_OR_LOG = SearchSpace(
    parameters={"optimizer": Choice(("sgd", "adam")), "weight_decay": OneOf((0.0, Float(1e-6, 1e-2, log=True)))},
    when={("optimizer", "sgd"): {"weight_decay": OneOf((0.0, 0.5, Float(1e-4, 1e-3)))}},
)


@pytest.mark.parametrize(
    ("point", "params"),
    [
        ({"optimizer": "adam", "weight_decay": 0.0}, {"optimizer": "adam", "weight_decay": 0.0}),
        (
            {"optimizer": "adam", "weight_decay": 3e-4},
            {"optimizer": "adam", "weight_decay": "1e-06 to 0.01", "weight_decay[1e-06 to 0.01]": 3e-4},
        ),
        ({"optimizer": "sgd", "weight_decay": 0.5}, {"optimizer": "sgd", "weight_decay[sgd]": 0.5}),
        (
            {"optimizer": "sgd", "weight_decay": 3e-4},
            {
                "optimizer": "sgd",
                "weight_decay[sgd]": "0.0001 to 0.001",
                "weight_decay[sgd][0.0001 to 0.001]": 3e-4,
            },
        ),
    ],
    ids=["value", "range", "value of a choice", "range of a choice"],
)
def test_a_value_or_a_range_is_a_choice_with_a_conditional_range_in_optuna(
    point: dict[str, Value], params: dict[str, Value]
) -> None:
    values, trial = ask(ZERO_OR_LOG, params)

    assert values == point
    assert trial.params == to_fixed_params(ZERO_OR_LOG, point) == params
    assert {base_name(name) for name in params} == {"optimizer", "weight_decay"}


def test_the_members_of_a_list_are_equally_likely() -> None:
    space = SearchSpace(parameters={"x": OneOf((0, 1, Int(10, 99), Int(200, 999)))})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: float(sample(space, trial)["x"]), n_trials=400)

    counts = Counter(trial.params["x"] for trial in study.trials)

    assert set(counts) == {0, 1, "10 to 99", "200 to 999"}
    assert all(70 < count < 130 for count in counts.values())  # 100 each, with a standard deviation of 9
