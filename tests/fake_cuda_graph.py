"""Recorders for a CPU: one that does what a CUDA graph does, one for what only a GPU can record, one that fails."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.cuda_graph import WARM_UPS, Work


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations there
    """The operations that are done under it, with their tensors and numbers; they can be done again with the same.

    As in a CUDA graph, numbers stay as they were, and whoever looks at a tensor's value is refused.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[tuple[Callable[..., Any], Any, dict[str, Any], list[Tensor]]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when a tape is recording")
        for tensor in tensors((args, kwargs)):
            if place(tensor) not in self._made | self._before.keys():
                self._before[place(tensor)] = tensor, tensor.clone()
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, tensors(result)))
        self._made |= {place(tensor) for tensor in tensors(result)} - self._before.keys()
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what the recorded operations have changed: a capture on a GPU does not do them."""
        for tensor, value in self._before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self._operations:
            for old, new in zip(results, tensors(func(*args, **kwargs)), strict=True):
                if place(old) != place(new):  # else it was done in place, or is a view
                    old.copy_(new)


class TapeRecorder:
    """Records on tapes."""

    def __init__(self) -> None:
        self.recordings = 0

    def warm_up(self, work: Work) -> None:
        for _ in range(WARM_UPS):
            work()

    def record(self, work: Work) -> Work:
        tape, random = Tape(), torch.get_rng_state()
        try:
            with tape:
                result = work()
        finally:
            tape.undo()
            torch.set_rng_state(random)
        self.recordings += 1

        def replay() -> Tensor:
            tape.replay()
            return result

        return replay


class AgainRecorder(TapeRecorder):
    """Records nothing, and does the work again: on a CPU, RMSprop looks at its learning rate."""

    def record(self, work: Work) -> Work:
        return work


class RefusingRecorder(TapeRecorder):
    """Fails to record, as a capture that breaks off: what happens inside is followed by an error of the end."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.tries = 0
        self._error = error

    def record(self, work: Work) -> Work:
        self.tries += 1
        try:
            raise self._error
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


def tensors(nest: object) -> list[Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]


def place(tensor: Tensor) -> int:
    """Where in memory a tensor lies; views of one tensor share it."""
    return tensor.untyped_storage().data_ptr()
