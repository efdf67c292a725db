"""An expert's own Optuna script, which `python -m tests.bench sets` measures beside convsearch.

It is one file, and uses nothing of this project. It reads a folder of train/CLASS/* and test/CLASS/*, searches ten
hyperparameters of a BatchNorm network for two thirds of the time, trains the best configuration on all images for the
last third, tests it once, and prints the result as JSON.

    python expert.py FOLDER --minutes 3 --seed 1
"""

import argparse
import base64
import contextlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import torch
import torch.nn.functional as F
from optuna.trial import FrozenTrial, Trial, TrialState
from PIL import Image, ImageFile, ImageOps
from torch import Tensor, nn

BEGAN = time.monotonic() - (time.time() - psutil.Process().create_time())
"""The start of this process on the monotonic clock; loading torch takes seconds."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FINAL_SHARE = 1 / 3
"""Share of the time for the last training."""
FULL_TRIALS = 16
"""Trials that the search could train in full; with Hyperband, up to twice as many begin."""
WIDTHS = (16, 24, 32, 48, 64)
"""Channels of the first stage."""
LEAST_EPOCHS, LEAST_UPDATES = 8, 1000
"""Length of the last training with the largest network of the search: epochs, and updates with 32 images."""
SPEEDUP = 0.85
"""Share of the speed of single cores that one training on all of them has."""
RUNGS = (1, 3, 9)
"""Ninths of a trial at which Hyperband decides."""
LARGEST_SIDE = 64
"""Larger images take too long on a few cores."""
VALIDATION_SHARE, MOST_VALIDATION = 0.2, 5000
END_S = 1.0
"""Seconds to print and exit, beside those of the test."""
LEAST_S = 0.5
"""Seconds of a training at least, also where loading torch takes all of the time."""
PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "learning_rate": 0.0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "flip": False,
    "crop": 0,
}
"""Hyperparameters to time an update with."""
Values = Mapping[str, Any]
"""The hyperparameters of a trial by name."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Decoded images in memory."""

    images: Tensor
    """(N, S, S, C), uint8."""
    labels: Tensor
    """(N,)"""


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that a training needs to know of the images and the machine."""

    train: Pictures
    classes: int
    mean: Tensor
    std: Tensor
    """(1, C, 1, 1): mean and standard deviation of each channel of the training images, from 0 to 255."""
    bfloat16: bool

    @property
    def stages(self) -> int:
        """Most stages; the last one has at least four pixels a side before its pooling."""
        return max(2, min(4, int(math.log2(self.side / 4))))

    @property
    def side(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[3])


# -- images -------------------------------------------------------------------------------------------------------


def listed(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The image files of a part with their labels, ordered by class and name."""
    suffixes = set(Image.registered_extensions())
    pairs = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    ]
    return [file for file, _ in pairs], [label for _, label in pairs]


