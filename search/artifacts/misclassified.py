"""The most confident mistakes of a trained network as a sheet of images, and its confusion matrix, as files.

They lie in the folder of the trial beside its checkpoint. They are removed when the trial is no longer among the best,
which the dashboard shows. The sheet is an SVG file: its captions are text, which the browser draws in its own fonts.
"""

import base64
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.atomic import replacing
from search.display_names import visible

PICTURE, COUNTS = "wrong.svg", "confusion.json"
#: The sheet of older versions, with captions in Latin letters and cut.
OLD_PICTURE = "wrong.png"
#: Number of images on a sheet, and in each of its rows.
SHOWN, ROW = 24, 6
#: Side of an image on the sheet, gap beside it, and height of a line of its caption, in pixels.
SIDE, GAP, LINE = 108, 4, 13
#: Widths of a letter of 11 pixels at most: of an ideograph or emoji, a capital, and any other letter.
WIDE, CAPITAL, NARROW = 16, 11, 8

STYLE = f"""\
image {{ image-rendering: pixelated }}
div {{ font: 11px/{LINE}px sans-serif; color: #000; white-space: pre-wrap; overflow-wrap: anywhere }}
.prediction {{ color: #d55e00 }}"""
Caption = tuple[str, str, float]
"""Label, prediction and probability of the prediction."""


def save(
    folder: Path,
    *,
    images: NDArray[np.uint8],
    captions: Sequence[Caption],
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
    study: str | None = None,
) -> None:
    """Write both files. Ignores disk errors, which must not stop a trial.

    Args:
        folder: folder of the trial; created if missing.
        images: misclassified images of shape (n, side, side, 3).
        captions: label, prediction and probability of the prediction of each image.
        confusion: confusion matrix, a row for each true class.
        classes: names of the classes.
        study: uid of the study; the folder may have files of a deleted study of the same name.
    """
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        delete(folder)
        if len(images):
            with replacing(folder / PICTURE) as temporary:
                temporary.write_text(sheet(images, captions), encoding="utf-8")
        with replacing(folder / COUNTS) as temporary:
            temporary.write_text(json.dumps({"study": study, "classes": list(classes), "confusion": confusion}))


def delete(folder: Path) -> None:
    """Remove the files of a trial if they exist.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in (COUNTS, PICTURE, OLD_PICTURE):
        (folder / name).unlink(missing_ok=True)


def counts(folder: Path, *, study: str | None = None) -> dict[str, Any] | None:
    """Read the confusion matrix of a trial.

    Args:
        folder: folder of the trial.
        study: uid of its study; None for any study.

    Returns:
        The keys `classes` and `confusion`, or None if there is no readable file of this study.
    """
    with suppress(OSError, ValueError):
        stored: dict[str, Any] = json.loads((folder / COUNTS).read_text())
        is_foreign = None not in (study, stored.get("study")) and stored["study"] != study  # older files name no study
        return None if is_foreign else stored
    return None


def picture(folder: Path) -> Path | None:
    """Return the sheet of a trial; None if there is none, as for a network without mistakes."""
    return next((path for name in (PICTURE, OLD_PICTURE) if (path := folder / name).exists()), None)


def sheet(images: NDArray[np.uint8], captions: Sequence[Caption]) -> str:
    """Draw images in rows, each with its label, its prediction and the probability of the prediction.

    Args:
        images: shape (n, side, side, 3).
        captions: label, prediction and probability of each image.

    Returns:
        The text of an SVG file.
    """
    parts, top = [], 0
    cells = list(zip(images, captions, strict=True))
    for first in range(0, len(cells), ROW):
        row = cells[first : first + ROW]
        height = max(_height(caption) for _, caption in row)
        for column, (pixels, caption) in enumerate(row):
            parts.append(_cell(pixels, caption, left=column * (SIDE + GAP), top=top, height=height))
        top += SIDE + height + GAP
    width = min(len(images), ROW) * (SIDE + GAP)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}">',
            f'<style>{STYLE}</style>\n<rect width="{width}" height="{top}" fill="#fff"/>',
            *parts,
            "</svg>\n",
        )
    )


def _cell(pixels: NDArray[np.uint8], caption: Caption, *, left: int, top: int, height: int) -> str:
    label, prediction, confidence = caption
    return (
        f'<image x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" href="data:image/png;base64,{_png(pixels)}"/>\n'
        f'<foreignObject x="{left}" y="{top + SIDE}" width="{SIDE}" height="{height}">'
        f'<div xmlns="http://www.w3.org/1999/xhtml"><div>{_name(label)}</div>'
        f'<div class="prediction">&gt; {_name(prediction)} {confidence:.2f}</div></div></foreignObject>'
    )


def _name(name: str) -> str:
    """A name in its own direction, without effect on the text beside it."""
    return f"<bdi>{escape(visible(name))}</bdi>"


def _png(pixels: NDArray[np.uint8]) -> str:
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE))  # a small image stays as it is
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def _height(caption: Caption) -> int:
    """Height of a caption in pixels, as an upper limit: the fonts of the browser are not known."""
    label, prediction, confidence = caption
    return LINE * (_lines(visible(label)) + _lines(f"> {visible(prediction)} {confidence:.2f}"))


def _lines(text: str) -> int:
    widths = (WIDE if east_asian_width(char) in "WF" else CAPITAL if char.isupper() else NARROW for char in text)
    return -(-sum(widths) // SIDE)
