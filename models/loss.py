"""The loss of a training batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.config import TrainConfig


class CrossEntropy:
    """Mean cross-entropy of a batch, with label smoothing and class weights.

    With class weights, each image counts with the weight of its class, and the sum is divided by the number of images,
    not by the sum of their weights as torch's `weight` does. The weights have mean 1 over the training images. A batch
    is therefore an unbiased estimate of the loss over all of them, its mean over the batches of a step is that of the
    step whatever their size, and weights act even in a batch of one class.
    """

    def __init__(
        self, config: TrainConfig, *, class_counts: Sequence[int] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """`class_counts`: training images of each class; only class weights need them, and without them fail."""
        if config.class_weights > 0 and class_counts is None:
            raise ValueError(
                f"class_weights = {config.class_weights:g} needs the training images of each class, but got None"
            )
        self._label_smoothing = config.label_smoothing
        self.weights: Tensor | None = None
        if config.class_weights > 0 and class_counts is not None:
            self.weights = class_weights(class_counts, exponent=config.class_weights).to(device)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, (), of (N, classes) logits and (N,) labels."""
        if self.weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        losses = functional.cross_entropy(logits, labels, label_smoothing=self._label_smoothing, reduction="none")
        return (losses * self.weights[labels]).mean()


def class_weights(counts: Sequence[int], *, exponent: float) -> Tensor:
    """Weights of the classes: (mean count / count) ** exponent, scaled to mean 1 over the images; (classes,) float32.

    With exponent 1 they are those of scikit-learn's class_weight="balanced".
    """
    images = torch.tensor(counts, dtype=torch.float64)
    weights = images.clamp_min(1).pow(-exponent)  # no image has the weight of a class without images
    return (weights * images.sum() / (images @ weights)).float()
