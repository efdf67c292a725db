"""Recorders for a CPU: one acts like a CUDA graph, one repeats work that only a GPU can record, one fails."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.cuda_graph import WARM_UPS, Work


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations there
    """Records the operations that run inside it, with their tensors and numbers, and can replay them.

    As in a CUDA graph, numbers keep their recorded values, and reading a tensor's value raises RuntimeError.
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
            if address(tensor) not in self._made | self._before.keys():
                self._before[address(tensor)] = tensor, tensor.clone()
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, tensors(result)))
        self._made |= {address(tensor) for tensor in tensors(result)} - self._before.keys()
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Undo the changes of the recorded operations: a capture on a GPU does not execute them."""
        for tensor, value in self._before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self._operations:
            for old, new in zip(results, tensors(func(*args, **kwargs)), strict=True):
                if address(old) != address(new):  # otherwise the operation was in place, or the result is a view
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
    """Records nothing and repeats the work, because RMSprop on a CPU reads the value of its learning rate."""

    def record(self, work: Work) -> Work:
        return work


class RefusingRecorder(TapeRecorder):
    """Fails like an interrupted capture: the end of the capture raises another error after the given one."""

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


def address(tensor: Tensor) -> int:
    """The address of a tensor's memory; views of one tensor share it."""
    return tensor.untyped_storage().data_ptr()
