"""Which class an exported model takes images for: any files, of any size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from data.batches import at_once
from data.errors import DataError
from data.image import Pixels, decode_many
from data.store import MAX_FILE_BYTES
from models.export import NoModel, Package, probabilities, read
from search.errors import UsageError
from search.tables import Table

#: Endings of image files that are looked for in a folder; a file that is named by itself may end in anything.
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The prediction for one image."""

    image: str
    ranked: tuple[tuple[str, float], ...]
    """Every class and its probability, the likeliest first."""
    error: str | None = None
    """Why it could not be read; there are no classes then."""


def load(folder: Path) -> Package:
    """The model in a folder. Raises DataError where there is none, or a damaged one."""
    try:
        return read(folder)
    except NoModel as error:
        raise DataError(str(error)) from error


def files(named: Sequence[Path]) -> list[Path]:
    """The files that are meant: those that are named, and the images below folders that are, in order of their names.

    Raises UsageError where something does not exist, or a folder has no image.
    """
    found: list[Path] = []
    for path in named:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}")
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UsageError(f"{path} is neither a file nor a folder")
        below = sorted(each for each in path.rglob("*") if each.suffix.lower() in ENDINGS and each.is_file())
        if not below:
            raise UsageError(f"{path} has no image; those end in {', '.join(sorted(ENDINGS))}")
        found += below
    return found


def predict(package: Package, images: Sequence[Path]) -> Iterator[Prediction]:
    """The predictions of images, in order: its short side is brought to the network's, and the middle is looked at.

    An image that cannot be read is one with a trouble.
    """
    side = package.card.image_size
    unread: dict[str, str] = {}
    decoded = (each for bundle in decode_many(_contents(images, unread), side=side) for each in bundle)
    while some := list(islice(decoded, at_once(package.card.network.seen_side(side)))):
        yield from _judged(package, some, unread)


def _judged(
    package: Package, some: Sequence[tuple[str, Pixels | DataError]], unread: Mapping[str, str]
) -> Iterator[Prediction]:
    good = [pixels for _, pixels in some if not isinstance(pixels, DataError)]
    rows = iter(probabilities(package.model, torch.stack([torch.tensor(each) for each in good])) if good else ())
    for name, pixels in some:
        if isinstance(pixels, DataError):
            yield Prediction(image=name, ranked=(), error=unread.get(name, str(pixels)))
        else:
            pairs = zip(package.card.classes, next(rows).tolist(), strict=True)
            yield Prediction(image=name, ranked=tuple(sorted(pairs, key=lambda pair: -pair[1])))


def _contents(images: Sequence[Path], unread: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The content of each file; of one that cannot be read nothing, and `unread` says why."""
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


def predictions_table(found: Sequence[Prediction], *, top: int) -> Table:
    """The predictions for people: the likeliest classes of each image."""
    heads = ("image", "class", "probability") if top == 1 else ("image", "classes")
    return Table(columns=heads, rows=tuple(_line(each, top) for each in found), fixed=("class", "probability"))


def _line(each: Prediction, top: int) -> tuple[str, ...]:
    if top > 1:
        return each.image, ", ".join(f"{name} {chance:.4f}" for name, chance in each.ranked[:top]) or "-"
    name, chance = each.ranked[0] if each.ranked else ("-", None)
    return each.image, name, "-" if chance is None else f"{chance:.4f}"


def predictions_json(folder: Path, found: Sequence[Prediction]) -> dict[str, Any]:
    """`predict --json`."""
    return {
        "model": str(folder),
        "images": [
            {
                "image": each.image,
                "class": each.ranked[0][0] if each.ranked else None,
                "probability": each.ranked[0][1] if each.ranked else None,
                "probabilities": dict(each.ranked),
                "trouble": each.error,
            }
            for each in found
        ],
    }
