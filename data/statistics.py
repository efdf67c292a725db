"""Statistics of training images, from which the recipe of a study is made."""

import math
from typing import Final

from pydantic import BaseModel, ConfigDict

from data.preprocessing import Fit

#: Mirrored images keep their class if a classifier recognises this share of them, or if it may by chance recognise
#: fewer (one-sided, 5 %). Measured: photos 0.94 to 1.09, steel 0.73 to 0.93, clothes 0.73 to 0.82, traffic signs 0.56
#: to 0.72, letters 0.28 to 0.46, hands of one side 0.16 to 0.32 (studies/LOG.md, 2026-11-30).
LEAST_SHARE: Final = 0.9
QUANTILE: Final = 1.645

FROZEN: Final = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MirrorTest(BaseModel):
    """Whether images that are mirrored left to right keep their class, by a small classifier of other images."""

    model_config = FROZEN

    recognised: int
    """Images that the classifier recognises."""

    mirrored: int
    """Images that it recognises when they are mirrored."""

    lost: int
    """Images that it recognises, but not when they are mirrored."""

    @property
    def share(self) -> float:
        """Recognised mirrored images, as a share of the recognised images."""
        return self.mirrored / max(1, self.recognised)

    @property
    def keeps_class(self) -> bool:
        """Whether mirrored images keep their class."""
        gained = self.mirrored - self.recognised + self.lost
        is_chance = self.lost - gained <= QUANTILE * math.sqrt(self.lost + gained)
        return self.share >= LEAST_SHARE or is_chance


class ImageStatistics(BaseModel):
    """Statistics of the training images of a set, validation images counted."""

    model_config = FROZEN

    classes: tuple[str, ...]

    counts: tuple[int, ...]
    """Training images per class."""

    side: int
    """Median side in pixels of the square that `fit` makes of a file."""

    fit: Fit
    """How files become square."""

    is_grey: bool
    """Whether all images of a sample are grey."""

    mirror: MirrorTest

    @property
    def images(self) -> int:
        """Number of training images."""
        return sum(self.counts)

    @property
    def imbalance(self) -> float:
        """Images of the largest class, as a multiple of those of the smallest."""
        return max(self.counts) / max(1, min(self.counts))
