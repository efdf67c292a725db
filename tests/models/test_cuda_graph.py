"""Recorded updates: recording changes no state, and a replay does the same as the unrecorded update."""

from contextlib import suppress
from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from models.build import build
from models.config import ModelConfig, OptimizerName, TrainConfig
from models.cuda_graph import GraphCache, Update, make_recorder, restore_after
from models.optim import make_optimizer
from tests.fake_cuda_graph import RefusingRecorder, TapeRecorder

OPTIMIZERS = get_args(OptimizerName)


class Learner:
    """A network of three classes with dropout and batch norm, its optimizer and its update."""

    def __init__(self, name: OptimizerName = "sgd", *, momentum: float = 0.9) -> None:
        torch.manual_seed(0)
        config = ModelConfig(conv_layers=2, width=8, dense_units=8, dropout_conv=0.2, dropout_dense=0.3)
        self.model = build(config, image_size=8, classes=3)
        train = TrainConfig(optimizer=name, learning_rate=0.01, momentum=momentum, weight_decay=0.1)
        self.optimizer: Optimizer = make_optimizer(self.model, train, recorded=True)

    def update(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def recordings(self, recorder: TapeRecorder) -> GraphCache:
        return GraphCache(self.model, self.optimizer, recorder)

    def weights(self) -> list[Tensor]:
        """Copies of the current weights and batch statistics."""
        return [tensor.clone() for tensor in self.model.state_dict().values()]

    def state(self) -> list[Tensor]:
        """All tensors in the optimizer's state."""
        return [tensor for state in self.optimizer.state.values() for tensor in state.values()]


def batch(number: int, *, side: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(16, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(0, 3, (16,), generator=generator)


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_restore_after_restores_the_values_in_the_same_tensors(name: OptimizerName) -> None:
    learner = Learner(name)
    learner.update(*batch(0))
    weights, tensors = learner.weights(), learner.state()
    values, random = [tensor.clone() for tensor in tensors], torch.get_rng_state()

    with restore_after(learner.model, learner.optimizer):
        for number in range(3):
            learner.update(*batch(number))
        assert not same(learner.weights(), weights)

    assert tensors
    assert same(learner.weights(), weights)
    assert same(learner.state(), values)
    assert all(after is before for after, before in zip(learner.state(), tensors, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_warmed_up_optimizer_starts_like_a_new_one(name: OptimizerName, momentum: float) -> None:
    warm = Learner(name, momentum=momentum)
    with restore_after(warm.model, warm.optimizer):
        for number in range(3):
            warm.update(*batch(number))
    assert not any(tensor.any() for tensor in warm.state())
    random = torch.get_rng_state()
    warm.update(*batch(5))

    cold = Learner(name, momentum=momentum)
    torch.set_rng_state(random)
    cold.update(*batch(5))

    assert same(warm.weights(), cold.weights())
    assert same(warm.state(), cold.state())


def test_restore_after_restores_the_values_after_an_error() -> None:
    learner = Learner("adam")
    weights, random = learner.weights(), torch.get_rng_state()

    with suppress(KeyboardInterrupt), restore_after(learner.model, learner.optimizer):
        learner.update(*batch(0))
        raise KeyboardInterrupt

    assert same(learner.weights(), weights)
    assert not any(tensor.any() for tensor in learner.state())
    assert torch.equal(torch.get_rng_state(), random)


def test_each_shape_and_memory_format_is_recorded_once() -> None:
    learner, recorder = Learner(), TapeRecorder()
    recordings = learner.recordings(recorder)

    for side in (8, 12, 8, 12):
        recordings.replay(learner.update, *batch(0, side=side))
    assert recorder.recordings == 2
    images, labels = batch(0)
    for _ in range(2):
        recordings.replay(learner.update, images.contiguous(), labels)

    assert recorder.recordings == 3
    assert recordings.fallback_reason is None


def test_a_recorded_update_returns_the_loss_and_leaves_the_batch_unchanged() -> None:
    learner, plain = Learner(), Learner()
    random = torch.get_rng_state()
    recordings = learner.recordings(TapeRecorder())
    batches = [batch(number) for number in range(3)]

    losses = [recordings.replay(learner.update, *given).item() for given in batches]

    torch.set_rng_state(random)
    assert losses == [plain.update(*batch(number)).item() for number in range(3)]
    assert all(torch.equal(images, batch(number)[0]) for number, (images, _) in enumerate(batches))


def test_a_forgotten_recording_is_made_again() -> None:
    learner, recorder = Learner(), TapeRecorder()
    recordings = learner.recordings(recorder)

    recordings.replay(learner.update, *batch(0))
    recordings.forget()
    recordings.replay(learner.update, *batch(0))

    assert recorder.recordings == 2


def after_three(update: Update, learner: Learner) -> list[Tensor]:
    """The weights after three batches, with the same dropout in each call."""
    torch.manual_seed(1)
    for number in range(3):
        update(*batch(number))
    return learner.weights()


def test_an_update_that_cannot_be_recorded_runs_anyway_and_the_reason_is_kept() -> None:
    learner, plain = Learner(), Learner()
    recorder = RefusingRecorder(RuntimeError("no such kernel"))
    recordings = learner.recordings(recorder)

    weights = after_three(partial(recordings.replay, learner.update), learner)

    assert recordings.fallback_reason == "RuntimeError: no such kernel"
    assert recorder.tries == 1
    assert same(weights, after_three(plain.update, plain))


def test_a_capture_fails_if_python_reads_a_value() -> None:
    learner = Learner()

    def reads_a_value(images: Tensor, labels: Tensor) -> Tensor:
        assert learner.update(images, labels).item() < 100
        return images.mean()

    recordings = learner.recordings(TapeRecorder())
    recordings.replay(reads_a_value, *batch(0))

    assert recordings.fallback_reason == "RuntimeError: operation not permitted when a tape is recording"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("so"), KeyboardInterrupt("so"), ValueError("so")], ids=repr)
def test_an_error_that_the_end_of_the_capture_hides_is_raised(error: BaseException) -> None:
    learner = Learner()
    weights = learner.weights()
    recordings = learner.recordings(RefusingRecorder(error))

    with pytest.raises(type(error), match="so"):
        recordings.replay(learner.update, *batch(0))

    assert recordings.fallback_reason is None
    assert same(learner.weights(), weights)


def test_an_error_of_the_update_itself_is_raised() -> None:
    learner = Learner()
    images, labels = batch(0)

    with pytest.raises(IndexError):
        learner.recordings(TapeRecorder()).replay(learner.update, images, labels + 10)


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert make_recorder(torch.device("cpu")) is None
