"""The images of a listing in order, with their labels and groups."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.config import DataConfig
from data.errors import DataError
from data.sources.layout import Classes, Listing
from data.split import Indices, stratified_split


def in_order(parts: Sequence[Classes], classes: Sequence[str]) -> tuple[list[str], Indices]:
    """Paths and labels, part by part and class by class: the order of the entries of a store does not matter."""
    pairs = [(path, label) for part in parts for label, name in enumerate(classes) for path in part.get(name, [])]
    return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64)


def group_numbers(paths: Sequence[str], groups: Mapping[str, str]) -> Indices:
    """A number for each image, equal for images of one group."""
    numbers: dict[tuple[bool, str], int] = {}
    keys = ((path in groups, groups.get(path, path)) for path in paths)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def check_counts(listing: Listing) -> None:
    """Check that every class has an image for each part. Raises DataError, with the numbers in the folder."""
    uses = ["to train"]
    if not listing.validation:
        uses.append("to validate")
    if not listing.test:
        uses.append("to test")
    for name, paths in listing.train.items():
        count = len(paths)
        if count < len(uses):
            images = "image" if count == 1 else "images"
            raise DataError(
                f"class '{name}' has {count} {images}, but needs at least {len(uses)}, one each {', '.join(uses)}; add "
                "images or take the class out"
            )


def split_test(
    config: DataConfig, labels: Indices, classes: Sequence[str], *, groups: Indices, validation_folder: int
) -> tuple[Indices, Indices]:
    """Set a share of the images aside as test images, but none of the last `validation_folder` ones.

    Args:
        config: the table [data].
        labels: (N,), 0 .. C-1.
        classes: names of the classes.
        groups: (N,), equal for images that stay together.
        validation_folder: number of the last images that are those of val/.

    Returns:
        The sorted row numbers (train, test).
    """
    count = len(labels) - validation_folder
    train, test = stratified_split(
        labels[:count], config.test_share, seed=config.seed, key="test_share", classes=classes, groups=groups[:count]
    )
    return np.concatenate((train, np.arange(count, len(labels)))), test
