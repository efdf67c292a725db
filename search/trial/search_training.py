"""The training of one trial, step by step: report, checkpoint, prune, score.

`models.train` is a generator and has no notion of a trial; this module turns its steps into reports, checkpoints and
decisions. A decision is recorded before it takes effect. A trial that is interrupted at any point therefore resumes as
if nothing had happened:

    train a step -> evaluate -> checkpoint (with the curve) -> report and decision, in one transaction -> stop or go on
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import optuna
import torch
from torch import Tensor

from data.batches import Batches, at_once, evaluation
from data.config import DEFAULT_SIDE, AugmentConfig
from data.parts import Split, TrainData
from models.backbone import pretrained
from models.config import Impossible
from models.evaluate import Evaluation, evaluate, latency_s
from models.train import Batch, Diverged, Training, TrainingState, start
from search.analysis import correctness
from search.artifacts import checkpoint, misclassified, study_dir
from search.artifacts.remote_store import RemoteStoreError
from search.pruners.asha import PruneDecision
from search.spec import study_spec
from search.storage.leases import Claim
from search.storage.records import CORRECT
from search.study.strategy import asha
from search.trial.context import TrainingContext
from search.trial.outcome import Outcome, TrialStopped
from search.trial.recorder import TrialRecorder

#: Number of 32 x 32 images to which a whitening stem is fitted: half a million patches for a 12 x 12 matrix. Larger
#: images: fewer, at least a tenth of this number.
SAMPLE = 500
#: Callback between two batches; it raises to stop the trial there.
Pulse = Callable[[], None]


def sample(data: TrainData, seed: int) -> Tensor:
    """Training images drawn by seed: (N, 3, side, side), normalised, not augmented, on the CPU."""
    count = max(SAMPLE // 10, min(SAMPLE, SAMPLE * DEFAULT_SIDE**2 // data.info.image_size**2))
    device = data.train.images.device
    batches = Batches(data.train, data.info, batch_size=count, seed=seed, augment=AugmentConfig(), device=device)
    return batches.batch(0)[0].cpu()


def step_boundaries(*, step_images: Fraction, batch_size: int, steps: int) -> tuple[int, ...]:
    """The last batch of each step of `step_images` images, as a batch count from the start of the training."""
    return tuple(math.ceil(step * step_images / batch_size) for step in range(1, steps + 1))


@dataclass(kw_only=True, slots=True)
class SearchTraining:
    """The training of one trial of a search, in this process: evaluated and judged after each step."""

    context: TrainingContext
    claim: Claim
    trial: optuna.Trial
    on_batch: Pulse
    values: dict[str, Any]
    seed: int
    step_epochs: Fraction
    """Epochs per step; see `Budget.step_epochs`."""
    judged_from: int = 0
    """The step of the first rung that judges this trial."""
    curve: dict[int, float] = field(default_factory=dict)
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _recorder: TrialRecorder = field(init=False)

    def __post_init__(self) -> None:
        self._recorder = TrialRecorder(
            context=self.context, claim=self.claim, trial=self.trial, judged_from=self.judged_from
        )

    def run(self) -> Outcome:
        steps = self.context.spec.budget.steps
        model, train, augment = study_spec.to_model_configs(self.context.spec, self.values)
        data, device = self.context.data, self.context.device
        batches = Batches(
            data.train,
            data.info,
            batch_size=train.batch_size,
            seed=self.seed,
            augment=augment.scaled(data.info.image_size / self.context.spec.data.side),
            device=device,
        )
        ends = step_boundaries(step_images=self.step_images(), batch_size=train.batch_size, steps=steps)
        training = start(
            model,
            train,
            image_size=data.info.image_size,
            classes=len(data.info.classes),
            total_batches=ends[-1],
            seed=self.seed,
            device=device,
            images=sample(data, self.seed) if model.stem == "whiten" else None,
            weights=pretrained(model.backbone) if model.backbone != "none" else None,
        )
        self._check_latency(training)
        try:
            return self.follow(training, batches, ends)
        except TrialStopped:
            self.save(training, step=self.steps_done(training))
            raise
        finally:
            if training.fallback_reason is not None:
                self.note(f"no CUDA graph could be recorded, so training is slower: {training.fallback_reason}")

    def step_images(self) -> Fraction:
        """Images per step."""
        return self.step_epochs * len(self.context.data.train)

    def steps_done(self, training: Training) -> int:
        """Completed steps, evaluation included."""
        return len(self.curve)

    def follow(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Outcome:
        """Train until the last step, or until a decision stops the trial."""
        self.resume(training)
        for decision in self._decisions(training, batches, ends):
            if decision is not None:
                return Outcome(reason=decision.reason)
        return Outcome(value=self.curve[len(ends)], costs=self._costs())

    def _decisions(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Iterator[PruneDecision | None]:
        """Do the remaining work and yield a decision after each step; unfinished steps of an earlier attempt first."""
        for step in sorted(self.curve.keys() - self._recorder.reported):
            # The weights belong to the newest step, unless the earlier attempt stopped in the middle of the next one.
            has_weights = step == training.step and training.batch == ends[step - 1]
            result = self._evaluate(training) if has_weights and self._keeps(step) else None
            yield self._record(step, self.curve[step], result=result)
        if self.curve:  # the newest step may be reported but not yet judged
            yield self._recorder.ask_optuna(max(self.curve), self.curve[max(self.curve)])
        if training.step > len(self.curve):  # the newest step is trained but not yet evaluated
            yield self._end_step(training, training.step)
        self._anneal(training, ends)
        for finished in training.run(lambda first, last: self.watched(batches(first, last)), ends):
            yield self._end_step(training, finished.step, images_per_second=finished.images / finished.seconds)
            self._anneal(training, ends)

    def _anneal(self, training: Training, ends: tuple[int, ...]) -> None:
        """Let the schedule end at the next rung, if the study has `[search] anneal`."""
        spec = self.context.spec
        if spec.search.anneal:
            stops = (*asha(spec).rungs(), len(ends))
            training.stretch(ends[next((rung for rung in stops if rung > training.step), len(ends)) - 1])

    def resume(self, training: Training) -> None:
        """Resume from the newest complete checkpoint, if there is one."""
        reported = frozenset(self.context.cached.get_trial(self.claim.trial_id).intermediate_values)
        self._recorder.reported = reported
        self._download_checkpoint()
        newest = checkpoint.latest(self._folder(), study=self.context.study.uid, trial=self.claim.number, say=self.note)
        if newest is None:
            if reported or self.trial.user_attrs.get("epochs"):  # a verdict reports no steps
                self.seconds_before = float(self.trial.user_attrs.get("seconds", 0.0))
                lost = f"{len(reported)} recorded steps" if reported else "its epochs"
                self.note(f"no checkpoint in {self._folder()}; {lost} are trained again")
                self.trial.set_user_attr("anew", [*self.trial.user_attrs.get("anew", []), self.claim.attempt])
            return
        header, state = newest
        training.load(cast("TrainingState", state))
        self.curve = dict(header.curve)
        self.seconds_before = header.seconds
        self.note(f"going on after step {header.step}, batch {header.batch}")

    def _end_step(
        self, training: Training, step: int, *, images_per_second: float | None = None
    ) -> PruneDecision | None:
        """Evaluate, write the checkpoint, then store the report and the decision."""
        result = self._evaluate(training)
        if not math.isfinite(result.loss):  # the last update of a step comes after its last loss, and can diverge
            raise Diverged(step, training.batch, result.loss)
        self.curve[step] = float(getattr(result, self.context.spec.search.objectives[0]))
        self.save(training, step=step)
        if step == self.context.spec.budget.steps:
            self.keep_picture(result, self.context.data.validation)
        self.note(f"step {step}: {self.curve[step]:.4f}, loss {result.loss:.4f}, {self.seconds():.1f} s")
        return self._record(step, self.curve[step], images_per_second=images_per_second, result=result)

    def _evaluate(self, training: Training) -> Evaluation:
        """Evaluate the network on the validation images."""
        data = self.context.data
        return evaluate(training.eval_model(), self.judging(data.validation), len(data.info.classes))

    def _keeps(self, step: int) -> bool:
        """Whether to store the correct images of a step: at rungs and at the end, where trials are compared."""
        spec = self.context.spec
        return step == spec.budget.steps or (asha(spec).is_rung(step) and step >= self.judged_from)

    def _correct(self, step: int, result: Evaluation) -> dict[str, Any]:
        """The stored record of the correct images, with those of earlier steps."""
        part = self.context.data.validation
        labels = part.labels[part.indices].cpu()
        classes = len(self.context.data.info.classes)
        earlier = self.trial.user_attrs.get(CORRECT, {})
        return correctness.add_step(
            earlier, step, (result.predicted == labels).numpy(), labels.numpy(), classes=classes
        )

    def _record(
        self,
        step: int,
        value: float,
        *,
        images_per_second: float | None = None,
        result: Evaluation | None = None,
    ) -> PruneDecision | None:
        return self._recorder.record(
            step,
            value,
            epochs=float(step * self.step_epochs),
            seconds=self.seconds(),
            images_per_second=images_per_second,
            correct=None if result is None or not self._keeps(step) else self._correct(step, result),
        )

    def keep_picture(self, result: Evaluation, part: Split) -> None:
        """Save the misclassified images with the highest confidence, for the dashboard."""
        labels = part.labels[part.indices].cpu()
        wrong = torch.where(result.predicted == labels, -1.0, result.confidence)
        worst = [index for index in wrong.argsort(descending=True)[: misclassified.SHOWN].tolist() if wrong[index] >= 0]
        classes = self.context.data.info.classes
        misclassified.save(
            self._folder(),
            images=part.images[part.indices[worst].to(part.images.device)].cpu().numpy(),
            captions=[
                (classes[labels[index]], classes[result.predicted[index]], float(result.confidence[index]))
                for index in worst
            ],
            confusion=result.confusion.tolist(),
            classes=classes,
        )

    def _check_latency(self, training: Training) -> None:
        """Measure the latency of one image, if the study uses it.

        Latency does not depend on the weights; a network that is too slow is therefore never trained. It is measured
        once: a trial that has begun is not stopped later because the machine is busier.

        Raises:
            Impossible: the latency is above `[budget] max_latency_ms`.
        """
        limit = self.context.spec.budget.max_latency_ms
        wanted = limit is not None or "latency_ms" in self.context.spec.search.objectives
        if not wanted:
            return
        measured = self.trial.user_attrs.get("latency_ms")
        if measured is None:
            image = next(evaluation(self.context.data.validation, self.context.data.info, device=self.context.device))[
                0
            ][0]
            measured = round(1000 * latency_s(training.model, image), 4)
            self.trial.set_user_attr("latency_ms", measured)
        if limit is not None and measured > limit:
            raise Impossible(f"{measured:.3g} ms for one image are more than [budget] max_latency_ms = {limit:g}")

    def _costs(self) -> tuple[float, ...]:
        """The values of all objectives but the first."""
        attrs = self.trial.user_attrs
        speed = attrs.get("images_per_second")  # missing if the trial broke off between its only step and the report
        epoch_s = len(self.context.data.train) / speed if speed else self.seconds() / attrs["epochs"]
        metrics = {**attrs, "epoch_seconds": epoch_s}
        return tuple(float(metrics[name]) for name in self.context.spec.search.objectives[1:])

    def save(self, training: Training, *, step: int) -> None:
        """Write a checkpoint, and upload it if the study has a remote store."""
        header = checkpoint.Header(
            study=self.context.study.uid,
            trial=self.claim.number,
            step=step,
            batch=training.batch,
            seconds=self.seconds(),
            curve=tuple(self.curve.items()),
        )
        checkpoint.save(self._folder(), header, dict(training.state()))
        if self.context.remote is not None:
            try:
                self.context.remote.upload(self._folder(), self.claim.number)
            except RemoteStoreError as error:
                self.note(f"this checkpoint is on this machine only: {error}")

    def _download_checkpoint(self) -> None:
        """Download the checkpoint of another machine, if it is newer than the local ones."""
        if self.context.remote is not None:
            try:
                self.context.remote.get(self._folder(), self.claim.number)
            except RemoteStoreError as error:
                self.note(f"the checkpoints of other machines cannot be reached: {error}")

    def judging(self, part: Split) -> Iterator[Batch]:
        """All images of a split, with a pulse before each batch; smaller batches where a backbone enlarges them."""
        info = self.context.data.info
        model, _, _ = study_spec.to_model_configs(self.context.spec, self.values)
        size = at_once(model.seen_side(info.image_size))
        return self.watched(evaluation(part, info, size, device=self.context.device))

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, with a pulse before each."""
        for batch in batches:
            self.on_batch()
            yield batch

    def seconds(self) -> float:
        """Training time of this trial in seconds, over all attempts."""
        return self.seconds_before + time.monotonic() - self.began

    def note(self, text: str) -> None:
        """Append a line to the log of the trial."""
        study_dir.append_log(self.context.dirs.log(self.context.study.name, self.claim.number), text)

    def _folder(self) -> Path:
        return self.context.dirs.trial(self.context.study.name, self.claim.number)
