"""Training batches, each a pure function of (seed, number), and evaluation batches in order.

A trial that resumes at batch i requests batch i; there is no state to save.
"""

import hashlib
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from data.augment import crop, cutout, flip
from data.config import AugmentConfig
from data.dataset import DataInfo
from data.parts import Split

Batch: TypeAlias = tuple[Tensor, Tensor]  # (B, 3, S, S) float32, channels_last, normalised; (B,) int64

#: Pixels of an evaluation batch: 500 images of 32 x 32. A first convolution of 32 channels outputs 65 MB for them.
JUDGED_PIXELS = 500 * 32**2


class Batches:
    """An endless stream of the images of a part, reshuffled every epoch, in batches of equal size.

    A batch may span the end of an epoch. A call returns batches `start` to `stop` - 1.
    """

    def __init__(
        self,
        part: Split,
        info: DataInfo,
        *,
        batch_size: int,
        seed: int,
        augment: AugmentConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self._part = part.to(device)
        self._normalise = _Normalise(info, self._part.images)
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._first_mirrored = torch.rand(len(part), generator=_generator(seed, "flip", 0)) < 0.5

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield batches start, start + 1, ..., stop - 1."""
        return (self.batch(number) for number in range(start, stop))

    def batch(self, number: int) -> Batch:
        """Return one batch of the stream."""
        positions = self._positions(number)
        rows = self._part.indices[positions.to(self._part.indices.device)]
        images = _gather(self._part.images, rows)
        generator = _generator(self._seed, "augment", number)
        if self._augment.crop:
            images = crop(images, self._augment.crop, generator)
        if self._augment.flip:
            images = flip(images, self._mirrored(number, positions, generator))
        normalised = self._normalise(images)
        if self._augment.cutout:
            normalised = cutout(normalised, self._augment.cutout, generator)
        return normalised, self._part.labels[rows]

    def _mirrored(self, number: int, positions: Tensor, generator: Generator) -> Tensor:
        """Mask of the images of a batch to mirror: random, or random in the first epoch and then alternating.

        Alternating shows both sides of an image in any two consecutive epochs (Jordan 2024, arXiv:2404.00498,
        section 3.6).
        """
        if self._augment.flip != "alternating":
            return torch.rand(len(positions), generator=generator) < 0.5
        epochs = torch.arange(number * self._batch_size, (number + 1) * self._batch_size) // len(self._part)
        return self._first_mirrored[positions] ^ (epochs % 2 == 1)

    def _positions(self, number: int) -> Tensor:
        """Positions in the part of the images of a batch, (B,) on the CPU: a slice of the concatenated permutations."""
        position, stop = number * self._batch_size, (number + 1) * self._batch_size
        pieces = []
        while position < stop:
            epoch, first = divmod(position, len(self._part))
            last = min(first + stop - position, len(self._part))
            pieces.append(self._permutation(epoch)[first:last])
            position += last - first
        return torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            self._order = epoch, torch.randperm(len(self._part), generator=_generator(self._seed, "epoch", epoch))
        return self._order[1]


def evaluation_batch_size(side: int) -> int:
    """Size of an evaluation batch for network inputs of `side` pixels."""
    return max(1, JUDGED_PIXELS // side**2)


def evaluation(
    part: Split, info: DataInfo, batch_size: int | None = None, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Yield every image of a part once, in order and without augmentation; the last batch may be short.

    Args:
        part: the images. For a device other than the CPU pass part.to(device); otherwise each call copies it.
        info: the normalisation.
        batch_size: images per batch; by default `evaluation_batch_size`, a constant number of pixels.
        device: device of the batches.

    Yields:
        (B, 3, S, S) float32 normalised images, channels_last, and (B,) int64 labels.
    """
    part = part.to(device)
    size = batch_size or evaluation_batch_size(info.image_size)
    normalise = _Normalise(info, part.images)
    for rows in torch.split(part.indices, size):
        yield normalise(_gather(part.images, rows)), part.labels[rows]


def scale(info: DataInfo) -> tuple[Tensor, Tensor]:
    """(factor, shift), (3,) float32 each: byte * factor + shift has mean 0 and standard deviation 1 in each channel."""
    mean, std = torch.tensor(info.mean), torch.tensor(info.std).clamp_min(1 / 255)
    return 1 / 255 / std, -mean / std


class _Normalise:
    """Converts bytes to floats of mean 0 and standard deviation 1 in each channel."""

    def __init__(self, info: DataInfo, images: Tensor) -> None:
        factor, shift = scale(info)
        # One factor and one shift for each byte of an image, not for each channel: long rows vectorise better.
        pixels = images.shape[1] * images.shape[2]
        self._factor = factor.repeat(pixels).to(images.device)
        self._shift = shift.repeat(pixels).to(images.device)

    def __call__(self, images: Tensor) -> Tensor:  # (B, 3, H, W), channels_last
        flat = images.permute(0, 2, 3, 1).flatten(1).float()
        normalised = torch.addcmul(self._shift, flat, self._factor)
        return normalised.view(len(images), *images.shape[2:], 3).permute(0, 3, 1, 2)


def _gather(images: Tensor, rows: Tensor) -> Tensor:
    """Select rows of (N, H, W, 3) as (B, 3, H, W): a permuted view of NHWC is channels_last, without a copy."""
    return images.flatten(1).index_select(0, rows).view(len(rows), *images.shape[1:]).permute(0, 3, 1, 2)


def _generator(seed: int, purpose: str, number: int) -> Generator:
    digest = hashlib.blake2b(f"{seed} {purpose} {number}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
