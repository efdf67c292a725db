"""Measures the training speed on this machine, and derives the epochs per trial if the study file has none."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from data import batches as streams
from data.config import AugmentConfig
from data.parts import TrainData
from models.build import build
from models.config import Impossible, ModelConfig, TrainConfig
from models.cuda_graph import make_recorder
from models.plan import plan
from models.precision import computes_bfloat16
from models.train import Batches, Diverged, Training
from search.spec.fit import ImageLimits, fitted
from search.spec.study_spec import StudySpec, to_model_configs
from search.spec.trial_length import DEFAULT_EPOCHS, MAX_EPOCHS, epochs_per_trial
from search.study.strategy import known_point

#: Duration of a measurement in seconds, after one warm-up batch.
MOMENT_S = 1.5
#: The same for a recipe, which is measured several times before its study begins.
CALIBRATION_S = 0.7
MOST_BATCHES = 10_000


def images_per_second(
    model: ModelConfig,
    train: TrainConfig,
    *,
    classes: int,
    side: int,
    device: torch.device,
    batches: Batches | None = None,
    least_s: float = MOMENT_S,
) -> float:
    """Measure the training speed of a network.

    Args:
        model: The network.
        train: The training settings.
        classes: Number of classes.
        side: Image size in pixels per side.
        device: The device to train on.
        batches: Source of the batches; None trains on random images.
        least_s: Least duration of the measurement in seconds.

    Returns:
        Images per second.
    """
    images = torch.randn(train.batch_size, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(train.batch_size, device=device) % classes
    network = build(model, image_size=side, classes=classes, images=images.cpu()).to(device)
    source = batches or (lambda first, last: iter([(images, labels)] * (last - first)))
    network.in_bfloat16 = computes_bfloat16(train.precision, device)
    training = Training(
        network,
        train,
        total_batches=MOST_BATCHES,
        seed=0,
        class_counts=(1,) * classes,  # class weights cost the same time, whatever they are
        recorder=make_recorder(device),
    )
    began = time.perf_counter()
    for result in training.run(source, range(1, MOST_BATCHES)):
        if result.step == 1:
            began = time.perf_counter()
        elif time.perf_counter() - began > least_s:
            break
    return (training.step - 1) * train.batch_size / (time.perf_counter() - began)


def macs_per_second(
    device_name: str, model: ModelConfig, train: TrainConfig, *, side: int, classes: int, threads: Sequence[int]
) -> tuple[float, ...]:
    """Measure the multiply-accumulates of forward passes in the training of a network, per second.

    Args:
        device_name: Torch device, such as cpu or cuda:0.
        model: The network.
        train: The training settings.
        side: Image size in pixels per side.
        classes: Number of classes.
        threads: Numbers of threads.

    Returns:
        A speed for each number of threads; for a device other than the CPU, on which threads have no effect, one.

    Raises:
        Impossible: No such network can be built or trained.
    """
    device, shape = torch.device(device_name), plan(model, image_size=side, classes=classes)
    speeds = []
    for count in threads if device.type == "cpu" else threads[:1]:
        torch.set_num_threads(count)
        images = images_per_second(model, train, classes=classes, side=side, device=device, least_s=CALIBRATION_S)
        speeds.append(images * shape.macs)
    return tuple(speeds)


def with_epochs(
    spec: StudySpec,
    limits: ImageLimits,
    *,
    validation: int,
    search_s: float | None,
    workers: int,
    device: torch.device,
    data: TrainData | None = None,
) -> StudySpec:
    """The study with the epochs of a complete trial; if its file has none, from the training speed of its known point.

    Args:
        spec: The study.
        limits: The limits that its images set.
        validation: Number of validation images.
        search_s: Wall-clock seconds that the search may take; None is no limit.
        workers: Number of concurrent workers.
        device: The device to measure on.
        data: The images; None measures with random images.
    """
    if spec.budget.epochs is not None:
        return spec
    budget = spec.budget.model_copy(update={"epochs": MAX_EPOCHS, "evaluations": spec.budget.steps})
    unlimited = replace(spec, budget=budget)
    try:
        model, train, augment = to_model_configs(spec, fitted(unlimited, known_point(spec), limits))
    except Impossible:  # the first trials report this
        return replace(spec, budget=budget.model_copy(update={"epochs": DEFAULT_EPOCHS}))
    speed = 0.0
    if search_s is not None:
        try:
            batches = None if data is None else _batches(data, train, augment, device)
            speed = images_per_second(
                model, train, classes=limits.classes, side=limits.side, device=device, batches=batches
            )
        except (Diverged, MemoryError, RuntimeError):
            search_s = None  # the trial itself reports the error; it has the default epochs, as without a time limit
    epochs = epochs_per_trial(
        images=limits.images,
        judged=validation * budget.steps,
        batch_size=train.batch_size,
        images_per_second=speed,
        search_s=search_s,
        workers=workers,
    )
    return replace(spec, budget=budget.model_copy(update={"epochs": epochs}))


def _batches(data: TrainData, train: TrainConfig, augment: AugmentConfig, device: torch.device) -> Batches:
    """The batches of a trial, with augmentation, which takes time."""
    return streams.Batches(data.train, data.info, batch_size=train.batch_size, seed=0, augment=augment, device=device)
