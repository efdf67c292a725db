"""The parts of a prepared set as tensors; the only module that opens the pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data import cache as sets
from data.config import DataConfig
from data.dataset import DataInfo, describe, find, split
from data.download import Archive
from data.sources.cifar10 import OFFICIAL

#: Images per resizing chunk; at 512 x 512 pixels a chunk takes a gigabyte.
RESIZED_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A subset of the images of a set."""

    images: Tensor  # (N, S, S, 3), uint8; on the CPU a memory map that all processes share
    labels: Tensor  # (N,), int64
    indices: Tensor  # (n,), int64: the rows that belong to this part

    def __len__(self) -> int:
        return len(self.indices)

    def class_counts(self, classes: int) -> tuple[int, ...]:
        """Number of images of each of `classes` classes."""
        return tuple(self.labels[self.indices].bincount(minlength=classes).tolist())

    def to(self, device: torch.device | str) -> "Split":
        """Return this part on a device: itself if it is there already, otherwise a copy of its rows only."""
        wanted = torch.device(device)
        if self.images.device.type == wanted.type and wanted.index in (None, self.images.device.index):
            return self
        copy = self.own()
        return Split(images=copy.images.to(device), labels=copy.labels.to(device), indices=copy.indices.to(device))

    def own(self) -> "Split":
        """Return a copy in memory with the rows of this part only."""
        indices = torch.arange(len(self), device=self.images.device)
        return Split(images=self.images[self.indices], labels=self.labels[self.indices], indices=indices)

    def resized(self, side: int) -> "Split":
        """Return a copy of the rows of this part, resized to `side` x `side` pixels."""
        large = (self.images[rows].permute(0, 3, 1, 2) for rows in torch.split(self.indices, RESIZED_AT_ONCE))
        small = [functional.interpolate(chunk, size=(side, side), mode="bilinear", antialias=True) for chunk in large]
        images = torch.cat(small).permute(0, 2, 3, 1).contiguous()
        indices = torch.arange(len(self), device=self.images.device)
        return Split(images=images, labels=self.labels[self.indices], indices=indices)


def concat(first: Split, second: Split) -> Split:
    """Join two parts of the same images."""
    return Split(images=first.images, labels=first.labels, indices=torch.cat((first.indices, second.indices)))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainData:
    """The data of a search, without test images."""

    train: Split
    validation: Split
    info: DataInfo


def load_train(
    config: DataConfig, cache: Path, *, archive: Archive = OFFICIAL, fingerprint: str | None = None
) -> TrainData:
    """Map the training images into memory and split them by seed. The test images are not opened.

    Args:
        config: the table [data]. With `search_size` the images are resized copies.
        cache: root folder of the cache.
        archive: the download of CIFAR-10.
        fingerprint: of the images that are wanted; see `prepare`.

    Raises:
        DataError: the set is not prepared.
    """
    folder = find(config, cache, archive=archive, fingerprint=fingerprint)
    info = describe(config, folder)
    images, labels = _open(folder, "train")
    train, validation = split(config, folder)
    data = TrainData(
        train=Split(images=images, labels=labels, indices=torch.from_numpy(train)),
        validation=Split(images=images, labels=labels, indices=torch.from_numpy(validation)),
        info=info,
    )
    if config.search_size is None:
        return data
    return TrainData(
        train=data.train.resized(config.search_size),
        validation=data.validation.resized(config.search_size),
        info=replace(info, image_size=config.search_size),
    )


def load_test(config: DataConfig, cache: Path, *, archive: Archive = OFFICIAL, fingerprint: str | None = None) -> Split:
    """Map the test images into memory: for the final verdict, never for a search.

    Args:
        config: the table [data].
        cache: root folder of the cache.
        archive: the download of CIFAR-10.
        fingerprint: of the images that are wanted; see `prepare`.

    Raises:
        DataError: the set is not prepared, or its test images are missing.
    """
    images, labels = _open(find(config, cache, archive=archive, fingerprint=fingerprint), "test")
    return Split(images=images, labels=labels, indices=torch.arange(len(labels)))


def _open(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images, labels = sets.read_array(folder, part), sets.read_array(folder, f"{part}_labels")
    return torch.from_numpy(images), torch.from_numpy(np.array(labels, dtype=np.int64))
