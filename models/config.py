"""What a network and its training are made of: values, their limits, and the arithmetic of their size."""

from collections.abc import Mapping
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
    """Convolutions of a stage, which ends in a pooling that halves the side."""
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
    """The number of its five stages, the last ones, that are trained; the others stay as they were pretrained."""

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
