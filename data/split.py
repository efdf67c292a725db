"""Stratified splits that are the same for the same seed on every machine."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

Indices: TypeAlias = NDArray[np.int64]


def stratified_split(
    labels: Indices,  # (N,), 0 .. C-1
    amount: float,
    *,
    seed: int,
    key: str,
    classes: Sequence[str],
) -> tuple[Indices, Indices]:
    """Hold out images in proportion to the classes.

    Args:
        labels: (N,), 0 .. C-1.
        amount: number of images (int), or share of them (float).
        seed: seed of the split.
        key: the key of [data] that requests the split, for error messages. Different keys draw independently.
        classes: names of the classes.

    Returns:
        Sorted row numbers (kept, held_out). Together they are all rows; every class is in both.

    Raises:
        DataError: a class has too few images, or the amount leaves a class without images.
    """
    counts = np.bincount(labels, minlength=len(classes))
    held_counts = _share_out(_wanted(amount, counts, key=key, classes=classes), counts)
    order = np.argsort(_random_words(len(labels), seed=seed, key=key), kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]  # by class, in random order within a class
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_held = rank < held_counts[labels]
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _wanted(amount: float, counts: Indices, *, key: str, classes: Sequence[str]) -> int:
    """The amount as a number of images. Raises DataError if it is not possible."""
    images, smallest = int(counts.sum()), int(counts.argmin())
    if counts[smallest] < 2:
        raise DataError(
            f"[data] {key} needs at least 2 images of every class, but class '{classes[smallest]}' has "
            f"{counts[smallest]}; add images or take the class out"
        )
    if isinstance(amount, int) and amount < len(classes):
        raise DataError(
            f"[data] {key} must be at least {len(classes)} (one image per class), but got {amount}; "
            "raise it in the study file"
        )
    wanted = amount if isinstance(amount, int) else max(round(amount * images), len(classes))
    most = images - len(classes)
    if wanted > most:
        raise DataError(
            f"[data] {key} must be at most {most} of {images} images (one per class stays), but got {wanted}; "
            "lower it in the study file"
        )
    return int(wanted)


def _share_out(wanted: int, counts: Indices) -> Indices:
    """Divide `wanted` among the classes in proportion (largest remainder): at least 1 and never all of a class."""
    quota = wanted * counts / counts.sum()
    held: Indices = np.clip(np.floor(quota).astype(np.int64), 1, counts - 1)
    while (remaining := wanted - int(held.sum())) != 0:
        step = 1 if remaining > 0 else -1
        is_possible = held < counts - 1 if step > 0 else held > 1
        priority = np.where(is_possible, step * (quota - held), -np.inf)
        held[int(priority.argmax())] += step
    return held


def _random_words(count: int, *, seed: int, key: str) -> NDArray[np.uint64]:
    # Raw words of a bit generator are stable across numpy versions; the methods of Generator need not be (NEP 19).
    words: NDArray[np.uint64] = np.random.PCG64(np.random.SeedSequence([seed, *key.encode()])).random_raw(count)
    return words
