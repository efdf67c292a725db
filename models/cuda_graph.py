"""The update by a batch as a CUDA graph: recorded once, then replayed with one launch instead of hundreds.

Small networks are bound by kernel launches on a GPU. Follows the PyTorch documentation,
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs; not yet run on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.rng_state import get_random_state, set_random_state

Update = Callable[[Tensor, Tensor], Tensor]
"""Maps (N, 3, side, side) images and (N,) labels to the loss, (); updates weights and optimizer state in place."""

Work = Callable[[], Tensor]
"""A function that reads and writes the same tensors in each call, and returns one of them."""

WARM_UPS: Final = 3
"""Runs before a recording, as in the documentation: libraries allocate workspaces, optimizers create their state."""


class Recorder(Protocol):
    """Records work on a device."""

    def warm_up(self, work: Work) -> None:
        """Run the work WARM_UPS times on the stream that records it."""

    def record(self, work: Work) -> Work:
        """Record the work without running it.

        Returns:
            A function that replays the work.

        Raises:
            RuntimeError: the work cannot be recorded.
        """


class CudaRecorder:
    """CUDA graphs on a separate stream.

    Dropout draws the same numbers in each replay as without a graph: every capture registers the default generator
    (Note [CUDA Graph-safe RNG states] in torch's ATen/cuda/CUDAGeneratorImpl.h). Each replay also casts the weights
    again: Network.forward enters and leaves autocast, and autocast clears its cache of casts on exit.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no annotation there

    def warm_up(self, work: Work) -> None:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(self._stream):
                    for _ in range(WARM_UPS):
                        work()
            finally:
                torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            # The warm-up stream has the workspaces; torch's default capture stream is on the first device in use.
            with torch.cuda.graph(graph, stream=self._stream):
                result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def make_recorder(device: torch.device) -> Recorder | None:
    """The recorder for that device; None where updates are not recorded."""
    return CudaRecorder(device) if device.type == "cuda" else None


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recorded update that reads its batch from two fixed tensors."""

    images: Tensor
    labels: Tensor
    replay: Work


class GraphCache:
    """Recordings of an update by a batch: one for each shape of images, replayed for each batch.

    Each recording keeps the memory of an update. Recordings refer to tensors by address: call forget() after
    tensors are replaced.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
        self.fallback_reason: str | None = None  # why recording was given up
        self._model = model
        self._optimizer = optimizer
        self._recorder = recorder
        self._recordings: dict[object, Recording] = {}

    def replay(self, update: Update, images: Tensor, labels: Tensor) -> Tensor:
        """Run the update on a batch.

        `update` is not stored: it refers to its Training, and that cycle would keep GPU memory until the garbage
        collector runs.

        Args:
            update: the same function in each call.
            images: (N, 3, side, side).
            labels: (N,).

        Returns:
            The loss, (). The next call overwrites it.
        """
        kind = images.shape, images.stride(), images.dtype
        if kind not in self._recordings and self.fallback_reason is None:
            self._record(kind, update, images, labels)
        if self.fallback_reason is not None:
            return update(images, labels)
        recording = self._recordings[kind]
        recording.images.copy_(images)
        recording.labels.copy_(labels)
        return recording.replay()

    def forget(self) -> None:
        """Drop the recordings; the next batch makes a new one."""
        self._recordings.clear()

    def _record(self, kind: object, update: Update, images: Tensor, labels: Tensor) -> None:
        """Record the update for batches of this kind, or set `fallback_reason`."""
        images, labels = images.clone(), labels.clone()  # clones keep the memory format
        work = partial(update, images, labels)
        with restore_after(self._model, self._optimizer):
            self._recorder.warm_up(work)
        try:
            self._recordings[kind] = Recording(images, labels, self._recorder.record(work))
        except RuntimeError as error:
            first = _first(error)
            if isinstance(first, torch.OutOfMemoryError) or not isinstance(first, RuntimeError):
                raise first from None
            self.fallback_reason = f"{type(first).__name__}: {first}"


@contextmanager
def restore_after(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Restore weights, statistics, optimizer state and random generators at the end of the block.

    Optimizer state that is created inside stays, set to zero, the initial state of an optimizer. (SGD initialises its
    momentum with the first gradient; an update from zeros gives the same.)
    """
    device = next(model.parameters()).device
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers(), *_state(optimizer))]
    values = [tensor.clone() for tensor in tensors]
    random_state = get_random_state(device)
    try:
        yield
    finally:
        for tensor in _state(optimizer):
            tensor.zero_()
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        optimizer.zero_grad(set_to_none=True)  # the recording must allocate the gradients
        set_random_state(random_state, device)


def _state(optimizer: Optimizer) -> list[Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


def _first(error: BaseException) -> BaseException:
    """The original error: ending a failed capture raises another one."""
    return error if error.__context__ is None else _first(error.__context__)
