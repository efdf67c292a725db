"""Ten classes of generated shapes: a data set that needs no download and separates good networks from bad ones.

A shape of random position, size, rotation and colour lies on a shaded ground among smaller shapes, under stripes and
noise. The same seed gives the same bytes on every machine: the code only uses raw random words, + - * / and
comparisons, which IEEE 754 rounds alike everywhere (sin, exp and the methods of numpy's Generator do not guarantee it).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.contents import Contents, DecodingResult, Labels, Pixels
from data.preprocessing import Preprocessing
from data.progress import Advance, Say

VERSION = 1  # of the drawing; increase it when any pixel changes
DEFAULT_IMAGES = 10_000
BLOCK = 50  # images drawn at a time; a block fits in the CPU cache
CLUTTER = 3  # smaller shapes behind the labelled shape
FINE = 2  # sub-pixels per side of a pixel, for smooth edges

# These values were found by trial: 3 epochs of 9000 images separate a good small network from bad networks.
RADIUS = (0.42, 0.78)  # of the labelled shape; the image spans -1 to 1
REACH = 0.3  # maximum distance of its centre from the centre of the image
TURN = 0.4  # tangent of half its maximum rotation, which is 44 degrees
SMALL = (0.08, 0.18)  # radius of the clutter
CONTRAST = (28, 110)  # grey levels between shape and ground, in each channel
TINTED = 0.35  # share of shapes with the tint of their class, which gives bad networks something to learn
NOISE = (6, 34)  # range of the noise amplitude in grey levels
# One colour per class, in the order of the classes.
TINTS = (
    (230, 40, 40), (40, 200, 40), (60, 60, 240), (240, 230, 50), (230, 50, 230),
    (50, 220, 230), (250, 250, 250), (20, 20, 20), (250, 150, 30), (130, 60, 20),
)  # fmt: skip

Floats: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]

# The corners of a regular pentagon on the unit circle, and the distance of its sides from the centre.
PENTAGON = ((0.0, 1.0), (-0.951057, 0.309017), (-0.587785, -0.809017), (0.587785, -0.809017), (0.951057, 0.309017))
PENTAGON_SIDE = 0.809017


def _sides_met(u: Floats, v: Floats, distance: float) -> NDArray[np.uint8]:
    """Number of the five half-planes of a pentagon that contain each point."""
    met = np.zeros(u.shape, np.uint8)
    for a, b in PENTAGON:
        met += np.float32(a) * u + np.float32(b) * v > -np.float32(distance)
    return met


def _disc(u: Floats, v: Floats, radius: float) -> Bools:
    return u * u + v * v < radius * radius


def _box(u: Floats, v: Floats, width: float, height: float) -> Bools:
    return (np.abs(u) < width) & (np.abs(v) < height)


# All have about the same area; brightness alone does not separate them.
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
    """A Source of `images` training images, and a fifth of that number of test images from a second random stream."""

    name = "shapes"

    def __init__(self, images: int, *, side: int, seed: int) -> None:
        self.side = side
        self._images = images
        self._seed = seed

    def key(self) -> str:
        what = ["shapes", VERSION, self._images, self.side, self._seed]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def notes(self) -> tuple[str, ...]:
        return ()

    def open(self, say: Say) -> Contents:
        train = _labels(max(self._images, len(CLASSES)))
        test = _labels(max(self._images // 5, 10 * len(CLASSES)))

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> DecodingResult:
            for part, (labels, images) in enumerate(((train, train_images), (test, test_images))):
                for block, start in enumerate(range(0, len(labels), BLOCK)):
                    rows = slice(start, start + BLOCK)
                    images[rows] = draw(labels[rows], side=self.side, seed=(self._seed, part, block))
                    advance(len(labels[rows]))

            return DecodingResult(preprocessing=Preprocessing(side=self.side))

        return Contents(classes=CLASSES, train_labels=train, test_labels=test, fill=fill)


def draw(labels: Labels, *, side: int, seed: tuple[int, ...]) -> Pixels:
    """Draw one image per label; returns (N, side, side, 3)."""
    rng = _Rng(seed)
    count = len(labels)
    ground = 50 + rng.unit(count, 1, 3) * 155
    canvas = _shaded_ground(rng, ground, side)
    for _ in range(CLUTTER):
        kinds = np.minimum((rng.unit(count) * len(CLASSES)).astype(np.int64), len(CLASSES) - 1)
        pose = _Pose.random(rng, count, radius=SMALL, reach=1.0)
        _paint(canvas, _coverage(kinds, pose, side, fine=1), _lighter(rng, ground))
    pose = _Pose.random(rng, count, radius=RADIUS, reach=REACH, turn=TURN)
    _paint(canvas, _coverage(labels, pose, side, fine=FINE), _shape_colour(rng, ground, labels))
    _paint(canvas, _stripe(rng, count, side), _lighter(rng, ground))
    return _with_noise(rng, canvas, side)


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
    """Positions of shapes; every array has shape (N, 1, 1)."""

    x: Floats
    y: Floats
    radius: Floats
    cos: Floats
    sin: Floats
    stretch: Floats

    @classmethod
    def random(cls, rng: _Rng, count: int, *, radius: tuple[float, float], reach: float, turn: float = 1.0) -> "_Pose":
        """Draw random poses; `turn` is the tangent of half the maximum rotation, so sine and cosine are rational."""
        t = rng.between((-turn, turn), count, 1, 1)
        return cls(
            x=rng.between((-reach, reach), count, 1, 1),
            y=rng.between((-reach, reach), count, 1, 1),
            radius=rng.between(radius, count, 1, 1),
            cos=(1 - t * t) / (1 + t * t),
            sin=2 * t / (1 + t * t),
            stretch=rng.between((0.85, 1.18), count, 1, 1),
        )


def _axes(side: int) -> tuple[Floats, Floats]:
    """Pixel centres between -1 and 1, vertical and horizontal: (1, side, 1) and (1, 1, side)."""
    centres = (np.arange(side, dtype=np.float32) * 2 + 1) / np.float32(side) - 1
    return centres.reshape(1, -1, 1), centres.reshape(1, 1, -1)


def _coverage(kinds: Labels, pose: _Pose, side: int, *, fine: int) -> Floats:
    """Share of each pixel that a shape covers, in [0, 1]: (N, side, side)."""
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


def _shaded_ground(rng: _Rng, ground: Floats, side: int) -> Floats:
    """A colour gradient over the image: (N, side, side, 3), 0 .. 255."""
    down, across = _axes(side)
    count = len(ground)
    slope = rng.between((-28.0, 28.0), count, 1, 1, 2, 3)
    shade: Floats = ground[:, None] + slope[..., 0, :] * down[..., None] + slope[..., 1, :] * across[..., None]
    return shade


def _stripe(rng: _Rng, count: int, side: int) -> Floats:
    """A thin line across each image, which hides a part of the shapes: (N, side, side)."""
    down, across = _axes(side)
    pose = _Pose.random(rng, count, radius=(0.03, 0.09), reach=0.7)
    distance = np.abs(pose.cos * (across - pose.x) + pose.sin * (down - pose.y))
    stripe: Floats = (distance < pose.radius).astype(np.float32)
    return stripe


def _lighter(rng: _Rng, ground: Floats) -> Floats:
    """A colour lighter than the ground, (N, 1, 3); with darker colours, too, networks would learn far more slowly."""
    return ground + rng.between(CONTRAST, *ground.shape)


def _shape_colour(rng: _Rng, ground: Floats, labels: Labels) -> Floats:
    """The tint of the class or, more often, a random colour: (N, 1, 3)."""
    tinted = rng.unit(len(labels), 1, 1) < TINTED
    return np.where(tinted, np.array(TINTS, np.float32)[labels][:, None], _lighter(rng, ground))


def _paint(canvas: Floats, covered: Floats, colour: Floats) -> None:
    canvas += covered[..., None] * (colour[:, None] - canvas)


def _with_noise(rng: _Rng, canvas: Floats, side: int) -> Pixels:
    """Add noise whose strength differs from image to image, and round to bytes."""
    noise = rng.octets(canvas.size).reshape(canvas.shape).astype(np.float32) / np.float32(127.5) - 1
    strength = rng.between(NOISE, len(canvas), 1, 1, 1)
    return np.clip(canvas + noise * strength, 0, 255).astype(np.uint8)


def _labels(count: int) -> Labels:
    """All classes in turn, with equal frequency."""
    return np.arange(count, dtype=np.int64) % len(CLASSES)
