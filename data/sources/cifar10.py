"""CIFAR-10 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html), from its official binary archive."""

import hashlib
import json
import ssl
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.contents import Contents, DecodingResult, Labels, Pixels
from data.download import Archive, fetch
from data.errors import DataError
from data.preprocessing import Preprocessing
from data.progress import Advance, Say

OFFICIAL = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE  # one byte for the class, then the red, green and blue planes
VERSION = 1  # of the decoding; increase it when any pixel changes
BLOCK = 1000


class Cifar10:
    """A Source of the 50,000 training and 10,000 test images, downloaded once into the cache."""

    name = "CIFAR-10"

    def __init__(self, archive: Archive, *, side: int, cache: Path, context: ssl.SSLContext | None = None) -> None:
        self.side = side
        self._archive = archive
        self._folder = cache / "downloads"
        self._context = context

    def key(self) -> str:
        return hashlib.sha256(json.dumps(["cifar10", VERSION, self._archive.sha256, self.side]).encode()).hexdigest()

    def fetch(self, say: Say) -> Path:
        """The path of the archive, downloaded if it is missing."""
        return fetch(self._archive, self._folder, say, context=self._context)

    def notes(self) -> tuple[str, ...]:
        return ()

    def open(self, say: Say) -> Contents:
        records = _read(self.fetch(say))
        train, test = (np.concatenate([records[name] for name in names]) for names in (TRAIN_FILES, TEST_FILES))

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> DecodingResult:
            for part, images in ((train, train_images), (test, test_images)):
                for start in range(0, len(part), BLOCK):
                    images[start : start + BLOCK] = _images(part[start : start + BLOCK], self.side)
                    advance(len(part[start : start + BLOCK]))
            return DecodingResult(preprocessing=Preprocessing(side=self.side))

        return Contents(classes=CLASSES, train_labels=_labels(train), test_labels=_labels(test), fill=fill)


def _read(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the archive in memory: file name -> (N, RECORD) bytes. Raises DataError if a file is missing or invalid."""
    records = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            if name in TRAIN_FILES + TEST_FILES and (file := archive.extractfile(member)):
                records[name] = _records(file.read(), f"{path}: {name}")
    if missing := set(TRAIN_FILES + TEST_FILES) - set(records):
        raise DataError(f"{path} holds no {sorted(missing)[0]}; is it the binary version of CIFAR-10?")
    return records


def _records(content: bytes, name: str) -> NDArray[np.uint8]:
    if not content or len(content) % RECORD:
        raise DataError(
            f"{name} has {len(content)} bytes, which is not a multiple of {RECORD}; it is not a CIFAR-10 file"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if (label := int(records[:, 0].max())) >= len(CLASSES):
        raise DataError(f"{name} has an image of class {label}, but CIFAR-10 has {len(CLASSES)} classes")
    return records


def _labels(records: NDArray[np.uint8]) -> Labels:
    return records[:, 0].astype(np.int64)


def _images(records: NDArray[np.uint8], side: int) -> Pixels:
    """Convert colour planes to pixels, (N, side, side, 3)."""
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    if side == SIDE:
        return images
    resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image, dtype=np.uint8) for image in resized])
