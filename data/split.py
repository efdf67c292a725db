"""Taking images out of a set class by class, the same ones for the same seed on every machine."""

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
    """Hold out `amount` images (a whole number of images, or a share of them), spread over the classes as they are.

    Returns (kept, held_out), sorted row numbers that together are all rows; every class is in both. `key` is the key
    of [data] that asks: it is named in errors, and two keys draw independently of each other.

    Raises DataError where a class has too few images, or where the amount leaves a class without any.
    """
    counts = np.bincount(labels, minlength=len(classes))
    held = _share_out(_wanted(amount, counts, key=key, classes=classes), counts)
    order = np.argsort(_random_words(len(labels), seed=seed, key=key), kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]  # class by class, in random order within
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = rank < held[labels]
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def _wanted(amount: float, counts: Indices, *, key: str, classes: Sequence[str]) -> int:
    """The amount as a number of images, or the reason why it cannot be."""
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
    """Divide `wanted` over the classes in proportion (largest remainder), at least 1 and never all of a class."""
    quota = wanted * counts / counts.sum()
    held: Indices = np.clip(np.floor(quota).astype(np.int64), 1, counts - 1)
    while (missing := wanted - int(held.sum())) != 0:
        step = 1 if missing > 0 else -1
        possible = held < counts - 1 if step > 0 else held > 1
        need = np.where(possible, step * (quota - held), -np.inf)
        held[int(need.argmax())] += step
    return held


def _random_words(count: int, *, seed: int, key: str) -> NDArray[np.uint64]:
    # Raw words of a bit generator stay the same over versions of numpy; the methods of Generator need not (NEP 19).
    words: NDArray[np.uint64] = np.random.PCG64(np.random.SeedSequence([seed, *key.encode()])).random_raw(count)
    return words
