"""Classification of image files of any size with an exported model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from data.batches import evaluation_batch_size
from data.errors import DataError
from data.image import Pixels, decode_many
from data.store import MAX_FILE_BYTES
from models.export import NoModel, Package, probabilities, read
from search.errors import UsageError
from search.tables import Table

#: Suffixes of image files in a folder. A file that is named directly may have any suffix.
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The prediction for one image."""

    image: str
    ranked: tuple[tuple[str, float], ...]
    """Every class with its probability, the most probable first."""
    error: str | None = None
    """The reason why the image could not be read; `ranked` is then empty."""


def load(folder: Path) -> Package:
    """Load the model from a folder.

    Raises:
        DataError: The model is missing or damaged.
    """
    try:
        return read(folder)
    except NoModel as error:
        raise DataError(str(error)) from error


def files(named: Sequence[Path]) -> list[Path]:
    """Collect the image files.

    Args:
        named: Files, and folders that are searched recursively.

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
        below = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if not below:
            raise UsageError(f"{path} has no image; those end in {', '.join(sorted(ENDINGS))}")
        paths += below
    return paths


def predict(package: Package, images: Sequence[Path]) -> Iterator[Prediction]:
    """Classify images. The short side of an image is scaled to the input size of the network, and the center cropped.

    Args:
        package: The model.
        images: The image files.

    Yields:
        The predictions in order. An unreadable image has an `error`.
    """
    side = package.card.image_size
    unread: dict[str, str] = {}
    decoded = (image for bundle in decode_many(_contents(images, unread), side=side) for image in bundle)
    while batch := list(islice(decoded, evaluation_batch_size(package.card.network.seen_side(side)))):
        yield from _classified(package, batch, unread)


def _classified(
    package: Package, batch: Sequence[tuple[str, Pixels | DataError]], unread: Mapping[str, str]
) -> Iterator[Prediction]:
    readable = [pixels for _, pixels in batch if not isinstance(pixels, DataError)]
    rows = iter(
        probabilities(package.model, torch.stack([torch.tensor(pixels) for pixels in readable])) if readable else ()
    )
    for name, pixels in batch:
        if isinstance(pixels, DataError):
            yield Prediction(image=name, ranked=(), error=unread.get(name, str(pixels)))
        else:
            pairs = zip(package.card.classes, next(rows).tolist(), strict=True)
            yield Prediction(image=name, ranked=tuple(sorted(pairs, key=lambda pair: -pair[1])))


def _contents(images: Sequence[Path], unread: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file; no content for an unreadable file, whose error is added to `unread`."""
    for path in images:
        try:
            content = _content(path)
        except (OSError, DataError) as error:
            unread[str(path)] = f"{path}: {getattr(error, 'strerror', None) or error}"
            content = b""
        yield str(path), content


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


def predictions_json(folder: Path, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The output of `predict --json`."""
    return {
        "model": str(folder),
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
