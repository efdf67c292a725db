"""A trial of a study `NAME.final`: train on train and validation images together, then look once at the test images.

The training fits itself to the time that its study has left for it: after each step it compares the batches to come
with the speed it has, and moves its end. Until the last batch nobody judges it; where there are several, each waits
with its look until all are trained, so that the test images are seen in one go.
"""

import math
import time
from typing import Any, assert_never

from torch import Tensor

from data.batches import Batches, evaluation
from data.parts import load_test
from models.evaluate import Evaluation, evaluate, latency_s
from models.train import Diverged, Training
from search.analysis.correctness import pack
from search.analysis.intervals import mean_share_interval, wilson_interval
from search.spec.settings import Metric
from search.storage.records import PAUSED
from search.study.stored_study import seconds_run
from search.study.strategy import ladder
from search.trial.outcome import Outcome, TrialPaused
from search.trial.search_training import SearchTraining, step_boundaries

#: What is left for the last look, and for a step that is slower than those before: a share of the time, and seconds.
SPARE_SHARE, SPARE_S = 0.02, 4.0


class FinalTraining(SearchTraining):
    """The one training of a verdict, on all images but those of the test."""

    def follow(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Outcome:
        """Train to the end, wherever the time puts it, and look."""
        self.resume(training)
        while training.batch < training.total_batches:
            for result in training.run(lambda first, last: self.watched(batches(first, last)), self._ends(training)):
                self.save(training, step=result.step)
                self._tell(training, result.images / result.seconds)
            if training.batch < training.total_batches:
                self._fit(training)
        self._wait(training)
        return self._look(training)

    def steps_done(self, training: Training) -> int:
        return training.step

    def _ends(self, training: Training) -> tuple[int, ...]:
        """Where the steps end, up to the next one; the last step may be a short one."""
        *done, following = step_boundaries(
            step_images=self.step_images(), batch_size=training.config.batch_size, steps=training.step + 1
        )
        return *done, min(following, training.total_batches)

    def _tell(self, training: Training, images_per_second: float) -> None:
        epochs = training.batch * training.config.batch_size / len(self.context.data.train)
        self.note(f"{epochs:.2f} epochs, {self.seconds():.1f} s")
        with self.context.storage.batch():
            self.trial.set_user_attr("seconds", round(self.seconds(), 3))
            self.trial.set_user_attr("epochs", round(epochs, 2))
            self.trial.set_user_attr("images_per_second", round(images_per_second, 1))

    def _fit(self, training: Training) -> None:
        """Fit the schedule to the time that is left, if the study has hours."""
        hours = self.context.spec.budget.hours
        if hours is None:
            return
        speed = training.batch / self.seconds()
        possible = training.batch + math.floor(max(0.0, self._left_s(hours)) * speed)
        training.end_after(min(possible, self._planned(training)))

    def _left_s(self, hours: float) -> float:
        """The seconds that are left for this training: an equal share of the study's hours, as far as they reach."""
        study, storage = self.context.study, self.context.storage
        whole_s = hours * 3600 * (1 - SPARE_SHARE) - SPARE_S
        own_s = whole_s / math.ceil(study.spec.budget.trials / self.context.workers)
        return min(own_s - self.seconds(), whole_s - seconds_run(storage, study.id))

    def _wait(self, training: Training) -> None:
        """Pause once after the training, until all other final trainings have finished."""
        if ladder(self.context.spec) is None or PAUSED in self.trial.user_attrs:
            return
        self.save(training, step=training.step)  # with its end where the time has put it
        self.trial.set_user_attr(PAUSED, training.step)
        raise TrialPaused(training.step, until="all are trained")

    def _planned(self, training: Training) -> int:
        """Batches of all the epochs that were planned: the study file's, or more than there is time for."""
        steps = self.context.spec.budget.steps
        return step_boundaries(step_images=self.step_images(), batch_size=training.config.batch_size, steps=steps)[-1]

    def _look(self, training: Training) -> Outcome:
        """Judge the network on the test images, and store what was counted; a second attempt reads what the first has
        stored.
        """
        known = self.trial.user_attrs.get("test", {})
        if "value" in known:
            return Outcome(value=known["value"])
        test = load_test(self.context.spec.data, self.context.cache).to(self.context.device)
        model = training.eval_model()
        info = self.context.data.info
        result = evaluate(model, self.judging(test), len(info.classes))
        if not math.isfinite(result.loss):
            raise Diverged(training.step, training.batch, result.loss)
        one = next(evaluation(test, info, device=self.context.device))[0][0]
        self.keep_picture(result, test)
        metric = self.context.spec.search.metric
        value = float(getattr(result, metric))
        self.note(f"test images: {value:.4f}")
        with self.context.storage.batch():
            self.trial.set_user_attr("test", to_stored_result(result, test.labels[test.indices], metric=metric))
            self.trial.set_user_attr("latency_ms", round(1000 * latency_s(model, one), 3))
            self.trial.set_user_attr("seconds", round(self.seconds(), 3))
        return Outcome(value=value)


def to_stored_result(result: Evaluation, labels: Tensor, *, metric: Metric) -> dict[str, Any]:
    """What one look at the test images, of these (N,) labels, has counted; `metric` is the value that is stored."""
    low, high = _interval(result, metric)
    return {
        "value": float(getattr(result, metric)),
        "images": result.images,
        "right": int(result.confusion.diagonal().sum()),
        "interval": [round(low, 5), round(high, 5)],
        "confusion": result.confusion.tolist(),
        "bits": pack((result.predicted == labels.cpu()).numpy(), labels.cpu().numpy()),
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }


def _interval(result: Evaluation, metric: Metric) -> tuple[float, float]:
    """The 95 % interval of a metric over other test images."""
    right, of = result.confusion.diagonal().tolist(), result.confusion.sum(dim=1).tolist()
    match metric:
        case "accuracy":
            return wilson_interval(sum(right), result.images)
        case "balanced_accuracy":
            return mean_share_interval([(hits, images) for hits, images in zip(right, of, strict=True) if images])
        case _:
            assert_never(metric)
