"""The networks."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import ConvBlock, DenseBlock, Grey, Whitening, make_head
from models.plan import Plan


class Network(nn.Module, ABC):
    """A feature extractor, a head that reduces the features to a vector, dense blocks, and a classifier.

    Maps (N, 3, side, side) float32 to (N, classes) float32 logits. If `in_bfloat16`, convolutions and dense layers
    compute in bfloat16; the weights are always float32.
    """

    def __init__(self, config: ModelConfig, plan: Plan) -> None:
        super().__init__()
        *hidden, (features, classes) = plan.dense
        self.in_bfloat16 = False
        self.build_features(config, plan)
        self.pool = make_head(config.head)
        self.dense = nn.Sequential(*(DenseBlock(config, inputs, outputs) for inputs, outputs in hidden))
        self.classifier = nn.Linear(features, classes)
        self._logit_scale = config.logit_scale

    @abstractmethod
    def build_features(self, config: ModelConfig, plan: Plan) -> None:
        """Create the modules of `features`. Called first, so parameters are registered in forward order."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Map (N, 3, side, side) to (N, channels, side, side)."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.in_bfloat16):
            features: Tensor = self.pool(self.features(images)).flatten(1)
            logits: Tensor = self.classifier(self.dense(features))
        return logits.float() * self._logit_scale


class CNN(Network):
    """A network without a backbone: a stem and convolutional blocks."""

    def build_features(self, config: ModelConfig, plan: Plan) -> None:
        self.grey = Grey() if config.input_channels == 1 else nn.Identity()
        self.stem = Whitening(config) if plan.stem else nn.Identity()
        self.convs = nn.Sequential(*(ConvBlock(config, conv) for conv in plan.convs))

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.convs(self.stem(self.grey(images)))
        return features
