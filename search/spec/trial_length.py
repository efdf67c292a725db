"""How long a whole trial of a search is, where its study file leaves that open.

A search of a few whole trials cannot learn much from them, and one of many short ones ranks networks by their first
updates. So the hours of a search have room for eight whole trials; as most are stopped early, it begins some tens.
"""

from typing import Final

from search.spec.settings import DEFAULT_EVALUATIONS, DEFAULT_RUNG_UPDATES

#: Whole trials that fit into the hours of a search. The ten-minute study on CIFAR-10, whose length was chosen by hand,
#: had room for 7 to 10.
FULL_TRIALS: Final = 8
#: Updates of the weights in a whole trial of the known point, at the least: enough for its first rung to judge it.
MIN_UPDATES: Final = DEFAULT_EVALUATIONS * DEFAULT_RUNG_UPDATES
#: Epochs of a whole trial, at the most, and those where no hours are given.
MAX_EPOCHS: Final = 100.0
DEFAULT_EPOCHS: Final = 4.0
#: Judging an image costs a forward pass, training one three: the backward pass is two (Kaplan et al. 2020,
#: https://arxiv.org/abs/2001.08361, section 2.1).
FORWARD_SHARE: Final = 1 / 3


def epochs_per_trial(
    *, images: int, judged: int, batch_size: int, images_per_second: float, search_s: float | None, workers: int
) -> float:
    """Epochs of a whole trial on `images` training images, with `judged` validation images over all its evaluations.

    `images_per_second` is what one worker trains, and `search_s` the time that all of them have; None is no end.
    """
    least = MIN_UPDATES * batch_size / images
    fits = DEFAULT_EPOCHS
    if search_s is not None:
        fits = (search_s * workers / FULL_TRIALS * images_per_second - FORWARD_SHARE * judged) / images
    return float(f"{max(least, min(MAX_EPOCHS, fits)):.4g}")
