"""The optimizers and the moving average of the weights."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim._muon import _zeropower_via_newtonschulz
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.build import build
from models.config import ModelConfig, OptimizerName, TrainConfig
from models.muon import COEFFICIENTS, SGD_SHARE, STEPS, orthogonal
from models.optim import MovingAverage, make_optimizer, parameter_groups, set_rate


def small(seed: int = 0, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    config = ModelConfig.model_validate({"conv_layers": 2, "width": 8, "dense_units": 8, **changes})
    return build(config, image_size=8, classes=3)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


def changed_without_gradient(model: nn.Module, config: TrainConfig) -> dict[str, Tensor]:
    """The ratio after / before of each parameter over one update with zero gradients; each parameter is 1 before."""
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
    # Nesterov momentum adds nine tenths of the first gradient to it.
    shrunk = 1 - 0.5 * 0.25 * (1.9 if optimizer == "sgd" else 1.0)

    after = changed_without_gradient(model, config)

    layers = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    assert {name for name, value in after.items() if (value != 1).any()} == layers
    assert all(torch.allclose(after[name], torch.tensor(shrunk)) for name in layers)


def test_decay_norms_decays_norms_and_biases_too() -> None:
    config = TrainConfig(optimizer="adamw", learning_rate=0.5, weight_decay=0.25, decay_norms=True)

    after = changed_without_gradient(small(residual=True), config)

    assert all(torch.allclose(value, torch.tensor(0.875)) for value in after.values())


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_every_parameter_belongs_to_the_optimizer_once(optimizer: OptimizerName) -> None:
    model = small(residual=True)

    groups = make_optimizer(model, TrainConfig(optimizer=optimizer)).param_groups

    owned = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())


TORCH_NAMES = tuple(name for name in get_args(OptimizerName) if name != "muon")
"""Optimizers of torch that accept all parameters; torch's Muon accepts matrices only."""


def reference(model: nn.Module, name: OptimizerName) -> optim.Optimizer:
    """The optimizer of torch, one parameter at a time and not fused."""
    if name == "sgd":
        return optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1, fused=False)
    if name == "rmsprop":
        return optim.RMSprop(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1, foreach=False)
    kind = optim.Adam if name == "adam" else optim.AdamW
    return kind(model.parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False)


@pytest.mark.parametrize("name", TORCH_NAMES)
def test_the_fused_update_of_channels_last_weights_equals_torchs_plain_update(name: OptimizerName) -> None:
    config = TrainConfig(optimizer=name, learning_rate=0.01, momentum=0.9, weight_decay=0.1, decay_norms=True)
    ours, theirs = small(), small().to(memory_format=torch.contiguous_format)
    our_optimizer, their_optimizer = make_optimizer(ours, config), reference(theirs, name)

    for seed in range(4):
        for model, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            set_gradients(model, seed)
            optimizer.step()

    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-6)


def trained(name: OptimizerName, *, recorded: bool, steps: int = 4) -> tuple[list[Tensor], optim.Optimizer]:
    """Weights after `steps` updates, and the optimizer; each update halves the rate, and biases have four times it."""
    config = TrainConfig(optimizer=name, momentum=0.9, weight_decay=0.1, decay_norms=True, bias_rate=4.0)
    model = small()
    optimizer = make_optimizer(model, config, recorded=recorded)
    for step in range(steps):
        for group in optimizer.param_groups:
            set_rate(group, 0.01 * group["rate"] * 0.5**step)
        set_gradients(model, step)
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()], optimizer


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_a_learning_rate_in_a_tensor_trains_like_a_float(name: OptimizerName) -> None:
    (ours, optimizer), (theirs, plain) = (trained(name, recorded=is_recorded) for is_recorded in (True, False))

    assert all(torch.is_tensor(group["lr"]) for group in optimizer.param_groups)
    assert all(isinstance(group["lr"], float) for group in plain.param_groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_setting_a_rate_in_a_tensor_keeps_the_tensor(name: OptimizerName) -> None:
    _, optimizer = trained(name, recorded=True, steps=0)
    before = [group["lr"] for group in optimizer.param_groups]

    for number, group in enumerate(optimizer.param_groups):
        set_rate(group, 0.25 * number)

    assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, before, strict=True))
    assert [(tensor.item(), tensor.dtype) for tensor in before] == [(0.25 * n, torch.float32) for n in range(3)]


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_the_optimizer_state_of_a_gpu_loads_with_and_without_recording(name: OptimizerName) -> None:
    _, stored = trained(name, recorded=False)
    state = stored.state_dict()
    for group in state["param_groups"]:  # as stored on a GPU
        group["lr"] = torch.tensor(group["lr"])
        if "capturable" in group:
            group["capturable"] = True

    for is_recorded in (False, True):
        _, optimizer = trained(name, recorded=is_recorded, steps=0)
        optimizer.load_state_dict(state)

        assert all(torch.is_tensor(group["lr"]) == is_recorded for group in optimizer.param_groups)
        assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx(
            [group["lr"] for group in stored.param_groups]
        )
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # torch refuses a capturable optimizer on a CPU


