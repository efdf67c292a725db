"""data/mirror.py: whether mirrored images keep their class."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.contents import Labels, Pixels
from data.mirror import mirror_test
from data.statistics import MirrorTest

SIDE = 20
Draw = Callable[[ImageDraw.ImageDraw, int, int, tuple[int, int, int]], None]


def disc(draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int]) -> None:
    draw.ellipse((x, y, x + 10, y + 10), fill=colour)


def cross(draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int]) -> None:
    draw.line((x, y, x + 10, y + 10), fill=colour, width=2)
    draw.line((x + 10, y, x, y + 10), fill=colour, width=2)


def right_arrow(draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int]) -> None:
    draw.polygon(((x, y), (x + 10, y + 5), (x, y + 10)), fill=colour)


def left_arrow(draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int]) -> None:
    draw.polygon(((x + 10, y), (x, y + 5), (x + 10, y + 10)), fill=colour)


def letter(text: str) -> Draw:
    return lambda draw, x, y, colour: draw.text((x, y - 2), text, fill=colour, font_size=14)


def painted(shapes: tuple[Draw, ...], each: int) -> tuple[Pixels, Labels]:
    """Images of shapes in random places and colours, one class a shape."""
    random = np.random.default_rng(0)
    labels = np.arange(each * len(shapes)) % len(shapes)
    images = []
    for label in labels:
        image = Image.new("RGB", (SIDE, SIDE), tuple(random.integers(0, 60, 3).tolist()))
        x, y = random.integers(2, 8, 2).tolist()
        red, green, blue = random.integers(150, 256, 3).tolist()
        shapes[label](ImageDraw.Draw(image), x, y, (red, green, blue))
        images.append(np.asarray(image))
    return np.stack(images), labels


@pytest.mark.parametrize(
    ("shapes", "keeps"),
    [
        pytest.param((disc, cross), True, id="symmetric shapes"),
        pytest.param((right_arrow, left_arrow), False, id="arrows"),
        pytest.param((letter("b"), letter("d"), letter("p"), letter("q")), False, id="letters"),
    ],
)
def test_mirrored_shapes_keep_their_class_if_they_are_symmetric(shapes: tuple[Draw, ...], keeps: bool) -> None:
    assert mirror_test(*painted(shapes, 60)).keeps_class is keeps


def test_the_same_images_give_the_same_result() -> None:
    images, labels = painted((right_arrow, left_arrow), 20)
    assert mirror_test(images, labels) == mirror_test(images.copy(), labels.copy())


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        pytest.param(np.full((1, SIDE, SIDE, 3), 9, np.uint8), [0], id="one image"),
        pytest.param(painted((disc, cross), 1)[0], [0, 1], id="one image a class"),
        pytest.param(painted((disc, cross), 2)[0], [0, 1, 0, 1], id="two images a class"),
        pytest.param(np.full((30, SIDE, SIDE, 3), 120, np.uint8), [0, 1] * 15, id="flat images"),
        pytest.param(np.repeat(painted((disc,), 1)[0], 30, axis=0), [0, 1] * 15, id="equal images"),
        pytest.param(painted((disc, cross), 20)[0], [0] * 40, id="one class"),
        pytest.param(painted((disc, cross), 20)[0], range(40), id="as many classes as images"),
    ],
)
def test_odd_images_have_no_evidence_against_a_mirror(images: Pixels, labels: list[int]) -> None:
    test = mirror_test(images, np.array(labels))
    assert test.keeps_class
    assert 0 <= test.lost <= test.recognised <= len(images)


@pytest.mark.parametrize(
    ("recognised", "mirrored", "lost", "keeps"),
    [
        (0, 0, 0, True),  # no evidence
        (100, 100, 0, True),
        (100, 105, 3, True),  # more by chance
        (5, 3, 2, True),  # few images
        (100, 95, 10, True),
        (100, 60, 45, False),
        (1_000, 850, 200, False),
    ],
)
def test_few_lost_images_may_be_chance_and_many_are_not(recognised: int, mirrored: int, lost: int, keeps: bool) -> None:
    assert MirrorTest(recognised=recognised, mirrored=mirrored, lost=lost).keeps_class is keeps
