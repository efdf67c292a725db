"""Configuration of a network and its training: values and their limits."""

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
TestTimeAugmentation = Literal["none", "flip", "flip_shift"]
"""Copies of an image over which the predictions are averaged (`models.test_time`)."""

PASSES: Final[Mapping[TestTimeAugmentation, int]] = {"none": 1, "flip": 2, "flip_shift": 6}
"""Forward passes of the network for each image."""

Need = tuple[str, frozenset[object]]
"""The controlling key, and its values for which the dependent parameter has a meaning."""

NEEDS: Final[Mapping[str, Need]] = {
    "dense_units": ("dense_layers", frozenset({1, 2, 3, 4})),
    "dropout_dense": ("dense_layers", frozenset({1, 2, 3, 4})),
    "momentum": ("optimizer", frozenset({"sgd", "muon", "rmsprop"})),
    "warmup": ("scheduler", frozenset({"none", "step", "linear", "cosine", "plateau"})),
}
"""Conditional parameters: they have no meaning for some choices, and are not drawn there. (one_cycle has a built-in
warmup.)"""

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
"""Parameters that a network with a backbone does not have."""

BACKBONE_NEEDS: Final[Mapping[str, Need]] = {
    **dict.fromkeys(OWN_LAYERS, ("backbone", frozenset({"none"}))),
    **dict.fromkeys(("backbone_side", "tuned_stages", "backbone_rate"), ("backbone", BACKBONES)),
}
"""Further conditional parameters of a study with backbones."""

PATCH: Final = 2
"""Side in pixels of the patches of a whitening stem (Jordan 2024, arXiv:2404.00498, section 3.1)."""

STRICT: Final = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
"""Refuses misspelt keys, text instead of numbers, and NaN."""

MAX_PARAMETERS: Final = 1_000_000_000
"""4 GB of weights; training needs four to five times that. A larger network is a mistake in the search space."""


class Impossible(ValueError):
    """A configuration of valid values that no network can have.

    `lower` and `higher`: keys whose lower or higher values may make it possible, the likeliest first.
    """

    def __init__(self, reason: str, *, lower: tuple[str, ...] = (), higher: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.lower = lower
        self.higher = higher


SMALLER: Final = ("width", "growth", "dense_units", "conv_layers", "kernel_size")
"""Keys whose lower values make a smaller network, in order of increasing effect."""


class ModelConfig(BaseModel):
    """A convolutional network; the defaults are a good plain network of 32, 64 and 128 channels."""

    model_config = STRICT

    input_channels: Literal[1, 3] = 3
    """Channels of the input of the network: red, green and blue, or their mean, which suits grey images."""
    stem: Stem = "none"
    """Layer before the convolutions: none, or fixed filters that decorrelate the pixels of a patch."""
    conv_layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Number of convolutions."""
    width: Annotated[int, Field(ge=4, le=1024)] = 32
    """Channels of the first convolution."""
    growth: Annotated[float, Field(ge=1.0, le=4.0)] = 2.0
    """Factor of the channels after each pooling; the product is rounded to an integer."""
    kernel_size: Literal[3, 5, 7] = 3
    """Kernel side of the convolutions in pixels."""
    pool: Pool = "max"
    """Pooling of 2 x 2 pixels."""
    pool_every: Annotated[int, Field(ge=1, le=8)] = 1
    """Convolutions per stage; each complete stage has one pooling, which halves the side."""
    pool_first: bool = False
    """Pool after the first convolution of a stage instead of the last: the others then see a quarter of the pixels."""
    norm: Norm = "batch"
    """Normalisation after each convolution."""
    activation: Activation = "relu"
    """Non-linearity after each convolution and each dense layer."""
    residual: bool = False
    """Residual connection around every convolution but the first, added before the activation."""
    dropout_conv: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Share of channels dropped after each convolution."""
    dense_layers: Annotated[int, Field(ge=0, le=4)] = 1
    """Hidden dense layers between the convolutions and the classifier."""
    dense_units: Annotated[int, Field(ge=8, le=4096)] = 128
    """Units of each hidden dense layer."""
    dropout_dense: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Share of units dropped after each hidden dense layer."""
    head: Head = "gap"
    """Vector of the last feature map: mean over the pixels (gap), their maximum, or all pixels (flatten)."""
    logit_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the logits: a small factor keeps the first predictions uncertain, and allows high learning rates."""
    init: Init = "kaiming"
    """Initial weights of the convolutions: random, or with the first filters passing each input channel on (dirac)."""
    backbone: Backbone = "none"
    """Pretrained torchvision network that replaces the convolutions, or none."""
    backbone_side: Annotated[int, Field(ge=0, le=512)] = 0
    """Side in pixels of resized images for the backbone; 0: no resizing, and its first layers keep the size."""
    tuned_stages: Annotated[int, Field(ge=0, le=5)] = 5
    """Number of the last stages of the backbone, of five, that are trained; the others stay frozen."""

    @property
    def whitened_channels(self) -> int:
        """Output channels of a whitening stem: each direction of a patch, and its negative."""
        return 2 * self.input_channels * PATCH**2

    def seen_side(self, image_size: int) -> int:
        """Side in pixels of the input of the convolutions, for images of `image_size`."""
        return self.backbone_side or image_size


class TrainConfig(BaseModel):
    """The training of a network."""

    model_config = STRICT

    batch_size: Annotated[int, Field(ge=1, le=8192)] = 128
    """Images per update of the weights."""
    optimizer: OptimizerName = "sgd"
    """Update rule; sgd has Nesterov momentum."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 0.1
    """Maximum learning rate, for the mean loss of a batch."""
    bias_rate: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    """Factor of the learning rate for the biases and for the shifts of norms."""
    momentum: Annotated[float, Field(ge=0.0, le=0.999)] = 0.9
    """Momentum of sgd, rmsprop and muon."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 5e-4
    """Weight decay: added to the gradient, but decoupled for adamw; none for the filters of muon."""
    decay_norms: bool = False
    """Whether weight decay also applies to norms and biases."""
    scheduler: SchedulerName = "one_cycle"
    """Schedule of the learning rate."""
    warmup: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Share of all batches over which the learning rate rises to its maximum."""
    label_smoothing: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Share of the target that is spread evenly over all classes."""
    class_weights: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Exponent of the weights of the classes in the loss, (mean count / count) ** class_weights, for unbalanced images:
    0 weights all images equally, 1 all classes (balanced)."""
    ema: Annotated[float, Field(ge=0.0, le=0.9999)] = 0.0
    """Decay per batch of the moving average of the weights, which is then evaluated; 0 is off."""
    clip: Annotated[float, Field(ge=0.0)] = 0.0
    """Maximum norm of the gradient over all weights; 0 is off."""
    precision: Precision = "float32"
    """Number format of convolutions and dense layers; auto is bfloat16 where it is known to be faster."""
    backbone_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Factor of the learning rate for pretrained weights."""
