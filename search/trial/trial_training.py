"""The training of one trial in this process: its network, its batches, its time, and its checkpoints.

`SearchTraining` and `FinalTraining` decide when it is evaluated and when it ends.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import optuna
from torch import Tensor

from data.batches import Batches, evaluation, evaluation_batch_size
from data.config import DEFAULT_SIDE, AugmentConfig
from data.parts import Split, TrainData
from models.backbone import pretrained
from models.config import Impossible, TestTimeAugmentation
from models.evaluate import Evaluation, evaluate, evaluate_averaged, latency_s
from models.train import Batch, StepResult, Training, start
from models.training_state import TrainingState
from search.spec import study_spec
from search.storage import attr_keys
from search.storage.claims import Claim
from search.trial.context import TrainingContext
from search.trial.trial_files import TrialFiles

#: Number of 32 x 32 images to which a whitening stem is fitted: half a million patches for a 12 x 12 matrix. Larger
#: images: fewer, at least a tenth of this number.
SAMPLE = 500
#: Callback between two batches; it raises to stop the trial there.
Pulse = Callable[[], None]


def step_boundaries(*, step_images: Fraction, batch_size: int, steps: int) -> tuple[int, ...]:
    """The last batch of each step of `step_images` images, as a batch count from the start of the training."""
    return tuple(math.ceil(step * step_images / batch_size) for step in range(1, steps + 1))


def sample(data: TrainData, seed: int) -> Tensor:
    """Training images drawn by seed: (N, 3, side, side), normalised, not augmented, on the CPU."""
    count = max(SAMPLE // 10, min(SAMPLE, SAMPLE * DEFAULT_SIDE**2 // data.info.image_size**2))
    device = data.train.images.device
    batches = Batches(data.train, data.info, batch_size=count, seed=seed, augment=AugmentConfig(), device=device)
    return batches.batch(0)[0].cpu()


@dataclass(kw_only=True, slots=True)
class TrialTraining:
    """The training of one trial.

    Raises:
        Impossible: The network cannot be built or trained.
    """

    context: TrainingContext
    claim: Claim
    trial: optuna.Trial
    values: dict[str, Any]
    """The configuration of the trial by key."""
    seed: int
    step_epochs: Fraction
    """Epochs per step; see `Budget.step_epochs`."""
    on_batch: Pulse
    curve: dict[int, float] = field(default_factory=dict)
    """Value of each step that is evaluated."""
    files: TrialFiles = field(init=False)
    training: Training = field(init=False)
    _batches: Batches = field(init=False)
    _seconds_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.files = TrialFiles(self.context, self.claim.number)
        data, device = self.context.data, self.context.device
        model, train, augment = study_spec.to_model_configs(self.context.spec, self.values)
        self._batches = Batches(
            data.train,
            data.info,
            batch_size=train.batch_size,
            seed=self.seed,
            augment=augment.scaled(data.info.image_size / self.context.spec.data.side),
            device=device,
        )
        classes = len(data.info.classes)
        self.training = start(
            model,
            train,
            image_size=data.info.image_size,
            classes=classes,
            total_batches=self.boundaries()[-1],
            seed=self.seed,
            device=device,
            images=sample(data, self.seed) if model.stem == "whiten" else None,
            weights=pretrained(model.backbone) if model.backbone != "none" else None,
            class_counts=data.train.class_counts(classes),
        )

    def boundaries(self, steps: int | None = None) -> tuple[int, ...]:
        """The last batch of each step.

        Args:
            steps: Number of steps; None is all that the study plans.
        """
        return step_boundaries(
            step_images=self.step_epochs * len(self.context.data.train),
            batch_size=self.values["batch_size"],
            steps=self.context.spec.budget.steps if steps is None else steps,
        )

    def run_steps(self, boundaries: Sequence[int]) -> Iterator[StepResult]:
        """Train the steps that end at `boundaries` and are not done yet, and yield the result of each."""
        yield from self.training.run(lambda first, last: self._pulsed(self._batches(first, last)), boundaries)

    def resume(self) -> None:
        """Resume from the newest complete checkpoint, if there is one."""
        reported = self.context.cached.get_trial(self.claim.trial_id).intermediate_values
        newest = self.files.load_checkpoint()
        if newest is not None:
            header, state = newest
            self.training.load(cast("TrainingState", state))
            self.curve = dict(header.curve)
            self._seconds_before = header.seconds
            self.files.log(f"going on after step {header.step}, batch {header.batch}")
            return
        attrs = self.trial.user_attrs
        if reported or attrs.get(attr_keys.EPOCHS):  # a final training reports no steps
            self._seconds_before = float(attrs.get(attr_keys.SECONDS, 0.0))
            lost = f"{len(reported)} recorded steps" if reported else "its epochs"
            self.files.log(f"no checkpoint in {self.files.folder}; {lost} are trained again")
            self.trial.set_user_attr(
                attr_keys.RETRAINED_ATTEMPTS, [*attrs.get(attr_keys.RETRAINED_ATTEMPTS, []), self.claim.attempt]
            )

    def save(self, *, step: int) -> None:
        """Write a checkpoint of `step` completed steps."""
        state = dict(self.training.state())
        self.files.save_checkpoint(
            state, step=step, batch=self.training.batch, seconds=self.seconds(), curve=self.curve
        )

    def evaluate(self, split: Split) -> Evaluation:
        """Evaluate the network on a split."""
        classes = len(self.context.data.info.classes)
        return evaluate(self.training.eval_model(), self.evaluation_batches(split), classes)

    def evaluate_averaged(self, split: Split, augmentation: TestTimeAugmentation) -> tuple[Evaluation, Evaluation]:
        """Evaluate the network on a split, without and with test-time augmentation, in one pass over the images."""
        classes = len(self.context.data.info.classes)
        return evaluate_averaged(self.training.eval_model(), self.evaluation_batches(split), classes, augmentation)

    def evaluation_batches(self, split: Split) -> Iterator[Batch]:
        """All images of a split; in smaller batches where a backbone enlarges them."""
        info = self.context.data.info
        model, _, _ = study_spec.to_model_configs(self.context.spec, self.values)
        size = evaluation_batch_size(model.seen_side(info.image_size))
        return self._pulsed(evaluation(split, info, size, device=self.context.device))

    def latency_ms(self, split: Split) -> float:
        """The latency of the first image of a split in milliseconds."""
        images, _ = next(evaluation(split, self.context.data.info, device=self.context.device))
        return 1000 * latency_s(self.training.eval_model(), images[0])

    def check_latency(self) -> None:
        """Measure the latency of one image, if the study uses it.

        Latency does not depend on the weights; a network that is too slow is therefore never trained. It is measured
        once: a trial that has begun is not stopped later because the machine is busier.

        Raises:
            Impossible: The latency is above `[budget] max_latency_ms`.
        """
        spec = self.context.spec
        limit = spec.budget.max_latency_ms
        if limit is None and "latency_ms" not in spec.search.objectives:
            return
        measured = self.trial.user_attrs.get(attr_keys.LATENCY_MS)
        if measured is None:
            measured = round(self.latency_ms(self.context.data.validation), 4)
            self.trial.set_user_attr(attr_keys.LATENCY_MS, measured)
        if limit is not None and measured > limit:
            raise Impossible(
                f"{measured:.3g} ms for one image are more than [budget] max_latency_ms = {limit:g}; "
                "raise it, or lower [space] width"
            )

    def seconds(self) -> float:
        """Training time of this trial in seconds, over all attempts."""
        return self._seconds_before + time.monotonic() - self._began

    def _pulsed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, with a pulse before each."""
        for batch in batches:
            self.on_batch()
            yield batch
