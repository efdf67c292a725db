"""The steps from an image file to the pixels that a network sees."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Fit: TypeAlias = Literal["crop", "pad", "squash"]

#: A crop keeps this share of a 16:9 photo. Below it the crop throws more than half of the usual camera formats away.
LEAST_KEPT: Final = 9 / 16
#: Images whose ratios of width to height differ by less than this factor are distorted alike by "squash".
ALIKE: Final = 1.5


class Preprocessing(BaseModel):
    """How an image file becomes pixels: the same in training, export and prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    side: Annotated[int, Field(ge=1)]
    """Side of the result in pixels."""

    fit: Fit = "crop"
    """"crop" scales the short side and cuts out the middle square, "pad" scales the long side and adds black bars,
    "squash" scales both sides and changes the proportions."""

    depth: tuple[float, float] | None = None
    """The values of 16-bit and float images that become 0 and 255; None: the upper byte of 16 bits."""


def depth_of(bits: int) -> tuple[float, float] | None:
    """The range of values of this number of bits; None for 16 bits, whose upper byte is taken."""
    return None if bits == 16 else (0.0, float(2**bits - 1))


def fit_for(sizes: Sequence[tuple[int, int]]) -> Fit:
    """Choose how to make images square.

    A crop is the usual way for photos, and keeps at least `LEAST_KEPT` of them. Of longer images it loses too much:
    images of one shape are squashed, which uses all pixels of the network's input, and images of different shapes are
    padded, which keeps their proportions.

    Args:
        sizes: width and height of each training image, at least one.
    """
    if kept_by_crop(sizes) >= LEAST_KEPT:
        return "crop"
    width, height = np.array(sizes, dtype=np.float64).T
    low, high = np.percentile(width / height, (5, 95))
    return "squash" if high / low < ALIKE else "pad"


def kept_by_crop(sizes: Sequence[tuple[int, int]]) -> float:
    """Share of its pixels that the median image keeps when its middle square is cut out."""
    array = np.array(sizes, dtype=np.float64)
    return float(np.median(array.min(axis=1) / array.max(axis=1)))
