"""A trial of a search: evaluated, recorded and judged after each step.

`models.train` is a generator and has no notion of a trial; this module turns its steps into reports, checkpoints and
decisions. A decision is recorded before it takes effect. A trial that is interrupted at any point therefore resumes as
if nothing had happened:

    train a step -> evaluate -> checkpoint (with the curve) -> report and decision, in one transaction -> stop or go on
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.evaluate import Evaluation
from models.train import Diverged
from search.analysis import correctness
from search.pruners.asha import PruneDecision
from search.storage import attr_keys
from search.study.strategy import asha
from search.trial.outcome import Outcome, TrialStopped
from search.trial.recorder import TrialRecorder
from search.trial.trial_training import TrialTraining


@dataclass(frozen=True, slots=True)
class SearchTraining:
    """Runs a trial of a search."""

    run: TrialTraining
    recorder: TrialRecorder

    def execute(self) -> Outcome:
        """Train until the last step, or until a decision stops the trial.

        Raises:
            TrialStopped: The worker is to stop; the checkpoint is on the disk.
            TrialPaused: The trial waits at a rung.
            Diverged: The loss is not finite.
            Impossible: The network is too slow.
        """
        self.run.check_latency()
        try:
            self.run.resume()
            for decision in self._decisions(self.run.boundaries()):
                if decision is not None:
                    return Outcome(reason=decision.reason)
        except TrialStopped:
            self.run.save(step=len(self.run.curve))
            raise
        return Outcome(value=self.run.curve[self.run.context.spec.budget.steps], costs=self._costs())

    def _decisions(self, ends: tuple[int, ...]) -> Iterator[PruneDecision | None]:
        """Do the remaining work and yield a decision after each step; unfinished steps of an earlier attempt first."""
        run, training, curve = self.run, self.run.training, self.run.curve
        for step in sorted(curve.keys() - self.recorder.reported):
            # The weights belong to the newest step, unless the earlier attempt stopped in the middle of the next one.
            has_weights = step == training.step and training.batch == ends[step - 1]
            result = run.evaluate(run.context.data.validation) if has_weights and self._keeps(step) else None
            yield self._record(step, curve[step], result=result)
        if curve:  # the newest step may be reported but not yet judged
            yield self.recorder.ask_optuna(max(curve), curve[max(curve)])
        if training.step > len(curve):  # the newest step is trained but not yet evaluated
            yield self._end_step(training.step)
        self._anneal(ends)
        for finished in run.run_steps(ends):
            yield self._end_step(finished.step, images_per_second=finished.images / finished.seconds)
            self._anneal(ends)

    def _anneal(self, ends: tuple[int, ...]) -> None:
        """Let the schedule end at the next rung, if the study has `[search] anneal`."""
        spec, training = self.run.context.spec, self.run.training
        if spec.search.anneal:
            stops = (*asha(spec).rungs(), len(ends))
            training.stretch(ends[next((rung for rung in stops if rung > training.step), len(ends)) - 1])

    def _end_step(self, step: int, *, images_per_second: float | None = None) -> PruneDecision | None:
        """Evaluate, write the checkpoint, then store the report and the decision."""
        run = self.run
        data, spec = run.context.data, run.context.spec
        result = run.evaluate(data.validation)
        if not math.isfinite(result.loss):  # the last update of a step comes after its last loss, and can diverge
            raise Diverged(step, run.training.batch, result.loss)
        value = run.curve[step] = float(getattr(result, spec.search.objectives[0]))
        run.save(step=step)
        if step == spec.budget.steps:
            run.files.save_misclassified(result, data.validation, data.info.classes)
        run.files.log(f"step {step}: {value:.4f}, loss {result.loss:.4f}, {run.seconds():.1f} s")
        return self._record(step, value, images_per_second=images_per_second, result=result)

    def _record(
        self,
        step: int,
        value: float,
        *,
        images_per_second: float | None = None,
        result: Evaluation | None = None,
    ) -> PruneDecision | None:
        return self.recorder.record(
            step,
            value,
            epochs=float(step * self.run.step_epochs),
            seconds=self.run.seconds(),
            images_per_second=images_per_second,
            correct=None if result is None or not self._keeps(step) else self._correct(step, result),
        )

    def _keeps(self, step: int) -> bool:
        """Whether to store the correct images of a step: at rungs and at the end, where trials are compared."""
        spec = self.run.context.spec
        return step == spec.budget.steps or (asha(spec).is_rung(step) and step >= self.recorder.judged_from)

    def _correct(self, step: int, result: Evaluation) -> dict[str, Any]:
        """The stored record of the correct images, with those of earlier steps."""
        data = self.run.context.data
        labels = data.validation.labels[data.validation.indices].cpu()
        earlier = self.run.trial.user_attrs.get(attr_keys.CORRECT, {})
        is_correct = (result.predicted == labels).numpy()
        return correctness.add_step(earlier, step, is_correct, labels.numpy(), classes=len(data.info.classes))

    def _costs(self) -> tuple[float, ...]:
        """The values of all objectives but the first."""
        run = self.run
        attrs = run.trial.user_attrs
        # The speed is missing if the trial broke off between its only step and the report.
        speed = attrs.get(attr_keys.IMAGES_PER_SECOND)
        epoch_s = len(run.context.data.train) / speed if speed else run.seconds() / attrs[attr_keys.EPOCHS]
        metrics = {**attrs, "epoch_seconds": epoch_s}
        return tuple(float(metrics[name]) for name in run.context.spec.search.objectives[1:])
