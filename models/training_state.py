"""The complete state of a training, as a checkpoint stores it."""

from typing import Any, TypedDict

from models.rng_state import RandomState


class TrainingState(TypedDict):
    """The complete state of a training; torch.load(weights_only=True) can read it."""

    config: dict[str, Any]
    seed: int
    total_batches: int
    """As planned at the start."""
    turn: tuple[int, float, int]
    """The last call of `end_after`: the batch, the progress of the schedule (0 to 1), and the new total of batches."""
    batch: int
    step: int
    step_began: int
    """Number of batches before the current step."""
    loss_sum: float
    images: int
    seconds: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]
    plateau: dict[str, Any]
    random: RandomState
