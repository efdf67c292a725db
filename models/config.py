"""What a network and its training are made of: values, their limits, and the arithmetic of their size."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Backbone = Literal["none", "resnet18", "resnet50", "vgg16_bn", "mobilenet_v3"]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu"]
Head = Literal["gap", "max", "flatten"]
Init = Literal["kaiming", "dirac"]
Norm = Literal["batch", "group", "none"]
OptimizerName = Literal["sgd", "muon", "adam", "adamw", "rmsprop"]
Pool = Literal["max", "avg"]
Precision = Literal["auto", "float32", "bfloat16"]
SchedulerName = Literal["none", "step", "linear", "cosine", "one_cycle", "plateau"]
Skip = Literal["none", "identity", "pool", "project", "pool_project"]
Stem = Literal["none", "whiten"]

Need = tuple[str, frozenset[object]]
"""The key that decides, and its values for which the needing parameter has a meaning."""

NEEDS: Final[Mapping[str, Need]] = {
    "dense_units": ("dense_layers", frozenset({1, 2, 3, 4})),
    "dropout_dense": ("dense_layers", frozenset({1, 2, 3, 4})),
    "momentum": ("optimizer", frozenset({"sgd", "muon", "rmsprop"})),
    "warmup": ("scheduler", frozenset({"none", "step", "linear", "cosine", "plateau"})),
}
"""Parameters that mean nothing for some choices, and are not drawn there. (One_cycle has a warmup of its own.)"""

BACKBONES: Final = frozenset({"resnet18", "resnet50", "vgg16_bn", "mobilenet_v3"})

OWN_LAYERS: Final = (
    "stem",
    "conv_layers",
    "width",
    "growth",
    "kernel_size",
    "pool",
    "pool_every",
    "pool_first",
    "norm",
    "residual",
    "dropout_conv",
    "init",
)
"""What a network with a backbone does not have."""

BACKBONE_NEEDS: Final[Mapping[str, Need]] = {
    **dict.fromkeys(OWN_LAYERS, ("backbone", frozenset({"none"}))),
    **dict.fromkeys(("backbone_side", "tuned_stages", "backbone_rate"), ("backbone", BACKBONES)),
}
"""The same, in a study that has backbones."""

IMAGE_CHANNELS: Final = 3
"""Images are red, green and blue, always."""

PATCH: Final = 2
"""Side in pixels of the patches that a whitening stem looks at (Jordan 2024, arXiv:2404.00498, section 3.1)."""

WHITENED: Final = 2 * IMAGE_CHANNELS * PATCH**2
"""Channels that come out of it: each direction of a patch, and its negative."""

STRICT: Final = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
"""A misspelt key, a text in place of a number and a NaN are refused, whoever wrote them."""

MAX_PARAMETERS: Final = 1_000_000_000
"""4 GB of weights, and training holds four to five times that; a larger drawing is a slip of the space, not a wish."""


class Impossible(ValueError):
    """A configuration whose every value is allowed, but that no network can have.

    `lower` and `higher`: keys of which a lower or a higher value may make it possible, the likeliest first.
    """

    def __init__(self, reason: str, *, lower: tuple[str, ...] = (), higher: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.lower = lower
        self.higher = higher


SMALLER: Final = ("width", "growth", "dense_units", "conv_layers", "kernel_size")
"""Keys of which lower values make a smaller network, those first that change it least."""


class ModelConfig(BaseModel):
    """One convolutional network; the defaults are a good plain one of 32, 64 and 128 channels."""

    model_config = STRICT

    stem: Stem = "none"
    """What comes before the convolutions: nothing, or fixed filters that make the pixels of a patch uncorrelated."""
    conv_layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Convolutions, one after the other."""
    width: Annotated[int, Field(ge=4, le=1024)] = 32
    """Channels of the first convolution."""
    growth: Annotated[float, Field(ge=1.0, le=4.0)] = 2.0
    """Factor of the channels after each pooling; the product is rounded to a whole number."""
    kernel_size: Literal[3, 5, 7] = 3
    """Side of the convolutions' kernels in pixels."""
    pool: Pool = "max"
    """How 2 x 2 pixels become one."""
    pool_every: Annotated[int, Field(ge=1, le=8)] = 1
    """A pooling for every so many convolutions, a stage; it halves the side."""
    pool_first: bool = False
    """Whether a stage pools after its first convolution, and not after its last: the others then work on a quarter."""
    norm: Norm = "batch"
    """Normalisation after each convolution."""
    activation: Activation = "relu"
    """Non-linearity after each convolution and each dense layer."""
    residual: bool = False
    """A way around every convolution but the first: added before the activation."""
    dropout_conv: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Share of whole channels dropped after each convolution."""
    dense_layers: Annotated[int, Field(ge=0, le=4)] = 1
    """Hidden dense layers between the convolutions and the classifier."""
    dense_units: Annotated[int, Field(ge=8, le=4096)] = 128
    """Units of each hidden dense layer."""
    dropout_dense: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Share of units dropped after each hidden dense layer."""
    head: Head = "gap"
    """How the last image becomes a vector: mean over the pixels (gap), their maximum, or all of them (flatten)."""
    logit_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of what comes out: a small one keeps the first predictions vague, and lets high learning rates work."""
    init: Init = "kaiming"
    """First weights of the convolutions: random, or such that as many channels as come in pass unchanged (dirac)."""
    backbone: Backbone = "none"
    """What is in place of the convolutions: a network of torchvision with its pretrained weights, or nothing."""
    backbone_side: Annotated[int, Field(ge=0, le=512)] = 0
    """Pixels a side to which images are resized for it; 0: they stay, and its first layers do not shrink them."""
    tuned_stages: Annotated[int, Field(ge=0, le=5)] = 5
    """So many of its five stages, the last ones, are trained; the others stay as they were pretrained."""

    def seen_side(self, image_size: int) -> int:
        """Pixels a side of the images that the convolutions see, of images of that size."""
        return self.backbone_side or image_size


class TrainConfig(BaseModel):
    """How a network is trained."""

    model_config = STRICT

    batch_size: Annotated[int, Field(ge=1, le=8192)] = 128
    """Images per update of the weights."""
    optimizer: OptimizerName = "sgd"
    """Rule of the update; sgd is with Nesterov momentum."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 0.1
    """Highest learning rate, for the mean loss of a batch."""
    bias_rate: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    """Factor of the learning rate for the biases and for the shifts of norms."""
    momentum: Annotated[float, Field(ge=0.0, le=0.999)] = 0.9
    """Momentum of sgd, rmsprop and muon."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 5e-4
    """Pull of the weights to zero: added to the gradient, but decoupled for adamw; muon's filters have none."""
    decay_norms: bool = False
    """Whether norms and biases are pulled to zero, too."""
    scheduler: SchedulerName = "one_cycle"
    """How the learning rate changes over the training."""
    warmup: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Share of all batches over which the learning rate rises to its highest."""
    label_smoothing: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Share of the target that is spread evenly over all classes."""
    ema: Annotated[float, Field(ge=0.0, le=0.9999)] = 0.0
    """Decay per batch of the moving average of the weights, which is then what is judged; 0 is off."""
    clip: Annotated[float, Field(ge=0.0)] = 0.0
    """Longest gradient, as a norm over all weights; 0 is off."""
    precision: Precision = "float32"
    """Numbers that convolutions and dense layers compute with; auto is bfloat16 where that is known to be faster."""
    backbone_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Factor of the learning rate for pretrained weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvPlan:
    """One convolutional layer, with what surrounds it."""

    in_channels: int
    out_channels: int
    side_in: int
    """Pixels; the convolution keeps them."""
    side_out: int
    """Pixels after the pooling, where there is one."""
    pooled: bool
    skip: Skip
    """What the way around does, in this order; "none" where there is no way around."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The shape of a whole network, known before it is built."""

    stem: bool
    """Whether a whitening stem comes first."""
    convs: tuple[ConvPlan, ...]
    """Empty for a network with a backbone."""
    dense: tuple[tuple[int, int], ...]
    """(inputs, outputs) of each dense layer; the last one is the classifier."""
    parameters: int
    """Trained numbers."""
    macs: int
    """Multiply-accumulates of convolutions and dense layers for one image, forward."""


