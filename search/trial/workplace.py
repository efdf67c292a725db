"""What all trials of a worker share."""

from dataclasses import dataclass
from pathlib import Path

import torch

from data.parts import SearchData
from search.spec.fit import ImageLimits
from search.trial.desk import TrialContext


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingContext(TrialContext):
    """A desk with images and a device, where trials are trained."""

    data: SearchData
    device: torch.device
    cache: Path
    """Folder of the decoded images."""
    workers: int = 1
    """That work at the same time on this machine, this one included."""

    @property
    def limits(self) -> ImageLimits:
        """What its images allow."""
        return limits(self.data)


def limits(data: SearchData) -> ImageLimits:
    """What the images allow that are trained on."""
    return ImageLimits(side=data.info.image_size, classes=len(data.info.classes), images=len(data.train))
