"""Test-time augmentation: the logits of a network, averaged over changed copies of each image.

Copies and weights are those of the multi-crop evaluation of Jordan 2024 (https://arxiv.org/abs/2404.00498, section
3.5). Logits are averaged, as there, and not probabilities: the average is again the logits of a classifier, with a
loss, which was lower than that of averaged probabilities (studies/LOG.md, 2026-11-30).
"""

from collections.abc import Callable, Sequence
from typing import assert_never

from torch import Tensor
from torch.nn import functional

from models.config import TestTimeAugmentation

#: Shift of a copy in pixels, in both directions.
SHIFT = 1


def plain_and_averaged(
    network: Callable[[Tensor], Tensor], images: Tensor, augmentation: TestTimeAugmentation
) -> tuple[Tensor, Tensor]:
    """Compute the logits of the images alone, and their average over the copies.

    Args:
        network: maps (N, 3, side, side) to (N, classes) logits.
        images: (N, 3, side, side), normalised.
        augmentation: the copies.

    Returns:
        Two tensors of shape (N, classes), which are equal without copies.
    """
    plain = network(images)
    averaged = plain
    copies = changed_copies(images, augmentation)
    if copies:
        averaged = plain * (1.0 - sum(weight for _, weight in copies))
        for copy, weight in copies:
            averaged = averaged + network(copy) * weight
    return plain, averaged


def changed_copies(images: Tensor, augmentation: TestTimeAugmentation) -> Sequence[tuple[Tensor, float]]:
    """Return the changed copies of the images, each with its weight; the images themselves have the remaining weight.

    Args:
        images: (N, 3, side, side); side is at least 2.
        augmentation: "flip": mirrored left to right. "flip_shift": also moved by a pixel up and left, or down and
            right, with reflection at the border as in training; both also mirrored.
    """
    match augmentation:
        case "none":
            return ()
        case "flip":
            return ((images.flip(3), 1 / 2),)
        case "flip_shift":
            shifted = _shifted(images)
            mirrored = [copy.flip(3) for copy in shifted]
            return ((images.flip(3), 1 / 4), *((copy, 1 / 8) for copy in (*shifted, *mirrored)))
        case _:
            assert_never(augmentation)


def _shifted(images: Tensor) -> tuple[Tensor, Tensor]:
    """The images moved down and right, and up and left, by SHIFT pixels."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (SHIFT,) * 4, mode="reflect")
    return padded[:, :, :height, :width], padded[:, :, 2 * SHIFT :, 2 * SHIFT :]
