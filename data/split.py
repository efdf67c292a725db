"""Stratified splits that are the same for the same seed on every machine."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.errors import DataError

Indices: TypeAlias = NDArray[np.int64]


def stratified_split(
    labels: Indices,  # (N,), 0 .. C-1
    amount: float,
    *,
    seed: int,
    key: str,
    classes: Sequence[str],
    groups: Indices | None = None,  # (N,)
) -> tuple[Indices, Indices]:
    """Hold out images in proportion to the classes.

    Images of one group stay together, such as those of one patient: a network that has seen some of them knows the
    others. The numbers are then approximate.

    Args:
        labels: (N,), 0 .. C-1.
        amount: number of images (int), or share of them (float).
        seed: seed of the split.
        key: the key of [data] that requests the split, for error messages. Different keys draw independently.
        classes: names of the classes.
        groups: a number per image, equal for images that stay together; None: every image is by itself.

    Returns:
        Sorted row numbers (kept, held_out). Together they are all rows; every class is in both.

    Raises:
        DataError: a class has too few images or groups, or the amount leaves a class without images.
    """
    counts = np.bincount(labels, minlength=len(classes))
    held_counts = _share_out(_wanted(amount, counts, key=key, classes=classes), counts)
    order = random_order(len(labels), seed=seed, key=key)
    if groups is not None and len(np.unique(groups)) < len(groups):
        is_held = _hold_out_groups(labels, held_counts, groups, order, key=key, classes=classes)
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)
    by_class = order[np.argsort(labels[order], kind="stable")]  # by class, in random order within a class
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_held = rank < held_counts[labels]
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _hold_out_groups(
    labels: Indices, wanted: Indices, groups: Indices, order: Indices, *, key: str, classes: Sequence[str]
) -> NDArray[np.bool_]:
    """The mask of images in groups, drawn at random, that come near the wanted number per class."""
    counts = np.bincount(labels, minlength=len(classes))
    held = np.zeros_like(counts)
    is_held = np.zeros(len(labels), dtype=np.bool_)

    def take(groups: Sequence[Indices], is_wanted: Callable[[Indices, Indices], bool]) -> list[Indices]:
        """Hold the wanted groups out that leave an image of each of their classes; return the others."""
        left = []
        for rows in groups:
            found, gained = np.unique(labels[rows], return_counts=True)
            if (held[found] + gained < counts[found]).all() and is_wanted(found, gained):
                held[found] += gained
                is_held[rows] = True
            else:
                left.append(rows)
        return left

    def fits(found: Indices, gained: Indices) -> bool:
        return bool((held[found] + gained <= wanted[found]).all())

    def comes_nearer(found: Indices, gained: Indices) -> bool:
        missing = wanted[found] - held[found]
        return bool(np.abs(missing - gained).sum() < np.abs(missing).sum())

    def is_needed(found: Indices, gained: Indices) -> bool:
        return bool((held[found] == 0).any())

    left = sorted(take(_members(groups, order), fits), key=len)
    take(take(left, comes_nearer), is_needed)
    if not held.all():
        name = classes[int(held.argmin())]
        raise DataError(
            f"[data] {key} needs images of class '{name}' that can be held out, but too many of them stay together, as "
            'one group or as copies of one picture; add images, take copies out, or set [data] groups = "none"'
        )
    return is_held


def _members(groups: Indices, order: Indices) -> list[Indices]:
    """The rows of each group; the groups are in the order of their first image in `order`."""
    _, first, numbers = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[numbers]
    by_group = np.argsort(rank, kind="stable")
    return np.split(order[by_group], np.flatnonzero(np.diff(rank[by_group])) + 1)


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


def random_order(count: int, *, seed: int, key: str) -> Indices:
    """A permutation of 0 .. count - 1 that is the same on every machine.

    Args:
        count: number of rows.
        seed: seed of the permutation.
        key: different keys give independent permutations.
    """
    # Raw words of a bit generator are stable across numpy versions; the methods of Generator need not be (NEP 19).
    words: NDArray[np.uint64] = np.random.PCG64(np.random.SeedSequence([seed, *key.encode()])).random_raw(count)
    return np.argsort(words, kind="stable")


def split_rows(
    config: DataConfig,
    labels: Indices,
    classes: Sequence[str],
    *,
    groups: Indices | None = None,
    validation_folder: int = 0,
) -> tuple[Indices, Indices]:
    """Split the training images.

    `train_images` of all images are used. `validation` of these are held out, and a search trains on `search_images`
    of the rest.

    Args:
        config: the table [data].
        labels: (N,), 0 .. C-1.
        classes: names of the classes.
        groups: (N,), equal for images that stay together.
        validation_folder: number of the last images that are those of a folder val/; they are the validation images.

    Returns:
        The sorted row numbers (train, validation).

    Raises:
        DataError: a class has too few images.
    """
    rows = used_rows(config, labels, classes)
    if validation_folder:
        is_given = rows >= len(labels) - validation_folder
        kept, validation = rows[~is_given], rows[is_given]
    else:
        held_out = config.held_out(len(rows), classes=len(classes))
        train, held = stratified_split(
            labels[rows],
            held_out,
            seed=config.seed,
            key="validation",
            classes=classes,
            groups=None if groups is None else groups[rows],
        )
        kept, validation = rows[train], rows[held]
    if config.search_images is not None and config.search_images < len(kept):
        _, selected = stratified_split(
            labels[kept], config.search_images, seed=config.seed, key="search_images", classes=classes
        )
        kept = kept[selected]
    return kept, validation


def used_rows(config: DataConfig, labels: Indices, classes: Sequence[str]) -> Indices:
    """The rows selected by `train_images`."""
    if config.train_images is None or config.source == "shapes" or config.train_images >= len(labels):
        return np.arange(len(labels))
    _, rows = stratified_split(labels, config.train_images, seed=config.seed, key="train_images", classes=classes)
    return rows
