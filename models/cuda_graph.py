"""The update by a batch as a CUDA graph: recorded once, then replayed with one launch in place of hundreds.

Small networks keep a GPU waiting for launches. Written after PyTorch's documentation,
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
"""From (N, 3, side, side) images and (N,) labels to their loss, (); changes weights and optimizer state in place."""

Work = Callable[[], Tensor]
"""Something that reads and writes the same tensors each time, and gives one of them."""

WARM_UPS: Final = 3
"""Runs before a recording, as in the documentation: libraries find their workspaces, optimizers make their state."""


class Recorder(Protocol):
    """How work is recorded on a device."""

    def warm_up(self, work: Work) -> None:
        """Do the work WARM_UPS times, where it will be recorded."""

    def record(self, work: Work) -> Work:
        """Record the work without doing it; what comes back does it. Raises RuntimeError if that cannot be."""


class CudaRecorder:
    """CUDA graphs, on a stream of their own.

    Dropout draws in each replay what it would draw without a graph: every capture takes the default generator along
    (Note [CUDA Graph-safe RNG states] in torch's ATen/cuda/CUDAGeneratorImpl.h). Autocast's copies of the weights are
    made in each replay, too: CNN.forward enters and leaves autocast, and the cache of them lasts until it is left.
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
            # On the stream of the warm-up, whose workspaces are there; torch's own is one of the first device in use.
            with torch.cuda.graph(graph, stream=self._stream):
                result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def make_recorder(device: torch.device) -> Recorder | None:
    """What records on that device; None where nothing does."""
    return CudaRecorder(device) if device.type == "cuda" else None


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Work on the batch that lies in two fixed tensors."""

    images: Tensor
    labels: Tensor
    replay: Work


class GraphCache:
    """An update by a batch, recorded once for each shape of images, and replayed for each batch.

    Each recording keeps the memory that an update needs. They know tensors, not names: forget() them when some have
    been replaced.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, recorder: Recorder) -> None:
        self.fallback_reason: str | None = None  # why nothing is recorded any more
        self._model = model
        self._optimizer = optimizer
        self._recorder = recorder
        self._recordings: dict[object, Recording] = {}

    def replay(self, update: Update, images: Tensor, labels: Tensor) -> Tensor:
        """Do the update, the same one each time, with a batch; the next one overwrites the loss that it gives.

        `update` is not stored: it refers to its Training, and in that cycle GPU memory would wait for the garbage
        collector.
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
        """Record the update for batches of this kind, or keep the reason why it cannot be recorded."""
        images, labels = images.clone(), labels.clone()  # clones keep their memory format
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
    """Put back what is changed inside: weights, statistics, the optimizer's state, the random generators.

    State that the optimizer makes inside stays, as zeros: they are what an optimizer begins with. (SGD begins with its
    first gradient, which is what momentum makes of zeros.)
    """
    device = next(model.parameters()).device
    known = [tensor.detach() for tensor in (*model.parameters(), *model.buffers(), *_state(optimizer))]
    before = [tensor.clone() for tensor in known]
    random = get_random_state(device)
    try:
        yield
    finally:
        for tensor in _state(optimizer):
            tensor.zero_()
        for tensor, value in zip(known, before, strict=True):
            tensor.copy_(value)
        optimizer.zero_grad(set_to_none=True)  # gradients must lie in the memory of the recording
        set_random_state(random, device)


def _state(optimizer: Optimizer) -> list[Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


def _first(error: BaseException) -> BaseException:
    """What was raised first: the end of a capture that failed fails, too."""
    return error if error.__context__ is None else _first(error.__context__)
