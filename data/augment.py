"""Random augmentation of a batch: pure, vectorised functions.

Images are (B, C, H, W) of any dtype; results have the same shape, dtype, device and memory format. Random numbers are
drawn on the CPU, and are therefore the same for every device.
"""

import torch
from torch import Generator, Tensor


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images selected by `mirrored`, (B,) bool, left to right."""
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, pad: int, generator: Generator) -> Tensor:
    """Random crop of the original size after reflection padding by `pad` pixels on each side (He et al. 2015,
    https://arxiv.org/abs/1512.03385, section 4.2, with zero padding)."""
    count, _, height, width = images.shape
    down = _reflected(torch.randint(2 * pad + 1, (count, 1), generator=generator) - pad, height).to(images.device)
    right = _reflected(torch.randint(2 * pad + 1, (count, 1), generator=generator) - pad, width).to(images.device)
    rows = torch.arange(count, device=images.device).view(-1, 1, 1)
    cut = images.permute(0, 2, 3, 1)[rows, down[:, :, None], right[:, None, :]]  # (B, H, W, C)
    return _like(images, cut.permute(0, 3, 1, 2))


def cutout(images: Tensor, side: int, generator: Generator) -> Tensor:
    """Set a square of `side` pixels around a random pixel to 0, the mean colour of normalised images; the border clips
    the square (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552)."""
    count, _, height, width = images.shape
    down = _covered(torch.randint(height, (count, 1), generator=generator), side, height).to(images.device)
    right = _covered(torch.randint(width, (count, 1), generator=generator), side, width).to(images.device)
    # In place, because masked_fill() of channels_last images returns neither memory format.
    return images.clone().masked_fill_((down[:, :, None] & right[:, None, :])[:, None], 0)


def _reflected(offset: Tensor, size: int) -> Tensor:
    """Positions offset .. offset + size - 1, reflected at 0 and size - 1 until they are inside: (B, size)."""
    position = (offset + torch.arange(size)) % (2 * size - 2)
    return torch.minimum(position, 2 * size - 2 - position)


def _covered(middle: Tensor, side: int, size: int) -> Tensor:
    """Mask of the positions that an interval of length `side` around `middle` covers: (B, size)."""
    start = middle - side // 2
    position = torch.arange(size)
    return (position >= start) & (position < start + side)


def _like(images: Tensor, changed: Tensor) -> Tensor:
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return changed.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