def test_sgd_without_momentum_is_plain_gradient_descent() -> None:
    model = small()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model, TrainConfig(momentum=0.0, learning_rate=0.5, weight_decay=0.0))

    set_gradients(model, 0)
    optimizer.step()

    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), old - 0.5 * parameter.grad)


def shift(model: nn.Module, by: float) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor += int(by) if tensor.dtype == torch.int64 else by


def test_the_average_equals_that_of_torch_once_its_decay_is_constant() -> None:
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

    for our, their in zip(ours.model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(our, their)


def test_the_average_has_a_small_decay_at_first() -> None:
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


def test_the_average_reaches_its_full_decay() -> None:
    model = small()
    average = MovingAverage(model, decay=0.5)
    for _ in range(20):
        average.update()
    before = next(model.parameters()).detach().clone()

    shift(model, 1.0)
    average.update()

    torch.testing.assert_close(next(average.model.parameters()), before + 0.5)


def test_the_average_includes_the_statistics_of_batch_norm() -> None:
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

    assert all(torch.equal(after, old + 1) for after, old in zip(model.parameters(), before, strict=True))
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_biases_may_have_their_own_rate_and_are_decayed_as_strongly() -> None:
    config = TrainConfig(bias_rate=8.0, weight_decay=0.5, decay_norms=True)

    groups = parameter_groups(small(), config)

    assert [(group["rate"], group["weight_decay"]) for group in groups] == [(1.0, 0.5), (1.0, 0.5), (8.0, 0.0625)]
    biases = {id(parameter) for name, parameter in small().named_parameters() if name.endswith("bias")}
    assert len(biases) == len(groups[2]["params"])  # type: ignore[arg-type]


def test_frozen_parameters_have_no_optimizer() -> None:
    model = build(ModelConfig(stem="whiten", conv_layers=2), image_size=9, classes=3)

    owned = [p for group in parameter_groups(model, TrainConfig()) for p in group["params"]]  # type: ignore[attr-defined]

    assert (
        len(owned)
        == sum(parameter.requires_grad for parameter in model.parameters())
        == len(list(model.parameters())) - 1  # the filters
    )


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)], ids=["wide", "tall", "square"])
def test_an_orthogonal_update_has_singular_values_near_one_and_keeps_its_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(0.2, 1.0, min(shape))) @ right

    out = orthogonal(1000 * matrix)

    stretched = left.T @ out @ right.T
    assert 0.3 < stretched.diagonal().min() < stretched.diagonal().max() < 1.6
    torch.testing.assert_close(stretched, torch.diag(stretched.diagonal()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8)], ids=["wide", "tall"])
def test_an_orthogonal_update_equals_that_of_torchs_muon(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)

    ours = orthogonal(matrix, torch.bfloat16)

    theirs = _zeropower_via_newtonschulz(matrix, COEFFICIENTS, STEPS, 1e-7)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
    torch.testing.assert_close(orthogonal(matrix), theirs.float(), atol=0.05, rtol=0.05)


def test_an_update_of_muon_follows_its_formula() -> None:
    model = small()
    set_gradients(model, seed=0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    config = TrainConfig(optimizer="muon", learning_rate=0.1, momentum=0.6, weight_decay=0.5, decay_norms=True)

    make_optimizer(model, config).step()

    for name, after in model.named_parameters():
        old, gradient = before[name], after.grad
        assert gradient is not None
        if old.ndim == 4:
            direction = orthogonal(gradient.flatten(1)).view(old.shape)
            expected = old * (len(old) ** 0.5 / old.norm()) - 0.1 * direction
        else:  # the first step of Nesterov is longer by the factor 1 + momentum
            expected = old - 0.1 * SGD_SHARE * 1.6 * (gradient + 0.5 * old)
        torch.testing.assert_close(after.detach(), expected, atol=1e-5, rtol=1e-4)


def test_muon_ignores_the_gradient_size_for_filters_and_not_for_the_rest() -> None:
    moved = []
    for size in (1.0, 100.0):
        model = small()
        set_gradients(model, seed=0)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad *= size
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.1, momentum=0.6)).step()
        moved.append({name: value.detach() - before[name] for name, value in model.named_parameters()})

    filters = "convs.1.conv.weight"
    torch.testing.assert_close(moved[0][filters], moved[1][filters], atol=1e-5, rtol=1e-3)
    bias = "classifier.bias"
    torch.testing.assert_close(moved[0][bias] * 100, moved[1][bias], atol=1e-5, rtol=1e-3)


def test_muon_learns() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(64, 3, 8, 8), torch.randint(0, 3, (64,))
    model = small()
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.1, momentum=0.6, weight_decay=0.0))
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.5 * losses[0]
