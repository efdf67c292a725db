"""A network with its card, as an export writes them."""

from typing import Any

import torch

from data.batches import scale
from data.dataset import DataInfo
from data.preprocessing import Preprocessing
from models.build import build
from models.config import ModelConfig
from models.export import Card, Deployed
from models.plan import plan

INFO = DataInfo(
    fingerprint="f",
    classes=("cat", "dog", "owl"),
    train_counts=(1, 1, 1),
    test_counts=(1, 1, 1),
    image_size=16,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    notes=(),
    preprocessing=Preprocessing(side=16),
    validation_folder=0,
    train_count=3,
    validation_count=0,
    seen_test_images=0,
    skipped_images=0,
)
IMAGES = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

ORIGIN = {
    "study": "s",
    "trial": 0,
    "question": "",
    "source": "folder",
    "fingerprint": "f",
    "validation": None,
    "versions": {},
    "exported": "",
}


def deployed(steps: Preprocessing | None = None, **changes: Any) -> tuple[Deployed, Card]:
    """A network with random weights and updated batch statistics, and its card.

    Args:
        steps: the steps from an image file to the pixels; default: those of INFO.
        changes: of the configuration of the network.
    """
    steps = steps or INFO.preprocessing
    torch.manual_seed(0)
    config = ModelConfig(**({"width": 8} | changes))
    network = build(config, image_size=16, classes=3, images=torch.randn(50, 3, 16, 16))
    network.train()(torch.randn(64, 3, 16, 16))  # gives the batch norms non-default statistics
    factor, shift = scale(INFO)
    shape = plan(config, image_size=16, classes=3)
    card = Card(
        network=config,
        image_size=16,
        fit=steps.fit,
        depth=steps.depth,
        classes=INFO.classes,
        mean=INFO.mean,
        std=INFO.std,
        parameters=shape.parameters,
        macs=shape.macs,
        training={"epochs": 1.0, "seconds": 1.0},
        provenance=ORIGIN,
        verdict=None,
    )
    return Deployed(network, factor=factor, shift=shift).eval(), card
