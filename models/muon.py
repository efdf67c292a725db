"""Muon: momentum whose direction is made orthogonal, for the filters of convolutions; plain SGD for everything else."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz step (Jordan 2024, https://kellerjordan.github.io/posts/muon/)."""

STEPS: Final = 3
"""Newton-Schulz steps; three are enough for small networks (airbench94_muon, same author)."""

SGD_SHARE: Final = 0.1
"""Learning rate of what is no filter, as a share of that of the filters; the first that was tried, and not tuned."""


class Muon(Optimizer):
    """Updates of one size, whatever the gradient's.

    Parameters of four dimensions are seen as a matrix of one row a filter, and scaled to one unit of norm a filter
    before each update: where a norm follows, that changes nothing but the size of the update beside them. Their update
    has a Frobenius norm of about the root of the matrix's rank, and is computed in `dtype`. All others are trained by
    SGD with Nesterov momentum at SGD_SHARE of the learning rate. Jordan 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody gives a closure
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
        ahead = gradient.add(momentum, alpha=group["momentum"])
        if not is_filter:
            _subtract(parameter, SGD_SHARE * group["lr"], ahead)
            return
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        _subtract(parameter, group["lr"], orthogonal(ahead.flatten(1), self._dtype).view(ahead.shape))


def _subtract(parameter: Tensor, rate: float | Tensor, direction: Tensor) -> None:
    """parameter -= rate * direction; `alpha` takes numbers only, for which a GPU's rate, (), would be waited for."""
    if isinstance(rate, Tensor):
        parameter.addcmul_(direction, rate, value=-1.0)
    else:
        parameter.add_(direction, alpha=-rate)


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearly the nearest orthogonal matrix, by Newton-Schulz steps.

    Singular values above about a hundredth of the matrix's Frobenius norm come between about 0.4 and 1.5; smaller ones
    stay smaller.
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
