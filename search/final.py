"""From a finished search to the study `NAME.final`: one more training of the best trial's configuration.

It is a study of its own, of one trial, so that leases, checkpoints, resuming and the dashboard are there already.
"""

from dataclasses import replace

from search.rows import FINAL, TrialRow
from search.seed import derive
from search.spec import StudySpec, of_one

#: Steps of an epoch, after each of which there is a checkpoint and a look at the clock: the first that no batch of the
#: search is larger than. Halves and quarters are exact numbers, so that any number of steps is one of epochs.
STEPS_PER_EPOCH = (4, 2, 1)
#: No training is planned longer, however much time there is.
MOST_EPOCHS = 300.0


def name_of(study: str) -> str:
    """The study that gives the verdict on another one."""
    return f"{study}{FINAL}"


def spec_of(spec: StudySpec, trial: TrialRow, *, hours: float | None, images: int, cores: int) -> StudySpec:
    """The study of the last training: the configuration of `trial`, on so many images, on so many cores together.

    It plans the epochs that the study file says, and no more than fit into `hours` if its threads trained as fast
    together as so many workers; it finds out while it runs (`search.verdict`).
    """
    per_epoch = next(steps for steps in STEPS_PER_EPOCH if steps <= spec.budget.steps_per_epoch)
    asked = None if spec.final is None else spec.final.epochs
    epochs = asked or MOST_EPOCHS
    if hours is not None:
        epochs = min(epochs, hours * 3600 * (trial.images_per_second or 0.0) * cores / images)
    steps = max(1, round(epochs * per_epoch))
    one = of_one(
        spec,
        trial.config,
        question=f"How good is trial {trial.number} of {trial.study} on images that it was not chosen by?",
        seed=derive(spec.search.seed, trial.number, "final"),
        epochs=steps / per_epoch,
        steps_per_epoch=per_epoch,
        hours=hours,
        max_parameters=None,
        max_macs=None,
    )
    return replace(one, verdict_on=trial.study, data=spec.data.model_copy(update={"search_images": None}))
