"""What a trained network was surest of and wrong about: a sheet of images, and the whole confusion matrix, as files.

They lie in the trial's folder beside its checkpoint, and go when the trial is no longer among the best, which are those
that the dashboard shows.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.atomic import replacing

PICTURE, COUNTS = "wrong.png", "confusion.json"
#: Images on a sheet, and in a row of it.
SHOWN, ROW = 24, 6
#: Pixels of an image on the sheet, and below it for its caption.
SIDE, CAPTION = 112, 28


def save(
    folder: Path,
    *,
    images: NDArray[np.uint8],
    captions: Sequence[tuple[str, str, float]],
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
) -> None:
    """Write both files; a disk that refuses them does not stop a trial for pictures.

    `images` are (n, side, side, 3), `captions` the label of each, its prediction and the probability of that.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / COUNTS) as aside:
            aside.write_text(json.dumps({"classes": list(classes), "confusion": confusion}))
        if len(images):
            with replacing(folder / PICTURE) as aside:
                image_grid(images, captions).save(aside, format="PNG")


def delete(folder: Path) -> None:
    """Remove both files of a trial, if they are there. Raises OSError where one cannot be removed."""
    for name in (PICTURE, COUNTS):
        (folder / name).unlink(missing_ok=True)


def counts(folder: Path) -> dict[str, Any] | None:
    """The confusion matrix of a trial and its classes; None if there is none here."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / COUNTS).read_text())
        return found
    return None


def image_grid(images: NDArray[np.uint8], captions: Sequence[tuple[str, str, float]]) -> Image.Image:
    """The images in rows, each with its label, its prediction and the probability of that."""
    rows = -(-len(images) // ROW)
    whole = Image.new("RGB", (min(len(images), ROW) * SIDE, rows * (SIDE + CAPTION)), "white")
    pen = ImageDraw.Draw(whole)
    for place, (pixels, (true, taken, confidence)) in enumerate(zip(images, captions, strict=True)):
        left, top = place % ROW * SIDE, place // ROW * (SIDE + CAPTION)
        whole.paste(Image.fromarray(pixels).resize((SIDE - 4, SIDE - 4), Image.Resampling.NEAREST), (left, top))
        pen.text((left, top + SIDE - 2), f"{true[:16]}", fill="black")
        pen.text((left, top + SIDE + 10), f"> {taken[:12]} {confidence:.2f}", fill="#d55e00")
    return whole