def usual_side(files: Sequence[Path]) -> int:
    """The median of the images' shorter sides, a multiple of four, and at most LARGEST_SIDE."""
    sides = []
    for file in files[:: max(1, len(files) // 500)]:
        with Image.open(file) as image:
            sides.append(min(image.size))
    return max(8, min(LARGEST_SIDE, int(statistics.median(sides))) // 4 * 4)


def decoded(file: Path, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(S, S, 3): the middle square of an image."""
    with Image.open(file) as image:
        image.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its size
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.BILINEAR))


def read(folder: Path) -> tuple[Pictures, Pictures, int]:
    """Read the training and test images, and count the classes. Grey images have one channel."""
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    parts = [listed(folder / part, classes) for part in ("train", "test")]
    side = usual_side(parts[0][0])
    with ThreadPoolExecutor(CORES) as pool:
        arrays = [np.stack(list(pool.map(lambda file: decoded(file, side), files))) for files, _ in parts]
    is_grey = all((array[..., :1] == array).all() for array in arrays)
    train, test = (
        Pictures(torch.from_numpy(np.ascontiguousarray(array[..., :1]) if is_grey else array), torch.tensor(labels))
        for array, (_, labels) in zip(arrays, parts, strict=True)
    )
    return train, test, len(classes)


def split(labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train and to validate: of each class the same share, at least one image, and never all."""
    share = min(VALIDATION_SHARE, MOST_VALIDATION / len(labels))
    generator = torch.Generator().manual_seed(seed)
    train, validation = [], []
    for label in range(classes):
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        validation.append(rows[:count])
        train.append(rows[count:])
    return torch.cat(train), torch.cat(validation)


# -- training -----------------------------------------------------------------------------------------------------


def network(values: Values, channels: int, classes: int) -> nn.Module:
    """Stages of convolution, BatchNorm and ReLU, each with a pooling; then the mean, dropout and a linear layer."""
    layers: list[nn.Module] = []
    width = values["width"]
    for _ in range(values["stages"]):
        for _ in range(values["convolutions"]):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
        width = min(512, 2 * width)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(values["dropout"]), nn.Linear(channels, classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def optimizer(values: Values, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; norms and biases do not decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": values["weight_decay"]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    if values["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=values["learning_rate"], momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=values["learning_rate"], fused=True)


def schedule(share: float) -> float:
    """One cycle: a linear rise in the first tenth, before the first rung, then a cosine to 0."""
    return share / 0.1 if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def normalised(images: Tensor, task: Task) -> Tensor:
    """(N, C, S, S) in channels_last, from (N, S, S, C) bytes."""
    return (images.permute(0, 3, 1, 2).float() - task.mean) / task.std


def augmented(images: Tensor, values: Values) -> Tensor:
    """Crop every image at random out of its padded copy, and mirror half of them. (N, C, S, S)"""
    count, _, side, _ = images.shape
    if padding := values["crop"]:
        padded = F.pad(images, (padding,) * 4, mode="reflect").permute(0, 2, 3, 1)
        down, right = (torch.randint(2 * padding + 1, (count, 1)) + torch.arange(side) for _ in range(2))
        images = padded[torch.arange(count)[:, None, None], down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)
    if values["flip"]:
        images = torch.where((torch.rand(count) < 0.5)[:, None, None, None], images.flip(3), images)
    return images.contiguous(memory_format=torch.channels_last)


def training(
    values: Values,
    task: Task,
    rows: Tensor,
    *,
    seed: int,
    epochs: float = math.inf,
    seconds: float = math.inf,
    deadline: float = math.inf,
) -> Iterator[tuple[int, float, nn.Module]]:
    """Train for some epochs or seconds, and pause at each rung.

    A training in seconds has a learning rate that follows the clock. It ends in time, and has as many epochs as fit at
    its true speed: a slow first one is not taken for all.

    Args:
        values: Its hyperparameters.
        task: Images and machine.
        rows: The images to train with.
        seed: Of the weights, the order and the augmentation.
        epochs: Length of the training.
        seconds: Length of the training, without the time between two steps of this generator.
        deadline: The training stops at this time, but not before its first rung.

    Yields:
        The rung in ninths, the epochs until there, and the network.
    """
    torch.manual_seed(seed)
    model = network(values, task.channels, task.classes)
    stepper = optimizer(values, model)
    peaks = [group["lr"] for group in stepper.param_groups]
    batch = min(values["batch_size"], len(rows))
    rungs, spent, seen = list(RUNGS), 0.0, 0
    while True:
        for chosen in torch.split(torch.randperm(len(rows))[: len(rows) // batch * batch], batch):
            began = time.monotonic()
            if began > deadline and rungs[0] > RUNGS[0]:
                return
            share = max(spent / seconds, seen / len(rows) / epochs)
            for group, peak in zip(stepper.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(min(1.0, share))
            model.train()
            update(model, stepper, task, rows[chosen], values)
            seen += batch
            spent += time.monotonic() - began
            if max(spent / seconds, seen / len(rows) / epochs) >= rungs[0] / RUNGS[-1]:
                yield rungs.pop(0), seen / len(rows), model
                if not rungs:
                    return


def update(model: nn.Module, stepper: torch.optim.Optimizer, task: Task, rows: Tensor, values: Values) -> None:
    images = augmented(normalised(task.train.images[rows], task), values)
    stepper.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=task.bfloat16):
        loss = F.cross_entropy(model(images), task.train.labels[rows], label_smoothing=values["label_smoothing"])
    loss.backward()  # type: ignore[no-untyped-call]
    stepper.step()


@torch.inference_mode()
def correct(model: nn.Module, task: Task, pictures: Pictures) -> Tensor:
    """(N,) whether each image is classified correctly."""
    model.eval()
    answers = []
    for images, labels in zip(*(torch.split(part, 250) for part in (pictures.images, pictures.labels)), strict=True):
        inputs = normalised(images, task).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=task.bfloat16):
            answers.append(model(inputs).argmax(1) == labels)
    return torch.cat(answers)


def prefers_bfloat16() -> bool:
    """Whether a convolution is trained faster in bfloat16 on this processor."""
    layer = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
    layer.to(memory_format=torch.channels_last)
    images = torch.randn(64, 32, 16, 16).contiguous(memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        times = []
        for _ in range(6):
            began = time.monotonic()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                total = layer(images).float().sum()
            total.backward()
            times.append(time.monotonic() - began)
        return min(times)

    return seconds(True) < seconds(False)


def speeds(task: Task, *, final_s: float) -> dict[str, float]:
    """Images per second on one core by size, as "32x1": width and convolutions per stage.

    Sizes with which the last training would be too short are left out; the smallest one is always in.
    """
    rows = torch.arange(min(32, len(task.train.labels)))
    least = max(LEAST_EPOCHS * len(task.train.labels), LEAST_UPDATES * 32)
    found: dict[str, float] = {}
    for convolutions in (1, 2):
        for width in WIDTHS:
            values = {**sized(f"{width}x{convolutions}"), **PLAIN, "stages": task.stages}
            model = network(values, task.channels, task.classes)
            stepper = optimizer(values, model)
            times = []
            for _ in range(3):
                began = time.monotonic()
                update(model, stepper, task, rows, values)
                times.append(time.monotonic() - began)
            speed = len(rows) / min(times)
            if found and SPEEDUP * CORES * speed * final_s < least:
                break
            found[f"{width}x{convolutions}"] = speed
    return found


def sized(size: str) -> dict[str, Any]:
    """The width and the convolutions of "32x1"."""
    width, convolutions = map(int, size.split("x"))
    return {"width": width, "convolutions": convolutions}


# -- search -------------------------------------------------------------------------------------------------------


def suggest(trial: Trial, task: Task, sizes: Sequence[str], images: int) -> dict[str, Any]:
    """Ten hyperparameters. Each optimizer has learning rates and decays of its own."""
    side = task.side
    name = trial.suggest_categorical("optimizer", ["sgd", "adamw"])
    rates, decays = {"sgd": ((1e-2, 0.5), (1e-5, 5e-3)), "adamw": ((3e-4, 1e-2), (1e-3, 0.3))}[name]
    return {
        "optimizer": name,
        "learning_rate": trial.suggest_float(f"{name}_learning_rate", *rates, log=True),
        "weight_decay": trial.suggest_float(f"{name}_weight_decay", *decays, log=True),
        "batch_size": trial.suggest_categorical(
            "batch_size", [n for n in (16, 32, 64, 128) if n <= max(16, images // 8)]
        ),
        "stages": trial.suggest_int("stages", 2, task.stages),
        **sized(trial.suggest_categorical("size", list(sizes))),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "flip": trial.suggest_categorical("flip", [False, True]),
        "crop": trial.suggest_int("crop", 0, side // 8, step=max(1, side // 16)),
    }


def load_study(url: str, seed: int) -> optuna.Study:
    """The common study, or a new one."""
    return optuna.create_study(
        study_name="expert",
        storage=optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}}),
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS[-1], reduction_factor=3),
        load_if_exists=True,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """The size of a search."""

    sizes: tuple[str, ...]
    epochs: float
    """Epochs of a full trial."""
    trial_s: float
    """Seconds of a full trial with a network of middle size."""
    deadline: float
    """No trial goes on after this time."""


def work(url: str, task: Task, limits: Limits, *, seed: int) -> None:
    """Run trials in this process, until none could end in time."""
    torch.set_num_threads(1)
    parent = os.getppid()
    rows, held_out = split(task.train.labels, task.classes, seed % 1000)
    validation = Pictures(task.train.images[held_out], task.train.labels[held_out])

    def objective(trial: Trial) -> float:
        values = suggest(trial, task, limits.sizes, len(rows))
        trial.set_user_attr("values", values)
        lengths = {"epochs": limits.epochs, "deadline": limits.deadline}
        for rung, epochs, model in training(values, task, rows, seed=seed + trial.number, **lengths):
            began = time.monotonic()
            value = correct(model, task, validation).float().mean().item()
            trial.set_user_attr("image_s", (time.monotonic() - began) / len(held_out))
            trial.set_user_attr("epochs", epochs)
            trial.report(value, rung)
            if rung == RUNGS[-1]:
                return value
            if trial.should_prune() or os.getppid() != parent:
                break
        raise optuna.TrialPruned

    study = load_study(url, seed)
    study.optimize(objective, n_trials=1)
    while time.monotonic() + limits.trial_s < limits.deadline and os.getppid() == parent:
        study.optimize(objective, n_trials=1)


def searched(folder: str, task: Task, limits: Limits, *, seed: int) -> list[FrozenTrial]:
    """The trials of a search in one process per core."""
    url = f"sqlite:///{folder}/study.db"
    load_study(url, seed)
    context = multiprocessing.get_context("fork")  # the children share the images, and load nothing again
    workers = [
        context.Process(target=work, args=(url, task, limits), kwargs={"seed": 1000 * core + seed}, daemon=True)
        for core in range(CORES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0.0, limits.deadline + 10.0 - time.monotonic()))
    return load_study(url, seed).trials


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """The best complete trial; without one, the trial that was best at the highest rung."""
    judged = [trial for trial in trials if trial.intermediate_values]
    if not judged:
        sys.exit("no trial came to its first rung")
    return max(
        judged,
        key=lambda trial: (
            trial.state == TrialState.COMPLETE,
            max(trial.intermediate_values),
            trial.intermediate_values[max(trial.intermediate_values)],
        ),
    )


# -- the whole ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of train/CLASS/* and test/CLASS/*")
    parser.add_argument("--minutes", type=float, default=3.0, help="time from the start to the result")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)  # until the search has forked
    deadline = BEGAN + 60 * args.minutes
    train, test, classes = read(args.folder)
    print(json.dumps(run(train, test, classes, seed=args.seed, deadline=deadline)))


def run(train: Pictures, test: Pictures, classes: int, *, seed: int, deadline: float) -> dict[str, Any]:
    """Search, train the best configuration again, and test it."""
    pixels = train.images.flatten(0, 2).float()
    std, mean = (value[None, :, None, None] for value in torch.std_mean(pixels, 0))
    task = Task(train, classes, mean, std.clamp_min(1.0), prefers_bfloat16())
    left = deadline - time.monotonic()
    by_size = speeds(task, final_s=FINAL_SHARE * left)
    trial_s = max(LEAST_S, (1 - FINAL_SHARE) * left * CORES / FULL_TRIALS)
    limits = Limits(
        sizes=tuple(by_size),
        epochs=trial_s * statistics.median(by_size.values()) / len(train.labels),
        trial_s=trial_s,
        deadline=deadline - FINAL_SHARE * left,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trials = searched(folder, task, limits, seed=seed)
    best = best_of(trials)
    torch.set_num_threads(CORES)
    test_s = best.user_attrs["image_s"] * len(test.labels)
    left = max(LEAST_S, deadline - time.monotonic() - END_S - test_s)
    final = training(best.user_attrs["values"], task, torch.arange(len(train.labels)), seconds=left, seed=seed)
    *_, (_, epochs, model) = final
    right = correct(model, task, test).numpy()
    return {
        "right": int(right.sum()),
        "images": len(right),
        "bits": base64.b64encode(np.packbits(right).tobytes()).decode(),
        "epochs": round(epochs, 2),
        "trials": len(trials),
        "complete": sum(trial.state == TrialState.COMPLETE for trial in trials),
        "validation": best.intermediate_values[max(best.intermediate_values)],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "configuration": best.user_attrs["values"],
        "side": task.side,
        "bfloat16": task.bfloat16,
        "seconds": round(time.monotonic() - BEGAN, 1),
    }


if __name__ == "__main__":
    main()
