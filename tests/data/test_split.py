"""data/split.py: held-out images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.split import stratified_split

CLASSES = ("cat", "dog", "eel")
GOLDEN = [0, 6, 7, 11]


def labels_of(*counts: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return np.random.default_rng(0).permutation(labels)


@given(counts=st.lists(st.integers(2, 60), min_size=3, max_size=3), seed=st.integers(0, 2**40), data=st.data())
def test_every_image_is_in_exactly_one_part_and_every_class_in_both(
    counts: list[int], seed: int, data: st.DataObject
) -> None:
    labels = labels_of(*counts)
    amount = data.draw(st.integers(3, len(labels) - 3))

    kept, held = stratified_split(labels, amount, seed=seed, key="validation", classes=CLASSES)

    assert len(held) == amount
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert set(labels[kept]) == set(labels[held]) == {0, 1, 2}
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()


def test_classes_are_held_out_in_proportion() -> None:
    labels = labels_of(1000, 500, 100)

    _, held = stratified_split(labels, 0.1, seed=1, key="validation", classes=CLASSES)

    assert np.bincount(labels[held]).tolist() == [100, 50, 10]


def test_the_split_depends_on_the_seed_and_on_the_key() -> None:
    labels = labels_of(100, 100, 100)

    def held(seed: int, key: str) -> list[int]:
        return list(stratified_split(labels, 30, seed=seed, key=key, classes=CLASSES)[1])

    assert held(0, "validation") == held(0, "validation")
    assert held(0, "validation") != held(1, "validation")
    assert held(0, "validation") != held(0, "test_share")


def test_the_split_of_a_seed_is_the_same_on_every_machine() -> None:
    labels = np.arange(20, dtype=np.int64) % 2

    _, held = stratified_split(labels, 4, seed=7, key="validation", classes=("a", "b"))

    assert held.tolist() == GOLDEN


def test_a_small_share_still_holds_out_an_image_of_every_class() -> None:
    labels = labels_of(50, 40, 2)

    _, held = stratified_split(labels, 0.001, seed=0, key="validation", classes=CLASSES)

    assert np.bincount(labels[held]).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("counts", "amount", "words"),
    [
        pytest.param(
            (9, 9, 9), 2, r"\[data\] validation must be at least 3 .one image per class., but got 2", id="few"
        ),
        pytest.param((9, 9, 9), 25, "at most 24 of 27 images .* but got 25; lower it", id="too-many"),
        pytest.param((9, 9, 9), 0.99, "at most 24 of 27 images .* but got 27", id="too-large-a-share"),
        pytest.param((9, 1, 9), 0.1, "class 'dog' has 1; add images", id="class-of-one"),
        pytest.param((9, 9, 0), 0.1, "class 'eel' has 0", id="empty-class"),
    ],
)
def test_an_impossible_split_is_refused_with_the_numbers(counts: tuple[int, ...], amount: float, words: str) -> None:
    with pytest.raises(DataError, match=words):
        stratified_split(labels_of(*counts), amount, seed=0, key="validation", classes=CLASSES)
