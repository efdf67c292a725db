"""The process's random generators: seed them all, store them, put them back."""

import random
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor


class RandomState(TypedDict):
    """Python's, numpy's and torch's generators, as plain values and tensors."""

    python: list[Any]
    numpy: list[Any]
    torch: Tensor
    cuda: Tensor | None
    """Of the device in use; None on a CPU."""


def seed_everything(seed: int) -> None:
    """Set every generator of this process, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_random_state(device: torch.device) -> RandomState:
    """The generators as they are now; torch.load(weights_only=True) reads them back from a file."""
    version, internal, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return RandomState(
        python=[version, list(internal), gauss],
        numpy=[
            numpy["bit_generator"],
            numpy["state"]["key"].tolist(),
            numpy["state"]["pos"],
            numpy["has_gauss"],
            numpy["gauss"],
        ],
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    )


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Put the generators back; a state from a CPU leaves a GPU's generator alone, and the other way round."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
