"""Valid configurations, and the size of their networks."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from models.config import NEEDS, Impossible, ModelConfig, TrainConfig
from models.plan import check_batch_size, norm_groups, plan


def test_the_defaults_are_three_layers_of_32_64_and_128_channels_with_a_known_size() -> None:
    default = plan(ModelConfig(), image_size=32, classes=10)

    assert [(conv.in_channels, conv.out_channels) for conv in default.convs] == [(3, 32), (32, 64), (64, 128)]
    assert [(conv.side_in, conv.side_out) for conv in default.convs] == [(32, 16), (16, 8), (8, 4)]
    assert default.dense == ((128, 128), (128, 10))
    convs = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128)
    assert default.parameters == convs + 129 * 128 + 129 * 10
    pixels = 3 * 32 * 32**2 + 32 * 64 * 16**2 + 64 * 128 * 8**2
    assert default.macs == 9 * pixels + 128 * 128 + 128 * 10


@pytest.mark.parametrize(
    ("stem", "saved_parameters", "saved_macs"),
    [
        pytest.param("none", 9 * 2 * 32, 9 * 2 * 32 * 32**2, id="convolution"),
        pytest.param("whiten", 9 * 16 * 32, (9 * 16 * 32 + 12 * 24 - 4 * 8) * 31**2, id="whitening-stem"),
    ],
)
def test_one_input_channel_saves_a_share_of_the_first_layers(stem: Any, saved_parameters: int, saved_macs: int) -> None:
    colour, grey = (
        plan(ModelConfig(input_channels=channels, stem=stem), image_size=32, classes=10) for channels in (3, 1)
    )

    assert colour.parameters - grey.parameters == saved_parameters
    assert colour.macs - grey.macs == saved_macs


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig])
def test_a_misspelt_key_is_refused(config: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="learning_rat\n"):
        config.model_validate({"learning_rat": 0.1})


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        pytest.param(ModelConfig, "conv_layers", 0, id="below"),
        pytest.param(ModelConfig, "conv_layers", 9, id="above"),
        pytest.param(ModelConfig, "width", 32.0, id="float-for-int"),
        pytest.param(ModelConfig, "width", True, id="bool-for-int"),
        pytest.param(ModelConfig, "width", "32", id="text-for-int"),
        pytest.param(ModelConfig, "residual", 1, id="int-for-bool"),
        pytest.param(ModelConfig, "kernel_size", 4, id="even-kernel"),
        pytest.param(ModelConfig, "input_channels", 4, id="transparent"),
        pytest.param(ModelConfig, "activation", "tanh", id="unknown-choice"),
        pytest.param(TrainConfig, "learning_rate", 0.0, id="zero-rate"),
        pytest.param(TrainConfig, "learning_rate", float("nan"), id="nan"),
        pytest.param(TrainConfig, "clip", float("inf"), id="infinite"),
        pytest.param(TrainConfig, "momentum", 1.0, id="momentum-one"),
    ],
)
def test_a_value_outside_its_range_or_of_another_type_is_refused(
    config: type[BaseModel], key: str, value: object
) -> None:
    with pytest.raises(ValidationError, match=key):
        config.model_validate({key: value})


@pytest.mark.parametrize(("config", "key"), [(ModelConfig(), "width"), (TrainConfig(), "momentum")])
def test_a_configuration_cannot_be_changed(config: BaseModel, key: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, key, 64)


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig])
def test_every_key_has_a_description(config: type[BaseModel]) -> None:
    undocumented = [key for key, field in config.model_fields.items() if not field.description]

    assert undocumented == []


def test_the_two_configurations_share_no_key() -> None:
    assert not ModelConfig.model_fields.keys() & TrainConfig.model_fields.keys()


@pytest.mark.parametrize(("key", "need"), NEEDS.items(), ids=NEEDS)
def test_a_need_names_known_keys_and_values_that_its_key_accepts(key: str, need: tuple[str, frozenset[object]]) -> None:
    controlling, values = need

    owner = ModelConfig if key in ModelConfig.model_fields else TrainConfig

    assert {key, controlling} <= owner.model_fields.keys()
    for value in values:
        assert getattr(owner.model_validate({controlling: value}), controlling) == value


def test_growth_multiplies_the_channels_after_each_pooling_and_rounds_them() -> None:
    config = ModelConfig(conv_layers=5, width=10, growth=1.55, pool_every=2)

    convs = plan(config, image_size=32, classes=10).convs

    assert [conv.out_channels for conv in convs] == [10, 10, 16, 16, 24]
    assert [conv.pooled for conv in convs] == [False, True, False, True, False]


def test_an_odd_side_is_halved_downwards() -> None:
    convs = plan(ModelConfig(), image_size=27, classes=10).convs

    assert [conv.side_out for conv in convs] == [13, 6, 3]


def test_the_shortcut_is_pooled_and_projected_where_the_block_is() -> None:
    config = ModelConfig(conv_layers=6, growth=2.0, pool_every=3, residual=True)

    growing = plan(config, image_size=32, classes=10).convs
    level = plan(config.model_copy(update={"growth": 1.0, "pool_every": 2}), image_size=32, classes=10).convs

    assert [conv.skip for conv in growing] == ["none", "identity", "pool", "project", "identity", "pool"]
    assert [conv.skip for conv in level] == ["none", "pool", "identity", "pool", "identity", "pool"]


def test_a_pooled_and_widened_shortcut_is_projected_after_the_pooling() -> None:
    convs = plan(ModelConfig(residual=True), image_size=32, classes=10).convs

    assert [conv.skip for conv in convs] == ["none", "pool_project", "pool_project"]


def test_a_flatten_head_passes_every_pixel_on() -> None:
    config = ModelConfig(head="flatten", dense_layers=2, dense_units=50)

    assert plan(config, image_size=32, classes=7).dense == ((128 * 16, 50), (50, 50), (50, 7))


def test_too_many_poolings_are_impossible_and_the_numbers_are_named() -> None:
    config = ModelConfig(conv_layers=6, pool_every=1)

    with pytest.raises(Impossible) as caught:
        plan(config, image_size=32, classes=10)

    assert str(caught.value) == (
        "each pooling halves the side, so an image of 32 x 32 pixels allows 5 poolings, but conv_layers 6 with "
        "pool_every 1 asks for 6; raise pool_every, or lower conv_layers"
    )


@given(image_size=st.integers(8, 512), conv_layers=st.integers(1, 8), pool_every=st.integers(1, 8))
def test_exactly_the_networks_that_halve_too_often_are_impossible(
    image_size: int, conv_layers: int, pool_every: int
) -> None:
    config = ModelConfig(conv_layers=conv_layers, pool_every=pool_every, width=4, growth=1.0)

    possible = image_size >= 2 ** (conv_layers // pool_every)

    if possible:
        assert plan(config, image_size=image_size, classes=10).convs[-1].side_out >= 1
    else:
        with pytest.raises(Impossible, match="halves the side"):
            plan(config, image_size=image_size, classes=10)


def test_a_network_of_too_many_parameters_is_impossible_and_its_size_is_named() -> None:
    config = ModelConfig(width=1024, head="flatten", pool_every=8, dense_units=4096)

    with pytest.raises(Impossible, match=r"at most 1,000,000,000 parameters, but width 1024, .* make 17,198,822,410;"):
        plan(config, image_size=64, classes=10)


def test_batch_norm_over_a_single_number_is_impossible() -> None:
    config = ModelConfig(conv_layers=3)

    with pytest.raises(Impossible, match=r"batch_size 1 and an image of 1 x 1 pixels after conv layer 3"):
        check_batch_size(config, 1, image_size=8, classes=10)


@pytest.mark.parametrize(
    ("config", "batch_size", "image_size"),
    [
        pytest.param(ModelConfig(), 2, 8, id="two-images"),
        pytest.param(ModelConfig(), 1, 16, id="more-pixels"),
        pytest.param(ModelConfig(norm="group"), 1, 8, id="group-norm"),
        pytest.param(ModelConfig(norm="none"), 1, 8, id="no-norm"),
    ],
)
def test_larger_batches_more_pixels_and_other_norms_are_possible(
    config: ModelConfig, batch_size: int, image_size: int
) -> None:
    check_batch_size(config, batch_size, image_size=image_size, classes=10)


@given(channels=st.integers(1, 70_000))
def test_norm_groups_divide_the_channels_evenly_and_are_at_most_32(channels: int) -> None:
    groups = norm_groups(channels)

    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert channels // groups >= min(8, channels)


def test_configurations_are_read_without_loading_torch() -> None:
    code = "import sys, models.config; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
