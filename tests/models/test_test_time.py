"""Test-time augmentation: the average over copies of an image."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from models.build import build
from models.config import PASSES, ModelConfig, TestTimeAugmentation
from models.evaluate import evaluate, evaluate_averaged
from models.test_time import changed_copies, plain_and_averaged

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
LABELS = torch.tensor([0, 1, 2, 0, 1])
AVERAGING: tuple[TestTimeAugmentation, ...] = ("flip", "flip_shift")


def by_hand(image: Tensor, *, down: int, right: int) -> Tensor:
    """(3, side, side): an image moved down and to the right, with the pixels beside its border reflected into it."""
    last = image.shape[1] - 1
    rows, columns = ([last - abs(last - abs(place - by)) for place in range(last + 1)] for by in (down, right))
    return image[:, rows][:, :, columns]


@pytest.mark.parametrize("augmentation", get_args(TestTimeAugmentation))
def test_the_weights_of_all_copies_sum_to_1_and_the_passes_are_counted(augmentation: TestTimeAugmentation) -> None:
    seen: list[Tensor] = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.ones(len(images), 2)

    plain, averaged = plain_and_averaged(network, IMAGES, augmentation)

    assert len(seen) == PASSES[augmentation]
    assert torch.equal(plain, torch.ones(5, 2))
    assert torch.equal(averaged, plain)


def test_half_of_the_average_is_the_mirrored_image() -> None:
    plain, averaged = plain_and_averaged(lambda images: images[:, :, 1, 2], IMAGES, "flip")

    assert torch.equal(plain, IMAGES[:, :, 1, 2])
    assert torch.equal(averaged, (IMAGES[:, :, 1, 2] + IMAGES[:, :, 1, 5]) / 2)


def test_shifted_copies_are_moved_by_a_pixel_and_reflected_at_the_border() -> None:
    copies = changed_copies(IMAGES, "flip_shift")

    weights = [weight for _, weight in copies]
    assert weights == [1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8]
    down, up = (torch.stack([by_hand(image, down=step, right=step) for image in IMAGES]) for step in (1, -1))
    expected = (IMAGES.flip(3), down, up, down.flip(3), up.flip(3))
    assert all(torch.equal(copy, image) for (copy, _), image in zip(copies, expected, strict=True))


@pytest.mark.parametrize("in_bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("augmentation", AVERAGING)
def test_an_averaged_evaluation_has_the_plain_one_beside_it(
    augmentation: TestTimeAugmentation, in_bfloat16: bool
) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(conv_layers=2, width=8, dropout_conv=0.5), image_size=8, classes=3).train()
    model.in_bfloat16 = in_bfloat16
    batches = [(IMAGES[:3], LABELS[:3]), (IMAGES[3:], LABELS[3:])]
    expected = evaluate(model, batches, 3)

    plain, averaged = evaluate_averaged(model, batches, 3, augmentation)

    assert model.training
    assert plain.loss == expected.loss
    assert torch.equal(plain.confusion, expected.confusion)
    assert averaged.images == 5
    assert averaged.loss != plain.loss
    with torch.inference_mode():
        logits = plain_and_averaged(model.eval(), IMAGES, augmentation)[1]
    assert logits.dtype == torch.float32
    assert averaged.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, LABELS)), rel=1e-2)


def test_the_average_over_mirrored_images_is_the_same_for_a_mirrored_image() -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(conv_layers=2, width=8), image_size=8, classes=3).eval()

    (plain, averaged), (other_plain, other) = (
        plain_and_averaged(model, images, "flip") for images in (IMAGES, IMAGES.flip(3))
    )

    assert not torch.allclose(plain, other_plain, atol=1e-4)
    assert torch.allclose(averaged, other, atol=1e-5)
