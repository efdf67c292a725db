"""A trial of a study `NAME.final`: train on train and validation images together, then evaluate once on the test set.

With `[final] test_time_augmentation` the same pass over the test images also classifies averages over copies of each.
That result is stored beside the plain one, which remains the value of the trial.

The training adapts to the time that the study has left: after each step it compares the remaining batches with its
speed and moves its end. It is not judged before the last batch. With several trainings, each waits with its test until
all are trained; the tests then follow directly after one another.
"""

import math
import time
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor

from data.parts import load_test
from models.config import PASSES, TestTimeAugmentation
from models.evaluate import Evaluation
from models.train import Diverged
from search.analysis.averaged import copies
from search.analysis.correctness import pack
from search.analysis.intervals import mean_share_interval, wilson_interval
from search.spec.settings import Metric
from search.storage import attr_keys
from search.study.stored_study import seconds_run
from search.study.strategy import promotion_policy
from search.trial.outcome import Outcome, TrialPaused, TrialStopped
from search.trial.thread_tuner import ThreadTuner
from search.trial.trial_training import TrialTraining

#: Reserve for the test evaluation and for a step that is slower than those before: a share of the time, and seconds.
SPARE_SHARE, SPARE_S = 0.02, 4.0


@dataclass(frozen=True, slots=True)
class FinalTraining:
    """Runs a trial of a study `NAME.final`."""

    run: TrialTraining

    def execute(self) -> Outcome:
        """Train until the end that the time limit sets, then test.

        Raises:
            TrialStopped: The worker is to stop; the checkpoint is on the disk.
            TrialPaused: The test waits until all final trainings are trained.
            Diverged: The loss is not finite.
            Impossible: The network is too slow.
        """
        run = self.run
        run.check_latency()
        try:
            run.resume()
            self._train()
            self._wait()
            return self._test()
        except TrialStopped:
            run.save(step=run.training.step)
            raise

    def _train(self) -> None:
        run, threads = self.run, torch.get_num_threads()
        if run.context.spec.budget.hours is not None and run.context.device.type == "cpu" and threads > 1:
            run.on_batch = ThreadTuner(threads=threads, on_batch=run.on_batch)
        try:
            self._train_steps()
        finally:
            torch.set_num_threads(threads)

    def _train_steps(self) -> None:
        run, training = self.run, self.run.training
        while training.batch < training.total_batches:
            for result in run.run_steps(self._ends()):
                run.save(step=result.step)
                self._store_progress(result.images / result.seconds)
            if training.batch < training.total_batches:
                self._fit()

    def _ends(self) -> tuple[int, ...]:
        """The last batch of each step, up to the next step; the last step of the training may be shorter."""
        *done, following = self.run.boundaries(self.run.training.step + 1)
        return *done, min(following, self.run.training.total_batches)

    def _store_progress(self, images_per_second: float) -> None:
        run = self.run
        epochs = run.training.batch * run.training.config.batch_size / len(run.context.data.train)
        run.files.log(f"{epochs:.2f} epochs, {run.seconds():.1f} s")
        with run.context.storage.batch():
            run.trial.set_user_attr(attr_keys.SECONDS, round(run.seconds(), 3))
            run.trial.set_user_attr(attr_keys.EPOCHS, round(epochs, 2))
            run.trial.set_user_attr(attr_keys.IMAGES_PER_SECOND, round(images_per_second, 1))

    def _fit(self) -> None:
        """Fit the schedule to the remaining time, if the study has hours."""
        run, training = self.run, self.run.training
        hours = run.context.spec.budget.hours
        if hours is None:
            return
        speed = training.batch / run.seconds()
        left_s = self._left_s(hours) - averaging_s(
            run.context.spec.test_time_augmentation,
            images=sum(run.context.study.data.get("test_counts", ())),
            images_per_second=speed * training.config.batch_size,
        )
        possible = training.batch + math.floor(max(0.0, left_s) * speed)
        training.end_after(min(possible, run.boundaries()[-1]))

    def _left_s(self, hours: float) -> float:
        """The seconds left for this training: an equal share of the hours, at most what the study has left."""
        context = self.run.context
        total_s = hours * 3600 * (1 - SPARE_SHARE) - SPARE_S
        share_s = total_s / math.ceil(context.spec.budget.trials / context.workers)
        return min(share_s - self.run.seconds(), total_s - seconds_run(context.storage, context.study.id))

    def _wait(self) -> None:
        """Pause once after the training, until all other final trainings have finished."""
        run = self.run
        if promotion_policy(run.context.spec) is None or attr_keys.PAUSED in run.trial.user_attrs:
            return
        run.save(step=run.training.step)  # with the end that the time limit has set
        run.trial.set_user_attr(attr_keys.PAUSED, run.training.step)
        raise TrialPaused(run.training.step, until="all are trained")

    def _test(self) -> Outcome:
        """Evaluate the network on the test images and store the result; a second attempt reads the stored result."""
        run, context = self.run, self.run.context
        stored = run.trial.user_attrs.get(attr_keys.TEST, {})
        if "value" in stored:
            return Outcome(value=stored["value"])
        fingerprint = context.study.data["fingerprint"]
        test = load_test(context.spec.data, context.cache, fingerprint=fingerprint).to(context.device)
        augmentation = context.spec.test_time_augmentation
        result, averaged = run.evaluate_averaged(test, augmentation)
        if not math.isfinite(result.loss):
            raise Diverged(run.training.step, run.training.batch, result.loss)
        run.files.save_misclassified(result, test, context.data.info.classes)
        metric = context.spec.search.metric
        value = float(getattr(result, metric))
        augmented = f"; averaged over {copies(augmentation)}: {float(getattr(averaged, metric)):.4f}"
        run.files.log(f"test images: {value:.4f}{'' if augmentation == 'none' else augmented}")
        with context.storage.batch():
            run.trial.set_user_attr(attr_keys.LATENCY_MS, round(run.latency_ms(test), 3))
            # The time is read before the interval is calculated, which imports scipy for a second.
            run.trial.set_user_attr(attr_keys.SECONDS, round(run.seconds(), 3))
            labels = test.labels[test.indices]
            stored_result = to_stored_result(result, labels, metric=metric)
            stored_result["seen_in_training"] = context.data.info.seen_test_images
            if augmentation != "none":
                averaged_result = to_stored_averaged_result(averaged, labels, metric=metric, augmentation=augmentation)
                stored_result[attr_keys.AVERAGED] = averaged_result
            run.trial.set_user_attr(attr_keys.TEST, stored_result)
        return Outcome(value=value)


