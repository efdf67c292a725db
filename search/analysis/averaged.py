"""Test results with test-time augmentation as text and JSON. They stand beside the plain results."""

from collections.abc import Mapping
from typing import Any, assert_never

from models.config import PASSES, TestTimeAugmentation
from search.tables import format_number


def copies(augmentation: TestTimeAugmentation) -> str:
    """The copies of an image, as in `averaged over mirrored images`."""
    match augmentation:
        case "none":
            return "single images"
        case "flip":
            return "mirrored images"
        case "flip_shift":
            return "mirrored and shifted images"
        case _:
            assert_never(augmentation)


def cost(augmentation: TestTimeAugmentation) -> str:
    """`2 passes for each image`: the cost of a prediction."""
    return f"{PASSES[augmentation]} passes for each image"


def result_text(averaged: Mapping[str, Any] | None) -> str:
    """`; averaged over mirrored images 0.8912, 4,456 right (95 % interval 0.8830 to 0.8995)`; empty without a result.

    Args:
        averaged: Stored result of a trial (`search.trial.final_training.to_stored_averaged_result`).
    """
    if averaged is None:
        return ""
    low, high = averaged["interval"]
    return (
        f"; averaged over {copies(averaged['augmentation'])} {format_number(averaged['value'])}, "
        f"{averaged['right']:,} right (95 % interval {low:.4f} to {high:.4f})"
    )


def result_json(averaged: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same result as the key `averaged` of a JSON value; no key without a result."""
    if averaged is None:
        return {}
    return {"averaged": {key: averaged[key] for key in ("augmentation", "value", "right", "interval")}}
