"""The length of a full trial, if the study file leaves it open.

A search cannot learn much from a few full trials, and many short ones rank networks by their first updates. The hours
of a search therefore have room for eight full trials. Most trials are stopped early, so some tens are started.
"""

from typing import Final

from search.spec.settings import DEFAULT_EVALUATIONS, DEFAULT_RUNG_UPDATES

#: Full trials that fit into the hours of a search. The ten-minute study on CIFAR-10, whose trial length was chosen by
#: hand, had room for 7 to 10.
FULL_TRIALS: Final = 8
#: Minimum weight updates in a full trial of the known point: enough for a judgement at its first rung.
MIN_UPDATES: Final = DEFAULT_EVALUATIONS * DEFAULT_RUNG_UPDATES
#: Maximum epochs of a full trial, and its epochs if no hours are given.
MAX_EPOCHS: Final = 100.0
DEFAULT_EPOCHS: Final = 4.0
#: Evaluating an image costs one forward pass, training on it costs three: the backward pass is two (Kaplan et al. 2020,
#: https://arxiv.org/abs/2001.08361, section 2.1).
FORWARD_SHARE: Final = 1 / 3


def epochs_per_trial(
    *, images: int, judged: int, batch_size: int, images_per_second: float, search_s: float | None, workers: int
) -> float:
    """Choose the epochs of a full trial.

    Args:
        images: Training images of the trial.
        judged: Validation images, summed over all evaluations of the trial.
        batch_size: Batch size of the known point.
        images_per_second: Training throughput of one worker.
        search_s: Seconds that all workers have; None for no limit.
        workers: Number of workers.
    """
    least = MIN_UPDATES * batch_size / images
    affordable = DEFAULT_EPOCHS
    if search_s is not None:
        affordable = (search_s * workers / FULL_TRIALS * images_per_second - FORWARD_SHARE * judged) / images
    return float(f"{max(least, min(MAX_EPOCHS, affordable)):.4g}")
