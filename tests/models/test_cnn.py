"""The built network: its size and its order of layers follow its plan."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.build import build
from models.cnn import CNN
from models.config import PATCH, Impossible, ModelConfig
from models.layers import LEAST_VARIANCE, ConvBlock, Grey, Whitening
from models.plan import plan
from tests.models.macs import counted_macs

CONFIGS = st.builds(
    ModelConfig,
    input_channels=st.sampled_from([1, 3]),
    conv_layers=st.integers(1, 6),
    width=st.integers(4, 20),
    growth=st.floats(1.0, 2.5),
    kernel_size=st.sampled_from([3, 5, 7]),
    pool=st.sampled_from(["max", "avg"]),
    pool_every=st.integers(1, 8),
    norm=st.sampled_from(["batch", "group", "none"]),
    activation=st.sampled_from(["relu", "leaky_relu", "elu", "gelu", "silu"]),
    residual=st.booleans(),
    dropout_conv=st.sampled_from([0.0, 0.3]),
    dense_layers=st.integers(0, 4),
    dense_units=st.integers(8, 40),
    dropout_dense=st.sampled_from([0.0, 0.3]),
    head=st.sampled_from(["gap", "max", "flatten"]),
    stem=st.sampled_from(["none", "whiten"]),
    pool_first=st.booleans(),
    init=st.sampled_from(["kaiming", "dirac"]),
)


def built(config: ModelConfig, **others: Any) -> CNN:
    """A network without a backbone."""
    model = build(config, **others)
    assert isinstance(model, CNN)
    return model


@settings(max_examples=60, deadline=None)
@given(config=CONFIGS, image_size=st.integers(8, 24), classes=st.integers(2, 12))
def test_the_network_has_the_parameters_and_macs_of_its_plan(
    config: ModelConfig, image_size: int, classes: int
) -> None:
    try:
        planned = plan(config, image_size=image_size, classes=classes)
    except Impossible:
        with pytest.raises(Impossible):
            built(config, image_size=image_size, classes=classes)
        return
    images = torch.randn(2, 3, image_size, image_size)

    model = built(config, image_size=image_size, classes=classes)

    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(trained) == planned.parameters
    assert counted_macs(model, images) == planned.macs
    assert model(images).shape == (2, classes)


@settings(max_examples=20, deadline=None)
@given(config=CONFIGS)
def test_every_parameter_of_a_network_gets_a_finite_gradient(config: ModelConfig) -> None:
    config = config.model_copy(update={"pool_every": max(config.pool_every, 3)})
    model = built(config, image_size=16, classes=3)

    model(torch.randn(4, 3, 16, 16)).logsumexp(1).sum().backward()

    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize("input_channels", [1, 3])
def test_images_and_weights_stay_channels_last(input_channels: Any) -> None:
    config = ModelConfig(input_channels=input_channels, residual=True, dropout_conv=0.1)
    model = built(config, image_size=16, classes=10)
    images = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)

    first = model.grey(images)
    last = model.convs[:2](first)

    assert first.stride(1) == 1
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert all(
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in model.parameters()
        if parameter.ndim == 4
    )


def test_the_norm_gets_the_pooled_image() -> None:
    model = built(ModelConfig(conv_layers=1), image_size=16, classes=10)
    shapes: list[torch.Size] = []
    block = model.convs[0]
    assert isinstance(block, ConvBlock)
    block.norm.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))

    model(torch.randn(2, 3, 16, 16))

    assert shapes == [(2, 32, 8, 8)]


@pytest.mark.parametrize("pool_every", [pytest.param(8, id="identity"), pytest.param(2, id="pooled")])
def test_the_shortcut_is_added_before_the_activation(pool_every: int) -> None:
    config = ModelConfig(conv_layers=2, width=8, norm="none", residual=True, pool_every=pool_every)
    block = built(config, image_size=8, classes=10).convs[1]
    assert isinstance(block, ConvBlock)
    nn.init.zeros_(block.conv.weight)
    images = torch.randn(2, 8, 8, 8)

    out = block(images)

    shortcut = images if pool_every == 8 else nn.functional.avg_pool2d(images, 2)
    assert torch.equal(out, shortcut.relu())


def test_a_projected_shortcut_alone_passes_the_images_on() -> None:
    config = ModelConfig(conv_layers=2, width=8, residual=True)
    model = built(config, image_size=8, classes=10)
    block = model.convs[1]
    assert isinstance(block, ConvBlock)
    nn.init.zeros_(block.conv.weight)
    images = torch.randn(4, 8, 4, 4)

    out = block(images)

    assert out.shape == (4, 16, 2, 2)
    assert out.std() > 0.1


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(ModelConfig(dropout_conv=0.5), id="dropout_conv"),
        pytest.param(ModelConfig(dropout_dense=0.5), id="dropout_dense"),
    ],
)
def test_dropout_acts_in_training_and_not_in_evaluation(config: ModelConfig) -> None:
    model = built(config, image_size=16, classes=10)
    images = torch.randn(8, 3, 16, 16)

    trained = [model.train()(images) for _ in range(2)]
    evaluated = [model.eval()(images) for _ in range(2)]

    assert not torch.equal(*trained)
    assert torch.equal(*evaluated)


def test_dropout_in_convolutions_drops_whole_channels() -> None:
    model = built(ModelConfig(conv_layers=1, activation="elu", dropout_conv=0.5), image_size=16, classes=10)

    out = model.convs(torch.randn(8, 3, 16, 16))

    zeros = (out == 0).sum(dim=(2, 3))
    assert set(zeros.unique().tolist()) == {0, 8 * 8}


def test_initial_weights_keep_the_variance_of_the_activations() -> None:
    model = built(ModelConfig(width=256, dense_units=512), image_size=16, classes=1000)

    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            continue
        gain = 1.0 if name == "classifier.weight" else 2.0
        assert weight.std().item() == pytest.approx(math.sqrt(gain / weight[0].numel()), rel=0.05), name


def test_the_same_seed_builds_the_same_network_and_another_seed_another() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(built(ModelConfig(), image_size=16, classes=10).classifier.weight)

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_impossible_network_is_not_built() -> None:
    with pytest.raises(Impossible, match="allows 3 poolings"):
        built(ModelConfig(conv_layers=4), image_size=8, classes=10)


@pytest.mark.parametrize("input_channels", [1, 3])
def test_a_fitted_stem_decorrelates_patches_and_gives_them_unit_variance(input_channels: Any) -> None:
    torch.manual_seed(0)
    noise = torch.randn(50, input_channels, 18, 18)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1).expand(-1, 3, -1, -1)
    config = ModelConfig(input_channels=input_channels, stem="whiten")
    model = built(config, image_size=16, classes=10, images=smooth)
    stem = model.stem

    assert isinstance(stem, Whitening)
    half = input_channels * PATCH**2
    patches = stem.conv(model.grey(smooth)).permute(0, 2, 3, 1).reshape(-1, 2 * half)
    covariance = patches[:, :half].T @ patches[:, :half] / len(patches)
    torch.testing.assert_close(covariance, torch.eye(half), atol=0.1, rtol=0)
    torch.testing.assert_close(patches[:, :half], -patches[:, half:])
    assert not stem.conv.weight.requires_grad


@pytest.mark.parametrize(("input_channels", "dead"), [(1, 0), (3, 8)])
def test_a_stem_has_dead_directions_on_grey_images_unless_it_has_one_input_channel(
    input_channels: Any, dead: int
) -> None:
    torch.manual_seed(0)
    grey = torch.randn(50, 1, 16, 16).expand(-1, 3, -1, -1)
    config = ModelConfig(input_channels=input_channels, stem="whiten")
    model = built(config, image_size=16, classes=10, images=grey)

    assert isinstance(model.stem, Whitening)
    variances = model.stem.conv(model.grey(grey)).var(dim=(0, 2, 3))
    assert int((variances < LEAST_VARIANCE).sum()) == 2 * dead  # each direction and its negative


def test_one_input_channel_is_the_mean_of_the_three() -> None:
    model = built(ModelConfig(input_channels=1), image_size=16, classes=10).eval()
    images = torch.randn(4, 3, 16, 16)
    mean = images.mean(dim=1, keepdim=True)

    assert isinstance(model.grey, Grey)
    torch.testing.assert_close(model.grey(images), mean)
    torch.testing.assert_close(model(images), model(mean.expand(-1, 3, -1, -1)))


def test_pooling_first_halves_the_side_for_the_other_convolutions_of_a_stage() -> None:
    last, first = (
        plan(ModelConfig(conv_layers=4, pool_every=2, pool_first=which), image_size=32, classes=10)
        for which in (False, True)
    )

    assert [conv.side_in for conv in last.convs] == [32, 32, 16, 16]
    assert [conv.side_in for conv in first.convs] == [32, 16, 16, 8]
    assert [conv.out_channels for conv in last.convs] == [conv.out_channels for conv in first.convs]


def test_a_dirac_convolution_passes_its_channels_on() -> None:
    model = built(ModelConfig(init="dirac", width=32), image_size=16, classes=10)
    images = torch.randn(2, 32, 8, 8)

    block = model.convs[1]
    assert isinstance(block, ConvBlock)
    torch.testing.assert_close(block.conv(images)[:, :32], images)


def test_bfloat16_is_close_to_float32_and_the_output_is_float32() -> None:
    torch.manual_seed(0)
    model = built(ModelConfig(width=16), image_size=16, classes=10).eval()
    images = torch.randn(4, 3, 16, 16)
    exact = model(images)

    model.in_bfloat16 = True

    assert model(images).dtype == torch.float32
    assert not torch.equal(model(images), exact)
    torch.testing.assert_close(model(images), exact, atol=0.05, rtol=0.05)


def test_the_logits_are_scaled() -> None:
    images, logits = torch.randn(2, 3, 16, 16), []
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        logits.append(built(ModelConfig(logit_scale=scale), image_size=16, classes=10).eval()(images))

    torch.testing.assert_close(logits[1], logits[0] / 4)