def plan(config: ModelConfig, *, image_size: int, classes: int) -> Plan:
    """Work out the network's shape and size, without building it.

    Raises Impossible if the image is too small for the poolings, or the network larger than any machine this is for.
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
    macs += IMAGE_CHANNELS * PATCH**2 * WHITENED * (image_size - PATCH + 1) ** 2 if stem else 0
    return Plan(stem=stem, convs=convs, dense=dense, parameters=parameters, macs=macs)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    """Of a backbone, without its own classifier."""

    channels: int
    parameters: int
    macs: tuple[int, int]
    """Of an image of 32 x 32 pixels: those that grow with the pixels, and those that do not."""
    kept_macs: tuple[int, int]
    """The same where the first layers do not shrink the image."""


_SIZES: Final[Mapping[str, _Size]] = {
    "resnet18": _Size(channels=512, parameters=11_176_512, macs=(37_011_456, 0), kept_macs=(563_281_920, 0)),
    "resnet50": _Size(channels=2048, parameters=23_508_032, macs=(83_410_944, 0), kept_macs=(1_305_673_728, 0)),
    "vgg16_bn": _Size(channels=512, parameters=14_723_136, macs=(313_196_544, 0), kept_macs=(313_196_544, 0)),
    "mobilenet_v3": _Size(
        channels=960, parameters=2_971_952, macs=(4_338_240, 1_507_200), kept_macs=(17_352_960, 1_507_200)
    ),
}
"""Counted layer by layer on torchvision 0.29's networks (tests/models/test_backbone.py counts them again)."""


