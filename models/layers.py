"""Layers and blocks of the networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import PATCH, Activation, Head, ModelConfig, Norm, Pool, Skip
from models.plan import ConvPlan, norm_groups

#: Added to the variances before whitening; for images of standard deviation 1 (Jordan 2024, arXiv:2404.00498).
LEAST_VARIANCE = 5e-4

#: Patches per chunk: some tens of megabytes.
AT_ONCE = 100_000


class Grey(nn.Module):
    """The mean of the three channels: maps (N, 3, S, S) to (N, 1, S, S).

    On a grey image it equals each channel, up to rounding. On a colour image it has all three with equal weights, since
    each is normalised.
    """

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = images.chunk(3, dim=1)  # six times as fast as mean(dim=1) on a CPU in channels_last
        grey: Tensor = (red + green + blue) / 3
        return grey


class Whitening(nn.Module):
    """Decorrelates patches: maps (N, input_channels, S, S) to (N, whitened_channels, S - 1, S - 1).

    A fixed convolution, followed by the activation. Its filters are the eigenvectors of the covariance of the patches,
    scaled to variance 1, and their negatives (Page 2018, and Jordan 2024, arXiv:2404.00498). Those papers train a bias
    in the first epochs; without a bias the layer needs no gradient.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.input_channels, config.whitened_channels, PATCH, bias=False)
        self.conv.weight.requires_grad_(False)
        self.activation = make_activation(config.activation)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.activation(self.conv(images))
        return out

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Compute the filters from (N, input_channels, S, S) normalised images."""
        values = self.conv.weight[0].numel()  # of a patch
        covariance, count = images.new_zeros(values, values, dtype=torch.float64), 0
        for chunk in torch.split(images, max(1, AT_ONCE // images.shape[2] ** 2)):
            patches = functional.unfold(chunk.contiguous(), PATCH).transpose(1, 2).flatten(0, 1).double()
            covariance += patches.T @ patches
            count += len(patches)
        variances, directions = torch.linalg.eigh(covariance / count)
        filters = (directions / (variances + LEAST_VARIANCE).sqrt()).T.reshape(-1, *self.conv.weight.shape[1:])
        self.conv.weight.copy_(torch.cat((filters, -filters)))


class ConvBlock(nn.Module):
    """Convolution, pooling, norm, (plus residual connection), activation, dropout.

    Maps (N, in_channels, side_in, side_in) to (N, out_channels, side_out, side_out). The pooling precedes the norm,
    which then processes a quarter of the pixels: 1.2 times the images per second of the other order on a CPU.
    """

    def __init__(self, config: ModelConfig, conv: ConvPlan) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            config.kernel_size,
            padding=config.kernel_size // 2,
            bias=config.norm == "none",
        )
        self.pool = make_pool(config.pool) if conv.pooled else nn.Identity()
        self.norm = make_norm(config.norm, conv.out_channels)
        self.skip = make_skip(conv.skip, config.norm, conv)
        self.activation = make_activation(config.activation)
        self.dropout = nn.Dropout2d(config.dropout_conv) if config.dropout_conv > 0 else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        branch: Tensor = self.norm(self.pool(self.conv(images)))
        if self.skip is not None:
            branch = branch + self.skip(images)
        out: Tensor = self.dropout(self.activation(branch))
        return out


class DenseBlock(nn.Module):
    """Linear, activation, dropout: maps (N, inputs) to (N, outputs)."""

    def __init__(self, config: ModelConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = make_activation(config.activation)
        self.dropout = nn.Dropout(config.dropout_dense) if config.dropout_dense > 0 else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.activation(self.linear(features)))
        return out


def make_activation(name: Activation) -> nn.Module:
    """The activation of that name, in place if its backward pass allows that."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(inplace=True)
        case "elu":
            return nn.ELU(inplace=True)
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()


def make_norm(name: Norm, channels: int) -> nn.Module:
    """The norm of that name for `channels` channels."""
    match name:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(norm_groups(channels), channels)
        case "none":
            return nn.Identity()


def make_head(name: Head) -> nn.Module:
    """The pooling of the last feature map, before it is flattened."""
    match name:
        case "gap":
            return nn.AdaptiveAvgPool2d(1)
        case "max":
            return nn.AdaptiveMaxPool2d(1)
        case "flatten":
            return nn.Identity()


def make_pool(name: Pool) -> nn.Module:
    """The pooling of that name; it halves the side, rounding down."""
    match name:
        case "max":
            return nn.MaxPool2d(2)
        case "avg":
            return nn.AvgPool2d(2)


def make_skip(skip: Skip, norm: Norm, conv: ConvPlan) -> nn.Module | None:
    """The residual connection of a block; a projection has a separate norm (He 2015, arXiv:1512.03385, option B).

    It always starts with average pooling if the block pools (He 2018, arXiv:1812.01187, ResNet-D).
    """
    match skip:
        case "none":
            return None
        case "identity":
            return nn.Identity()
        case "pool":
            return nn.AvgPool2d(2)
        case "project":
            return _projection(norm, conv)
        case "pool_project":
            return nn.Sequential(nn.AvgPool2d(2), _projection(norm, conv))


def _projection(norm: Norm, conv: ConvPlan) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False), make_norm(norm, conv.out_channels)
    )
