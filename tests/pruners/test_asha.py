"""ASHA as a pure function of the values at a rung."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pruners.asha import Asha, PruneDecision

ASHA = Asha(first_rung=1, reduction=3, steps=10)
accuracies = st.floats(min_value=0, max_value=1)


def decide(asha: Asha, step: int, value: float, others: list[float]) -> PruneDecision | None:
    """The decision on `value` among the values of the other trials."""
    return asha.decide(step, value, better=sum(other > value for other in others), others=len(others))


def test_rungs_are_powers_of_the_reduction_and_end_before_the_last_step() -> None:
    assert Asha(first_rung=2, reduction=3, steps=20).rungs() == (2, 6, 18)
    assert Asha(first_rung=1, reduction=3, steps=9).rungs() == (1, 3)


@pytest.mark.parametrize(("updates", "step"), [(0, 1), (10, 1), (11, 3), (30, 3), (31, 9), (90, 9), (91, 10)])
def test_a_trial_is_judged_from_the_first_rung_with_enough_updates(updates: int, step: int) -> None:
    asha = Asha(first_rung=1, reduction=3, steps=10, updates=updates)

    assert asha.judged_from([10 * done for done in range(1, 11)]) == step


@given(value=accuracies, others=st.lists(accuracies), steps=st.integers(1, 40), first=st.integers(1, 40))
def test_no_trial_is_stopped_at_its_last_step(value: float, others: list[float], steps: int, first: int) -> None:
    asha = Asha(first_rung=first, reduction=2, steps=steps)

    assert decide(asha, steps, value, others) is None


@pytest.mark.parametrize(
    ("value", "others", "stopped"),
    [
        pytest.param(0.1, [], False, id="the first at a rung goes on"),
        pytest.param(0.5, [0.4], False, id="the better of two goes on"),
        pytest.param(0.3, [0.4], False, id="two are too few to stop one"),
        pytest.param(0.3, [0.4, 0.2], True, id="the second of three is stopped"),
        pytest.param(0.4, [0.4], False, id="equals are not stopped"),
        pytest.param(0.5, [0.1, 0.2, 0.3, 0.6, 0.2], False, id="the second of six goes on"),
        pytest.param(0.5, [0.1, 0.2, 0.7, 0.6, 0.2], True, id="the third of six is stopped"),
    ],
)
def test_the_best_third_at_a_rung_goes_on(value: float, others: list[float], stopped: bool) -> None:
    assert (decide(ASHA, 3, value, others) is not None) is stopped


def test_no_trial_is_stopped_between_rungs() -> None:
    assert decide(ASHA, 2, 0.0, [0.9] * 10) is None


def test_the_reason_names_the_rank_and_the_number_of_trials() -> None:
    decision = decide(ASHA, 3, 0.2, [0.5, 0.4, 0.1])

    assert decision is not None
    assert (decision.step, decision.value) == (3, 0.2)
    assert decision.reason == "rank 3 of 4 at step 3; the best 1 went on"


@given(others=st.lists(accuracies, min_size=1), value=accuracies)
def test_a_better_value_is_never_stopped_when_a_worse_one_continues(others: list[float], value: float) -> None:
    worse_goes_on = decide(ASHA, 1, value, others) is None
    better_goes_on = decide(ASHA, 1, value + 0.01, others) is None

    assert better_goes_on or not worse_goes_on
