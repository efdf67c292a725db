"""A trial of a study `NAME.final`: train on train and validation images together, then evaluate once on the test set.

The training adapts to the time that the study has left: after each step it compares the remaining batches with its
speed and moves its end. It is not judged before the last batch. With several trainings, each waits with its test until
all are trained; the tests then follow directly after one another.
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

#: Reserve for the test evaluation and for a step that is slower than those before: a share of the time, and seconds.
SPARE_SHARE, SPARE_S = 0.02, 4.0


class FinalTraining(SearchTraining):
    """A training of a verdict, on all images but the test images."""

    def follow(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Outcome:
        """Train until the end that the time limit sets, then test."""
        self.resume(training)
        while training.batch < training.total_batches:
            for result in training.run(lambda first, last: self.watched(batches(first, last)), self._ends(training)):
                self.save(training, step=result.step)
                self._store_progress(training, result.images / result.seconds)
            if training.batch < training.total_batches:
                self._fit(training)
        self._wait(training)
        return self._test(training)

    def steps_done(self, training: Training) -> int:
        return training.step

    def _ends(self, training: Training) -> tuple[int, ...]:
        """The last batch of each step, up to the next step; the last step of the training may be shorter."""
        *done, following = step_boundaries(
            step_images=self.step_images(), batch_size=training.config.batch_size, steps=training.step + 1
        )
        return *done, min(following, training.total_batches)

    def _store_progress(self, training: Training, images_per_second: float) -> None:
        epochs = training.batch * training.config.batch_size / len(self.context.data.train)
        self.note(f"{epochs:.2f} epochs, {self.seconds():.1f} s")
        with self.context.storage.batch():
            self.trial.set_user_attr("seconds", round(self.seconds(), 3))
            self.trial.set_user_attr("epochs", round(epochs, 2))
            self.trial.set_user_attr("images_per_second", round(images_per_second, 1))

    def _fit(self, training: Training) -> None:
        """Fit the schedule to the remaining time, if the study has hours."""
        hours = self.context.spec.budget.hours
        if hours is None:
            return
        speed = training.batch / self.seconds()
        possible = training.batch + math.floor(max(0.0, self._left_s(hours)) * speed)
        training.end_after(min(possible, self._planned(training)))

    def _left_s(self, hours: float) -> float:
        """The seconds left for this training: an equal share of the hours, at most what the study has left."""
        study, storage = self.context.study, self.context.storage
        total_s = hours * 3600 * (1 - SPARE_SHARE) - SPARE_S
        share_s = total_s / math.ceil(study.spec.budget.trials / self.context.workers)
        return min(share_s - self.seconds(), total_s - seconds_run(storage, study.id))

    def _wait(self, training: Training) -> None:
        """Pause once after the training, until all other final trainings have finished."""
        if ladder(self.context.spec) is None or PAUSED in self.trial.user_attrs:
            return
        self.save(training, step=training.step)  # with the end that the time limit has set
        self.trial.set_user_attr(PAUSED, training.step)
        raise TrialPaused(training.step, until="all are trained")

    def _planned(self, training: Training) -> int:
        """Batches of all planned epochs: those of the study file, or more than the time allows."""
        steps = self.context.spec.budget.steps
        return step_boundaries(step_images=self.step_images(), batch_size=training.config.batch_size, steps=steps)[-1]

    def _test(self, training: Training) -> Outcome:
        """Evaluate the network on the test images and store the result; a second attempt reads the stored result."""
        stored = self.trial.user_attrs.get("test", {})
        if "value" in stored:
            return Outcome(value=stored["value"])
        test = load_test(self.context.spec.data, self.context.cache).to(self.context.device)
        model = training.eval_model()
        info = self.context.data.info
        result = evaluate(model, self.judging(test), len(info.classes))
        if not math.isfinite(result.loss):
            raise Diverged(training.step, training.batch, result.loss)
        image = next(evaluation(test, info, device=self.context.device))[0][0]
        self.keep_picture(result, test)
        metric = self.context.spec.search.metric
        value = float(getattr(result, metric))
        self.note(f"test images: {value:.4f}")
        with self.context.storage.batch():
            self.trial.set_user_attr("test", to_stored_result(result, test.labels[test.indices], metric=metric))
            self.trial.set_user_attr("latency_ms", round(1000 * latency_s(model, image), 3))
            self.trial.set_user_attr("seconds", round(self.seconds(), 3))
        return Outcome(value=value)


def to_stored_result(result: Evaluation, labels: Tensor, *, metric: Metric) -> dict[str, Any]:
    """The stored result of one evaluation on the test images.

    Args:
        result: The evaluation.
        labels: (N,) labels of the test images.
        metric: The metric that is stored as `value`.
    """
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
    right, counts = result.confusion.diagonal().tolist(), result.confusion.sum(dim=1).tolist()
    match metric:
        case "accuracy":
            return wilson_interval(sum(right), result.images)
        case "balanced_accuracy":
            return mean_share_interval([(hits, images) for hits, images in zip(right, counts, strict=True) if images])
        case _:
            assert_never(metric)
