"""Seeds, saves and restores the random generators of the process."""

import random
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor


class RandomState(TypedDict):
    """States of the generators of Python, numpy and torch, as plain values and tensors."""

    python: list[Any]
    numpy: list[Any]
    torch: Tensor
    cuda: Tensor | None
    """State of the device in use; None on a CPU."""


def seed_everything(seed: int) -> None:
    """Seed every generator of this process, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_random_state(device: torch.device) -> RandomState:
    """The current states of the generators; torch.load(weights_only=True) can read them."""
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
    """Restore the generators; a state from a CPU does not change the generator of a GPU, and vice versa."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
