"""How good a network is on images it was not trained on."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Runs of one image that are timed, and before them, while caches fill and kernels are chosen, those that are not.
LATENCY_RUNS: Final = 30
WARM_UP: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What was counted; everything else is worked out from it."""

    confusion: Tensor
    """(classes, classes) int64 on the CPU: images of the row's class that were predicted as the column's."""
    predicted: Tensor
    """(images,) int64 on the CPU: the predicted class of each image, in the order of the batches."""
    confidence: Tensor
    """(images,) float32 on the CPU: with which probability."""
    loss: float
    """Mean cross-entropy per image in nats, without label smoothing; not finite where the network's outputs are not."""

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of the images that were classified correctly."""
        return float(self.confusion.diagonal().sum()) / self.images

    @property
    def balanced_accuracy(self) -> float:
        """Mean, over the classes that have images, of the share that was recognised."""
        images = self.confusion.sum(dim=1)
        present = images > 0
        recall = self.confusion.diagonal()[present].double() / images[present]
        return float(recall.mean())


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Evaluation:
    """Let `model` classify every image once: batches of ((N, 3, side, side) float32, (N,) int64 labels).

    The model computes in evaluation mode, and is left in the mode it was in. Raises ValueError if there is no image.
    """
    device = next(model.parameters()).device
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    found: list[tuple[Tensor, Tensor]] = []
    with _evaluation_mode(model), torch.inference_mode():
        for images, labels in batches:
            logits = model(images)
            confidence, predicted = torch.softmax(logits, dim=1).max(dim=1)
            counts += torch.bincount(labels * classes + predicted, minlength=classes * classes)
            found.append((predicted, confidence))
            loss_sum += functional.cross_entropy(logits, labels, reduction="sum")
    total = int(counts.sum())
    if total == 0:
        raise ValueError("evaluate needs at least one image, but its batches have none")
    confusion = counts.view(classes, classes).cpu()
    predicted, confidence = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return Evaluation(confusion=confusion, predicted=predicted, confidence=confidence, loss=float(loss_sum) / total)


def latency_s(model: nn.Module, image: Tensor, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds in which `model` classifies one image, (3, side, side) float32, by itself: the median of LATENCY_RUNS."""
    taken = []
    with _evaluation_mode(model), torch.inference_mode():
        for _ in range(WARM_UP + LATENCY_RUNS):
            began = clock()
            model(image[None]).argmax().item()  # which waits for a GPU
            taken.append(clock() - began)
    return median(taken[WARM_UP:])


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
