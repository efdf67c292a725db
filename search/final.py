"""From a finished search to the study `NAME.final`: one more training of the best trial's configuration.

It is a study of its own, of one trial, so that leases, checkpoints, resuming and the dashboard are there already.
"""

from dataclasses import replace

from models.config import TrainConfig
from search.domain import Fixed
from search.rows import FINAL, TrialRow
from search.seed import derive
from search.spec import StudySpec

#: Several threads in one worker do this share of what as many workers do (0.80 to 0.95 were measured; see LOG).
TOGETHER = 0.85
#: A step of the training, after which there is a checkpoint and a look at the clock, as a share of an epoch.
STEPS_PER_EPOCH = 4
#: No training is planned longer, however much time there is.
MOST_EPOCHS = 300.0


def name_of(study: str) -> str:
    """The study that gives the verdict on another one."""
    return f"{study}{FINAL}"


def spec_of(spec: StudySpec, trial: TrialRow, *, hours: float | None, images: int, cores: int) -> StudySpec:
    """The study of the last training: the configuration of `trial`, on so many images, on so many cores together.

    It takes the epochs that the study file says, and no more than are likely to fit into `hours`; when it runs it
    finds out (`search.verdict`).
    """
    batch = int(trial.config.get("batch_size", TrainConfig().batch_size))
    asked = None if spec.final is None else spec.final.epochs
    epochs = asked or MOST_EPOCHS
    if hours is not None:
        speed = (trial.images_per_second or 0.0) * max(1.0, cores * TOGETHER)
        epochs = min(epochs, max(hours * 3600 * speed, batch) / images)
    steps = max(1, round(epochs * STEPS_PER_EPOCH))
    return replace(
        spec,
        question=f"How good is trial {trial.number} of {trial.study} on images that it was not chosen by?",
        budget=spec.budget.model_copy(
            update={
                "trials": 1,
                "epochs": steps / STEPS_PER_EPOCH,
                "steps_per_epoch": STEPS_PER_EPOCH,
                "hours": hours,
                "max_parameters": None,
                "max_macs": None,
            }
        ),
        search=spec.search.model_copy(
            update={
                "sampler": "random",
                "pruner": "none",
                "repeats": 1,
                "trial_seed": derive(spec.search.seed, trial.number, "final"),
            }
        ),
        space=replace(spec.space, parameters={k: Fixed(trial.config[k]) for k in spec.space.parameters}, when={}),
        points=(),
        rows=(),
        final=None,
        verdict_on=trial.study,
    )
