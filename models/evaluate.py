"""Accuracy, loss and latency of a network."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import TestTimeAugmentation
from models.test_time import plain_and_averaged

#: Timed runs of one image, and the untimed runs before them that fill caches and select kernels.
LATENCY_RUNS: Final = 30
WARM_UP: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """Counts and predictions, from which the metrics are computed."""

    confusion: Tensor
    """(classes, classes) int64 on the CPU: number of images by class (row) and predicted class (column)."""
    predicted: Tensor
    """(images,) int64 on the CPU: the predicted class of each image, in the order of the batches."""
    confidence: Tensor
    """(images,) float32 on the CPU: the probability of the predicted class."""
    loss: float
    """Mean cross-entropy per image in nats, without label smoothing; not finite if the logits are not."""

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the images that were classified correctly."""
        return float(self.confusion.diagonal().sum()) / self.images

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have images."""
        images = self.confusion.sum(dim=1)
        present = images > 0
        recall = self.confusion.diagonal()[present].double() / images[present]
        return float(recall.mean())


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Evaluation:
    """Classify every image once. The model runs in evaluation mode; its mode is restored.

    Args:
        model: maps images to (N, classes) logits.
        batches: pairs of (N, 3, side, side) float32 images and (N,) int64 labels, on the device of the model.
        classes: number of classes.

    Raises:
        ValueError: there is no image.
    """
    counter = _Counter(classes, next(model.parameters()).device)
    with _evaluation_mode(model), torch.inference_mode():
        for images, labels in batches:
            counter.add(model(images), labels)
    return counter.evaluation()


def evaluate_averaged(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: int,
    augmentation: TestTimeAugmentation,
) -> tuple[Evaluation, Evaluation]:
    """Classify every image without and with test-time augmentation, in one pass over the batches.

    Args:
        model: as in `evaluate`.
        batches: as in `evaluate`.
        classes: number of classes.
        augmentation: the copies of an image.

    Returns:
        The result of `evaluate`, and the result of the averaged logits.

    Raises:
        ValueError: there is no image.
    """
    device = next(model.parameters()).device
    plain, averaged = _Counter(classes, device), _Counter(classes, device)
    with _evaluation_mode(model), torch.inference_mode():
        for images, labels in batches:
            logits, averaged_logits = plain_and_averaged(model, images, augmentation)
            plain.add(logits, labels)
            averaged.add(averaged_logits, labels)
    return plain.evaluation(), averaged.evaluation()


class _Counter:
    """Counts predictions batch by batch. Sums stay on the device: reading them would synchronise a GPU."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        self._counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._predictions: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: (N, classes) logits and (N,) labels."""
        confidence, predicted = torch.softmax(logits, dim=1).max(dim=1)
        self._counts += torch.bincount(labels * self._classes + predicted, minlength=self._classes**2)
        self._predictions.append((predicted, confidence))
        self._loss_sum += functional.cross_entropy(logits, labels, reduction="sum")

    def evaluation(self) -> Evaluation:
        """Return the counts of all batches; raises ValueError if there was no image."""
        total = int(self._counts.sum())
        if total == 0:
            raise ValueError("evaluate needs at least one image, but its batches have none")
        predicted, confidence = (torch.cat(parts).cpu() for parts in zip(*self._predictions, strict=True))
        return Evaluation(
            confusion=self._counts.view(self._classes, self._classes).cpu(),
            predicted=predicted,
            confidence=confidence,
            loss=float(self._loss_sum) / total,
        )


def latency_s(model: nn.Module, image: Tensor, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the latency of a batch of one image.

    Args:
        model: the network.
        image: (3, side, side) float32, on the device of the model.
        clock: time in seconds.

    Returns:
        The median of LATENCY_RUNS runs in seconds.
    """
    durations = []
    with _evaluation_mode(model), torch.inference_mode():
        for _ in range(WARM_UP + LATENCY_RUNS):
            began = clock()
            model(image[None]).argmax().item()  # synchronises a GPU
            durations.append(clock() - began)
    return median(durations[WARM_UP:])


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
