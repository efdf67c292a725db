"""The loss of a batch: plain cross-entropy, or weighted by class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.config import TrainConfig
from models.loss import CrossEntropy, class_weights

COUNTS = (10, 30, 60)
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 2, 1, 2, 0, 1, 2])


def loss(*, exponent: float = 0.0, label_smoothing: float = 0.0) -> CrossEntropy:
    config = TrainConfig(class_weights=exponent, label_smoothing=label_smoothing)
    return CrossEntropy(config, class_counts=COUNTS)


def test_balanced_weights_give_each_class_the_same_share() -> None:
    expected = [100 / (3 * count) for count in COUNTS]  # as scikit-learn documents class_weight="balanced"

    assert class_weights(COUNTS, exponent=1.0).tolist() == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 10_000), min_size=2, max_size=20).filter(any), exponent=st.floats(0.01, 1.0))
def test_weights_follow_the_exponent_and_have_mean_one_over_the_images(counts: list[int], exponent: float) -> None:
    weights = class_weights(counts, exponent=exponent).double()

    images = torch.tensor(counts, dtype=torch.float64)
    present = images > 0
    assert float((images * weights).sum() / images.sum()) == pytest.approx(1.0, rel=1e-5)
    scaled = weights[present] * images[present] ** exponent
    torch.testing.assert_close(scaled, scaled[:1].expand_as(scaled), rtol=1e-5, atol=0)
    assert bool(weights.isfinite().all())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_without_class_weights_the_loss_is_the_plain_one_bit_for_bit(label_smoothing: float) -> None:
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=label_smoothing)

    assert torch.equal(loss(label_smoothing=label_smoothing)(LOGITS, LABELS), expected)


def test_each_image_has_the_weight_of_its_class_and_the_sum_is_divided_by_the_images() -> None:
    weights = class_weights(COUNTS, exponent=0.5)

    value = loss(exponent=0.5)(LOGITS, LABELS)

    total = functional.cross_entropy(LOGITS, LABELS, weight=weights, reduction="sum")
    torch.testing.assert_close(value, total / 8)


def test_the_weight_of_an_image_also_scales_its_smoothed_share() -> None:
    image = slice(1, 2)

    value = loss(exponent=1.0, label_smoothing=0.3)(LOGITS[image], LABELS[image])

    plain = functional.cross_entropy(LOGITS[image], LABELS[image], label_smoothing=0.3)
    torch.testing.assert_close(value, plain * 100 / 180)


def test_the_mean_over_batches_does_not_depend_on_their_size() -> None:
    weighted = loss(exponent=1.0)

    parts = [weighted(LOGITS[i : i + 1], LABELS[i : i + 1]) for i in range(8)]

    torch.testing.assert_close(torch.stack(parts).mean(), weighted(LOGITS, LABELS))


def test_class_weights_need_the_images_of_each_class() -> None:
    with pytest.raises(ValueError, match=r"class_weights = 0.5 needs the training images of each class, but got None"):
        CrossEntropy(TrainConfig(class_weights=0.5))
