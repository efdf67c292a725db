"""Measures statistics of the training images on a sample, before all are decoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

import numpy as np
from PIL import Image

from data import cache as sets
from data.config import DataConfig
from data.contents import Labels, Pixels
from data.dataset import describe, source_of, split
from data.errors import DataError
from data.mirror import mirror_test
from data.preprocessing import Fit
from data.progress import Say
from data.split import random_order, used_rows
from data.statistics import ImageStatistics
from data.text import counted

#: Images of the sample. Decoding 500 photos of 12 megapixels takes 5 s on two cores.
SAMPLE: Final = 500
#: Side in pixels of the sample: enough to tell grey from colour, and for patches of the mirror test.
SIDE: Final = 20
#: Maximum difference of the channels of a grey image, of 255: JPEG of grey images in colour rounds.
GREY: Final = 3


def measure(config: DataConfig, cache: Path, say: Say) -> ImageStatistics:
    """Measure the statistics of the training images. Those of test/ and val/ are not looked at.

    Images that a share of [data] sets aside to validate count as training images, which they are in the last training.

    Args:
        config: the table [data]; its image_size is irrelevant for a folder.
        cache: root folder of the cache. Images that are downloaded or drawn are prepared in it.
        say: receives lines of progress.

    Raises:
        DataError: the source cannot be used, or no image of the sample can be read.
        OSError: the cache cannot be written.
    """
    if config.source != "folder":
        return _of_prepared(config, cache, say)
    say(f"measuring some of the images of {config.path}")
    sized = config.model_copy(update={"image_size": SIDE, "search_size": None})
    contents = source_of(sized, cache).open(lambda line: None)
    assert contents.sample is not None
    rows, _ = contents.training_rows()
    labels = contents.train_labels[rows]
    sample = contents.sample(SAMPLE)
    if not len(sample.images):
        reasons = sample.unreadable
        raise DataError(
            f"{config.path}: none of {counted(len(reasons), 'image')} can be read: {'; '.join(reasons[:3])}"
        )
    return ImageStatistics(
        classes=contents.classes,
        counts=_counts(labels[used_rows(config, labels, contents.classes)], len(contents.classes)),
        side=median_side(sample.sizes, sample.fit),
        fit=sample.fit,
        is_grey=_is_grey(sample.images),
        mirror=mirror_test(sample.images, sample.labels),
    )


def median_side(sizes: Sequence[tuple[int, int]], fit: Fit) -> int:
    """Median side in pixels of the squares that `fit` makes of files of these sizes (width and height)."""
    width, height = np.array(sizes, dtype=np.float64).T
    match fit:
        case "crop":
            return round(float(np.median(np.minimum(width, height))))
        case "pad":
            return round(float(np.median(np.maximum(width, height))))
        case "squash":
            return round(float(np.median(np.sqrt(width * height))))
        case _:
            assert_never(fit)


def _of_prepared(config: DataConfig, cache: Path, say: Say) -> ImageStatistics:
    """The statistics of images that are downloaded or drawn at once."""
    folder = sets.ensure(source_of(config, cache), cache, say)
    info = describe(config, folder)
    train, _ = split(config, folder)
    rows = train[random_order(len(train), seed=config.seed, key="sample")[:SAMPLE]]
    images = np.asarray(sets.read_array(folder, "train"))[rows].astype(np.uint8)
    labels = np.asarray(sets.read_array(folder, "train_labels"), dtype=np.int64)[rows]
    return ImageStatistics(
        classes=info.classes,
        counts=info.train_counts,
        side=info.image_size,
        fit=info.preprocessing.fit,
        is_grey=_is_grey(images),
        mirror=mirror_test(_shrunk(images), labels),
    )


def _shrunk(images: Pixels) -> Pixels:
    """The images at the side of the sample of a folder."""
    small = [Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image) for image in small])


def _is_grey(images: Pixels) -> bool:
    low, high = images.min(axis=3), images.max(axis=3)
    return bool((high - low).max() <= GREY)


def _counts(labels: Labels, classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=classes).tolist())
