"""The optimizers and the moving average of the weights."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.build import build
from models.config import ModelConfig, OptimizerName, TrainConfig
from models.optim import MovingAverage, make_optimizer


def small(seed: int = 0, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    config = ModelConfig.model_validate({"conv_layers": 2, "width": 8, "dense_units": 8, **changes})
    return build(config, image_size=8, classes=3)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


def changed_without_gradient(model: nn.Module, config: TrainConfig) -> dict[str, Tensor]:
    """The ratio after / before of each parameter, all of them 1 before, over one update with zero gradients."""
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, config).step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_reaches_the_weights_of_layers_and_nothing_else(optimizer: str, norm: str) -> None:
    config = TrainConfig.model_validate({"optimizer": optimizer, "learning_rate": 0.5, "weight_decay": 0.25})
    model = small(norm=norm, residual=True)
    # The momentum of Nesterov sgd adds nine tenths of the first gradient to it.
    shrunk = 1 - 0.5 * 0.25 * (1.9 if optimizer == "sgd" else 1.0)

    after = changed_without_gradient(model, config)

    layers = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    assert {name for name, value in after.items() if (value != 1).any()} == layers
    assert all(torch.allclose(after[name], torch.tensor(shrunk)) for name in layers)


def test_decay_norms_takes_in_norms_and_biases() -> None:
    config = TrainConfig(optimizer="adamw", learning_rate=0.5, weight_decay=0.25, decay_norms=True)

    after = changed_without_gradient(small(residual=True), config)

    assert all(torch.allclose(value, torch.tensor(0.875)) for value in after.values())


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_every_parameter_belongs_to_the_optimizer_once(optimizer: OptimizerName) -> None:
    model = small(residual=True)

    groups = make_optimizer(model, TrainConfig(optimizer=optimizer)).param_groups

    owned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())


def reference(model: nn.Module, name: OptimizerName) -> optim.Optimizer:
    """Torch's own, one parameter at a time, nothing fused."""
    if name == "sgd":
        return optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1, fused=False)
    if name == "rmsprop":
        return optim.RMSprop(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1, foreach=False)
    kind = optim.Adam if name == "adam" else optim.AdamW
    return kind(model.parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_the_fused_update_of_channels_last_weights_is_torchs_plain_update(name: OptimizerName) -> None:
    config = TrainConfig(optimizer=name, learning_rate=0.01, momentum=0.9, weight_decay=0.1, decay_norms=True)
    ours, theirs = small(), small().to(memory_format=torch.contiguous_format)
    our_optimizer, their_optimizer = make_optimizer(ours, config), reference(theirs, name)

    for seed in range(4):
        for model, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            set_gradients(model, seed)
            optimizer.step()

    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_sgd_without_momentum_is_plain_gradient_descent() -> None:
    model = small()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, TrainConfig(momentum=0.0, learning_rate=0.5, weight_decay=0.0))

    set_gradients(model, 0)
    optimizer.step()

    for parameter, was in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), was - 0.5 * parameter.grad)


def shift(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor += int(by) if tensor.dtype == torch.int64 else by


def test_the_average_is_that_of_torch_once_its_decay_is_constant() -> None:
    model = small()
    # A decay of 0.1 and less is constant from the first update on.
    ours = MovingAverage(model, decay=0.1)
    torch_average = get_ema_multi_avg_fn(0.1)  # type: ignore[no-untyped-call]  # torch has no annotation there
    theirs = AveragedModel(model, multi_avg_fn=torch_average, use_buffers=True)
    theirs.update_parameters(model)  # torch's first update only copies

    for by in (1.0, -3.0, 0.5):
        shift(model, by)
        ours.update()
        theirs.update_parameters(model)

    for mine, other in zip(ours.model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_the_average_forgets_quickly_at_first() -> None:
    model = small()
    average = MovingAverage(model, decay=0.9)
    first = next(model.parameters()).detach().clone()

    shift(model, 1.0)
    average.update()
    shift(model, 1.0)
    average.update()

    # Decays 1/10 and 2/11: 0.9, then 2/11 * 0.9 + 9/11 * 2.
    expected = first + (2 / 11 * 0.9 + 9 / 11 * 2)
    torch.testing.assert_close(next(average.model.parameters()), expected)


def test_the_average_comes_to_its_full_decay() -> None:
    model = small()
    average = MovingAverage(model, decay=0.5)
    for _ in range(20):
        average.update()
    before = next(model.parameters()).detach().clone()

    shift(model, 1.0)
    average.update()

    torch.testing.assert_close(next(average.model.parameters()), before + 0.5)


def test_the_average_takes_the_statistics_of_batch_norm_along() -> None:
    model = small()
    average = MovingAverage(model, decay=0.1)

    shift(model, 1.0)
    average.update()

    buffers = dict(average.model.named_buffers())
    assert torch.allclose(buffers["convs.0.norm.running_mean"], torch.tensor(0.9))
    assert buffers["convs.0.norm.num_batches_tracked"] == 1


def test_the_average_does_not_touch_the_model_and_needs_no_gradient() -> None:
    model = small()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    average = MovingAverage(model, decay=0.5)
    shift(model, 1.0)

    average.update()

    assert all(torch.equal(now, was + 1) for now, was in zip(model.parameters(), before, strict=True))
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
