"""Training throughput of the whole machine in images per second: ours, the plain tutorial loop, an expert's loop.

The layers (three 3x3 convolutions of 32, 64 and 128 channels, batch norm, ReLU, pooling, mean, linear) are the same,
and so are the batch, augmentation (flip, crop 4), optimizer (SGD with Nesterov momentum) and images, of 32 x 32 random
pixels.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data.batches import Batches
from data.config import AugmentConfig
from data.dataset import DataInfo
from data.parts import Split
from data.preprocessing import Preprocessing
from models.config import ModelConfig, Precision, TrainConfig
from models.precision import computes_bfloat16
from models.train import start
from search import hardware
from search.process import pin_and_tune
from tests.bench.measure import Comparison, Result

BATCH, IMAGES, CLASSES = 128, 10_000, 10
WIDTHS = (32, 64, 128)
#: Channel statistics of CIFAR-10; the pixels are random.
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.244, 0.262)
#: Minimum factors by which ours is faster than the plain loop and than the expert's loop: goals of this project.
PLAIN_TARGET, EXPERT_TARGET = 3.5, 1.3
SPAWN = multiprocessing.get_context("spawn")
LATE_S = 120.0
"""Timeout in seconds for the start of a process, and for its result."""

Loop = Callable[[], Iterator[int]]
"""Trains without end; yields the number of images of each batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A loop, its number of processes, and their threads."""

    name: str
    loop: Loop
    processes: int
    threads: int
    pins_cores: bool = False
    """Whether each process is pinned to a core, like a worker."""


def run_benchmark(quick: bool) -> Result:
    """Ours against the best plain loop, and against the expert's loop."""
    window_s, repeats = (2.0, 2) if quick else (6.0, 5)
    cores = hardware.cores()
    layouts = [
        Layout(
            name=f"{processes} of {threads} threads, {workers} loader workers",
            loop=partial(plain, workers),
            processes=processes,
            threads=threads,
        )
        for workers in (0, 1, 2)
        for processes, threads in ((1, cores), (cores, 1))
    ]
    rates = {layout.name: rate(layout, window_s) for layout in layouts}
    best = max(layouts, key=lambda layout: rates[layout.name])
    sides = (
        Layout(name="ours", loop=partial(ours, "auto"), processes=cores, threads=1, pins_cores=True),
        Layout(name="ours, float32", loop=partial(ours, "float32"), processes=cores, threads=1, pins_cores=True),
        best,
        Layout(name="expert", loop=expert, processes=cores, threads=1),
    )
    rounds = [[rate(layout, window_s) for layout in sides] for _ in range(repeats)]
    our, our_float32, their, experts = (tuple(column) for column in zip(*rounds, strict=True))
    precision = "bfloat16" if computes_bfloat16("auto", torch.device("cpu")) else "float32"
    return Result(
        name="Engine",
        about=(
            f"Batch {BATCH}, {window_s:g} s each after a warm-up, whole machine.",
            f'Ours computes in {precision} (precision = "auto" on this machine), or in float32; all others in float32.',
            "Ours pools before the norm, has no bias before it, and a fused optimizer; each process is pinned to a "
            "core and keeps freed memory. The other loops have none of these.",
            "Plain loop: DataLoader with torchvision's transforms, eager, NCHW.",
            "Tried once each: " + "; ".join(f"{name}: {value:.0f} images/s" for name, value in rates.items()) + ".",
            f"The best of them is compared: {best.name}.",
            "Expert's loop: tensors in memory, whole batches augmented, channels_last, one thread in a process a core.",
        ),
        comparisons=tuple(
            Comparison(
                what=what, unit="images/s", ours=our_rates, theirs=their_rates, more_is_better=True, target=target
            )
            for what, our_rates, their_rates, target in (
                ("against the plain loop", our, their, PLAIN_TARGET),
                ("against the expert's loop", our, experts, EXPERT_TARGET),
                ("float32 against the plain loop", our_float32, their, None),
                ("float32 against the expert's loop", our_float32, experts, None),
            )
        ),
    )


