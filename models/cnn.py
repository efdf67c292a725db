"""The convolutional network itself."""

from torch import Tensor, nn

from models.config import ModelConfig, Plan
from models.layers import ConvBlock, DenseBlock


class CNN(nn.Module):
    """Convolutional blocks, a head that makes one vector of the last image, dense blocks, a classifier.

    (N, 3, side, side) becomes (N, classes): one logit a class.
    """

    def __init__(self, config: ModelConfig, plan: Plan) -> None:
        super().__init__()
        *hidden, (features, classes) = plan.dense
        self.convs = nn.Sequential(*(ConvBlock(config, conv) for conv in plan.convs))
        self.pool = nn.AdaptiveAvgPool2d(1) if config.head == "gap" else nn.Identity()
        self.dense = nn.Sequential(*(DenseBlock(config, inputs, outputs) for inputs, outputs in hidden))
        self.classifier = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.pool(self.convs(images)).flatten(1)
        logits: Tensor = self.classifier(self.dense(features))
        return logits
