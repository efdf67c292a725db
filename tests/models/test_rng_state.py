"""Seeding, storing and restoring of the process's random generators."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.rng_state import get_random_state, seed_everything, set_random_state

CPU = torch.device("cpu")
# Normal numbers are drawn in pairs; a generator keeps the second number of a pair.
DRAWS: dict[str, Callable[[], float]] = {
    "python": lambda: random.gauss(0.0, 1.0),
    "numpy": lambda: float(np.random.standard_normal()),
    "torch": lambda: float(torch.randn(1)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_repeats_the_numbers_and_another_one_does_not(draw: Callable[[], float]) -> None:
    drawn = []

    for seed in (3, 3, 4):
        seed_everything(seed)
        drawn.append([draw() for _ in range(3)])

    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_generators_restored_from_a_file_continue_where_they_were(draw: Callable[[], float], tmp_path: Path) -> None:
    seed_everything(3)
    draw()
    torch.save(get_random_state(CPU), tmp_path / "state")
    expected = [draw() for _ in range(3)]

    seed_everything(5)
    set_random_state(torch.load(tmp_path / "state", weights_only=True), CPU)

    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_seeds_outside_the_range_of_numpy_are_accepted(seed: int) -> None:
    seed_everything(seed)

    assert torch.initial_seed() % 2**64 == seed % 2**64