def averaging_s(augmentation: TestTimeAugmentation, *, images: int, images_per_second: float) -> float:
    """The seconds that test-time augmentation adds to a test.

    Args:
        augmentation: The copies of an image.
        images: Number of test images.
        images_per_second: Speed of training. The forward pass is a third of it: the backward pass costs twice as much
            (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1).
    """
    return (PASSES[augmentation] - 1) * images / (3 * images_per_second)


def to_stored_result(result: Evaluation, labels: Tensor, *, metric: Metric) -> dict[str, Any]:
    """The stored result of one evaluation on the test images.

    Args:
        result: The evaluation.
        labels: (N,) labels of the test images.
        metric: The metric that is stored as `value`.
    """
    return {**_score(result, labels, metric), "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())}


def to_stored_averaged_result(
    result: Evaluation, labels: Tensor, *, metric: Metric, augmentation: TestTimeAugmentation
) -> dict[str, Any]:
    """The stored result with test-time augmentation, which stands within that of the same evaluation without it.

    Args:
        result: The evaluation of the averaged predictions.
        labels: (N,) labels of the test images.
        metric: The metric that is stored as `value`.
        augmentation: The copies of an image over which the predictions are averaged.
    """
    return {"augmentation": augmentation, **_score(result, labels, metric)}


def _score(result: Evaluation, labels: Tensor, metric: Metric) -> dict[str, Any]:
    low, high = _interval(result, metric)
    return {
        "value": float(getattr(result, metric)),
        "images": result.images,
        "right": int(result.confusion.diagonal().sum()),
        "interval": [round(low, 5), round(high, 5)],
        "confusion": result.confusion.tolist(),
        "bits": pack((result.predicted == labels.cpu()).numpy(), labels.cpu().numpy()),
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
