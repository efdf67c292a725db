"""data/sources/shapes.py: drawn images."""

import hashlib

import numpy as np
import pytest

from data.sources.shapes import CLASSES, Shapes, draw

GOLDEN = (
    "d0671a8ca8879bdef2f5f6287076413ea77140f01394d9c3de78fc38efe0ef90"  # a change of this value requires a new VERSION
)


def test_the_same_seed_draws_the_same_bytes_on_every_machine() -> None:
    images = draw(np.arange(20) % 10, side=32, seed=(0, 0, 0))

    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN


def test_another_seed_draws_other_images() -> None:
    labels = np.zeros(5, np.int64)

    first, second = (draw(labels, side=32, seed=(seed, 0, 0)) for seed in (0, 1))

    assert (first != second).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("side", [8, 32, 45])
def test_images_have_the_requested_size(side: int) -> None:
    images = draw(np.arange(10), side=side, seed=(0,))

    assert images.shape == (10, side, side, 3)
    assert images.dtype == np.uint8
    assert (images.std(axis=(1, 2, 3)) > 5).all()


def test_train_and_test_hold_every_class_equally_often_and_no_image_twice() -> None:
    contents = Shapes(200, side=16, seed=3).open(print)
    train = np.zeros((200, 16, 16, 3), np.uint8)
    test = np.zeros((100, 16, 16, 3), np.uint8)
    drawn: list[int] = []

    contents.fill(train, test, drawn.append)

    assert np.bincount(contents.train_labels).tolist() == [20] * 10
    assert np.bincount(contents.test_labels).tolist() == [10] * 10
    assert sum(drawn) == 300
    assert len({image.tobytes() for image in (*train, *test)}) == 300


def test_classes_differ_by_their_outlines() -> None:
    """Averaged over many positions, colours and noise, every class has a distinct mean image."""
    means = [
        np.concatenate([draw(np.full(50, kind), side=16, seed=(0, part)) for part in range(8)]).mean(axis=0)
        for kind in range(len(CLASSES))
    ]

    distances = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]

    assert min(distances) > 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((100, 32, 0), (101, 32, 0), id="number"),
        pytest.param((100, 32, 0), (100, 33, 0), id="size"),
        pytest.param((100, 32, 0), (100, 32, 1), id="seed"),
    ],
)
def test_the_key_changes_with_everything_that_changes_the_images(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    keys = {Shapes(images, side=side, seed=seed).key() for images, side, seed in (one, other, one)}

    assert len(keys) == 2