def _plan_backbone(config: ModelConfig, image_size: int, classes: int) -> Plan:
    """The shape of a network with a backbone; its multiply-accumulates are exact for multiples of 32 pixels."""
    size = _SIZES[config.backbone]
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
    """Raise Impossible if the optimizer would undo pretrained weights."""
    if config.backbone != "none" and optimizer == "muon" and config.tuned_stages > 0:
        raise Impossible("muon gives every filter the same norm, and undoes pretrained ones; take another optimizer")


def check_batch_size(config: ModelConfig, batch_size: int, *, image_size: int, classes: int) -> None:
    """Raise Impossible if batch norm would have to learn a mean and a variance from a single number."""
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
    """How many groups group norm makes of `channels`: as even as they come, about eight channels each, at most 32.

    Wu and He 2018 (arXiv:1803.08494), table 3: 32 groups, or 8 to 16 channels a group, are best.
    """
    most = min(32, max(1, channels // 8))
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)


def _plan_convs(config: ModelConfig, image_size: int) -> tuple[ConvPlan, ...]:
    convs: list[ConvPlan] = []
    whitened = config.stem == "whiten"
    channels, side = (WHITENED, image_size - PATCH + 1) if whitened else (IMAGE_CHANNELS, image_size)
    for number in range(1, config.conv_layers + 1):
        stage, place = divmod(number - 1, config.pool_every)
        pooled = place == (0 if config.pool_first else config.pool_every - 1)
        if pooled and side < 2:
            raise _too_many_poolings(config, convs[0].side_in)
        out = round(config.width * config.growth**stage)
        side_out = side // 2 if pooled else side
        skip: Skip = "none" if number == 1 or not config.residual else _skip(pooled, channels != out)
        convs.append(
            ConvPlan(in_channels=channels, out_channels=out, side_in=side, side_out=side_out, pooled=pooled, skip=skip)
        )
        channels, side = out, side_out
    return tuple(convs)


def _skip(pooled: bool, widened: bool) -> Skip:
    if pooled:
        return "pool_project" if widened else "pool"
    return "project" if widened else "identity"


def _too_many_poolings(config: ModelConfig, side: int) -> Impossible:
    reach = config.conv_layers + (config.pool_every - 1 if config.pool_first else 0)
    asked = reach // config.pool_every
    possible = side.bit_length() - 1
    return Impossible(
        f"each pooling halves the side, so an image of {side} x {side} pixels allows {possible} poolings, "
        f"but conv_layers {config.conv_layers} with pool_every {config.pool_every} asks for {asked}; "
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
    # The projection has a norm of its own; without norms it needs no bias beside that of the convolution.
    projection_norm = 0 if config.norm == "none" else 2 * conv.out_channels
    return weights + shift_scale + conv.in_channels * conv.out_channels + projection_norm


def _conv_macs(config: ModelConfig, conv: ConvPlan) -> int:
    channels = conv.in_channels * conv.out_channels
    macs = channels * config.kernel_size**2 * conv.side_in**2
    return macs + channels * conv.side_out**2 if "project" in conv.skip else macs
