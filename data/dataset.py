"""Preparation and description of the data set of [data], without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from data import cache as sets
from data.config import DataConfig
from data.download import Archive
from data.progress import Say
from data.sources.cifar10 import OFFICIAL, Cifar10
from data.sources.folder import Folder
from data.sources.shapes import DEFAULT_IMAGES, Shapes
from data.split import stratified_split

UNBALANCED = 3  # largest / smallest class; below it, accuracy and balanced accuracy rank networks almost equally


@dataclass(frozen=True, kw_only=True, slots=True)
class DataInfo:
    """Description of the images of a study."""

    fingerprint: str
    """SHA-256 of the decoded content of the complete set; it does not depend on the path."""

    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    """Training images per class, including those held out for validation."""

    test_counts: tuple[int, ...]
    image_size: int
    mean: tuple[float, float, float]
    """Mean of each channel over the training images of the complete set, in [0, 1]."""

    std: tuple[float, float, float]
    notes: tuple[str, ...]
    """Remarks for the user."""


def prepare(config: DataConfig, cache: Path, say: Say, *, archive: Archive = OFFICIAL) -> DataInfo:
    """Decode the images into `cache` unless they are there already.

    Safe to call from several processes, and to kill.

    Args:
        config: the table [data].
        cache: root folder of the cache.
        say: receives lines of progress.
        archive: the download of CIFAR-10.

    Returns:
        The description of the images.

    Raises:
        DataError: the source or a split cannot be used.
        OSError: the cache cannot be written.
    """
    return describe(config, sets.ensure(_source(config, cache, archive), cache, say))


def fetch(config: DataConfig, cache: Path, say: Say, *, archive: Archive = OFFICIAL) -> None:
    """Download the files that `prepare` needs, unless the images are decoded already.

    Args:
        config: the table [data].
        cache: root folder of the cache.
        say: receives lines of progress.
        archive: the download of CIFAR-10.

    Raises:
        DataError: the source cannot be used.
        OSError: the cache cannot be written.
    """
    source = _source(config, cache, archive)
    if isinstance(source, Cifar10) and not sets.is_made(source, cache):
        source.fetch(say)


def describe(config: DataConfig, folder: Path) -> DataInfo:
    """Return the description of a prepared set.

    Args:
        config: the table [data], which determines the split.
        folder: the folder of the prepared set.

    Raises:
        DataError: the set is damaged, or cannot be split.
    """
    meta = sets.read_meta(folder)
    labels = np.asarray(sets.read_array(folder, "train_labels"), dtype=np.int64)
    split_rows(config, labels, meta.classes)  # raises early if the set cannot be split
    counts = tuple(np.bincount(labels[_used_rows(config, labels, meta.classes)]).tolist())
    return DataInfo(
        fingerprint=meta.fingerprint,
        classes=meta.classes,
        train_counts=counts,
        test_counts=meta.test_counts,
        image_size=meta.image_size,
        mean=meta.mean,
        std=meta.std,
        notes=(*meta.notes, *_balance(meta.classes, counts)),
    )


def find(config: DataConfig, cache: Path, *, archive: Archive = OFFICIAL) -> Path:
    """Return the folder of a prepared set. Raises DataError if it is not prepared."""
    return sets.find(_source(config, cache, archive), cache)


def split_rows(
    config: DataConfig, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the training images.

    `train_images` of all images are used. `validation` of these are held out, and a search trains on `search_images`
    of the rest. `count_search_images` predicts their number.

    Args:
        config: the table [data].
        labels: (N,), 0 .. C-1.
        classes: names of the classes.

    Returns:
        The sorted row numbers (train, validation).

    Raises:
        DataError: a class has too few images.
    """
    rows = _used_rows(config, labels, classes)
    held_out = config.held_out(len(rows), classes=len(classes))
    train, validation = stratified_split(labels[rows], held_out, seed=config.seed, key="validation", classes=classes)
    kept = rows[train]
    if config.search_images is not None and config.search_images < len(kept):
        _, selected = stratified_split(
            labels[kept], config.search_images, seed=config.seed, key="search_images", classes=classes
        )
        kept = kept[selected]
    return kept, rows[validation]


def count_search_images(config: DataConfig, images: int, *, classes: int) -> int:
    """Number of images, out of `images`, that a search trains on, up to rounding of a share over the classes."""
    held_out = config.held_out(images, classes=classes)
    rest = images - (held_out if isinstance(held_out, int) else round(held_out * images))
    return min(rest, config.search_images or rest)


def _used_rows(config: DataConfig, labels: NDArray[np.int64], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """The rows selected by `train_images`."""
    if config.train_images is None or config.source == "shapes" or config.train_images >= len(labels):
        return np.arange(len(labels))
    _, rows = stratified_split(labels, config.train_images, seed=config.seed, key="train_images", classes=classes)
    return rows


def _source(config: DataConfig, cache: Path, archive: Archive) -> sets.Source:
    match config.source:
        case "cifar10":
            return Cifar10(archive, side=config.side, cache=cache)
        case "folder":
            return Folder(
                Path(config.path or ""), side=config.side, seed=config.seed, test_share=config.test_share, cache=cache
            )
        case "shapes":
            return Shapes(config.train_images or DEFAULT_IMAGES, side=config.side, seed=config.seed)
        case _:
            assert_never(config.source)


def _balance(classes: tuple[str, ...], counts: tuple[int, ...]) -> tuple[str, ...]:
    low, high = min(counts), max(counts)
    if high <= UNBALANCED * low:
        return ()
    return (
        f"unbalanced: '{classes[counts.index(low)]}' has {low} images, '{classes[counts.index(high)]}' {high}; "
        'consider objective = "balanced_accuracy"',
    )
