"""The training of one trial, step by step: report, checkpoint, prune, score.

Training knows nothing of trials (`models.train` is a generator); here its steps become reports, checkpoints and
decisions. What is decided is recorded before it is acted on, so that a trial that breaks off anywhere is taken up
again as if nothing had happened:

    train a step -> evaluate -> checkpoint (with the curve) -> report and decision, in one transaction -> stop, or go on
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

#: Images of 32 x 32 pixels that a whitening stem is fitted to: half a million patches, for a matrix of 12 x 12. Larger
#: images are fewer, but never less than a tenth.
SAMPLE = 500
#: Calls between two batches; it raises to stop the trial there.
Pulse = Callable[[], None]


def sample(data: TrainData, seed: int) -> Tensor:
    """(N, 3, side, side) training images, normalised and unchanged, drawn by seed; on the CPU."""
    count = max(SAMPLE // 10, min(SAMPLE, SAMPLE * DEFAULT_SIDE**2 // data.info.image_size**2))
    device = data.train.images.device
    batches = Batches(data.train, data.info, batch_size=count, seed=seed, augment=AugmentConfig(), device=device)
    return batches.batch(0)[0].cpu()


def step_boundaries(*, step_images: Fraction, batch_size: int, steps: int) -> tuple[int, ...]:
    """The batches, counted from the start, after which each step of `step_images` images ends."""
    return tuple(math.ceil(step * step_images / batch_size) for step in range(1, steps + 1))


@dataclass(kw_only=True, slots=True)
class SearchTraining:
    """The training of one trial in this process, as a search does it: judged after each step."""

    context: TrainingContext
    claim: Claim
    trial: optuna.Trial
    on_batch: Pulse
    values: dict[str, Any]
    seed: int
    step_epochs: Fraction
    """Of a step; see `Budget.step_epochs`."""
    judged_from: int = 0
    """The step of the first rung that judges it."""
    curve: dict[int, float] = field(default_factory=dict)
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _ledger: TrialRecorder = field(init=False)

    def __post_init__(self) -> None:
        self._ledger = TrialRecorder(
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
                self.note(f"no CUDA graph could be recorded, and without one it is slower: {training.fallback_reason}")

    def step_images(self) -> Fraction:
        """Images of a step."""
        return self.step_epochs * len(self.context.data.train)

    def steps_done(self, training: Training) -> int:
        """Completed steps, evaluation included."""
        return len(self.curve)

    def follow(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Outcome:
        """Train to the end, or until a decision stops it."""
        self.resume(training)
        for decision in self._decisions(training, batches, ends):
            if decision is not None:
                return Outcome(reason=decision.reason)
        return Outcome(value=self.curve[len(ends)], costs=self._costs())

    def _decisions(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Iterator[PruneDecision | None]:
        """Do what is left to do, and tell after each step whether to stop; first what an earlier attempt began."""
        for step in sorted(self.curve.keys() - self._ledger.reported):
            # The weights are still those of the newest one, unless a stop came in the middle of the next.
            is_there = step == training.step and training.batch == ends[step - 1]
            result = self._evaluate(training) if is_there and self._keeps(step) else None
            yield self._record(step, self.curve[step], result=result)
        if self.curve:  # it may be reported, and not judged yet
            yield self._ledger.ask_optuna(max(self.curve), self.curve[max(self.curve)])
        if training.step > len(self.curve):  # trained, and not evaluated yet
            yield self._end_step(training, training.step)
        self._anneal(training, ends)
        for told in training.run(lambda first, last: self.watched(batches(first, last)), ends):
            yield self._end_step(training, told.step, images_per_second=told.images / told.seconds)
            self._anneal(training, ends)

    def _anneal(self, training: Training, ends: tuple[int, ...]) -> None:
        """Let the schedule end at the next rung, if the study wants that."""
        stored = self.context.spec
        if stored.search.anneal:
            stops = (*asha(stored).rungs(), len(ends))
            training.stretch(ends[next((rung for rung in stops if rung > training.step), len(ends)) - 1])

    def resume(self, training: Training) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        reported = frozenset(self.context.cached.get_trial(self.claim.trial_id).intermediate_values)
        self._ledger.reported = reported
        self._bring()
        found = checkpoint.latest(self._folder(), study=self.context.study.uid, trial=self.claim.number, say=self.note)
        if found is None:
            if reported or self.trial.user_attrs.get("epochs"):  # a verdict has no steps to report
                self.seconds_before = float(self.trial.user_attrs.get("seconds", 0.0))
                what = f"{len(reported)} recorded steps" if reported else "its epochs"
                self.note(f"no checkpoint in {self._folder()}; {what} are trained again")
                self.trial.set_user_attr("anew", [*self.trial.user_attrs.get("anew", []), self.claim.attempt])
            return
        header, state = found
        training.load(cast("TrainingState", state))
        self.curve = dict(header.curve)
        self.seconds_before = header.seconds
        self.note(f"going on after step {header.step}, batch {header.batch}")

    def _end_step(
        self, training: Training, step: int, *, images_per_second: float | None = None
    ) -> PruneDecision | None:
        """Evaluate, write the checkpoint, then the report and the decision."""
        result = self._evaluate(training)
        if not math.isfinite(result.loss):  # the last update of a step can break the network after its last loss
            raise Diverged(step, training.batch, result.loss)
        self.curve[step] = float(getattr(result, self.context.spec.search.objectives[0]))
        self.save(training, step=step)
        if step == self.context.spec.budget.steps:
            self.keep_picture(result, self.context.data.validation)
        self.note(f"step {step}: {self.curve[step]:.4f}, loss {result.loss:.4f}, {self.seconds():.1f} s")
        return self._record(step, self.curve[step], images_per_second=images_per_second, result=result)

    def _evaluate(self, training: Training) -> Evaluation:
        """Judge the network on the validation images."""
        data = self.context.data
        return evaluate(training.eval_model(), self.judging(data.validation), len(data.info.classes))

    def _keeps(self, step: int) -> bool:
        """Whether it is kept which images were recognised at a step: at rungs and at the end, where trials compare."""
        stored = self.context.spec
        return step == stored.budget.steps or (asha(stored).is_rung(step) and step >= self.judged_from)

    def _correct(self, step: int, result: Evaluation) -> dict[str, Any]:
        """What is kept of the images that were recognised, with those of earlier steps."""
        part = self.context.data.validation
        labels = part.labels[part.indices].cpu()
        classes = len(self.context.data.info.classes)
        before = self.trial.user_attrs.get(CORRECT, {})
        return correctness.add_step(before, step, (result.predicted == labels).numpy(), labels.numpy(), classes=classes)

    def _record(
        self,
        step: int,
        value: float,
        *,
        images_per_second: float | None = None,
        result: Evaluation | None = None,
    ) -> PruneDecision | None:
        return self._ledger.record(
            step,
            value,
            epochs=float(step * self.step_epochs),
            seconds=self.seconds(),
            images_per_second=images_per_second,
            correct=None if result is None or not self._keeps(step) else self._correct(step, result),
        )

    def keep_picture(self, result: Evaluation, part: Split) -> None:
        """Keep the images that the network was surest of and wrong about, for the dashboard."""
        own = part.labels[part.indices].cpu()
        wrong = torch.where(result.predicted == own, -1.0, result.confidence)
        worst = [index for index in wrong.argsort(descending=True)[: misclassified.SHOWN].tolist() if wrong[index] >= 0]
        classes = self.context.data.info.classes
        misclassified.save(
            self._folder(),
            images=part.images[part.indices[worst].to(part.images.device)].cpu().numpy(),
            captions=[
                (classes[own[index]], classes[result.predicted[index]], float(result.confidence[index]))
                for index in worst
            ],
            confusion=result.confusion.tolist(),
            classes=classes,
        )

    def _check_latency(self, training: Training) -> None:
        """Measure how long one image takes, if somebody wants to know; raise Impossible if that is too long.

        It does not depend on the weights, so that slow networks need not be trained. It is measured once: a trial that
        was begun is not stopped later because the machine is busier.
        """
        limit = self.context.spec.budget.max_latency_ms
        wanted = limit is not None or "latency_ms" in self.context.spec.search.objectives
        if not wanted:
            return
        measured = self.trial.user_attrs.get("latency_ms")
        if measured is None:
            one = next(evaluation(self.context.data.validation, self.context.data.info, device=self.context.device))[0][
                0
            ]
            measured = round(1000 * latency_s(training.model, one), 4)
            self.trial.set_user_attr("latency_ms", measured)
        if limit is not None and measured > limit:
            raise Impossible(f"{measured:.3g} ms for one image are more than [budget] max_latency_ms = {limit:g}")

    def _costs(self) -> tuple[float, ...]:
        """The values of the objectives behind the first one."""
        attrs = self.trial.user_attrs
        speed = attrs.get("images_per_second")  # unknown if it broke off after its only step, before that was judged
        epoch_s = len(self.context.data.train) / speed if speed else self.seconds() / attrs["epochs"]
        known = {**attrs, "epoch_seconds": epoch_s}
        return tuple(float(known[name]) for name in self.context.spec.search.objectives[1:])

    def save(self, training: Training, *, step: int) -> None:
        """Write a checkpoint."""
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

    def _bring(self) -> None:
        """Fetch a checkpoint that another machine has left, if it is newer than those here."""
        if self.context.remote is not None:
            try:
                self.context.remote.get(self._folder(), self.claim.number)
            except RemoteStoreError as error:
                self.note(f"what other machines have left cannot be reached: {error}")

    def judging(self, part: Split) -> Iterator[Batch]:
        """All images of a part, with a pulse before each batch; fewer at once where a backbone enlarges them."""
        info = self.context.data.info
        model, _, _ = study_spec.to_model_configs(self.context.spec, self.values)
        size = at_once(model.seen_side(info.image_size))
        return self.watched(evaluation(part, info, size, device=self.context.device))

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with a pulse before each."""
        for batch in batches:
            self.on_batch()
            yield batch

    def seconds(self) -> float:
        """Of this trial, over all its attempts."""
        return self.seconds_before + time.monotonic() - self.began

    def note(self, text: str) -> None:
        """Write a line into the trial's log."""
        study_dir.append_log(self.context.dirs.log(self.context.study.name, self.claim.number), text)

    def _folder(self) -> Path:
        return self.context.dirs.trial(self.context.study.name, self.claim.number)
