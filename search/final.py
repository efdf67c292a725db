"""From a finished search to the study `NAME.final`: one more training of the configuration of the trial that leads.

It is a study of its own, of one trial, so that leases, checkpoints, resuming and the dashboard are there already.
"""

import math
from dataclasses import replace

from data.config import DataConfig
from search.rows import FINAL, TrialRow
from search.seed import derive
from search.spec import StudySpec, of_one

#: Steps of an epoch, after each of which there is a checkpoint and a look at the clock: the first of these that a batch
#: fits into. Halves and quarters are exact numbers, so that any number of steps is one of epochs.
STEPS_PER_EPOCH = (4, 2, 1)
#: So many times what seems to fit is planned: the trial's last step, which tells its speed, may have been a slow one.
AT_MOST = 1.5
#: No training is planned longer, however much time there is.
MOST_EPOCHS = 300.0


def name_of(study: str) -> str:
    """The study that gives the verdict on another one."""
    return f"{study}{FINAL}"


def fitting(data: DataConfig, trial: TrialRow, *, hours: float | None, images: int, cores: int) -> float:
    """Epochs over so many images that fit into `hours`, if so many threads train as fast as so many workers do, and
    images of a search, where they are smaller, as much faster as they have fewer pixels.

    A trial that was broken off between its last step and the record of it has no speed; then nobody knows.
    """
    if hours is None or trial.images_per_second is None:
        return math.inf
    pixels = ((data.search_size or data.side) / data.side) ** 2
    return hours * 3600 * trial.images_per_second * pixels * cores / images


def spec_of(spec: StudySpec, trial: TrialRow, *, uid: str, hours: float | None, images: int, cores: int) -> StudySpec:
    """The study of the last training: the configuration of `trial`, on so many images, on so many cores together.
    `uid`: of the study that the trial is of.

    It plans the epochs that the study file says, and no more than fit into `hours` with some to spare; how many do, it
    finds out while it runs (`search.verdict`).
    """
    per_epoch = next(steps for steps in STEPS_PER_EPOCH if trial.config["batch_size"] <= images // steps)
    asked = None if spec.final is None else spec.final.epochs
    epochs = min(asked or MOST_EPOCHS, AT_MOST * fitting(spec.data, trial, hours=hours, images=images, cores=cores))
    steps = max(1, round(epochs * per_epoch))
    one = of_one(
        spec,
        trial.config,
        question=f"How good is trial {trial.number} of {trial.study} on images that it was not chosen by?",
        seed=derive(spec.search.seed, trial.number, "final"),
        epochs=steps / per_epoch,
        steps_per_epoch=per_epoch,
        hours=hours,
        trial_macs=None,
        max_parameters=None,
        max_macs=None,
    )
    return replace(one, verdict_on=uid, data=spec.data.model_copy(update={"search_images": None, "search_size": None}))
