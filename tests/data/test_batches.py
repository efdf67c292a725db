"""data/batches.py: training and evaluation batches."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from data.batches import Batches, evaluation
from data.config import AugmentConfig, DataConfig
from data.dataset import prepare
from data.parts import Split, TrainData, load_train

CONFIG = DataConfig(train_images=100, image_size=8, validation=20)
ALL = AugmentConfig(flip=True, crop=2, cutout=3)
Make = Callable[..., Batches]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    cache = tmp_path_factory.mktemp("cache")
    prepare(CONFIG, cache, print)
    return load_train(CONFIG, cache)


@pytest.fixture
def numbered(data: TrainData) -> Split:
    """The training part, with the number of each row as its label: the labels of a batch identify its rows."""
    return Split(images=data.train.images, labels=torch.arange(100), indices=data.train.indices)


@pytest.fixture
def make(data: TrainData, numbered: Split) -> Make:
    def make(batch_size: int = 7, seed: int = 0, augment: AugmentConfig = ALL) -> Batches:
        return Batches(numbered, data.info, batch_size=batch_size, seed=seed, augment=augment)

    return make


def test_a_batch_is_normalised_and_channels_last(make: Make) -> None:
    (images, labels), *others = make()(0, 3)

    assert len(others) == 2
    assert (images.shape, images.dtype) == ((7, 3, 8, 8), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((7,), torch.int64)


@pytest.mark.parametrize("number", [0, 11, 12, 40], ids=["first", "end-of-epoch", "next-epoch", "late"])
def test_a_batch_depends_only_on_the_seed_and_its_number(make: Make, number: int) -> None:
    in_order = list(make()(0, number + 1))[number]

    alone = make().batch(number)

    assert torch.equal(alone[0], in_order[0])
    assert torch.equal(alone[1], in_order[1])
    assert not torch.equal(make(seed=1).batch(number)[1], in_order[1])


@pytest.mark.parametrize("batch_size", [1, 7, 80, 200], ids=["one", "odd", "an-epoch", "more-than-two-epochs"])
def test_every_epoch_shows_every_image_once_in_another_order(make: Make, numbered: Split, batch_size: int) -> None:
    stream = torch.cat([labels for _, labels in make(batch_size)(0, -(-240 // batch_size))])

    epochs = [stream[start : start + 80].tolist() for start in (0, 80, 160)]
    assert [sorted(epoch) for epoch in epochs] == [numbered.indices.tolist()] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_does_not_depend_on_the_batch_size(make: Make) -> None:
    small, large = (torch.cat([labels for _, labels in make(size)(0, 120 // size)]) for size in (4, 40))

    assert torch.equal(small, large)


def test_without_augmentation_images_are_the_stored_ones_normalised(make: Make, data: TrainData) -> None:
    images, rows = make(augment=AugmentConfig()).batch(3)

    mean, std = torch.tensor(data.info.mean), torch.tensor(data.info.std)
    expected = (data.train.images[rows] / 255 - mean) / std
    torch.testing.assert_close(images.permute(0, 2, 3, 1), expected)


@pytest.mark.parametrize(
    "augment",
    [AugmentConfig(flip=True), AugmentConfig(crop=2), AugmentConfig(cutout=3)],
    ids=["flip", "crop", "cutout"],
)
def test_each_augmentation_changes_images_but_not_labels_and_not_the_same_way_twice(
    make: Make, augment: AugmentConfig
) -> None:
    changing, plain = make(batch_size=80, augment=augment), make(80, augment=AugmentConfig())

    (first, labels), (second, _) = changing.batch(0), changing.batch(1)

    assert not torch.equal(first, plain.batch(0)[0])
    assert torch.equal(labels, plain.batch(0)[1])
    assert not torch.equal(first[labels.argsort()], second[changing.batch(1)[1].argsort()])


def test_a_blanked_square_has_the_mean_colour(make: Make) -> None:
    images, _ = make(augment=AugmentConfig(cutout=32)).batch(0)

    assert not images.any()


def test_a_constant_channel_gives_finite_values(numbered: Split, data: TrainData) -> None:
    flat = Split(images=torch.zeros_like(numbered.images), labels=numbered.labels, indices=numbered.indices)
    info = replace(data.info, std=(0.0, 0.0, 0.0))

    images, _ = Batches(flat, info, batch_size=8, seed=0, augment=AugmentConfig()).batch(0)

    assert images.isfinite().all()


def test_evaluation_shows_every_image_of_the_part_once_in_order_and_unchanged(data: TrainData) -> None:
    batches = list(evaluation(data.validation, data.info, batch_size=8))

    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    rows = data.validation.indices
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.validation.labels[rows])
    mean, std = torch.tensor(data.info.mean), torch.tensor(data.info.std)
    expected = (data.validation.images[rows] / 255 - mean) / std
    torch.testing.assert_close(torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1), expected)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in batches)


def test_larger_images_are_evaluated_in_smaller_batches(data: TrainData) -> None:
    large = replace(data.info, image_size=320)

    assert [len(labels) for _, labels in evaluation(data.validation, data.info)] == [20]
    assert [len(labels) for _, labels in evaluation(data.validation, large)] == [5, 5, 5, 5]


def test_alternating_flips_mirror_each_image_in_the_next_epoch(make: Make) -> None:
    batches = make(batch_size=7, augment=AugmentConfig(flip="alternating"))
    images, labels = (torch.cat(part) for part in zip(*batches(0, 35), strict=True))  # 245 images: three epochs

    epochs = [images[start : start + 80][labels[start : start + 80].argsort()] for start in (0, 80, 160)]

    assert torch.equal(epochs[1], epochs[0].flip(3))
    assert torch.equal(epochs[2], epochs[0])
    plain = make(batch_size=80, augment=AugmentConfig()).batch(0)
    mirrored = (epochs[0] != plain[0][plain[1].argsort()]).flatten(1).any(1)
    assert 20 < int(mirrored.sum()) < 60
