"""Training: it learns, it is reproducible, and it can be interrupted and resumed at any batch."""

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.config import Impossible, ModelConfig, OptimizerName, SchedulerName, TrainConfig
from models.cuda_graph import Recorder
from models.evaluate import evaluate
from models.optim import rates_to_tensors
from models.schedule import RISE_FROM
from models.train import Batch, Batches, Diverged, StepResult, Training, start
from search.workers import local
from tests.fake_cuda_graph import AgainRecorder, TapeRecorder

BOUNDARIES = (3, 5, 9)
SMALL = {"conv_layers": 2, "width": 8, "dense_units": 16}
COUNTS = (60, 30, 10)
"""Training images of each class, for class weights."""


class Interrupted(Exception):
    """Raised by a caller to stop a training."""


def batch(number: int) -> Batch:
    """Sixteen images of 8 x 8 pixels in three classes, with a brighter red, green or blue channel."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.randint(0, 3, (16,), generator=generator)
    images = torch.randn(16, 3, 8, 8, generator=generator) + functional.one_hot(labels, 3)[:, :, None, None]
    return images.contiguous(memory_format=torch.channels_last), labels


def batches(first: int, stop: int) -> Iterator[Batch]:
    yield from (batch(number) for number in range(first, stop))


def same_batch(first: int, stop: int) -> Iterator[Batch]:
    yield from (batch(0) for _ in range(first, stop))


def interrupted_at(end: int, *, early: bool) -> Batches:
    """All batches before number `end`, then Interrupted: after the last batch if `early`, otherwise at the next."""

    def make(first: int, stop: int) -> Iterator[Batch]:
        for number in range(first, stop):
            if number == end:
                raise Interrupted
            yield batch(number)
        if early and stop == end:
            raise Interrupted

    return make


def no_time() -> float:
    return 0.0


def begin(
    model: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    *,
    total: int = BOUNDARIES[-1],
    seed: int = 7,
    clock: Callable[[], float] = no_time,
    device: str = "cpu",
    recorder: Recorder | None = None,
) -> Training:
    torch.set_num_threads(1)
    images = batch(0)[0] if (model or {}).get("stem") == "whiten" else None
    return start(
        ModelConfig.model_validate(SMALL | (model or {})),
        TrainConfig.model_validate({"batch_size": 16, "learning_rate": 0.02} | (train or {})),
        image_size=8,
        classes=3,
        total_batches=total,
        seed=seed,
        device=device,
        images=images,
        class_counts=COUNTS,
        clock=clock,
        recorder=recorder,
    )


def bits(value: object) -> object:
    """The same nested dicts and lists, with the bytes of each tensor."""
    if isinstance(value, Tensor):
        return value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return value


def loss_on(training: Training, number: int = 0) -> float:
    """Loss of the network in training mode (batch norm over the batch), without an update."""
    images, labels = batch(number)
    training.model.train()
    with torch.no_grad():
        return functional.cross_entropy(training.model(images), labels).item()


ONE_STEP = [
    {},
    *({"activation": name} for name in ("leaky_relu", "elu", "gelu", "silu")),
    *({"norm": name} for name in ("group", "none")),
    *({"norm": name, "precision": "bfloat16"} for name in ("batch", "group", "none")),
    {"stem": "whiten"},
    {"input_channels": 1},
    {"pool": "avg"},
    *({"head": name} for name in ("max", "flatten")),
    {"residual": True},
    *({"kernel_size": value} for value in (5, 7)),
    *({"dense_layers": value} for value in (0, 4)),
    {"pool_every": 2, "residual": True},
    *({"optimizer": name, "learning_rate": 0.002} for name in ("sgd", "muon", "adam", "adamw", "rmsprop")),
    *({"scheduler": name} for name in ("none", "step", "linear", "cosine", "plateau")),
    *({"scheduler": name, "warmup": 0.3} for name in ("none", "step", "cosine", "plateau")),
    {"label_smoothing": 0.1},
    {"class_weights": 1.0},
    {"clip": 0.5},
    {"ema": 0.9},
    {"momentum": 0.0},
    {"weight_decay": 0.0},
    {"decay_norms": True},
    {"bias_rate": 8.0},
    {"logit_scale": 0.5},
    {"init": "dirac"},
    {"pool_every": 2, "pool_first": True},
]


@pytest.mark.parametrize(
    "changes", ONE_STEP, ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "defaults"
)
def test_one_step_on_a_batch_lowers_the_loss_of_that_batch(changes: dict[str, object]) -> None:
    model = {key: value for key, value in changes.items() if key in ModelConfig.model_fields}
    train = {key: value for key, value in changes.items() if key in TrainConfig.model_fields}
    training = begin(model, train, total=5)
    before = loss_on(training)

    results = list(training.run(same_batch, [5]))

    assert [result.step for result in results] == [1]
    assert loss_on(training) < before


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_one_batch_is_memorized(optimizer: str) -> None:
    rate = 0.05 if optimizer == "sgd" else 0.01
    training = begin(train={"optimizer": optimizer, "learning_rate": rate}, total=60)

    last = list(training.run(same_batch, range(10, 61, 10)))[-1]

    assert last.train_loss < 0.05
    assert evaluate(training.eval_model(), [batch(0)], 3).accuracy == 1.0


def test_a_trained_network_generalizes_to_new_images() -> None:
    training = begin(train={"ema": 0.9}, total=80)

    list(training.run(batches, [80]))

    assert evaluate(training.eval_model(), batches(1000, 1010), 3).accuracy > 0.9


def grey_batches(first: int, stop: int) -> Iterator[Batch]:
    """Sixteen grey images of 8 x 8 pixels a batch, in three classes of brightness."""
    for number in range(first, stop):
        generator = torch.Generator().manual_seed(number)
        labels = torch.randint(0, 3, (16,), generator=generator)
        grey = torch.randn(16, 1, 8, 8, generator=generator) + 2 * (labels - 1)[:, None, None, None]
        yield grey.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last), labels


@pytest.mark.parametrize("stem", ["none", "whiten"])
def test_a_network_with_one_input_channel_learns_grey_images(stem: str) -> None:
    training = begin({"input_channels": 1, "stem": stem}, total=60)

    list(training.run(grey_batches, [60]))

    assert evaluate(training.eval_model(), grey_batches(1000, 1010), 3).accuracy > 0.9


MODEL = {"stem": "whiten", "dropout_conv": 0.2, "dropout_dense": 0.3, "residual": True}
TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "scheduler": "one_cycle", "ema": 0.9},
    # The rate is so low that the loss stays, and the plateau acts before the end.
    "sgd-plateau": {"optimizer": "sgd", "scheduler": "plateau", "learning_rate": 1e-6, "warmup": 0.2},
    "muon": {"optimizer": "muon", "scheduler": "linear", "momentum": 0.6, "precision": "bfloat16", "bias_rate": 4.0},
    "adam": {"optimizer": "adam", "scheduler": "plateau", "ema": 0.99},
    "adamw": {"optimizer": "adamw", "scheduler": "cosine", "warmup": 0.3, "clip": 0.1, "label_smoothing": 0.1},
    "weighted": {"optimizer": "sgd", "class_weights": 0.5, "label_smoothing": 0.1, "ema": 0.9},
    "rmsprop": {"optimizer": "rmsprop", "scheduler": "step", "learning_rate": 1e-3, "ema": 0.5},
}


@cache
def uninterrupted(name: str) -> tuple[list[StepResult], object]:
    training = begin(MODEL, TRAININGS[name])
    return list(training.run(batches, BOUNDARIES)), bits(training.state())


@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_seed_trains_the_same_network_bit_for_bit(name: str) -> None:
    training = begin(MODEL, TRAININGS[name])

    results = list(training.run(batches, BOUNDARIES))

    assert (results, bits(training.state())) == uninterrupted(name)


def test_biases_move_by_their_own_rate_and_the_weights_by_the_common_one() -> None:
    moved = []
    for rate in (1.0, 8.0):
        training = begin({}, {"momentum": 0.0, "weight_decay": 0.0, "scheduler": "none", "bias_rate": rate}, total=1)
        before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
        list(training.run(batches, [1]))
        moved.append({name: value.detach() - before[name] for name, value in training.model.named_parameters()})

    slow, fast = moved
    for name, value in slow.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(fast[name], value * (8.0 if name.endswith("bias") else 1.0), atol=1e-6, rtol=1e-3)


def test_a_whitening_stem_stays_as_fitted_and_all_other_parameters_learn() -> None:
    training = begin({"stem": "whiten"}, {})
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}

    list(training.run(batches, BOUNDARIES))

    after = dict(training.model.named_parameters())
    assert {name for name in before if torch.equal(before[name], after[name])} == {"stem.conv.weight"}


def test_another_seed_trains_another_network() -> None:
    training = begin(MODEL, TRAININGS["sgd"], seed=8)

    results = list(training.run(batches, BOUNDARIES))

    assert results != uninterrupted("sgd")[0]


@pytest.mark.parametrize("early", [pytest.param(True, id="early"), pytest.param(False, id="late")])
@pytest.mark.parametrize("end", range(BOUNDARIES[-1] + 1))
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_resumed_from_any_batch_ends_bit_for_bit_the_same(
    name: str, end: int, early: bool, tmp_path: Path
) -> None:
    first = begin(MODEL, TRAININGS[name])
    results = []
    try:
        for result in first.run(interrupted_at(end, early=early), BOUNDARIES):
            results.append(result)
    except Interrupted:
        assert first.batch == end
    torch.save(first.state(), tmp_path / "state")

    second = begin(MODEL, TRAININGS[name])
    torch.rand(5)  # other code draws from the generators in the meantime
    second.load(torch.load(tmp_path / "state", weights_only=True))
    results += second.run(batches, BOUNDARIES)

    assert (results, bits(second.state())) == uninterrupted(name)


def finish(stored: Path, ended: Path) -> None:
    """Resume the stored training and store its final state; another process calls this, which ran no training."""
    training = begin(MODEL, TRAININGS["sgd"])
    training.load(torch.load(stored, weights_only=True))
    list(training.run(batches, BOUNDARIES))
    torch.save(training.state(), ended)


@pytest.mark.slow
def test_a_training_resumed_in_another_process_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    training = begin(MODEL, TRAININGS["sgd"])
    with pytest.raises(Interrupted):
        list(training.run(interrupted_at(4, early=True), BOUNDARIES))
    torch.save(training.state(), tmp_path / "stored")

    process = local.start_server().Process(target=finish, args=(tmp_path / "stored", tmp_path / "ended"))
    process.start()
    process.join()

    assert process.exitcode == 0
    assert bits(torch.load(tmp_path / "ended", weights_only=True)) == uninterrupted("sgd")[1]


def test_an_interrupted_training_continues_in_place() -> None:
    training = begin(MODEL, TRAININGS["sgd"])

    with pytest.raises(Interrupted):
        list(training.run(interrupted_at(1, early=True), BOUNDARIES))
    results = list(training.run(batches, BOUNDARIES))

    assert (results, bits(training.state())) == uninterrupted("sgd")


def test_evaluating_between_the_steps_changes_nothing() -> None:
    training = begin(MODEL, TRAININGS["sgd"])
    results = []

    for result in training.run(batches, BOUNDARIES):
        evaluate(training.model.eval(), batches(100, 102), 3)
        evaluate(training.eval_model(), batches(100, 102), 3)
        results.append(result)

    assert (results, bits(training.state())) == uninterrupted("sgd")


def test_a_state_does_not_change_while_the_training_goes_on() -> None:
    training = begin(MODEL, TRAININGS["sgd"])
    steps = training.run(batches, BOUNDARIES)
    next(steps)
    state = training.state()
    before = bits(state)

    list(steps)

    assert bits(state) == before


def test_a_finished_training_has_nothing_left_to_do() -> None:
    training = begin(MODEL, TRAININGS["sgd"])
    list(training.run(batches, BOUNDARIES))

    assert list(training.run(batches, BOUNDARIES)) == []


@pytest.mark.parametrize(
    ("other", "named"),
    [
        pytest.param({"train": {"learning_rate": 0.5}}, "config", id="config"),
        pytest.param({"seed": 8}, "its seed is 7, here it is 8", id="seed"),
        pytest.param({"total": 10}, "its total_batches is 9, here it is 10", id="total_batches"),
    ],
)
def test_the_state_of_another_training_is_refused(other: dict[str, Any], named: str) -> None:
    state = begin().state()

    with pytest.raises(ValueError, match=named):
        begin(**other).load(state)


def test_a_step_reports_its_mean_loss_its_images_and_its_seconds() -> None:
    ticks = itertools.count()
    training = begin(train={"learning_rate": 1e-9}, clock=lambda: float(next(ticks)))
    expected = sum(loss_on(training, number) for number in range(3)) / 3

    first = next(iter(training.run(batches, BOUNDARIES)))

    assert (first.step, first.images, first.seconds) == (1, 48, 3.0)
    assert first.train_loss == pytest.approx(expected, abs=1e-5)


def test_the_seconds_of_a_step_are_summed_over_its_attempts() -> None:
    ticks = itertools.count()
    first, second = (begin(clock=lambda: float(next(ticks))) for _ in range(2))
    with pytest.raises(Interrupted):
        list(first.run(interrupted_at(2, early=True), BOUNDARIES))

    second.load(first.state())
    result = next(iter(second.run(batches, BOUNDARIES)))

    assert result.seconds == 3.0


def rates(training: Training, count: int) -> list[float]:
    """The learning rate of each of the first `count` batches."""
    learning_rates = []
    for number in range(count):
        with pytest.raises(Interrupted):
            list(training.run(interrupted_at(number + 1, early=True), BOUNDARIES))
        learning_rates.append(training.state()["optimizer"]["param_groups"][0]["lr"])
    return learning_rates


def test_the_learning_rate_follows_the_schedule_batch_by_batch() -> None:
    training = begin(train={"scheduler": "step", "learning_rate": 0.02})

    # Batches 5 and 7 of 9 are the first batches after a half and after three quarters.
    assert rates(training, 9) == pytest.approx([0.02] * 5 + [0.002] * 2 + [0.0002] * 2)


def test_the_first_batch_of_a_warmup_has_a_positive_rate() -> None:
    training = begin(train={"scheduler": "none", "warmup": 0.5, "learning_rate": 0.02})

    assert rates(training, 1) == pytest.approx([0.02 * RISE_FROM])


def test_plateau_lowers_the_rate_when_the_training_loss_stays() -> None:
    training = begin(train={"scheduler": "plateau", "learning_rate": 1e-6}, total=6)

    list(training.run(same_batch, [1, 2, 3, 4, 5, 6]))

    assert training.state()["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-6 * 0.2**2)


def test_clip_shortens_the_gradient_to_its_limit() -> None:
    training = begin(train={"clip": 0.01})
    list(training.run(batches, [3]))

    gradients = [parameter.grad for parameter in training.model.parameters()]

    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_label_smoothing_keeps_the_training_loss_above_its_entropy() -> None:
    training = begin(train={"label_smoothing": 0.5}, total=60)

    last = list(training.run(same_batch, [50, 60]))[-1]

    # Targets of 2/3, 1/6 and 1/6 have an entropy of 0.868 nats.
    assert 0.868 < last.train_loss < 0.95


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_class_weights_the_weights_follow_the_plain_loss_bit_for_bit(label_smoothing: float) -> None:
    train = {"class_weights": 0.0, "label_smoothing": label_smoothing, "scheduler": "none"}
    training, by_hand = begin(train=train, total=5), begin(train=train, total=5)
    list(training.run(batches, [5]))

    by_hand.model.train()
    for images, labels in batches(0, 5):
        by_hand._optimizer.zero_grad()
        logits = by_hand.model(images)
        functional.cross_entropy(logits, labels, label_smoothing=label_smoothing).backward()  # type: ignore[no-untyped-call]
        by_hand._optimizer.step()

    assert bits(by_hand.model.state_dict()) == bits(training.model.state_dict())


def unbalanced(first: int, stop: int) -> Iterator[Batch]:
    """Batches with a single image of class 2 among sixteen, and three overlapping classes."""
    for number in range(first, stop):
        generator = torch.Generator().manual_seed(number)
        labels = torch.tensor([0] * 10 + [1] * 5 + [2])
        images = torch.randn(16, 3, 8, 8, generator=generator) + 0.15 * functional.one_hot(labels, 3)[..., None, None]
        yield images.contiguous(memory_format=torch.channels_last), labels


def test_class_weights_make_the_rarer_classes_likelier_predictions() -> None:
    shares = []
    for exponent in (0.0, 1.0):
        training = begin(train={"class_weights": exponent}, total=60)
        list(training.run(unbalanced, [60]))
        result = evaluate(training.eval_model(), unbalanced(1000, 1030), 3)
        shares.append(float(result.confusion[:, 1:].sum()) / result.images)

    plain, weighted = shares
    assert weighted > plain + 0.15


def test_the_moving_average_is_evaluated_if_there_is_one() -> None:
    plain, averaged = begin(), begin(train={"ema": 0.5})

    for training in (plain, averaged):
        list(training.run(batches, [3]))

    assert plain.eval_model() is plain.model
    assert averaged.eval_model() is not averaged.model
    weights = [next(model.parameters()) for model in (averaged.eval_model(), averaged.model)]
    assert not torch.equal(*weights)
    assert torch.equal(next(plain.model.parameters()), weights[1])


# Adam with batch norm is left out: its loss stays huge but finite.
@pytest.mark.parametrize(
    ("optimizer", "norm"),
    [("sgd", "batch"), ("adamw", "batch"), *((name, "none") for name in ("sgd", "adam", "adamw", "rmsprop"))],
)
def test_an_absurd_learning_rate_diverges_within_an_epoch(optimizer: str, norm: str) -> None:
    training = begin({"norm": norm, "dense_layers": 4, "conv_layers": 3}, {"optimizer": optimizer}, total=40)
    training.config = training.config.model_copy(update={"learning_rate": 1e6})

    with pytest.raises(Diverged) as caught:
        list(training.run(batches, [20, 40]))

    assert caught.value.batch == training.batch
    assert caught.value.step == training.step + 1
    assert str(caught.value).startswith(f"the training loss must be finite, but was {caught.value.loss} in step 1, ")


def poisoned(first: int, stop: int) -> Iterator[Batch]:
    for number in range(first, stop):
        images, labels = batch(number)
        yield images * (float("nan") if number == 1 else 1.0), labels


def test_a_nan_loss_ends_the_training_before_it_reaches_the_weights() -> None:
    training = begin()

    with pytest.raises(Diverged, match="was nan in step 1, batch 1; lower learning_rate, or set clip"):
        list(training.run(poisoned, BOUNDARIES))

    assert all(parameter.isfinite().all() for parameter in training.model.parameters())


@pytest.mark.parametrize(
    "boundaries",
    [
        pytest.param([3, 3, 9], id="empty-step"),
        pytest.param([0, 9], id="empty-first-step"),
        pytest.param([5, 3], id="falling"),
        pytest.param([3, 10], id="beyond-the-total"),
    ],
)
def test_boundaries_that_do_not_rise_to_the_total_are_refused(boundaries: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise from 1 to at most 9"):
        list(begin().run(batches, boundaries))


@pytest.mark.parametrize("boundaries", [pytest.param([2, 9], id="moved-down"), pytest.param([5, 9], id="moved-up")])
def test_boundaries_that_contradict_the_steps_done_are_refused(boundaries: list[int]) -> None:
    training = begin()
    with pytest.raises(Interrupted):
        list(training.run(interrupted_at(4, early=True), BOUNDARIES))

    with pytest.raises(ValueError, match="4 batches in 1 complete steps do not fit"):
        list(training.run(batches, boundaries))


def test_batches_that_end_too_early_are_refused() -> None:
    with pytest.raises(ValueError, match="step 1 must end after 3 batches, but the batches ended at 2"):
        list(begin().run(lambda first, stop: batches(first, stop - 1), BOUNDARIES))


def test_a_training_of_no_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="total_batches must be at least 1, but got 0"):
        begin(total=0)


def test_batch_norm_of_single_images_is_refused_before_it_starts() -> None:
    with pytest.raises(Impossible, match="batch_size 1"):
        begin({"conv_layers": 3}, {"batch_size": 1})


def last_rate(training: Training) -> float:
    """The learning rate of the last batch."""
    return float(training._optimizer.param_groups[0]["lr"])


def test_moving_the_end_moves_the_rest_of_the_schedule() -> None:
    training = begin(train={"scheduler": "linear", "learning_rate": 0.1}, total=10)
    observed = []
    for number in range(1, 8):
        list(training.run(batches, range(1, number + 1)))
        observed.append(last_rate(training))
        if number == 5:
            training.end_after(7)

    assert observed == pytest.approx([0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.025])
    assert training.total_batches == 7


def test_an_end_before_the_batches_done_is_refused() -> None:
    training = begin(total=10)
    list(training.run(batches, [4]))

    with pytest.raises(ValueError, match="at least the 4 that are done, but got 3"):
        training.end_after(3)


def test_a_training_with_a_moved_end_resumes_bit_for_bit() -> None:
    states = []
    for is_resumed in (False, True):
        training = begin(MODEL, TRAININGS["muon"])
        list(training.run(batches, BOUNDARIES[:2]))
        training.end_after(7)
        if is_resumed:
            stored, training = training.state(), begin(MODEL, TRAININGS["muon"])
            training.load(stored)
        list(training.run(batches, (*BOUNDARIES[:2], 7)))
        states.append(bits(training.state()))

    assert states[0] == states[1]


def test_a_state_of_a_version_without_movable_ends_and_class_weights_loads() -> None:
    training = begin(MODEL, TRAININGS["sgd"])
    list(training.run(batches, BOUNDARIES[:1]))
    state = training.state()
    del state["turn"]  # type: ignore[misc]  # an older version did not store it
    del state["config"]["class_weights"]
    for group in state["optimizer"]["param_groups"]:
        del group["rate"]

    second = begin(MODEL, TRAININGS["sgd"])
    second.load(state)
    list(second.run(batches, BOUNDARIES))

    resumed, expected = bits(second.state()), uninterrupted("sgd")[1]
    assert isinstance(resumed, dict)
    assert isinstance(expected, dict)
    assert resumed["model"] == expected["model"]


def test_a_whitening_stem_needs_images() -> None:
    with pytest.raises(ValueError, match="needs images to be fitted to"):
        start(
            ModelConfig(stem="whiten"),
            TrainConfig(),
            image_size=8,
            classes=3,
            total_batches=1,
            seed=0,
            device="cpu",
        )


def taped(train: dict[str, Any]) -> Training:
    """A training whose updates are recorded."""
    return begin(MODEL, train, recorder=AgainRecorder() if train["optimizer"] == "rmsprop" else TapeRecorder())


def untaped(train: dict[str, Any]) -> Training:
    """The same training without recordings; its learning rates are rounded to float32, too."""
    training = begin(MODEL, train)
    rates_to_tensors(training._optimizer)
    return training


def sides(first: int, stop: int) -> Iterator[Batch]:
    """The batches; every third batch has larger images."""
    for number in range(first, stop):
        images, labels = batch(number)
        larger = functional.interpolate(images, size=(12, 12)) if number % 3 == 2 else images
        yield larger.contiguous(memory_format=torch.channels_last), labels


@pytest.mark.parametrize("scheduler", get_args(SchedulerName))
@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_a_recorded_training_is_the_same_bit_for_bit(optimizer: str, scheduler: str) -> None:
    changes = {"optimizer": optimizer, "scheduler": scheduler, "learning_rate": 0.005}
    changes |= {"clip": 0.5, "ema": 0.9, "bias_rate": 4.0, "label_smoothing": 0.1, "precision": "bfloat16"}
    recorded = taped(changes)
    results = list(recorded.run(batches, BOUNDARIES))
    plain = untaped(changes)

    expected = list(plain.run(batches, BOUNDARIES))

    assert recorded.fallback_reason is None
    assert results == expected
    assert bits(recorded.state()) == bits(plain.state())


@pytest.mark.parametrize("name", TRAININGS)
def test_images_of_several_sides_train_bit_for_bit_as_without_recordings(name: str) -> None:
    recorded = taped(TRAININGS[name])
    list(recorded.run(sides, BOUNDARIES))
    plain = untaped(TRAININGS[name])

    list(plain.run(sides, BOUNDARIES))

    assert recorded.fallback_reason is None
    assert bits(recorded.state()) == bits(plain.state())


@pytest.mark.parametrize("end", [0, 1, 5])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_resumed_recorded_training_ends_bit_for_bit_the_same(name: str, end: int, tmp_path: Path) -> None:
    interrupted = taped(TRAININGS[name])
    with pytest.raises(Interrupted):
        list(interrupted.run(interrupted_at(end, early=False), BOUNDARIES))
    torch.save(interrupted.state(), tmp_path / "state")
    list(interrupted.run(batches, BOUNDARIES))
    expected = bits(interrupted.state())

    # The interrupted training has recordings that refer to its tensors from before.
    for training in (interrupted, taped(TRAININGS[name])):
        training.load(torch.load(tmp_path / "state", weights_only=True))
        list(training.run(batches, BOUNDARIES))

        assert training.fallback_reason is None
        assert bits(training.state()) == expected


@pytest.mark.parametrize("is_recorded_first", [False, True])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_resumes_with_recordings_from_without_and_vice_versa(
    name: str, is_recorded_first: bool, tmp_path: Path
) -> None:
    plain = begin(MODEL, TRAININGS[name])
    list(plain.run(batches, BOUNDARIES))
    first = taped(TRAININGS[name]) if is_recorded_first else begin(MODEL, TRAININGS[name])
    list(first.run(batches, BOUNDARIES[:1]))
    torch.save(first.state(), tmp_path / "state")
    second = begin(MODEL, TRAININGS[name]) if is_recorded_first else taped(TRAININGS[name])

    second.load(torch.load(tmp_path / "state", weights_only=True))
    list(second.run(batches, BOUNDARIES))

    assert second.fallback_reason is None
    assert last_rate(second) == pytest.approx(last_rate(plain))
    for ours, theirs in zip(second.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_diverging_recorded_training_raises_at_the_end_of_the_step() -> None:
    training = taped({"optimizer": "sgd"})

    with pytest.raises(Diverged, match="but was nan in step 1, batch 3;"):
        list(training.run(poisoned, BOUNDARIES))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_recorded_training_is_freed_with_its_last_reference(name: str) -> None:
    training = taped(TRAININGS[name])
    list(training.run(batches, BOUNDARIES))
    reference = weakref.ref(training)
    gc.disable()
    try:
        del training

        assert reference() is None
    finally:
        gc.enable()


def on_gpu(first: int, stop: int) -> Iterator[Batch]:
    yield from ((images.cuda(), labels.cuda()) for images, labels in sides(first, stop))


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no NVIDIA GPU here; test_a_recorded_training_is_the_same_bit_for_bit tests the same on CPUs",
)
@pytest.mark.parametrize("name", TRAININGS)
def test_a_gpu_trains_with_graphs_as_without(name: str) -> None:
    recorded = begin(MODEL, TRAININGS[name], device="cuda")
    results = list(recorded.run(on_gpu, BOUNDARIES[:1]))
    state = recorded.state()
    list(recorded.run(on_gpu, BOUNDARIES))
    recorded.load(state)  # the recordings refer to the tensors from before
    results += recorded.run(on_gpu, BOUNDARIES)
    random = torch.cuda.get_rng_state()
    model = begin(MODEL, TRAININGS[name], device="cuda").model
    plain = Training(model, recorded.config, total_batches=BOUNDARIES[-1], seed=7, clock=no_time)

    expected = list(plain.run(on_gpu, BOUNDARIES))

    assert recorded.fallback_reason is None
    assert torch.equal(torch.cuda.get_rng_state(), random)  # dropout drew the same number of times
    assert [step.train_loss for step in results] == pytest.approx([step.train_loss for step in expected], rel=1e-2)
    for ours, theirs in zip(recorded.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
