"""Preparation and description of the data set of [data], without torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import numpy as np

from data import cache as sets
from data import home
from data.config import DataConfig
from data.download import Archive
from data.errors import DataError
from data.preprocessing import Preprocessing
from data.progress import Say
from data.sources.cifar10 import CLASSES, OFFICIAL, TEST_IMAGES, TRAIN_IMAGES, Cifar10
from data.sources.folder import Folder
from data.sources.shapes import DEFAULT_IMAGES, Shapes
from data.split import Indices, split_rows, used_rows

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

    preprocessing: Preprocessing
    """The steps from an image file to the pixels of the set."""

    validation_folder: int
    """Number of images in val/; 0 without."""

    train_count: int
    """Number of images that a search trains on."""

    validation_count: int
    """Number of images that a search evaluates on."""

    seen_test_images: int
    """Number of test images that are training images, too, with equal pixels."""

    skipped_images: int
    """Number of images that could not be read and were left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCounts:
    """Numbers of images and classes."""

    classes: int
    all_train: int
    """Training images, including those held out for validation."""

    train: int
    """Images that a search trains on."""

    validation: int
    test: int


def prepare(
    config: DataConfig, cache: Path, say: Say, *, archive: Archive = OFFICIAL, fingerprint: str | None = None
) -> DataInfo:
    """Decode the images into `cache` unless they are there already.

    Safe to call from several processes, and to kill.

    Args:
        config: the table [data].
        cache: root folder of the cache.
        say: receives lines of progress.
        archive: the download of CIFAR-10.
        fingerprint: of the images that are wanted; their decoded copy suffices if their path is gone.

    Returns:
        The description of the images.

    Raises:
        DataError: the source or a split cannot be used.
        OSError: the cache cannot be written.
    """
    if fingerprint is not None and _is_gone(config):
        say(f"the images are not at {config.path}; their decoded copy in {cache} is used")
        return describe(config, _decoded_copy(config, cache, fingerprint))
    source = source_of(config, cache, archive)
    info = describe(config, sets.ensure(source, cache, say))
    return replace(info, notes=(*source.notes(), *info.notes))


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
    source = source_of(config, cache, archive)
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
    train, validation = split(config, folder)  # raises early if the set cannot be split
    counts = tuple(np.bincount(labels[used_rows(config, labels, meta.classes)]).tolist())
    return DataInfo(
        fingerprint=meta.fingerprint,
        classes=meta.classes,
        train_counts=counts,
        test_counts=meta.test_counts,
        image_size=meta.image_size,
        mean=meta.mean,
        std=meta.std,
        notes=(*meta.notes, *_balance(meta.classes, counts)),
        preprocessing=meta.steps(),
        validation_folder=meta.validation_folder,
        train_count=len(train),
        validation_count=len(validation),
        seen_test_images=meta.seen_test_images,
        skipped_images=meta.skipped,
    )


def find(config: DataConfig, cache: Path, *, archive: Archive = OFFICIAL, fingerprint: str | None = None) -> Path:
    """Return the folder of a prepared set; see `prepare`. Raises DataError if it is not prepared."""
    if fingerprint is not None and _is_gone(config):
        return _decoded_copy(config, cache, fingerprint)
    return sets.find(source_of(config, cache, archive), cache)


def split(config: DataConfig, folder: Path) -> tuple[Indices, Indices]:
    """Split the training images of a prepared set; see `split_rows`."""
    meta = sets.read_meta(folder)
    labels = np.asarray(sets.read_array(folder, "train_labels"), dtype=np.int64)
    groups = np.asarray(sets.read_array(folder, "train_groups"), dtype=np.int64) if meta.has_groups() else None
    return split_rows(config, labels, meta.classes, groups=groups, validation_folder=meta.validation_folder)


def count_images(config: DataConfig) -> ImageCounts:
    """Count the images of a set; none is decoded or downloaded. Copies of pictures are not known yet.

    Raises:
        DataError: the source cannot be used, or cannot be split.
    """
    if config.source == "cifar10":  # its labels are known before the download
        return _counts(
            config, np.repeat(np.arange(len(CLASSES)), TRAIN_IMAGES // len(CLASSES)), CLASSES, test=TEST_IMAGES
        )
    contents = source_of(config, Path()).open(lambda line: None)
    rows, test = contents.training_rows()
    return _counts(
        config,
        contents.train_labels[rows],
        contents.classes,
        test=test,
        groups=None if contents.groups is None else contents.groups[rows],
        validation_folder=contents.count_validation(rows),
    )


def _counts(
    config: DataConfig,
    labels: Indices,
    classes: tuple[str, ...],
    *,
    test: int,
    groups: Indices | None = None,
    validation_folder: int = 0,
) -> ImageCounts:
    train, validation = split_rows(config, labels, classes, groups=groups, validation_folder=validation_folder)
    return ImageCounts(
        classes=len(classes),
        all_train=len(used_rows(config, labels, classes)),
        train=len(train),
        validation=len(validation),
        test=test,
    )


def count_search_images(config: DataConfig, images: int, *, classes: int) -> int:
    """Number of images, out of `images`, that a search trains on, up to rounding of a share over the classes."""
    held_out = config.held_out(images, classes=classes)
    rest = images - (held_out if isinstance(held_out, int) else round(held_out * images))
    return min(rest, config.search_images or rest)


def _is_gone(config: DataConfig) -> bool:
    return config.path is not None and not home.expand(config.path).exists()


def _decoded_copy(config: DataConfig, cache: Path, fingerprint: str) -> Path:
    folder = sets.find_by_fingerprint(fingerprint, cache)
    if folder is None:
        raise DataError(
            f"the images are not at {config.path}, and {cache} has no decoded copy of them; name them with --data PATH"
        )
    return folder


def source_of(config: DataConfig, cache: Path, archive: Archive = OFFICIAL) -> sets.Source:
    """Return the source that [data] names."""
    match config.source:
        case "cifar10":
            return Cifar10(archive, side=config.side, cache=cache)
        case "folder":
            return Folder(config, cache)
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
