"""The images of a prepared set as tensors, part by part; the only module that opens their pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data import cache as sets
from data.cifar10 import OFFICIAL
from data.config import DataConfig
from data.dataset import DataInfo, describe, find, split_rows
from data.download import Archive

#: Images that are resized together; of 512 x 512 pixels they take a gigabyte.
RESIZED_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Some of the images of a set."""

    images: Tensor  # (N, S, S, 3), uint8; on the CPU a memory map that all processes share
    labels: Tensor  # (N,), int64
    indices: Tensor  # (n,), int64: the rows that belong to this part

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> "Split":
        """Return this part on a device: itself where it is there already, else a copy of its own rows and no others."""
        wanted = torch.device(device)
        if self.images.device.type == wanted.type and wanted.index in (None, self.images.device.index):
            return self
        own = self.own()
        return Split(images=own.images.to(device), labels=own.labels.to(device), indices=own.indices.to(device))

    def own(self) -> "Split":
        """Return a copy in memory that has this part's rows and no others."""
        indices = torch.arange(len(self), device=self.images.device)
        return Split(images=self.images[self.indices], labels=self.labels[self.indices], indices=indices)

    def resized(self, side: int) -> "Split":
        """Return a copy of this split's own rows, scaled to `side` pixels a side."""
        large = (self.images[rows].permute(0, 3, 1, 2) for rows in torch.split(self.indices, RESIZED_AT_ONCE))
        small = [functional.interpolate(some, size=(side, side), mode="bilinear", antialias=True) for some in large]
        images = torch.cat(small).permute(0, 2, 3, 1).contiguous()
        indices = torch.arange(len(self), device=self.images.device)
        return Split(images=images, labels=self.labels[self.indices], indices=indices)


def concat(first: Split, second: Split) -> Split:
    """Two parts of the same images as one."""
    return Split(images=first.images, labels=first.labels, indices=torch.cat((first.indices, second.indices)))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainData:
    """All that a search may see."""

    train: Split
    validation: Split
    info: DataInfo


def load_train(config: DataConfig, cache: Path, *, archive: Archive = OFFICIAL) -> TrainData:
    """Map the training images into memory, split by seed; those of another `search_size` are copied. The test images
    are not opened.

    Raises DataError where the set is not prepared.
    """
    folder = find(config, cache, archive=archive)
    info = describe(config, folder)
    images, labels = _open(folder, "train")
    train, validation = split_rows(config, labels.numpy(), info.classes)
    found = TrainData(
        train=Split(images=images, labels=labels, indices=torch.from_numpy(train)),
        validation=Split(images=images, labels=labels, indices=torch.from_numpy(validation)),
        info=info,
    )
    if config.search_size is None:
        return found
    return TrainData(
        train=found.train.resized(config.search_size),
        validation=found.validation.resized(config.search_size),
        info=replace(info, image_size=config.search_size),
    )


def load_test(config: DataConfig, cache: Path, *, archive: Archive = OFFICIAL) -> Split:
    """Map the test images into memory: for the final verdict, never for a search.

    Raises DataError where the set is not prepared, or its test images are missing.
    """
    images, labels = _open(find(config, cache, archive=archive), "test")
    return Split(images=images, labels=labels, indices=torch.arange(len(labels)))


def _open(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images, labels = sets.read_array(folder, part), sets.read_array(folder, f"{part}_labels")
    return torch.from_numpy(images), torch.from_numpy(np.array(labels, dtype=np.int64))
