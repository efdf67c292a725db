"""The training speed is measured for every kind of training."""

import pytest
import torch

from models.config import ModelConfig, TrainConfig
from search.trial.speed import images_per_second, macs_per_second


@pytest.mark.slow
def test_the_speed_of_a_training_with_class_weights_is_measured() -> None:
    model, train = ModelConfig(conv_layers=1, width=4, dense_layers=0), TrainConfig(batch_size=8, class_weights=1.0)

    assert images_per_second(model, train, classes=3, side=8, device=torch.device("cpu")) > 0


@pytest.mark.slow
def test_the_speed_of_a_recipe_is_measured_for_each_number_of_threads() -> None:
    model, train = ModelConfig(conv_layers=1, width=4, dense_layers=0), TrainConfig(batch_size=8)

    speeds = macs_per_second("cpu", model, train, side=8, classes=3, threads=(1, 2))

    assert len(speeds) == 2
    assert all(speed > 0 for speed in speeds)
