"""A trial of a study `NAME.final`: train on train and validation images together, then look once at the test images.

The training fits itself to the time that its study has left: after each step it compares the batches to come with the
speed it has, and moves its end. Until the last batch nobody judges it, so that the test images are seen once.
"""

import math
import time
from typing import Any

from data.batches import Batches, evaluation
from data.parts import load_test
from models.evaluate import Evaluation, evaluate
from models.train import Diverged, Training
from search.objective import Outcome, Run, boundaries
from search.stats import share_interval
from search.study import seconds_run

#: What is left for the last look, and for a step that is slower than those before: a share of the time, and seconds.
SPARE_SHARE, SPARE_S = 0.02, 4.0


class VerdictRun(Run):
    """The one training of a verdict, on all images but those of the test."""

    def follow(self, training: Training, batches: Batches, ends: tuple[int, ...]) -> Outcome:
        """Train to the end, wherever the time puts it, and look."""
        self.take_up(training)
        while training.batch < training.total_batches:
            for result in training.run(lambda first, last: self.watched(batches(first, last)), self._ends(training)):
                self.save(training, step=result.step)
                self._tell(training, result.images / result.seconds)
            if training.batch < training.total_batches:
                self._fit(training)
        return self._look(training)

    def steps_done(self, training: Training) -> int:
        return training.step

    def _ends(self, training: Training) -> tuple[int, ...]:
        """Where the steps end, up to the next one; the last step may be a short one."""
        *done, following = boundaries(
            step_images=self.step_images(), batch_size=training.config.batch_size, steps=training.step + 1
        )
        return *done, min(following, training.total_batches)

    def _tell(self, training: Training, images_per_second: float) -> None:
        epochs = training.batch * training.config.batch_size / len(self.place.data.train)
        self.note(f"{epochs:.2f} epochs, {self.seconds():.1f} s")
        with self.place.storage.together():
            self.trial.set_user_attr("seconds", round(self.seconds(), 3))
            self.trial.set_user_attr("epochs", round(epochs, 2))
            self.trial.set_user_attr("images_per_second", round(images_per_second, 1))

    def _fit(self, training: Training) -> None:
        """Move the end to where the time ends, unless the study has all the time."""
        hours = self.place.study.spec.budget.hours
        if hours is None:
            return
        left_s = hours * 3600 * (1 - SPARE_SHARE) - SPARE_S - seconds_run(self.place.storage, self.place.study.id)
        speed = training.batch / self.seconds()
        possible = training.batch + math.floor(max(0.0, left_s) * speed)
        training.end_after(min(possible, self._planned(training)))

    def _planned(self, training: Training) -> int:
        """Batches of all the epochs that were planned: the study file's, or more than there is time for."""
        steps = self.place.study.spec.budget.steps
        return boundaries(step_images=self.step_images(), batch_size=training.config.batch_size, steps=steps)[-1]

    def _look(self, training: Training) -> Outcome:
        """Judge the network on the test images, and store what was counted."""
        test = load_test(self.place.study.spec.data, self.place.cache).to(self.place.device)
        model = training.judged()
        images = self.watched(evaluation(test, self.place.data.info, device=self.place.device))
        result = evaluate(model, images, len(self.place.data.info.classes))
        if not math.isfinite(result.loss):
            raise Diverged(training.step, training.batch, result.loss)
        value = float(getattr(result, self.place.study.spec.search.objective))
        self.note(f"test images: {value:.4f}")
        with self.place.storage.together():
            self.trial.set_user_attr("test", found(result))
            self.trial.set_user_attr("seconds", round(self.seconds(), 3))
        return Outcome(value=value)


def found(result: Evaluation) -> dict[str, Any]:
    """What one look at the test images has counted."""
    right = int(result.confusion.diagonal().sum())
    low, high = share_interval(right, result.images)
    return {
        "images": result.images,
        "right": right,
        "interval": [round(low, 5), round(high, 5)],
        "confusion": result.confusion.tolist(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
    }
