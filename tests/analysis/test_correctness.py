"""Images that a network classifies correctly, and the paired comparison of two networks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analysis import correctness

LABELS = np.array([1, 0, 1, 0, 1, 0])


def stored(
    *right: bool, labels: "np.ndarray[tuple[int], np.dtype[np.int64]]" = LABELS, step: int = 3
) -> dict[str, object]:
    return correctness.add_step({}, step, np.array(right), labels, classes=2)


def test_two_networks_are_compared_image_by_image() -> None:
    first = stored(True, True, True, True, False, False)
    second = stored(True, False, False, True, True, False)

    pair = correctness.pair(first, second, 3)

    assert pair is not None
    assert (pair.images, pair.first_only, pair.second_only) == (6, 2, 1)
    assert pair.lead == pytest.approx((2 - 1) / 6)
    assert pair.error == pytest.approx(math.sqrt(2 + 1) / 6)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=70))
def test_the_lead_is_the_difference_of_the_accuracies(rows: list[tuple[bool, bool, int]]) -> None:
    one, other, labels = (np.array(column) for column in zip(*rows, strict=True))
    first, second = (correctness.add_step({}, 1, right, labels, classes=3) for right in (one, other))

    pair = correctness.pair(first, second, 1)
    balanced = correctness.pair(first, second, 1, balanced=True)

    assert pair is not None
    assert balanced is not None
    assert pair.lead == pytest.approx(one.mean() - other.mean())
    recalls = [one[labels == label].mean() - other[labels == label].mean() for label in set(labels.tolist())]
    assert balanced.lead == pytest.approx(np.mean(recalls))
    assert (pair.first_only, pair.second_only) == ((one & ~other).sum(), (other & ~one).sum())


def test_balanced_accuracy_has_the_same_error_when_the_classes_are_balanced() -> None:
    first, second = stored(True, True, True, True, False, False), stored(True, False, False, True, True, False)

    plain, balanced = correctness.pair(first, second, 3), correctness.pair(first, second, 3, balanced=True)

    assert plain is not None
    assert balanced is not None
    assert balanced.error == pytest.approx(plain.error)


def test_adding_a_step_leaves_other_steps_unchanged() -> None:
    first = stored(True, True, True, True, True, True, step=1)
    both = correctness.add_step(first, 3, np.zeros(6, dtype=bool), LABELS, classes=2)

    assert correctness.steps(both) == (1, 3)
    assert correctness.pair(both, first, 1) == correctness.pair(first, first, 1)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({}, id="of an older version"),
        pytest.param(stored(True, True, True, True, True, True, step=1), id="at another step"),
        pytest.param(stored(True, True, True, True, True, labels=np.array([0, 0, 1, 1, 1])), id="on other images"),
    ],
)
def test_trials_evaluated_on_different_images_or_steps_are_not_compared(other: dict[str, object]) -> None:
    assert correctness.pair(stored(True, True, True, True, True, True), other, 3) is None
    assert correctness.pair(other, stored(True, True, True, True, True, True), 3) is None
