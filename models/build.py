"""From a configuration to a network with its first weights."""

import torch
from torch import nn

from models.cnn import CNN
from models.config import ModelConfig, plan


def build(config: ModelConfig, *, image_size: int, classes: int) -> CNN:
    """Build the network on the CPU, in the channels_last memory format, its weights drawn from torch's generator.

    Seed torch before. Raises Impossible where there is no such network.
    """
    model = CNN(config, plan(config, image_size=image_size, classes=classes))
    for module in model.modules():
        _initialise(module)
    # The last layer feeds no activation, so that it does not need the gain that makes up for one.
    nn.init.kaiming_normal_(model.classifier.weight, nonlinearity="linear")
    return model.to(memory_format=torch.channels_last)


def _initialise(module: nn.Module) -> None:
    """He 2015 (arXiv:1502.01852): every layer keeps the variance of what passes forward."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)
