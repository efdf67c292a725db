"""Decodes image files in memory to squares of RGB bytes."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data.errors import DataError

Pixels: TypeAlias = NDArray[np.uint8]
Bundle: TypeAlias = list[tuple[str, bytes]]
Decoded: TypeAlias = list[tuple[str, Pixels | DataError]]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 25_000_000  # a 25-megapixel photo; a larger image is a mistake or a decompression bomb
MAX_SCANS = 100  # of a JPEG; a progressive JPEG has about ten, and each costs as much as a complete baseline JPEG
SCAN = b"\xff\xda"  # start of a scan; cannot occur in pixel data (ITU-T T.81, B.1.1.2)
WHITE = (255, 255, 255, 255)
BUNDLE = 32  # files per task of the pool: submitting one small image costs as much as decoding it
BUNDLE_BYTES = 2**23  # upper limit of a bundle, to bound memory
WAITING_BYTES = 2**28  # of files queued for decoding; small images stay far below


def decode(content: bytes, *, side: int, name: str) -> Pixels:
    """Decode an image file, resize its short side to `side`, and crop the centre.

    Grey, palette, CMYK and 16-bit images become RGB, and transparent parts white. The EXIF orientation is applied. The
    first frame of an animation is used.

    Args:
        content: the bytes of the file.
        side: in pixels.
        name: the name of the file for the error.

    Returns:
        (side, side, 3) uint8.

    Raises:
        DataError: the file is not a complete image of FORMATS.
    """
    try:
        return _decode(content, side)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    # Pillow's parsers raise many types on broken bytes: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = str(error) or type(error).__name__
        if "BytesIO" in reason:
            reason = "its format is unknown"
        raise DataError(
            f"{name}: cannot be read as an image ({reason}); "
            f"take it out, or replace it by a complete {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        ) from error


def decode_many(files: Iterator[tuple[str, bytes]], *, side: int) -> Iterator[Decoded]:
    """Decode files in threads; Pillow releases the GIL while it decodes. A few bundles are in memory at a time.

    Args:
        files: pairs of (name, content).
        side: in pixels.

    Yields:
        A bundle of (name, pixels) in order, with a DataError instead of the pixels of a broken image.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bundles = _bundles(files)
    queue: list[tuple[int, Future[Decoded]]] = []
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(queue) <= threads and sum(size for size, _ in queue) < WAITING_BYTES:
                if (bundle := next(bundles, None)) is None:
                    break
                queue.append((sum(len(content) for _, content in bundle), pool.submit(_decode_bundle, bundle, side)))
            if not queue:
                return
            yield queue.pop(0)[1].result()


def _decode(content: bytes, side: int) -> Pixels:
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"has {image.width} x {image.height} pixels, but at most {MAX_PIXELS // 10**6} million are read; "
                "scale it down"
            )
        if image.format == "JPEG" and content.count(SCAN) > MAX_SCANS:
            raise DataError(f"has more than {MAX_SCANS} scans, which no camera writes; save it again")
        if min(image.size) > 4 * side:
            # JPEG decodes at 1/2, 1/4 or 1/8 in a fraction of the time; twice the size suffices for resampling.
            image.draft(None, (2 * side * image.width // min(image.size), 2 * side * image.height // min(image.size)))
        image.load()
        square = ImageOps.fit(_rgb(ImageOps.exif_transpose(image)), (side, side), Image.Resampling.BICUBIC)
        return np.asarray(square, dtype=np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to RGB by its upper byte; Pillow's convert() would clip values above 255."""
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8)).convert("RGB")


def _bundles(files: Iterator[tuple[str, bytes]]) -> Iterator[Bundle]:
    bundle: Bundle = []
    size = 0
    for path, content in files:
        bundle.append((path, content))
        size += len(content)
        if len(bundle) == BUNDLE or size >= BUNDLE_BYTES:
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


def _decode_bundle(files: Bundle, side: int) -> Decoded:
    return [(path, _decode_or_error(content, side=side, name=path)) for path, content in files]


def _decode_or_error(content: bytes, *, side: int, name: str) -> Pixels | DataError:
    try:
        return decode(content, side=side, name=name)
    except DataError as error:
        return error
