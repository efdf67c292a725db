"""The convolutional network itself."""

import torch
from torch import Tensor, nn

from models.config import ModelConfig, Plan
from models.layers import ConvBlock, DenseBlock, Whitening, make_head


class CNN(nn.Module):
    """A stem, convolutional blocks, a head that makes one vector of the last image, dense blocks, a classifier.

    (N, 3, side, side) float32 becomes (N, classes) float32: one logit a class. `in_bfloat16` says in which numbers
    convolutions and dense layers compute; weights are float32 always.
    """

    def __init__(self, config: ModelConfig, plan: Plan) -> None:
        super().__init__()
        *hidden, (features, classes) = plan.dense
        self.in_bfloat16 = False
        self.stem = Whitening(config) if plan.stem else nn.Identity()
        self.convs = nn.Sequential(*(ConvBlock(config, conv) for conv in plan.convs))
        self.pool = make_head(config.head)
        self.dense = nn.Sequential(*(DenseBlock(config, inputs, outputs) for inputs, outputs in hidden))
        self.classifier = nn.Linear(features, classes)
        self._logit_scale = config.logit_scale

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.in_bfloat16):
            features: Tensor = self.pool(self.convs(self.stem(images))).flatten(1)
            logits: Tensor = self.classifier(self.dense(features))
        return logits.float() * self._logit_scale
