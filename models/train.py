"""A training loop that yields a result per step and can be interrupted, saved and resumed at any batch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.build import build
from models.cnn import Network
from models.config import ModelConfig, TrainConfig
from models.cuda_graph import GraphCache, Recorder, make_recorder
from models.loss import CrossEntropy
from models.optim import MovingAverage, make_optimizer, set_rate
from models.plan import check_batch_size, check_optimizer
from models.precision import computes_bfloat16
from models.rng_state import get_random_state, seed_everything, set_random_state
from models.schedule import Plateau, make_schedule
from models.training_state import TrainingState

Batch = tuple[Tensor, Tensor]
"""(N, 3, side, side) float32 images, normalised and channels_last, and (N,) int64 labels."""

Batches = Callable[[int, int], Iterable[Batch]]
"""Maps (start, stop), counted from 0, to batches start .. stop - 1. Equal arguments give equal batches."""


class Diverged(Exception):
    """The training loss is no longer a finite number."""

    def __init__(self, step: int, batch: int, loss: float) -> None:
        super().__init__(step, batch, loss)
        self.step = step
        self.batch = batch
        self.loss = loss

    def __str__(self) -> str:
        return (
            f"the training loss must be finite, but was {self.loss} in step {self.step}, batch {self.batch}; "
            f"lower learning_rate, or set clip"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """The result of one step."""

    step: int
    """Counted from 1."""
    train_loss: float
    """Mean loss over the images of the step, with label smoothing and class weights; each loss precedes the update by
    its batch."""
    images: int
    seconds: float
    """Time for training and for waiting on batches, summed over all attempts at the step."""


class Training:
    """A network, its optimizer and schedules, and the progress so far.

    `batch` batches are trained, and `step` steps are complete. An exception between two batches leaves the training
    in the state after the first of them: save state(), or call run() again.
    """

    def __init__(
        self,
        model: Network,
        config: TrainConfig,
        *,
        total_batches: int,
        seed: int,
        class_counts: Sequence[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        recorder: Recorder | None = None,
    ) -> None:
        if total_batches < 1:
            raise ValueError(f"total_batches must be at least 1, but got {total_batches}")
        self.model = model
        self.config = config
        self.total_batches = total_batches
        self.seed = seed
        self.device = next(model.parameters()).device
        self.batch = 0
        self.step = 0
        self.loss = CrossEntropy(config, class_counts=class_counts, device=self.device)
        self._planned = total_batches
        self._turn = (0, 0.0)
        self._clock = clock
        self._optimizer = make_optimizer(model, config, in_bfloat16=model.in_bfloat16, recorded=recorder is not None)
        self._recordings = None if recorder is None else GraphCache(model, self._optimizer, recorder)
        self._schedule = make_schedule(config)
        self._plateau = Plateau() if config.scheduler == "plateau" else None
        self._average = MovingAverage(model, decay=config.ema) if config.ema > 0 else None
        self._begin_step()

    def run(self, batches: Batches, boundaries: Sequence[int]) -> Iterator[StepResult]:
        """Train the remaining steps.

        Args:
            batches: source of the training batches. The caller stops a training within a step by raising from it.
            boundaries: step s ends before batch number boundaries[s - 1].

        Yields:
            The result of each step.

        Raises:
            Diverged: the training loss is not finite.
            ValueError: the boundaries contradict the batches that are done.
        """
        self._check_boundaries(boundaries)
        while self.step < len(boundaries):
            yield self._run_step(batches, boundaries[self.step])

    def end_after(self, total_batches: int) -> None:
        """Move the end of the training; the schedule continues from its current progress to the new end.

        Args:
            total_batches: the new total, counted from the start of the training.

        Raises:
            ValueError: more batches are done already.
        """
        if total_batches < self.batch:
            raise ValueError(f"total_batches must be at least the {self.batch} that are done, but got {total_batches}")
        self._turn = (self.batch, self._progress())
        self.total_batches = total_batches

    def stretch(self, total_batches: int) -> None:
        """Spread the schedule over `total_batches`, as if they had been planned from the first batch.

        Args:
            total_batches: the new total, counted from the start of the training.

        Raises:
            ValueError: the total is below the batches that are done, or above the planned ones.
        """
        if not self.batch <= total_batches <= self._planned:
            raise ValueError(
                f"total_batches must be from the {self.batch} that are done to the {self._planned} that were planned, "
                f"but got {total_batches}"
            )
        old_progress = self._progress()
        self._turn, self.total_batches = (0, 0.0), total_batches
        if self._plateau is not None and old_progress > 0:
            self._plateau.stretch(self._progress() / old_progress)

    def eval_model(self) -> nn.Module:
        """The model to evaluate: the moving average of the weights if enabled. Further training changes it."""
        return self.model if self._average is None else self._average.model

    @property
    def fallback_reason(self) -> str | None:
        """Why updates are not recorded although there is a recorder; None while recording works."""
        return None if self._recordings is None else self._recordings.fallback_reason

    def state(self) -> TrainingState:
        """A copy of everything that determines the rest of the training."""
        state = TrainingState(
            config=self.config.model_dump(),
            seed=self.seed,
            total_batches=self._planned,
            turn=(*self._turn, self.total_batches),
            batch=self.batch,
            step=self.step,
            step_began=self._step_began,
            loss_sum=self._loss_sum.item(),
            images=self._images,
            seconds=self._seconds,
            model=dict(self.model.state_dict()),
            optimizer=self._optimizer.state_dict(),
            average={} if self._average is None else self._average.state_dict(),
            plateau={} if self._plateau is None else self._plateau.state_dict(),
            random=get_random_state(self.device),
        )
        return deepcopy(state)

    def load(self, state: TrainingState) -> None:
        """Restore a state(), including the random generators of the process.

        Raises:
            ValueError: the state belongs to another training.
        """
        self._check_same_training(state)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._recordings is not None:
            self._recordings.forget()  # loading replaced the optimizer's tensors
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])
        self.batch, self.step, self._step_began = state["batch"], state["step"], state["step_began"]
        batch, progress, self.total_batches = state.get("turn", (0, 0.0, self._planned))  # old states lack it
        self._turn = (batch, progress)
        self._loss_sum.fill_(state["loss_sum"])
        self._images, self._seconds = state["images"], state["seconds"]
        set_random_state(state["random"], self.device)

    def _progress(self) -> float:
        """Progress of the schedule, from 0 to 1."""
        batch, progress = self._turn
        if self.total_batches == batch:
            return progress
        return progress + (1.0 - progress) * (self.batch - batch) / (self.total_batches - batch)

    def _begin_step(self) -> None:
        self._step_began = self.batch
        # On the device: reading the sum after every batch would synchronise a GPU.
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._images = 0
        self._seconds = 0.0

    def _run_step(self, batches: Batches, end: int) -> StepResult:
        self.model.train()
        began = self._clock()
        for images, labels in batches(self.batch, end):
            self._train_batch(images, labels)
            now = self._clock()
            self._seconds += now - began
            began = now
        if self.device.type == "cuda":  # the kernels were only queued
            torch.cuda.synchronize(self.device)
            self._seconds += self._clock() - began
        if self.batch != end:
            raise ValueError(
                f"step {self.step + 1} must end after {end} batches, but the batches ended at {self.batch}"
            )
        return self._end_step()

    def _train_batch(self, images: Tensor, labels: Tensor) -> None:
        factor = self._schedule(self._progress())
        if self._plateau is not None:
            factor *= self._plateau.factor
        for group in self._optimizer.param_groups:
            set_rate(group, self.config.learning_rate * factor * group.get("rate", 1.0))  # old states lack it
        if self._recordings is None:
            loss = self._update(images, labels)
        else:
            loss = self._recordings.replay(self._update, images, labels)
        if self._average is not None:
            self._average.update()
        self._loss_sum += loss * len(labels)
        self._images += len(labels)
        self.batch += 1

    def _update(self, images: Tensor, labels: Tensor) -> Tensor:
        """Update the weights; returns the mean loss, (), before the update. Can be recorded as a whole."""
        logits = self.model(images)
        loss = self.loss(logits, labels)
        if self.device.type == "cpu" and self._recordings is None:
            self._check_finite(loss.item())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        if self.config.clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._optimizer.step()
        return loss.detach()

    def _end_step(self) -> StepResult:
        train_loss = self._loss_sum.item() / self._images
        self._check_finite(train_loss)
        if self._plateau is not None:
            self._plateau.step(train_loss, progress=self._progress())
        self.step += 1
        result = StepResult(step=self.step, train_loss=train_loss, images=self._images, seconds=self._seconds)
        self._begin_step()
        return result

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(self.step + 1, self.batch, loss)

    def _check_boundaries(self, boundaries: Sequence[int]) -> None:
        ends = [0, *boundaries]
        most = max(self.total_batches, self._planned)
        if any(end <= previous for previous, end in pairwise(ends)) or ends[-1] > most:
            raise ValueError(f"boundaries must rise from 1 to at most {most}, but got {list(boundaries)}")
        step_range = ends[min(self.step, len(boundaries)) :][:2]
        if self._step_began != step_range[0] or self.batch > step_range[-1]:
            raise ValueError(
                f"{self.batch} batches in {self.step} complete steps do not fit the boundaries {list(boundaries)}"
            )

    def _check_same_training(self, state: TrainingState) -> None:
        theirs = (TrainConfig(**state["config"]), state["seed"], state["total_batches"])
        ours = (self.config, self.seed, self._planned)
        for name, stored, current in zip(("config", "seed", "total_batches"), theirs, ours, strict=True):
            if stored != current:
                raise ValueError(
                    f"the state belongs to another training: its {name} is {stored!r}, here it is {current!r}"
                )


def start(
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    image_size: int,
    classes: int,
    total_batches: int,
    seed: int,
    device: torch.device | str,
    images: Tensor | None = None,
    weights: Mapping[str, Tensor] | None = None,
    class_counts: Sequence[int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    recorder: Recorder | None = None,
) -> Training:
    """Seed the random generators of the process and build a network, ready to train on `device`.

    Args:
        model_config: the network.
        config: the training.
        image_size: side of the images in pixels.
        classes: number of classes.
        total_batches: planned number of batches.
        seed: seed of all random generators.
        device: where to train.
        images: (N, 3, side, side) normalised training images to fit a whitening stem to; unused otherwise.
        weights: pretrained weights of a backbone (`models.backbone`).
        class_counts: training images of each class, for class weights; unused otherwise.
        clock: time in seconds.
        recorder: records updates. The default is CUDA graphs on a GPU, and no recording elsewhere.

    Raises:
        Impossible: no such network can be built or trained.
        ValueError: `images`, `weights` or `class_counts` are missing.
    """
    if model_config.stem == "whiten" and images is None:
        raise ValueError('stem = "whiten" needs images to be fitted to, but got None')
    check_optimizer(model_config, config.optimizer)
    if model_config.backbone != "none" and weights is None:
        raise ValueError(f"backbone {model_config.backbone!r} needs its pretrained weights, but got None")
    check_batch_size(model_config, config.batch_size, image_size=image_size, classes=classes)
    seed_everything(seed)
    model = build(model_config, image_size=image_size, classes=classes, images=images, weights=weights).to(device)
    model.in_bfloat16 = computes_bfloat16(config.precision, torch.device(device))
    recorder = recorder or make_recorder(torch.device(device))
    return Training(
        model,
        config,
        total_batches=total_batches,
        seed=seed,
        class_counts=class_counts,
        clock=clock,
        recorder=recorder,
    )
