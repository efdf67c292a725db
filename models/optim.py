"""The optimizer, and the moving average of the weights."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from models.config import TrainConfig
from models.libraries import load_dynamo
from models.muon import Muon

FUSED_DEVICES: Final = frozenset({"cpu", "cuda"})
"""Devices with fused kernels for sgd, adam and adamw in torch; rmsprop has none."""


def make_optimizer(
    model: nn.Module, config: TrainConfig, *, in_bfloat16: bool = False, recorded: bool = False
) -> Optimizer:
    """Create the optimizer for all parameters of a model.

    Args:
        model: the network, already on its device.
        config: the training.
        in_bfloat16: whether the model computes in bfloat16.
        recorded: whether updates are recorded. Learning rates are then tensors: a CUDA graph freezes Python numbers.
    """
    load_dynamo()
    optimizer = _make(model, config, in_bfloat16=in_bfloat16, recorded=recorded)
    if recorded:
        rates_to_tensors(optimizer)
    optimizer.register_load_state_dict_pre_hook(_adapt_state)
    return optimizer


def rates_to_tensors(optimizer: Optimizer) -> None:
    """Replace the learning rate of each group by a separate tensor, (), on the device of the parameters."""
    device = next(parameter.device for group in optimizer.param_groups for parameter in group["params"])
    for group in optimizer.param_groups:
        # The fused kernels read a tensor rate as float32 (aten/src/ATen/native/cuda/FusedSgdKernel.cu).
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group, in place if it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _make(model: nn.Module, config: TrainConfig, *, in_bfloat16: bool, recorded: bool) -> Optimizer:
    groups = parameter_groups(model, config)
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters())
    capturable = recorded and next(model.parameters()).is_cuda  # torch refuses it on a CPU
    match config.optimizer:
        case "sgd":
            return SGD(
                groups,
                lr=config.learning_rate,
                momentum=config.momentum,
                nesterov=config.momentum > 0,
                fused=fused,
            )
        case "muon":
            dtype = torch.bfloat16 if in_bfloat16 else torch.float32
            return Muon(groups, lr=config.learning_rate, momentum=config.momentum, dtype=dtype)
        case "adam":
            return Adam(groups, lr=config.learning_rate, fused=fused, capturable=capturable)
        case "adamw":
            return AdamW(groups, lr=config.learning_rate, fused=fused, capturable=capturable)
        case "rmsprop":
            return RMSprop(groups, lr=config.learning_rate, momentum=config.momentum, capturable=capturable)


def _adapt_state(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Adapt a stored state, possibly of another device, to `optimizer`: type of the rates, and capturable."""
    groups = []
    for current, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group = stored | {key: current[key] for key in ("lr", "capturable") if key in current}
        set_rate(group, float(stored["lr"]))
        groups.append(group)
    return state | {"param_groups": groups}


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, object]]:
    """Split the parameters by weight decay and learning rate.

    Weights of convolutions and dense layers have weight decay; norms and biases have none unless decay_norms: a norm
    whose scale decays to zero silences its channel (Jia 2018, arXiv:1807.11205, section 3.2).

    Returns:
        Groups with the key `rate`, a factor of the learning rate. Biases and shifts may have a higher rate (Page 2018,
        part 8; Jordan 2024, arXiv:2404.00498, section 3.3), and then decay as strongly as at the common rate. The
        stages of a backbone have a lower rate.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    pretrained = [pair for pair in named if pair[0].startswith("stages.")]
    new = [pair for pair in named if not pair[0].startswith("stages.")]
    return [
        *_groups(new, config, rate=1.0),
        *(_groups(pretrained, config, rate=config.backbone_rate) if pretrained else ()),
    ]


def _groups(named: Sequence[tuple[str, nn.Parameter]], config: TrainConfig, *, rate: float) -> list[dict[str, object]]:
    # Weights of layers are at least matrices; scales, shifts and biases are vectors.
    weights = [parameter for _, parameter in named if parameter.ndim > 1]
    fast = {name for name, _ in named if name.endswith("bias") and config.bias_rate != 1.0}
    vectors = [parameter for name, parameter in named if parameter.ndim <= 1 and name not in fast]
    biases = [parameter for name, parameter in named if name in fast]
    decay = config.weight_decay if config.decay_norms else 0.0
    groups: list[dict[str, object]] = [
        {"params": weights, "weight_decay": config.weight_decay, "rate": rate},
        {"params": vectors, "weight_decay": decay, "rate": rate},
    ]
    if biases:
        groups.append({"params": biases, "weight_decay": decay / config.bias_rate, "rate": rate * config.bias_rate})
    return groups


class MovingAverage:
    """A separate model with an exponential moving average of weights and batch-norm statistics.

    The decay starts small and grows to `decay`, min(decay, (1 + updates) / (10 + updates)) as in TensorFlow's
    ExponentialMovingAverage; otherwise the random initial weights would dominate in a trial of few batches. The
    statistics are averaged like the weights, which avoids a pass over the images to recompute them.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False).eval()
        self.updates = 0
        self._decay = decay
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights of the model."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(
            [average for average, _ in self._numbers], [current for _, current in self._numbers], 1.0 - decay
        )
        for average, current in self._counters:
            average.copy_(current)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:  # tensors and plain values
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
