"""Networks of torchvision with their pretrained weights (transfer learning), as five stages.

Early stages are general, and late stages are specific to their task (Yosinski et al. 2014,
https://arxiv.org/abs/1411.1792). Early stages can stay frozen; late stages are trained, at a lower rate than new
layers. Small images are resized, or the first layers do not shrink them (as He et al. 2015 did for CIFAR-10,
https://arxiv.org/abs/1512.03385, section 4.2).

Images are normalised with the statistics of the data set, not of ImageNet: for photographs that is nearly the same.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, assert_never
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cnn import Network
from models.config import Backbone, ModelConfig
from models.plan import Plan

NAMES: Final[Mapping[str, str]] = {"mobilenet_v3": "mobilenet_v3_large"}
"""Names in torchvision where they differ."""
STAGES: Final = 5

HASHED: Final = re.compile(r"-([0-9a-f]{8,})\.pth$")
"""Suffix of PyTorch's weight files: the first digits of the SHA-256."""


class NoWeights(Exception):
    """The pretrained weights of a backbone are missing or wrong."""


class PretrainedNetwork(Network):
    """A backbone whose last stages are trained, followed by new layers."""

    def build_features(self, config: ModelConfig, plan: Plan) -> None:
        self.stages = nn.ModuleList(stages(config.backbone, keeps_size=config.backbone_side == 0))
        self.frozen = STAGES - config.tuned_stages
        self.side = config.backbone_side
        for stage in self.stages[: self.frozen]:
            stage.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        if self.side:
            images = functional.interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)
        for stage in self.stages:
            images = stage(images)
        return images

    def train(self, mode: bool = True) -> "PretrainedNetwork":
        """Frozen stages stay in evaluation mode: their norms keep the pretrained statistics."""
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.eval()
        return self

    def load_pretrained(self, weights: Mapping[str, Tensor], name: Backbone) -> None:
        """Load the weights of torchvision's network `name`, except its classifier.

        Args:
            weights: a state dict, as `pretrained` returns it.
            name: the backbone.

        Raises:
            NoWeights: the weights belong to another network.
        """
        with torch.device("meta"):  # allocates no memory for weights that are replaced below
            network = _network(name)
        try:
            network.load_state_dict(dict(weights), assign=True)
        except RuntimeError as error:
            raise NoWeights(f"the weights are not those of {name}: {str(error).splitlines()[0]}") from error
        pretrained_stages = nn.ModuleList(_split(network, name))
        self.stages.load_state_dict(pretrained_stages.state_dict())


def stages(name: Backbone, *, keeps_size: bool) -> list[nn.Module]:
    """The five stages of a backbone with random weights. Each halves the image, except the first if `keeps_size`."""
    backbone_stages = _split(_network(name), name)
    if keeps_size:
        _keep_size(backbone_stages[0], name)
    return backbone_stages


def pretrained(name: str, *, url: str | None = None) -> dict[str, Any]:
    """The weights of a pretrained network of torchvision, from torch's cache or downloaded into it.

    Args:
        name: the backbone.
        url: the address of the file; torchvision's address by default.

    Returns:
        The state dict. The hash of the file is checked.

    Raises:
        NoWeights: the file cannot be downloaded, or its hash is wrong.
    """
    path = fetch(name, url=url)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def fetch(name: str, *, url: str | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """Download the weights of a backbone if they are not in torch's cache yet.

    Args:
        name: the backbone.
        url: the address of the file; torchvision's address by default.
        say: receives a line of progress.

    Returns:
        The path of the file. Its hash is checked.

    Raises:
        NoWeights: the file cannot be downloaded, or its hash is wrong.
    """
    from torchvision.models import get_model_weights

    url = url or str(get_model_weights(NAMES.get(name, name)).DEFAULT.url)
    file = Path(urlparse(url).path).name
    hub = torch.hub.get_dir()
    if hub.startswith("~"):  # torch would create a folder of that name
        raise NoWeights(f"backbone {name!r} needs a folder for its weights; without a home folder set TORCH_HOME")
    path = Path(hub) / "checkpoints" / file
    if not path.exists():
        say(f"fetching the pretrained weights of {name} from {url}")
        _download(name, url, path)
    hash_match = HASHED.search(file)
    if hash_match is None or not _sha256(path).startswith(hash_match[1]):
        raise NoWeights(f"{path} does not match {url}: its SHA-256 differs; delete it")
    return path


def _download(name: str, url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_match = HASHED.search(path.name)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_match and hash_match[1], progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # URLError is an OSError; RuntimeError: wrong hash
        raise NoWeights(
            f"backbone {name!r} needs its pretrained weights, which cannot be fetched ({error}); on a machine with a "
            f"network download {url} and put it into {path.parent}"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _network(name: Backbone) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(NAMES.get(name, name), weights=None)
    return network


def _split(network: Any, name: Backbone) -> list[nn.Module]:
    """The five stages of a torchvision network, split where it halves the image."""
    match name:
        case "resnet18" | "resnet50":
            stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
            return [stem, network.layer1, network.layer2, network.layer3, network.layer4]
        case "vgg16_bn":
            pools = [index for index, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)]
            cuts = [0, *(index + 1 for index in pools)]
        case "mobilenet_v3":
            cuts = [0, 2, 4, 7, 13, len(network.features)]  # it halves the image in its blocks 0, 2, 4, 7 and 13
        case "none":
            raise ValueError("backbone 'none' has no stages")
        case _:
            assert_never(name)
    layers = list(network.features)
    return [nn.Sequential(*layers[start:end]) for start, end in pairwise(cuts)]


def _keep_size(stage: Any, name: Backbone) -> None:
    """Remove stride and pooling of the first stage, except for VGG, whose first stage starts with convolutions."""
    match name:
        case "resnet18" | "resnet50":
            stage[0].stride = (1, 1)
            stage[3] = nn.Identity()
        case "mobilenet_v3":
            stage[0][0].stride = (1, 1)
        case "vgg16_bn" | "none":
            pass
        case _:
            assert_never(name)
