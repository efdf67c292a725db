"""data/augment.py: random augmentation of batches."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from data.augment import crop, cutout, flip

CHANGES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "flip": lambda images, generator: flip(images, torch.rand(len(images), generator=generator) < 0.5),
    "crop": lambda images, generator: crop(images, 3, generator),
    "cutout": lambda images, generator: cutout(images, 4, generator),
}


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int = 64, side: int = 9) -> Tensor:
    """Images in which every value is unique, from 1 upwards."""
    return torch.arange(1, 1 + count * 3 * side * side).reshape(count, 3, side, side).float()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shape_dtype_and_memory_format_stay_and_the_input_is_not_touched(
    change: Callable[[Tensor, Generator], Tensor], kind: torch.dtype, layout: torch.memory_format
) -> None:
    images = images_of().to(kind).contiguous(memory_format=layout)
    before = images.clone()

    changed = change(images, generator())

    assert (changed.shape, changed.dtype) == (images.shape, kind)
    assert changed.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)
    assert not torch.equal(changed, before)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_depends_on_the_generator_and_not_on_the_memory_format(
    change: Callable[[Tensor, Generator], Tensor],
) -> None:
    images = images_of()

    changed = change(images, generator(1))

    assert torch.equal(change(images, generator(1)), changed)
    assert torch.equal(change(images.contiguous(memory_format=torch.channels_last), generator(1)), changed)
    assert not torch.equal(change(images, generator(2)), changed)


def test_flip_mirrors_the_selected_images_and_no_others() -> None:
    images = images_of(count=3)

    changed = flip(images, torch.tensor([True, False, True]))

    assert torch.equal(changed, torch.stack((images[0].flip(2), images[1], images[2].flip(2))))


@pytest.mark.parametrize("pad", [1, 4, 20], ids=["small", "usual", "wider-than-the-image"])
def test_every_crop_is_a_window_of_the_reflected_image(pad: int) -> None:
    images = images_of(count=40, side=6)
    wide = images
    for _ in range(4):  # torch reflects by less than a side at a time
        wide = torch.nn.functional.pad(wide, (5, 5, 5, 5), mode="reflect")
    windows = wide[:, :, 20 - pad : 26 + pad, 20 - pad : 26 + pad].unfold(2, 6, 1).unfold(3, 6, 1)

    changed = crop(images, pad, generator())

    offsets = [
        {
            tuple(offset)
            for offset in (windows[i] == changed[i][:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
        }
        for i in range(len(images))
    ]
    assert all(offsets)
    assert len(set.union(*offsets)) > 8


def test_cutout_blanks_one_square_and_nothing_else() -> None:
    images = images_of(count=500, side=9)

    changed = cutout(images, 4, generator())

    blank = changed == 0
    assert torch.equal(changed[~blank], images[~blank])
    assert (blank[:, :1] == blank).all()
    areas = blank[:, 0].sum((1, 2))
    heights, widths = blank[:, 0].any(2).sum(1), blank[:, 0].any(1).sum(1)
    assert torch.equal(areas, heights * widths)
    assert int(heights.max()) == int(widths.max()) == 4
    assert int(heights.min()) >= 2
    assert blank[:, 0].any(0).all()  # some square covers each pixel
