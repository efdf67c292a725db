"""The most confident mistakes of a trained network as a sheet of images, and its confusion matrix, as files.

They lie in the folder of the trial beside its checkpoint. They are removed when the trial is no longer among the best,
which the dashboard shows.
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
#: Number of images on a sheet, and in each of its rows.
SHOWN, ROW = 24, 6
#: Side of an image on the sheet, and height of the caption below it, in pixels.
SIDE, CAPTION = 112, 28


def save(
    folder: Path,
    *,
    images: NDArray[np.uint8],
    captions: Sequence[tuple[str, str, float]],
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
) -> None:
    """Write both files. Ignores disk errors, which must not stop a trial.

    Args:
        folder: folder of the trial; created if missing.
        images: misclassified images of shape (n, side, side, 3).
        captions: label, prediction and probability of the prediction of each image.
        confusion: confusion matrix, a row for each true class.
        classes: names of the classes.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / COUNTS) as temporary:
            temporary.write_text(json.dumps({"classes": list(classes), "confusion": confusion}))
        if len(images):
            with replacing(folder / PICTURE) as temporary:
                image_grid(images, captions).save(temporary, format="PNG")


def delete(folder: Path) -> None:
    """Remove both files of a trial if they exist.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in (PICTURE, COUNTS):
        (folder / name).unlink(missing_ok=True)


def counts(folder: Path) -> dict[str, Any] | None:
    """Read the confusion matrix of a trial.

    Args:
        folder: folder of the trial.

    Returns:
        The keys `classes` and `confusion`, or None if there is no readable file.
    """
    with suppress(OSError, ValueError):
        stored: dict[str, Any] = json.loads((folder / COUNTS).read_text())
        return stored
    return None


def image_grid(images: NDArray[np.uint8], captions: Sequence[tuple[str, str, float]]) -> Image.Image:
    """Draw images in rows, each with its label, its prediction and the probability of the prediction.

    Args:
        images: shape (n, side, side, 3).
        captions: label, prediction and probability of each image.
    """
    rows = -(-len(images) // ROW)
    sheet = Image.new("RGB", (min(len(images), ROW) * SIDE, rows * (SIDE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (pixels, (label, prediction, confidence)) in enumerate(zip(images, captions, strict=True)):
        left, top = index % ROW * SIDE, index // ROW * (SIDE + CAPTION)
        sheet.paste(Image.fromarray(pixels).resize((SIDE - 4, SIDE - 4), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + SIDE - 2), f"{label[:16]}", fill="black")
        draw.text((left, top + SIDE + 10), f"> {prediction[:12]} {confidence:.2f}", fill="#d55e00")
    return sheet