def rate(layout: Layout, window_s: float) -> float:
    """Images per second of all processes of a layout together."""
    cores = hardware.assign_cores(("cpu",) * layout.processes)
    barrier = SPAWN.Barrier(layout.processes)
    counts = SPAWN.Queue()
    processes = [SPAWN.Process(target=_count, args=(layout, core, window_s, barrier, counts)) for core in cores]
    for process in processes:
        process.start()
    total = sum(counts.get(timeout=window_s + LATE_S) for _ in processes)
    for process in processes:
        process.join()
    return float(total)


def _count(layout: Layout, core: int | None, window_s: float, barrier: Barrier, counts: Any) -> None:
    torch.set_num_threads(layout.threads)
    if layout.pins_cores:
        pin_and_tune(core)
    torch.manual_seed(0)
    batches = layout.loop()
    for _ in range(5):
        next(batches)
    barrier.wait(LATE_S)
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < window_s:
        images += next(batches)
    counts.put(images / (time.perf_counter() - began))


def pixels() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of random pixels, (N, 32, 32, 3), and random labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8), rng.integers(0, CLASSES, IMAGES)


# -- ours ---------------------------------------------------------------------------------------------------------


def ours(precision: Precision) -> Iterator[int]:
    """The batches and the training that a worker runs."""
    images, labels = pixels()
    part = Split(images=torch.from_numpy(images), labels=torch.from_numpy(labels), indices=torch.arange(IMAGES))
    info = DataInfo(
        fingerprint="",
        classes=tuple(map(str, range(CLASSES))),
        train_counts=(),
        test_counts=(),
        image_size=32,
        mean=MEAN,
        std=STD,
        notes=(),
        preprocessing=Preprocessing(side=32),
        validation_folder=0,
        train_count=IMAGES,
        validation_count=0,
        seen_test_images=0,
        skipped_images=0,
    )
    batches = Batches(part, info, batch_size=BATCH, seed=0, augment=AugmentConfig(flip=True, crop=4))
    model = ModelConfig(conv_layers=3, width=WIDTHS[0], dense_layers=0)
    config = TrainConfig(batch_size=BATCH, learning_rate=0.01, scheduler="none", precision=precision)
    total = 10**6
    training = start(model, config, image_size=32, classes=CLASSES, total_batches=total, seed=0, device="cpu")
    for _ in training.run(batches, range(1, total + 1)):
        yield BATCH


# -- theirs -------------------------------------------------------------------------------------------------------


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Single images, like those of torchvision's CIFAR10."""

    def __init__(self) -> None:
        from torchvision import transforms

        self._images, self._labels = pixels()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self._transform(Image.fromarray(self._images[index])), int(self._labels[index])


def plain(workers: int) -> Iterator[int]:
    """The loop of the tutorials."""
    loader = torch.utils.data.DataLoader(
        Images(), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    while True:
        for images, labels in loader:
            yield from update(model, optimizer, images, labels)


def expert() -> Iterator[int]:
    """The loop of a torch expert: all images in memory as floats, augmentation of complete batches, channels_last."""
    raw, labels = (torch.from_numpy(array) for array in pixels())
    floats = (raw.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    images = functional.pad(floats.permute(0, 3, 1, 2), (4, 4, 4, 4), mode="reflect")
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    while True:
        order = torch.randperm(IMAGES)
        for rows in torch.split(order, BATCH)[:-1]:
            batch = augmented(images[rows]).contiguous(memory_format=torch.channels_last)
            yield from update(model, optimizer, batch, labels[rows])


def augmented(padded: Tensor) -> Tensor:
    """Crop (N, 3, 40, 40) at random to (N, 3, 32, 32), and mirror half of the images."""
    count = len(padded)
    down, right = torch.randint(9, (2, count))
    rows, columns = (offset[:, None] + torch.arange(32) for offset in (down, right))
    cut = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where((torch.rand(count) < 0.5)[:, None, None, None], cut.flip(3), cut)


def network() -> nn.Module:
    """Convolution, norm, activation, pooling, three times."""
    layers: list[nn.Module] = []
    channels = 3
    for width in WIDTHS:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def update(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Iterator[int]:
    optimizer.zero_grad()
    functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    yield len(labels)
