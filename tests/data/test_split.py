"""data/split.py: held-out images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import DataConfig
from data.errors import DataError
from data.split import Indices, split_rows, stratified_split

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


# -- groups --------------------------------------------------------------------------------------------------------


def test_without_groups_or_with_groups_of_one_the_split_is_unchanged() -> None:
    labels = np.arange(20, dtype=np.int64) % 2

    _, held = stratified_split(labels, 4, seed=7, key="validation", classes=("a", "b"), groups=np.arange(20)[::-1])

    assert held.tolist() == GOLDEN


def test_the_split_of_groups_is_the_same_on_every_machine() -> None:
    labels = np.arange(20, dtype=np.int64) % 2

    _, held = stratified_split(labels, 4, seed=7, key="validation", classes=("a", "b"), groups=np.arange(20) // 4)

    assert held.tolist() == [8, 9, 10, 11]


def grouped(seed: int, *, images: int = 400, groups: int = 60) -> tuple[Indices, Indices]:
    random = np.random.default_rng(seed)
    return random.integers(0, 3, images), random.integers(0, groups, images)


@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.5))
def test_images_of_one_group_stay_together_and_every_class_is_in_both_parts(seed: int, share: float) -> None:
    labels, groups = grouped(seed)

    kept, held = stratified_split(labels, share, seed=seed, key="validation", classes=CLASSES, groups=groups)

    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert not set(groups[kept]) & set(groups[held])
    assert set(labels[kept]) == set(labels[held]) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_held_out_about_in_proportion_to_the_classes(seed: int) -> None:
    labels, groups = grouped(seed)

    _, held = stratified_split(labels, 0.2, seed=seed, key="validation", classes=CLASSES, groups=groups)

    shares = np.bincount(labels[held]) / np.bincount(labels)
    assert shares == pytest.approx([0.2] * 3, abs=0.08)


def test_another_seed_holds_out_other_groups() -> None:
    labels, groups = grouped(0)

    parts = [
        tuple(stratified_split(labels, 0.2, seed=seed, key="validation", classes=CLASSES, groups=groups)[1])
        for seed in (0, 0, 1)
    ]

    assert parts[0] == parts[1] != parts[2]


def test_a_group_with_most_images_of_a_class_is_kept() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100)
    groups[:40] = 0

    kept, held = stratified_split(labels, 0.2, seed=1, key="validation", classes=CLASSES[:2], groups=groups)

    assert set(range(40)) <= set(kept)
    assert np.bincount(labels[held]).tolist() == [10, 10]


def test_a_class_whose_images_are_all_in_one_group_is_refused_with_the_way_out() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100)
    groups[50:] = 50

    with pytest.raises(
        DataError, match=r"\[data\] validation needs images of class 'dog' that can be held out.*groups = \"none\""
    ):
        stratified_split(labels, 0.2, seed=1, key="validation", classes=CLASSES[:2], groups=groups)


def test_the_smallest_possible_sets_of_groups_are_split() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])

    for groups in ([0, 0, 0, 1, 2, 2, 2, 3], [0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0, 1]):
        held = stratified_split(labels, 2, seed=1, key="validation", classes=CLASSES[:2], groups=np.array(groups))[1]
        assert set(labels[held]) == {0, 1}
        assert not set(np.array(groups)[held]) & set(np.delete(groups, held))


# -- rows ----------------------------------------------------------------------------------------------------------


def test_the_images_of_a_validation_folder_are_the_validation_images() -> None:
    config = DataConfig(source="folder", path="x")
    labels = np.array([0, 1] * 10 + [0, 1, 1])

    train, validation = split_rows(config, labels, CLASSES[:2], validation_folder=3)

    assert train.tolist() == list(range(20))
    assert validation.tolist() == [20, 21, 22]


def test_a_search_on_fewer_images_keeps_the_validation_folder() -> None:
    config = DataConfig(source="folder", path="x", search_images=6)
    labels = np.array([0, 1] * 10 + [0, 1, 1])

    train, validation = split_rows(config, labels, CLASSES[:2], validation_folder=3)

    assert np.bincount(labels[train]).tolist() == [3, 3]
    assert set(train) <= set(range(20))
    assert validation.tolist() == [20, 21, 22]


def test_the_validation_images_and_the_training_images_share_no_group() -> None:
    config = DataConfig(source="folder", path="x", validation=0.2)
    labels, groups = grouped(1)

    train, validation = split_rows(config, labels, CLASSES, groups=groups)

    assert not set(groups[train]) & set(groups[validation])
