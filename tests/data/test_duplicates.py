"""data/duplicates.py: pictures that are in a set twice."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from data.duplicates import Duplicates, find, joined
from tests.data.pictures import noise

SIDE = 32


def photo(seed: int, side: int = 128) -> Image.Image:
    """Random shapes of several sizes: neighbours are alike, as in a photo, and no two photos are."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(random.integers(0, 256, (cells, cells, 3)).astype(np.uint8)).resize((side, side)),
            dtype=float,
        )
        / cells**0.5
        for cells in (2, 4, 8, 16)
    ]
    total = sum(layers, np.zeros((side, side, 3)))
    return Image.fromarray(((total - total.min()) * 255 / (total.max() - total.min())).astype(np.uint8))


def stack(images: Sequence[Image.Image], side: int = SIDE) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in images])


def found(images: Sequence[Image.Image]) -> Duplicates:
    return find(stack(images), np.arange(len(images)))


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file)


def test_the_first_of_equal_pictures_is_named() -> None:
    one, two = photo(1), photo(2)

    result = found([one, two, one, photo(3), one, two])

    assert result.first.tolist() == [0, 1, 0, 3, 0, 1]
    assert len(result.near) == 0


def test_one_pixel_of_difference_is_no_equal_picture() -> None:
    images = stack([photo(1), photo(1)])
    images[1, 5, 5, 0] ^= 1

    result = find(images, np.arange(2))

    assert result.first.tolist() == [0, 1]
    assert result.near.tolist() == [[0, 1]]


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg-90": lambda image: as_jpeg(image, 90),
    "jpeg-50": lambda image: as_jpeg(image, 50),
    "half-the-size": lambda image: image.resize((64, 64)),
    "one-and-a-half-times-the-size": lambda image: image.resize((192, 192)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "less-contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.9),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_most_near_copies_are_found_and_no_other_pair(copy: Callable[[Image.Image], Image.Image]) -> None:
    photos = [photo(seed) for seed in range(40)]

    near = found([*photos, *map(copy, photos)]).near

    pairs = {tuple(pair) for pair in near.tolist()}
    assert pairs <= {(row, row + 40) for row in range(40)}
    assert len(pairs) >= 30


def test_different_pictures_are_no_copies() -> None:
    assert len(found([photo(seed) for seed in range(300)]).near) == 0


def test_noise_around_one_colour_is_no_copy() -> None:
    images = [noise(seed, (200, 40, 40)) for seed in range(300)]

    result = found(images)

    assert result.first.tolist() == list(range(300))
    assert len(result.near) == 0


def test_a_picture_in_other_colours_is_no_copy() -> None:
    pattern = np.asarray(photo(1).convert("L"), dtype=float) - 128
    red, green = np.full((2, 128, 128, 3), 128.0)
    red[..., 0] += pattern
    green[..., 1] += pattern * 0.299 / 0.587  # as bright (ITU-R BT.601)

    assert len(found([Image.fromarray(image.astype(np.uint8)) for image in (red, green)]).near) == 0


def test_a_mirrored_or_turned_picture_is_no_copy() -> None:
    image = photo(1)
    others = [image.transpose(way) for way in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90)]

    assert len(found([image, *others]).near) == 0


def test_flat_pictures_are_no_near_copies() -> None:
    flat = [Image.new("RGB", (8, 8), (shade, 40, 200)) for shade in range(0, 250, 5)]

    result = found([*flat, flat[7]])

    assert result.first.tolist() == [*range(50), 7]
    assert len(result.near) == 0


def test_many_equal_pictures_are_one_picture() -> None:
    result = found([photo(1)] * 500)

    assert not result.first.any()
    assert len(result.near) == 0


def test_of_many_near_copies_not_all_pairs_are_compared_but_all_are_found() -> None:
    number = np.arange(300)
    images = np.repeat(np.asarray(photo(1).resize((8, 8)))[None], 300, axis=0)
    images[number, number % 8, number // 8 % 8, 0] ^= (1 + number // 64).astype(np.uint8)

    near = find(images, number).near

    assert 10_000 < len(near) < 300 * 299 // 2
    assert set(near.ravel().tolist()) == set(number.tolist())


def test_rows_that_are_left_out_have_no_copies() -> None:
    images = stack([photo(1)] * 4 + [as_jpeg(photo(1), 80)])

    result = find(images, np.array([1, 3]))

    assert result.first.tolist() == [0, 1, 2, 1, 4]
    assert len(result.near) == 0


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("side", [8, 96])
def test_few_pictures_of_any_size_are_compared(side: int, count: int) -> None:
    images = stack([photo(seed) for seed in range(count)], side) if count else np.empty((0, side, side, 3), np.uint8)

    result = find(images, np.arange(count))

    assert (result.first.tolist(), len(result.near)) == (list(range(count)), 0)


@pytest.mark.parametrize(
    ("groups", "first", "together"),
    [
        pytest.param([0, 1, 2, 3], [0, 1, 2, 3], [[0], [1], [2], [3]], id="no-copies"),
        pytest.param([0, 1, 2, 3], [0, 1, 0, 3], [[0, 2], [1], [3]], id="copies"),
        pytest.param([0, 0, 1, 1, 2], [0, 1, 0, 3, 4], [[0, 1, 2, 3], [4]], id="two-groups-with-a-common-picture"),
        pytest.param([0, 0, 1, 1, 2, 2, 3], [0, 1, 1, 3, 3, 5, 6], [[0, 1, 2, 3, 4, 5], [6]], id="a-chain"),
        pytest.param([], [], [], id="nothing"),
    ],
)
def test_groups_with_a_common_picture_are_joined(
    groups: list[int], first: list[int], together: list[list[int]]
) -> None:
    result = joined(np.array(groups, dtype=np.int64), np.array(first, dtype=np.int64))

    rows = [np.flatnonzero(result == number).tolist() for number in sorted(set(result.tolist()))]
    assert sorted(rows) == together
