"""Muon: orthogonalised momentum for convolution filters; SGD for all other parameters."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz step (Jordan 2024, https://kellerjordan.github.io/posts/muon/)."""

STEPS: Final = 3
"""Newton-Schulz steps; three are enough for small networks (airbench94_muon, same author)."""

SGD_SHARE: Final = 0.1
"""Learning rate of all other parameters, as a share of that of the filters; the first value tried, not tuned."""


class Muon(Optimizer):
    """Updates whose size does not depend on the size of the gradient.

    A parameter of four dimensions is a matrix with one row per filter. Before each update it is scaled to a root mean
    square norm of 1 per filter: if a norm layer follows, this only changes the relative size of the update. Its update
    has a Frobenius norm of about the square root of the rank, and is computed in `dtype`. All other parameters use
    SGD with Nesterov momentum at SGD_SHARE of the learning rate. Jordan 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not supported
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        is_filter = parameter.ndim == 4
        if group["weight_decay"] and not is_filter:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        nesterov = gradient.add(momentum, alpha=group["momentum"])
        if not is_filter:
            _subtract(parameter, SGD_SHARE * group["lr"], nesterov)
            return
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        _subtract(parameter, group["lr"], orthogonal(nesterov.flatten(1), self._dtype).view(nesterov.shape))


def _subtract(parameter: Tensor, rate: float | Tensor, direction: Tensor) -> None:
    """parameter -= rate * direction. `alpha` takes numbers only; reading a rate tensor, (), would synchronise a GPU."""
    if isinstance(rate, Tensor):
        parameter.addcmul_(direction, rate, value=-1.0)
    else:
        parameter.add_(direction, alpha=-rate)


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Approximate the nearest orthogonal matrix by Newton-Schulz steps.

    Singular values above about a hundredth of the Frobenius norm of the matrix end up between about 0.4 and 1.5;
    smaller values stay smaller.
    """
    a, b, c = COEFFICIENTS
    is_tall = len(matrix) > matrix.shape[1]
    out = matrix.T if is_tall else matrix
    out = (out / (out.norm() + 1e-7)).to(dtype)
    for _ in range(STEPS):
        squared = out @ out.T
        out = torch.addmm(out, torch.addmm(squared, squared, squared, beta=b, alpha=c), out, beta=a)
    result: Tensor = out.T if is_tall else out
    return result
