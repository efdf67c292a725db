"""Layers, parameters and multiply-accumulates of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from models.config import (
    MAX_PARAMETERS,
    PATCH,
    SMALLER,
    Impossible,
    ModelConfig,
    OptimizerName,
    Skip,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvPlan:
    """One convolutional block."""

    in_channels: int
    out_channels: int
    side_in: int
    """Pixels; the convolution keeps the side."""
    side_out: int
    """Pixels after the pooling, if any."""
    pooled: bool
    skip: Skip
    """Operations of the residual connection, in order; "none" without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The shape of a network, computed without building it."""

    stem: bool
    """Whether a whitening stem comes first."""
    convs: tuple[ConvPlan, ...]
    """Empty for a network with a backbone."""
    dense: tuple[tuple[int, int], ...]
    """(inputs, outputs) of each dense layer; the last one is the classifier."""
    parameters: int
    """Weights of the network, frozen stages of a backbone included, the fixed filters of a whitening stem excluded."""
    macs: int
    """Multiply-accumulates of convolutions and dense layers for one image, forward."""


def plan(config: ModelConfig, *, image_size: int, classes: int) -> Plan:
    """Compute the shape and size of a network without building it.

    Args:
        config: the network.
        image_size: side of the images in pixels.
        classes: number of classes.

    Raises:
        Impossible: no network has this configuration, because the image is too small for the poolings, or the network
            has more than MAX_PARAMETERS parameters, or the head or the input channels do not fit the backbone.
    """
    if config.backbone != "none":
        return _plan_backbone(config, image_size, classes)
    convs = _plan_convs(config, image_size)
    dense = _plan_dense(config, convs[-1], classes)
    stem = config.stem == "whiten"
    parameters = sum(_conv_parameters(config, conv) for conv in convs) + sum((i + 1) * o for i, o in dense)
    if parameters > MAX_PARAMETERS:
        raise Impossible(
            f"the network may have at most {MAX_PARAMETERS:,} parameters, but width {config.width}, growth "
            f"{config.growth:g}, {config.conv_layers} conv_layers, dense_units {config.dense_units} and head "
            f"{config.head!r} on {image_size} x {image_size} pixels make {parameters:,}; lower width or growth, or "
            f'pool more before a "flatten" head',
            lower=SMALLER,
        )
    macs = sum(_conv_macs(config, conv) for conv in convs) + sum(i * o for i, o in dense)
    if stem:
        macs += config.input_channels * PATCH**2 * config.whitened_channels * (image_size - PATCH + 1) ** 2
    return Plan(stem=stem, convs=convs, dense=dense, parameters=parameters, macs=macs)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    """Size of a backbone without its classifier."""

    channels: int
    parameters: int
    macs: tuple[int, int]
    """For an image of 32 x 32 pixels: (proportional to the pixels, constant)."""
    kept_macs: tuple[int, int]
    """The same if the first layers do not shrink the image."""


_SIZES: Final[Mapping[str, _Size]] = {
    "resnet18": _Size(channels=512, parameters=11_176_512, macs=(37_011_456, 0), kept_macs=(563_281_920, 0)),
    "resnet50": _Size(channels=2048, parameters=23_508_032, macs=(83_410_944, 0), kept_macs=(1_305_673_728, 0)),
    "vgg16_bn": _Size(channels=512, parameters=14_723_136, macs=(313_196_544, 0), kept_macs=(313_196_544, 0)),
    "mobilenet_v3": _Size(
        channels=960, parameters=2_971_952, macs=(4_338_240, 1_507_200), kept_macs=(17_352_960, 1_507_200)
    ),
}
"""Counted layer by layer on the networks of torchvision 0.29 (tests/models/test_backbone.py repeats the count)."""


def _plan_backbone(config: ModelConfig, image_size: int, classes: int) -> Plan:
    """The shape of a network with a backbone; the multiply-accumulates are exact for multiples of 32 pixels."""
    size = _SIZES[config.backbone]
    if config.input_channels != 3:
        raise Impossible(
            f"backbone {config.backbone!r} was pretrained on red, green and blue; take input_channels = 3",
            higher=("input_channels",),
        )
    if config.head == "flatten":
        raise Impossible(f'backbone {config.backbone!r} ends in one vector; take head = "gap" or "max"')
    if config.backbone == "vgg16_bn" and config.seen_side(image_size) < 2**5:
        raise Impossible(
            f"backbone 'vgg16_bn' halves the side five times, so it needs 32 pixels, but has "
            f"{config.seen_side(image_size)}; raise backbone_side",
            higher=("backbone_side",),
        )
    growing, fixed = size.macs if config.backbone_side else size.kept_macs
    sizes = [size.channels, *[config.dense_units] * config.dense_layers, classes]
    dense = tuple(pairwise(sizes))
    pixels = config.seen_side(image_size) ** 2
    return Plan(
        stem=False,
        convs=(),
        dense=dense,
        parameters=size.parameters + sum((i + 1) * o for i, o in dense),
        macs=growing * pixels // 32**2 + fixed + sum(i * o for i, o in dense),
    )


def check_optimizer(config: ModelConfig, optimizer: OptimizerName) -> None:
    """Refuse an optimizer that would undo pretrained weights.

    Raises:
        Impossible: the optimizer does not suit the network.
    """
    if config.backbone != "none" and optimizer == "muon" and config.tuned_stages > 0:
        raise Impossible("muon gives every filter the same norm, and undoes pretrained ones; take another optimizer")


def check_batch_size(config: ModelConfig, batch_size: int, *, image_size: int, classes: int) -> None:
    """Refuse a batch size that leaves batch norm a single value per channel.

    Args:
        config: the network.
        batch_size: images per batch.
        image_size: side of the images in pixels.
        classes: number of classes.

    Raises:
        Impossible: the batch size is too small.
    """
    if config.backbone != "none" and batch_size == 1:
        raise Impossible(
            f"the norms of backbone {config.backbone!r} need more than one image; raise batch_size",
            higher=("batch_size",),
        )
    if config.norm != "batch" or batch_size > 1:
        return
    sides = [conv.side_out for conv in plan(config, image_size=image_size, classes=classes).convs]
    if 1 not in sides:
        return
    raise Impossible(
        f"batch norm needs more than one value per channel, but batch_size 1 and an image of 1 x 1 pixels after conv "
        f'layer {sides.index(1) + 1} leave one; raise batch_size to at least 2, or choose norm = "group"',
        higher=("batch_size",),
    )


def norm_groups(channels: int) -> int:
    """Number of groups for group norm: it divides `channels`, with about eight channels a group, and at most 32 groups.

    Wu and He 2018 (arXiv:1803.08494), table 3: 32 groups, or 8 to 16 channels a group, are best.
    """
    most_groups = min(32, max(1, channels // 8))
    return max(groups for groups in range(1, most_groups + 1) if channels % groups == 0)


def _plan_convs(config: ModelConfig, image_size: int) -> tuple[ConvPlan, ...]:
    convs: list[ConvPlan] = []
    channels: int = config.input_channels
    side = image_size
    if config.stem == "whiten":
        channels, side = config.whitened_channels, image_size - PATCH + 1
    for number in range(1, config.conv_layers + 1):
        stage, position = divmod(number - 1, config.pool_every)
        pooled = position == (0 if config.pool_first else config.pool_every - 1)
        if pooled and side < 2:
            raise _too_many_poolings(config, convs[0].side_in)
        width = round(config.width * config.growth**stage)
        side_out = side // 2 if pooled else side
        skip: Skip = "none" if number == 1 or not config.residual else _skip(pooled, channels != width)
        convs.append(
            ConvPlan(
                in_channels=channels, out_channels=width, side_in=side, side_out=side_out, pooled=pooled, skip=skip
            )
        )
        channels, side = width, side_out
    return tuple(convs)


def _skip(pooled: bool, widened: bool) -> Skip:
    if pooled:
        return "pool_project" if widened else "pool"
    return "project" if widened else "identity"


def _too_many_poolings(config: ModelConfig, side: int) -> Impossible:
    counted = config.conv_layers + (config.pool_every - 1 if config.pool_first else 0)
    requested = counted // config.pool_every
    possible = side.bit_length() - 1
    return Impossible(
        f"each pooling halves the side, so an image of {side} x {side} pixels allows {possible} poolings, "
        f"but conv_layers {config.conv_layers} with pool_every {config.pool_every} asks for {requested}; "
        f"raise pool_every, or lower conv_layers",
        lower=("conv_layers",),
        higher=("pool_every",),
    )


def _plan_dense(config: ModelConfig, last: ConvPlan, classes: int) -> tuple[tuple[int, int], ...]:
    pixels = last.side_out**2 if config.head == "flatten" else 1
    sizes = [last.out_channels * pixels, *[config.dense_units] * config.dense_layers, classes]
    return tuple(pairwise(sizes))


def _conv_parameters(config: ModelConfig, conv: ConvPlan) -> int:
    weights = conv.in_channels * conv.out_channels * config.kernel_size**2
    shift_scale = conv.out_channels if config.norm == "none" else 2 * conv.out_channels
    if "project" not in conv.skip:
        return weights + shift_scale
    # The projection has a separate norm; without norms the bias of the convolution suffices.
    projection_norm = 0 if config.norm == "none" else 2 * conv.out_channels
    return weights + shift_scale + conv.in_channels * conv.out_channels + projection_norm


def _conv_macs(config: ModelConfig, conv: ConvPlan) -> int:
    channels = conv.in_channels * conv.out_channels
    macs = channels * config.kernel_size**2 * conv.side_in**2
    return macs + channels * conv.side_out**2 if "project" in conv.skip else macs
