"""From [data] to a prepared set, without torch: making it, and what there is to know about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from data import cache as sets
from data.cifar10 import OFFICIAL, Cifar10
from data.config import DataConfig
from data.download import Archive
from data.folder import Folder
from data.progress import Say
from data.shapes import DEFAULT_IMAGES, Shapes
from data.split import stratified_split

UNBALANCED = 3  # largest over smallest class; below, accuracy and balanced accuracy hardly rank networks differently


@dataclass(frozen=True, kw_only=True, slots=True)
class DataInfo:
    """What there is to know about the images of a study."""

    fingerprint: str
    """SHA-256 of the decoded content of the whole set; equal data have equal fingerprints, whatever their path."""

    classes: tuple[str, ...]
    train_counts: tuple[int, ...]
    """Training images per class, those held out for validation included."""

    test_counts: tuple[int, ...]
    image_size: int
    mean: tuple[float, float, float]
    """Of each channel over the training images of the whole set, in [0, 1]."""

    std: tuple[float, float, float]
    notes: tuple[str, ...]
    """What the user should be told."""


def prepare(config: DataConfig, cache: Path, say: Say, *, archive: Archive = OFFICIAL) -> DataInfo:
    """Decode the images into `cache` if they are not there yet, and return what there is to know about them.

    Safe to call from several processes, and to kill. Raises DataError where the source or a split cannot be used, and
    OSError where the cache cannot be written.
    """
    return describe(config, sets.ensure(_source(config, cache, archive), cache, say))


def fetch(config: DataConfig, cache: Path, say: Say, *, archive: Archive = OFFICIAL) -> None:
    """Download what `prepare` would, if it has not been decoded yet. Raises DataError and OSError as `prepare` does."""
    source = _source(config, cache, archive)
    if isinstance(source, Cifar10) and not sets.is_made(source, cache):
        source.fetch(say)


def describe(config: DataConfig, folder: Path) -> DataInfo:
    """Return what there is to know about the prepared set in `folder`, split as the config says."""
    meta = sets.read_meta(folder)
    labels = np.asarray(sets.read_array(folder, "train_labels"), dtype=np.int64)
    split_rows(config, labels, meta.classes)  # what cannot be split is told now
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
    """Return the folder of a prepared set. Raises DataError where it is not prepared."""
    return sets.find(_source(config, cache, archive), cache)


def split_rows(
    config: DataConfig, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows (train, validation): of all training images `train_images`, of these `validation`, and of the
    rest `search_images`. `searched` counts the first.
    """
    rows = _used_rows(config, labels, classes)
    held_out = config.held_out(len(rows), classes=len(classes))
    train, validation = stratified_split(labels[rows], held_out, seed=config.seed, key="validation", classes=classes)
    kept = rows[train]
    if config.search_images is not None and config.search_images < len(kept):
        _, some = stratified_split(
            labels[kept], config.search_images, seed=config.seed, key="search_images", classes=classes
        )
        kept = kept[some]
    return kept, rows[validation]


def searched(config: DataConfig, images: int, *, classes: int) -> int:
    """How many of `images` training images a search trains on, to within the rounding of a share over the classes."""
    held_out = config.held_out(images, classes=classes)
    rest = images - (held_out if isinstance(held_out, int) else round(held_out * images))
    return min(rest, config.search_images or rest)


def _used_rows(config: DataConfig, labels: NDArray[np.int64], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """The rows that the config says are used at all."""
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
    few, many = min(counts), max(counts)
    if many <= UNBALANCED * few:
        return ()
    return (
        f"unbalanced: '{classes[counts.index(few)]}' has {few} images, '{classes[counts.index(many)]}' {many}; "
        'consider objective = "balanced_accuracy"',
    )
