"""Classification of image files of any size with an exported model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from data.batches import evaluation_batch_size
from data.decoding import File, Result, decode_many
from data.errors import DataError
from data.ignore import Ignored
from data.preprocessing import Preprocessing
from data.progress import Say
from data.store import MAX_FILE_BYTES, Directory
from models.config import TestTimeAugmentation
from models.export import NoModel, Package, probabilities, read
from search.errors import UsageError
from search.tables import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The prediction for one image."""

    image: str
    ranked: tuple[tuple[str, float], ...]
    """Every class with its probability, the most probable first."""
    error: str | None = None
    """The reason why the image could not be read; `ranked` is then empty."""


def load(folder: Path, augmentation: TestTimeAugmentation | None = None) -> Package:
    """Load the model from a folder.

    Args:
        folder: The model folder.
        augmentation: Test-time augmentation; None for that of the folder.

    Raises:
        DataError: The model is missing or damaged.
    """
    try:
        return read(folder, test_time_augmentation=augmentation)
    except NoModel as error:
        raise DataError(str(error)) from error


def files(named: Sequence[Path], say: Say) -> list[Path]:
    """Collect the image files: in folders, those that a training would read.

    Args:
        named: Files, and folders that are searched recursively.
        say: Prints the number of files that are left out.

    Returns:
        The files in the given order; those of a folder in the order of their names.

    Raises:
        UsageError: A path does not exist, or a folder has no image.
    """
    paths: list[Path] = []
    for path in named:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}")
        if path.is_file():
            paths.append(path)
            continue
        if not path.is_dir():
            raise UsageError(f"{path} is neither a file nor a folder")
        ignored = Ignored()
        below = [entry for entry in Directory(path).below() if not ignored.add(entry.path, is_folder=entry.is_folder)]
        images = [path / entry.path for entry in below if not entry.is_folder]
        if sentence := ignored.sentence():
            say(f"{path}: {sentence}")
        if not images:
            raise UsageError(f"{path} has no image")
        paths += images
    return paths


def predict(package: Package, images: Sequence[Path]) -> Iterator[Prediction]:
    """Classify images, which are read as the training images were.

    Args:
        package: The model.
        images: The image files.

    Yields:
        The predictions in order. An unreadable image has an `error`.
    """
    card = package.card
    steps = Preprocessing(side=card.image_size, fit=card.fit, depth=card.depth)
    decoded = (image for bundle in decode_many(_contents(images), steps) for image in bundle)
    while batch := list(islice(decoded, evaluation_batch_size(card.network.seen_side(card.image_size)))):
        yield from _classified(package, batch)


def _classified(package: Package, batch: Sequence[Result]) -> Iterator[Prediction]:
    readable = [torch.tensor(image.pixels) for _, image in batch if not isinstance(image, DataError)]
    rows = iter(probabilities(package.model, torch.stack(readable)) if readable else ())
    for name, image in batch:
        if isinstance(image, DataError):
            yield Prediction(image=name, ranked=(), error=str(image))
        else:
            pairs = zip(package.card.classes, next(rows).tolist(), strict=True)
            yield Prediction(image=name, ranked=tuple(sorted(pairs, key=lambda pair: -pair[1])))


def _contents(images: Sequence[Path]) -> Iterator[File]:
    """The name of each file, and its content or the reason why it cannot be read."""
    for path in images:
        try:
            yield str(path), _content(path)
        except (OSError, DataError) as error:
            yield str(path), DataError(f"{path}: {getattr(error, 'strerror', None) or error}")


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise DataError(f"has {size / 1e6:.0f} MB, but no image of more than {MAX_FILE_BYTES / 1e6:.0f} MB is read")
    return path.read_bytes()


def predictions_table(predictions: Sequence[Prediction], *, top: int) -> Table:
    """The predictions as a table, with the `top` most probable classes of each image."""
    heads = ("image", "class", "probability") if top == 1 else ("image", "classes")
    return Table(
        columns=heads, rows=tuple(_line(prediction, top) for prediction in predictions), fixed=("class", "probability")
    )


def _line(prediction: Prediction, top: int) -> tuple[str, ...]:
    if top > 1:
        return prediction.image, ", ".join(f"{name} {chance:.4f}" for name, chance in prediction.ranked[:top]) or "-"
    name, chance = prediction.ranked[0] if prediction.ranked else ("-", None)
    return prediction.image, name, "-" if chance is None else f"{chance:.4f}"


def predictions_json(folder: Path, package: Package, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The output of `predict --json`."""
    return {
        "model": str(folder),
        "test_time_augmentation": package.model.test_time_augmentation,
        "images": [
            {
                "image": prediction.image,
                "class": prediction.ranked[0][0] if prediction.ranked else None,
                "probability": prediction.ranked[0][1] if prediction.ranked else None,
                "probabilities": dict(prediction.ranked),
                "trouble": prediction.error,
            }
            for prediction in predictions
        ],
    }
