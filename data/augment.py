"""Random changes to a whole batch of images at once: pure functions, no loop over images.

Images are (B, C, H, W) of any dtype; what comes out has the same shape, dtype, device and memory format. The numbers
are drawn on the CPU, so that they are the same on every device.
"""

import torch
from torch import Generator, Tensor


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror left to right those images that (B,) bool `mirrored` names."""
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, pad: int, generator: Generator) -> Tensor:
    """Reflect `pad` pixels outwards at each side and cut the old size out at a random place (as in He et al. 2015,
    https://arxiv.org/abs/1512.03385, section 4.2, who pad with zeros)."""
    count, _, height, width = images.shape
    down = _reflected(torch.randint(2 * pad + 1, (count, 1), generator=generator) - pad, height).to(images.device)
    right = _reflected(torch.randint(2 * pad + 1, (count, 1), generator=generator) - pad, width).to(images.device)
    rows = torch.arange(count, device=images.device).view(-1, 1, 1)
    cut = images.permute(0, 2, 3, 1)[rows, down[:, :, None], right[:, None, :]]  # (B, H, W, C)
    return _like(images, cut.permute(0, 3, 1, 2))


def cutout(images: Tensor, side: int, generator: Generator) -> Tensor:
    """Set a square of `side` pixels, around a random pixel and cut off at the border, to 0, which is the mean colour
    of normalised images (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552)."""
    count, _, height, width = images.shape
    down = _covered(torch.randint(height, (count, 1), generator=generator), side, height).to(images.device)
    right = _covered(torch.randint(width, (count, 1), generator=generator), side, width).to(images.device)
    # Filled in place, because masked_fill() of channels_last images returns neither memory format.
    return images.clone().masked_fill_((down[:, :, None] & right[:, None, :])[:, None], 0)


def _reflected(offset: Tensor, size: int) -> Tensor:
    """Positions offset .. offset + size - 1, thrown back at 0 and size - 1 as often as needed: (B, size)."""
    position = (offset + torch.arange(size)) % (2 * size - 2)
    return torch.minimum(position, 2 * size - 2 - position)


def _covered(middle: Tensor, side: int, size: int) -> Tensor:
    """Which of `size` positions a piece of length `side` around `middle` covers: (B, size)."""
    start = middle - side // 2
    position = torch.arange(size)
    return (position >= start) & (position < start + side)


def _like(images: Tensor, changed: Tensor) -> Tensor:
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return changed.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
