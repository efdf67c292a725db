"""Correctness of each image, one bit per image, and the comparison of two networks by it.

Two networks with the same validation images are compared image by image. Of n images, the first network alone
classifies b correctly, and the second alone c; all other images carry no information (McNemar 1947,
https://doi.org/10.1007/BF02295996). The lead is (b - c) / n; its standard error under chance is sqrt(b + c) / n. That
is much less than the spread of two accuracies on different images, because most images are easy or hard for both.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Key of the number of images per class. Each other key is a step; its value holds the bits of that step.
COUNTS = "counts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two networks on the same images."""

    images: int
    first_only: int
    """Images that only the first network classified correctly."""
    second_only: int
    """Images that only the second network classified correctly."""
    lead: float
    """Lead of the first network, in accuracy or balanced accuracy."""
    error: float
    """Standard error of the lead if both networks are equally good."""


def pack(right: "NDArray[np.bool_]", labels: "NDArray[np.int64]") -> str:
    """Packs the correctness of each image into base64 text, ordered by class: 1,668 bytes for ten thousand images.

    Args:
        right: (images,) whether each image was classified correctly.
        labels: (images,) class of each image.
    """
    import numpy as np  # comparisons of packed texts do not need it

    return base64.b64encode(np.packbits(right[np.argsort(labels, kind="stable")]).tobytes()).decode()


def add_step(
    before: Mapping[str, Any], step: int, right: "NDArray[np.bool_]", labels: "NDArray[np.int64]", *, classes: int
) -> dict[str, Any]:
    """Adds a step to the stored correctness of a trial.

    Args:
        before: Stored correctness of the earlier steps; empty before the first.
        step: Number of the step.
        right: (images,) whether each image was classified correctly.
        labels: (images,) class of each image.
        classes: Number of classes.

    Returns:
        A new value to store; `before` is unchanged.
    """
    import numpy as np

    counts = np.bincount(labels, minlength=classes).tolist()
    return {**before, COUNTS: counts, str(step): pack(right, labels)}


def steps(stored: Mapping[str, Any]) -> tuple[int, ...]:
    """Steps with a stored correctness, in ascending order."""
    return tuple(sorted(int(key) for key in stored if key != COUNTS))


def pair(first: Mapping[str, Any], second: Mapping[str, Any], step: int, *, balanced: bool = False) -> Pair | None:
    """Compares two trials at a step.

    Args:
        first: Stored correctness of the first trial.
        second: Stored correctness of the second trial.
        step: Number of the step.
        balanced: Whether to compare balanced accuracy instead of accuracy.

    Returns:
        The comparison; None if a trial lacks the step, or if the trials differ in the number of images per class.
    """
    key = str(step)
    if key not in first or key not in second or first[COUNTS] != second[COUNTS]:
        return None
    counts: Sequence[int] = first[COUNTS]
    bits_1, bits_2 = (_bits(stored[key], sum(counts)) for stored in (first, second))
    only_1, only_2 = _per_class(bits_1 & ~bits_2, counts), _per_class(bits_2 & ~bits_1, counts)
    images, present = sum(counts), sum(count > 0 for count in counts)
    weights = [images / (present * count) if balanced and count else 1.0 for count in counts]
    rows = list(zip(weights, only_1, only_2, strict=True))
    return Pair(
        images=images,
        first_only=sum(only_1),
        second_only=sum(only_2),
        lead=sum(weight * (b - c) for weight, b, c in rows) / images,
        error=math.sqrt(sum(weight**2 * (b + c) for weight, b, c in rows)) / images,
    )


def _bits(text: str, images: int) -> int:
    """The bits of `pack` as one number; the first image is the highest bit."""
    packed = base64.b64decode(text)
    return int.from_bytes(packed) >> (8 * len(packed) - images)


def _per_class(bits: int, counts: Sequence[int]) -> list[int]:
    """Number of set bits in each class."""
    set_bits, left = [], sum(counts)
    for count in counts:
        left -= count
        set_bits.append((bits >> left & (1 << count) - 1).bit_count())
    return set_bits
