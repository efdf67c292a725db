"""The content of a source of images, before and after it is decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.preprocessing import Fit, Preprocessing
from data.progress import Advance

Pixels: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DecodingResult:
    """The result of decoding."""

    preprocessing: Preprocessing
    """The steps that every image went through."""

    broken: frozenset[int] = frozenset()
    """Rows, over train and test images, that could not be decoded and are left out."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSample:
    """Some decoded training images."""

    images: Pixels
    """(N, S, S, 3)."""

    labels: Labels

    sizes: tuple[tuple[int, int], ...]
    """Width and height of each file in pixels."""

    fit: Fit
    """How the images became square."""

    unreadable: tuple[str, ...] = ()
    """Reasons why images of the sample cannot be read, and are left out."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The content of a source before decoding."""

    classes: tuple[str, ...]
    train_labels: Labels
    """The images of a validation folder come last."""

    test_labels: Labels
    validation_folder: int = 0
    """Number of images in a validation folder."""

    groups: Indices | None = None
    """For each training image a number, equal for images that stay together in a split."""

    set_aside: Callable[[Indices, Indices], tuple[Indices, Indices]] | None = None
    """Splits rows of training images, given the rows and the groups of all, into those to train and to test; None if
    there is a test part."""

    paths: tuple[str, ...] = ()
    """Of train and test images, if the source may hold the same picture twice."""

    duplicates: Literal["refuse", "allow"] = "refuse"
    """Whether a picture may be in train and in test."""

    keeps_copies_together: bool = True
    """Whether images with equal pixels stay together in a split."""

    fill: Callable[[Pixels, Pixels, Advance], DecodingResult]
    """Writes train and test images, (N, S, S, 3), in the order of the labels; calls Advance with the number done."""

    sample: Callable[[int], ImageSample] | None = None
    """Decodes at most this number of training images, drawn by seed; None for a source that is decoded at once."""

    def training_rows(self) -> tuple[Indices, int]:
        """Rows of the training images that are not set aside to test, and the number of test images."""
        rows = np.arange(len(self.train_labels))
        if self.set_aside is None or self.groups is None:
            return rows, len(self.test_labels)
        rows, held = self.set_aside(rows, self.groups)
        return rows, len(held)

    def count_validation(self, rows: Indices) -> int:
        """Number of images of the validation folder among some rows of training images."""
        return int((rows >= len(self.train_labels) - self.validation_folder).sum())
