"""Networks of torchvision with their pretrained weights (transfer learning), as five stages.

Yosinski et al. 2014, https://arxiv.org/abs/1411.1792: early stages are general, late ones are of their own task; so
those stay as they are, and these are trained, more slowly than what is new. For small images the first layers keep
their size (as He et al. 2015 did for CIFAR-10, https://arxiv.org/abs/1512.03385, section 4.2), or they are resized.

The images are normalised by their own means, not by those of ImageNet: for photographs that is nearly the same.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cnn import Network
from models.config import ModelConfig
from models.plan import Plan

NAMES: Final[Mapping[str, str]] = {"mobilenet_v3": "mobilenet_v3_large"}
"""What torchvision calls them, where it is something else."""
STAGES: Final = 5

HASHED: Final = re.compile(r"-([0-9a-f]{8,})\.pth$")
"""How the names of PyTorch's weight files end: with the beginning of their SHA-256."""


class NoWeights(Exception):
    """The pretrained weights of a backbone are not here, and cannot be fetched; the message says what to do."""


class PretrainedNetwork(Network):
    """A backbone, of which the last stages are trained, and new layers behind it."""

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
        """Frozen stages stay in evaluation mode, so that their norms keep the statistics they were trained with."""
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.eval()
        return self

    def load_pretrained(self, weights: Mapping[str, Tensor], name: str) -> None:
        """Take the weights of torchvision's network `name`, as `pretrained` gives them, but for its classifier.

        Raises NoWeights if they are of another network.
        """
        with torch.device("meta"):  # which takes no memory for weights that are replaced at once
            whole = _whole(name)
        try:
            whole.load_state_dict(dict(weights), assign=True)
        except RuntimeError as error:
            raise NoWeights(f"the weights are not those of {name}: {str(error).splitlines()[0]}") from error
        given = nn.ModuleList(_split(whole, name))
        self.stages.load_state_dict(given.state_dict())


def stages(name: str, *, keeps_size: bool) -> list[nn.Module]:
    """The five stages of a backbone with random weights; each halves the image, or the first one does not."""
    found = _split(_whole(name), name)
    if keeps_size:
        _keep_size(found[0], name)
    return found


def pretrained(name: str, *, url: str | None = None) -> dict[str, Any]:
    """The state of torchvision's pretrained network `name`: from its cache, or downloaded into it; its hash is checked.

    `url` is where the file comes from, torchvision's own address unless it is given.

    Raises NoWeights.
    """
    path = fetch(name, url=url)
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def fetch(name: str, *, url: str | None = None, say: Callable[[str], None] = lambda _: None) -> Path:
    """Download the weights of a backbone if they are not in torch's cache yet; returns the file, its hash checked.

    Raises NoWeights.
    """
    from torchvision.models import get_model_weights

    url = url or str(get_model_weights(NAMES.get(name, name)).DEFAULT.url)
    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.exists():
        say(f"fetching the pretrained weights of {name} from {url}")
        _download(name, url, path)
    found = HASHED.search(file)
    if found is None or not _sha256(path).startswith(found[1]):
        raise NoWeights(f"{path} is not the file of {url}: its SHA-256 is another; delete it")
    return path


def _download(name: str, url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = HASHED.search(path.name)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=found and found[1], progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # URLError is an OSError; RuntimeError: another hash
        raise NoWeights(
            f"backbone {name!r} needs its pretrained weights, which cannot be fetched ({error}); on a machine with a "
            f"network download {url} and put it into {path.parent}"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _whole(name: str) -> nn.Module:
    from torchvision.models import get_model

    found: nn.Module = get_model(NAMES.get(name, name), weights=None)
    return found


def _split(whole: Any, name: str) -> list[nn.Module]:
    """The five stages of one of torchvision's networks, each from one halving of the image to the next."""
    if name.startswith("resnet"):
        first = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
        return [first, whole.layer1, whole.layer2, whole.layer3, whole.layer4]
    layers = list(whole.features)
    if name == "vgg16_bn":
        cuts = [0, *(index + 1 for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d))]
    else:
        cuts = [0, 2, 4, 7, 13, len(layers)]  # mobilenet_v3_large halves in its blocks 0, 2, 4, 7 and 13
    return [nn.Sequential(*layers[first:last]) for first, last in pairwise(cuts)]


def _keep_size(first: Any, name: str) -> None:
    """Let the first stage not shrink the image, where it does so before it has looked at it closely."""
    if name.startswith("resnet"):
        first[0].stride = (1, 1)
        first[3] = nn.Identity()
    elif name == "mobilenet_v3":
        first[0][0].stride = (1, 1)
