"""Which images a network recognised, one bit an image, and what two networks differ in by that.

Two networks that were judged on the same images are compared image by image: of n images, b are recognised by the first
one alone and c by the second one alone, all others say nothing (McNemar 1947, https://doi.org/10.1007/BF02295996). The
lead is (b - c) / n, and by chance alone it would spread by sqrt(b + c) / n. That is much less than the spread of two
accuracies on different images, because most images are easy for both, or hard for both.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Under this key is said how many images each class has; under the number of a step, which of them were recognised.
COUNTS = "counts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two networks on the same images."""

    images: int
    first_only: int
    """Images that the first one alone recognised."""
    second_only: int
    lead: float
    """Of the first one, in accuracy, or in balanced accuracy."""
    error: float
    """Standard error of the lead, if there is none in truth."""


def pack(right: "NDArray[np.bool_]", labels: "NDArray[np.int64]") -> str:
    """(images,) whether each was classified correctly, class by class, as text: ten thousand images are 1,668 bytes."""
    import numpy as np  # a question that compares texts does not need it

    return base64.b64encode(np.packbits(right[np.argsort(labels, kind="stable")]).tobytes()).decode()


def add_step(
    before: Mapping[str, Any], step: int, right: "NDArray[np.bool_]", labels: "NDArray[np.int64]", *, classes: int
) -> dict[str, Any]:
    """What is stored of a trial, and the (images,) images that it recognised at a further step."""
    import numpy as np

    counts = np.bincount(labels, minlength=classes).tolist()
    return {**before, COUNTS: counts, str(step): pack(right, labels)}


def steps(stored: Mapping[str, Any]) -> tuple[int, ...]:
    """The steps at which it is known what a trial recognised, rising."""
    return tuple(sorted(int(key) for key in stored if key != COUNTS))


def pair(first: Mapping[str, Any], second: Mapping[str, Any], step: int, *, balanced: bool = False) -> Pair | None:
    """Two trials at a step, by what is stored of them; None if that is not known of both, or not of the same images."""
    key = str(step)
    if key not in first or key not in second or first[COUNTS] != second[COUNTS]:
        return None
    counts: Sequence[int] = first[COUNTS]
    one, other = (_bits(stored[key], sum(counts)) for stored in (first, second))
    only_one, only_other = _per_class(one & ~other, counts), _per_class(other & ~one, counts)
    images, present = sum(counts), sum(count > 0 for count in counts)
    weights = [images / (present * count) if balanced and count else 1.0 for count in counts]
    rows = list(zip(weights, only_one, only_other, strict=True))
    return Pair(
        images=images,
        first_only=sum(only_one),
        second_only=sum(only_other),
        lead=sum(weight * (b - c) for weight, b, c in rows) / images,
        error=math.sqrt(sum(weight**2 * (b + c) for weight, b, c in rows)) / images,
    )


def _bits(text: str, images: int) -> int:
    """The bits of `pack` as one number; the first image is the highest bit."""
    packed = base64.b64decode(text)
    return int.from_bytes(packed) >> (8 * len(packed) - images)


def _per_class(bits: int, counts: Sequence[int]) -> list[int]:
    """How many bits are set, class by class."""
    found, left = [], sum(counts)
    for count in counts:
        left -= count
        found.append((bits >> left & (1 << count) - 1).bit_count())
    return found
