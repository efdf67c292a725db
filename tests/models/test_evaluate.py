"""Counts and losses of an evaluation."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.build import build
from models.cnn import CNN
from models.config import ModelConfig
from models.evaluate import evaluate


def echo() -> nn.Module:
    """A network whose logits are the three colours of its one-pixel images."""
    linear = nn.Linear(3, 3, bias=False)
    nn.init.eye_(linear.weight)
    return nn.Sequential(nn.Flatten(), linear)


def pixels(*predicted: int) -> Tensor:
    """(N, 3, 1, 1): images for which `echo` predicts these classes, with logits of 1 there and 0 elsewhere."""
    return nn.functional.one_hot(torch.tensor(predicted), 3).float()[:, :, None, None]


def five_images(*, batch_size: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = pixels(0, 1, 1, 0, 2), torch.tensor([0, 0, 1, 0, 1])
    for start in range(0, 5, batch_size):
        yield images[start : start + batch_size], labels[start : start + batch_size]


def test_an_evaluation_of_five_images_matches_a_count_by_hand() -> None:
    evaluation = evaluate(echo(), five_images(), 3)

    assert evaluation.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert evaluation.confusion.dtype == torch.int64
    assert evaluation.images == 5
    assert evaluation.accuracy == pytest.approx(3 / 5)
    # Class 2 has no image, so it does not count.
    assert evaluation.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    right, wrong = math.log(math.e + 2) - 1, math.log(math.e + 2)
    assert evaluation.loss == pytest.approx((3 * right + 2 * wrong) / 5)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_batch_size_makes_no_difference(batch_size: int) -> None:
    expected = evaluate(echo(), five_images(), 3)

    parts = evaluate(echo(), five_images(batch_size=batch_size), 3)

    assert torch.equal(parts.confusion, expected.confusion)
    assert parts.loss == pytest.approx(expected.loss)


def test_the_model_computes_in_evaluation_mode_and_keeps_its_own_mode() -> None:
    model = build(ModelConfig(conv_layers=2, dropout_conv=0.5), image_size=8, classes=3).train()
    assert isinstance(model, CNN)
    model.convs[0].eval()
    modes = {name: part.training for name, part in model.named_modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = (torch.randn(16, 3, 8, 8), torch.randint(0, 3, (16,)))

    first, second = (evaluate(model, [batch], 3) for _ in range(2))

    assert first.loss == second.loss
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_the_mode_is_restored_if_the_batches_raise() -> None:
    model = echo().train()

    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield pixels(0), torch.tensor([0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, interrupted(), 3)

    assert model.training


def test_a_network_with_nan_outputs_is_still_counted() -> None:
    model = echo()
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)

    evaluation = evaluate(model, five_images(), 3)

    assert math.isnan(evaluation.loss)
    assert evaluation.images == 5
    assert 0.0 <= evaluation.accuracy <= 1.0


def test_an_evaluation_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        evaluate(echo(), [], 3)
