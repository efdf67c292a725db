"""Builds a network with initial weights from a configuration."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.backbone import PretrainedNetwork
from models.cnn import CNN, Network
from models.config import Init, ModelConfig
from models.layers import Whitening
from models.plan import plan


def build(
    config: ModelConfig,
    *,
    image_size: int,
    classes: int,
    images: Tensor | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Network:
    """Build the network on the CPU, in the channels_last memory format, with weights drawn from torch's generator.

    Seed torch first. Without `images` and `weights` all weights are random: for a network whose weights are loaded.

    Args:
        config: the network.
        image_size: side of the images in pixels.
        classes: number of classes.
        images: (N, 3, side, side) normalised training images to fit a whitening stem to.
        weights: pretrained weights of a backbone.

    Raises:
        Impossible: no network has this configuration.
        NoWeights: the weights belong to another network.
    """
    shape = plan(config, image_size=image_size, classes=classes)
    model = CNN(config, shape) if config.backbone == "none" else PretrainedNetwork(config, shape)
    for module in (model if isinstance(model, CNN) else model.dense).modules():
        _initialise(module, config.init)
    # No activation follows the last layer, so it does not need the gain of one.
    nn.init.kaiming_normal_(model.classifier.weight, nonlinearity="linear")
    if images is not None and isinstance(model, CNN) and isinstance(model.stem, Whitening):
        model.stem.fit(model.grey(images))
    if weights is not None and isinstance(model, PretrainedNetwork):
        model.load_pretrained(weights, config.backbone)
    return model.to(memory_format=torch.channels_last)


def _initialise(module: nn.Module, init: Init) -> None:
    """He 2015 (arXiv:1502.01852): every layer preserves the variance of the forward pass.

    Dirac: the first filters of a convolution pass one channel on each (Zagoruyko 2017, arXiv:1706.00388).
    """
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if init == "dirac" and isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        nn.init.dirac_(module.weight[: module.in_channels])
    if module.bias is not None:
        nn.init.zeros_(module.bias)
