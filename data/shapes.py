"""Ten classes of drawn shapes: a data set that is there at once, and that a good network learns better than a bad one.

A shape of any place, size, turn and colour lies on a shaded ground among smaller shapes, under stripes and noise.
The same seed gives the same bytes on every machine: only raw random words, + - * / and comparisons are used, which
IEEE 754 rounds alike everywhere (sin, exp and the methods of numpy's Generator do not promise that).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.cache import Contents, Labels, Pixels
from data.progress import Advance, Say

VERSION = 1  # of the drawing: a change of any pixel must change it
DEFAULT_IMAGES = 10_000
BLOCK = 50  # images drawn at a time, so that a block stays in the processor's cache
CLUTTER = 3  # smaller shapes behind the one that counts
FINE = 2  # sub-pixels per side of a pixel, for smooth edges

# The measures below were chosen by trying, so that 3 epochs of 9000 images tell a good small network from bad ones.
RADIUS = (0.42, 0.78)  # of the shape that counts; the image reaches from -1 to 1
REACH = 0.3  # of its middle from the middle of the image
TURN = 0.4  # tangent of half its greatest turn, which is 44 degrees
SMALL = (0.08, 0.18)  # radius of the clutter
CONTRAST = (28, 110)  # grey levels between shape and ground, in each channel
TINTED = 0.35  # share of shapes that have the tint of their class, so that a bad network finds something to learn too
NOISE = (6, 34)  # greatest grey levels that noise adds or takes
# One colour per class, in its order.
TINTS = (
    (230, 40, 40), (40, 200, 40), (60, 60, 240), (240, 230, 50), (230, 50, 230),
    (50, 220, 230), (250, 250, 250), (20, 20, 20), (250, 150, 30), (130, 60, 20),
)  # fmt: skip

Floats: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]

# The corners of a regular pentagon on the unit circle, and the distance of its sides from the middle.
PENTAGON = ((0.0, 1.0), (-0.951057, 0.309017), (-0.587785, -0.809017), (0.587785, -0.809017), (0.951057, 0.309017))
PENTAGON_SIDE = 0.809017


def _sides_met(u: Floats, v: Floats, distance: float) -> NDArray[np.uint8]:
    """How many of the five half-planes of a pentagon hold each point."""
    met = np.zeros(u.shape, np.uint8)
    for a, b in PENTAGON:
        met += np.float32(a) * u + np.float32(b) * v > -np.float32(distance)
    return met


def _disc(u: Floats, v: Floats, radius: float) -> Bools:
    return u * u + v * v < radius * radius


def _box(u: Floats, v: Floats, width: float, height: float) -> Bools:
    return (np.abs(u) < width) & (np.abs(v) < height)


# Each has about the area of the others, so that brightness alone does not tell them apart.
FIGURES: Mapping[str, Callable[[Floats, Floats], Bools]] = {
    "bar": lambda u, v: _box(u, v, 1.05, 0.42),
    "circle": lambda u, v: _disc(u, v, 0.76),
    "crescent": lambda u, v: _disc(u, v, 1.0) & ~_disc(u - 0.5, v, 0.8),
    "cross": lambda u, v: _box(u, v, 1.0, 0.28) | _box(u, v, 0.28, 1.0),
    "half": lambda u, v: _disc(u, v + 0.4, 1.0) & (v > -0.4),
    "pentagon": lambda u, v: _sides_met(u, v, PENTAGON_SIDE * 0.88) == 5,
    "ring": lambda u, v: _disc(u, v, 0.98) & ~_disc(u, v, 0.58),
    "square": lambda u, v: _box(u, v, 0.68, 0.68),
    "star": lambda u, v: _sides_met(u, v, 0.46) >= 4,
    "triangle": lambda u, v: (v > -0.5) & (v + 1.7320508 * np.abs(u) < 1.0),
}
CLASSES = tuple(FIGURES)


class Shapes:
    """A Source of `images` training images, and a fifth as many test images drawn from another stream of the seed."""

    name = "shapes"

    def __init__(self, images: int, *, side: int, seed: int) -> None:
        self.side = side
        self._images = images
        self._seed = seed

    def key(self) -> str:
        what = ["shapes", VERSION, self._images, self.side, self._seed]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def open(self, say: Say) -> Contents:
        train = _labels(max(self._images, len(CLASSES)))
        test = _labels(max(self._images // 5, 10 * len(CLASSES)))

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> None:
            for part, (labels, images) in enumerate(((train, train_images), (test, test_images))):
                for block, start in enumerate(range(0, len(labels), BLOCK)):
                    rows = slice(start, start + BLOCK)
                    images[rows] = draw(labels[rows], side=self.side, seed=(self._seed, part, block))
                    advance(len(labels[rows]))

        return Contents(classes=CLASSES, train_labels=train, test_labels=test, fill=fill)


def draw(labels: Labels, *, side: int, seed: tuple[int, ...]) -> Pixels:
    """Draw a shape of each label into an image of its own; returns (N, side, side, 3)."""
    dice = _Rng(seed)
    count = len(labels)
    ground = 50 + dice.unit(count, 1, 3) * 155
    canvas = _shaded_ground(dice, ground, side)
    for _ in range(CLUTTER):
        kinds = np.minimum((dice.unit(count) * len(CLASSES)).astype(np.int64), len(CLASSES) - 1)
        pose = _Pose.thrown(dice, count, radius=SMALL, reach=1.0)
        _paint(canvas, _coverage(kinds, pose, side, fine=1), _lighter(dice, ground))
    pose = _Pose.thrown(dice, count, radius=RADIUS, reach=REACH, turn=TURN)
    _paint(canvas, _coverage(labels, pose, side, fine=FINE), _own_colour(dice, ground, labels))
    _paint(canvas, _stripe(dice, count, side), _lighter(dice, ground))
    return _with_noise(dice, canvas, side)


class _Rng:
    """Random numbers that are the same on every machine."""

    def __init__(self, seed: tuple[int, ...]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def unit(self, *shape: int) -> Floats:
        """Uniform in [0, 1), 24 bits each, which a float32 holds exactly."""
        words = np.asarray(self._bits.random_raw(int(np.prod(shape))), dtype=np.uint64)
        return ((words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)

    def between(self, bounds: tuple[float, float], *shape: int) -> Floats:
        low, high = np.float32(bounds[0]), np.float32(bounds[1])
        return low + (high - low) * self.unit(*shape)

    def octets(self, count: int) -> NDArray[np.uint8]:
        words = np.asarray(self._bits.random_raw(-(-count // 8)), dtype="<u8")
        return words.view(np.uint8)[:count]


@dataclass(frozen=True, slots=True)
class _Pose:
    """Where shapes lie; every array has shape (N, 1, 1)."""

    x: Floats
    y: Floats
    radius: Floats
    cos: Floats
    sin: Floats
    stretch: Floats

    @classmethod
    def thrown(cls, dice: _Rng, count: int, *, radius: tuple[float, float], reach: float, turn: float = 1.0) -> "_Pose":
        """Throw the dice; `turn` is the tangent of half the greatest turn, which makes sine and cosine fractions."""
        t = dice.between((-turn, turn), count, 1, 1)
        return cls(
            x=dice.between((-reach, reach), count, 1, 1),
            y=dice.between((-reach, reach), count, 1, 1),
            radius=dice.between(radius, count, 1, 1),
            cos=(1 - t * t) / (1 + t * t),
            sin=2 * t / (1 + t * t),
            stretch=dice.between((0.85, 1.18), count, 1, 1),
        )


def _axes(side: int) -> tuple[Floats, Floats]:
    """The middles of the pixels between -1 and 1, down and across: (1, side, 1) and (1, 1, side)."""
    middles = (np.arange(side, dtype=np.float32) * 2 + 1) / np.float32(side) - 1
    return middles.reshape(1, -1, 1), middles.reshape(1, 1, -1)


def _coverage(kinds: Labels, pose: _Pose, side: int, *, fine: int) -> Floats:
    """How much of each pixel a shape covers, in [0, 1]: (N, side, side)."""
    down, across = _axes(side * fine)
    covered = np.empty((len(kinds), side, side), np.float32)
    for kind in np.unique(kinds):
        rows = kinds == kind
        x, y = (across - pose.x[rows]) / pose.radius[rows], (down - pose.y[rows]) / pose.radius[rows]
        u = (pose.cos[rows] * x + pose.sin[rows] * y) * pose.stretch[rows]
        v = (pose.cos[rows] * y - pose.sin[rows] * x) / pose.stretch[rows]
        inside = FIGURES[CLASSES[kind]](u, v).astype(np.uint8)
        parts = inside.reshape(-1, side, fine, side, fine)
        covered[rows] = sum(parts[:, :, i, :, j] for i in range(fine) for j in range(fine)) / np.float32(fine * fine)
    return covered


def _shaded_ground(dice: _Rng, ground: Floats, side: int) -> Floats:
    """A colour that changes across the image: (N, side, side, 3), 0 .. 255."""
    down, across = _axes(side)
    count = len(ground)
    slope = dice.between((-28.0, 28.0), count, 1, 1, 2, 3)
    shade: Floats = ground[:, None] + slope[..., 0, :] * down[..., None] + slope[..., 1, :] * across[..., None]
    return shade


def _stripe(dice: _Rng, count: int, side: int) -> Floats:
    """A thin line across each image, which hides a part of what is below: (N, side, side)."""
    down, across = _axes(side)
    pose = _Pose.thrown(dice, count, radius=(0.03, 0.09), reach=0.7)
    away = np.abs(pose.cos * (across - pose.x) + pose.sin * (down - pose.y))
    stripe: Floats = (away < pose.radius).astype(np.float32)
    return stripe


def _lighter(dice: _Rng, ground: Floats) -> Floats:
    """A colour lighter than the ground, (N, 1, 3); with darker ones too, networks would take far longer to learn."""
    return ground + dice.between(CONTRAST, *ground.shape)


def _own_colour(dice: _Rng, ground: Floats, labels: Labels) -> Floats:
    """The tint of the class or, more often, any other colour: (N, 1, 3)."""
    tinted = dice.unit(len(labels), 1, 1) < TINTED
    return np.where(tinted, np.array(TINTS, np.float32)[labels][:, None], _lighter(dice, ground))


def _paint(canvas: Floats, covered: Floats, colour: Floats) -> None:
    canvas += covered[..., None] * (colour[:, None] - canvas)


def _with_noise(dice: _Rng, canvas: Floats, side: int) -> Pixels:
    """Add noise whose strength differs from image to image, and round to bytes."""
    noise = dice.octets(canvas.size).reshape(canvas.shape).astype(np.float32) / np.float32(127.5) - 1
    strength = dice.between(NOISE, len(canvas), 1, 1, 1)
    return np.clip(canvas + noise * strength, 0, 255).astype(np.uint8)


def _labels(count: int) -> Labels:
    """All classes in turn, so that they are equally frequent."""
    return np.arange(count, dtype=np.int64) % len(CLASSES)
