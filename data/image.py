"""Image files in memory become squares of RGB bytes."""

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
MAX_PIXELS = 25_000_000  # a 25-megapixel photo; more is a mistake or a decompression bomb
MAX_SCANS = 100  # of a JPEG; a progressive one has about ten, and each costs as much as the whole of another
SCAN = b"\xff\xda"  # marks the start of one, and stands for nothing else in the pixels (ITU-T T.81, B.1.1.2)
WHITE = (255, 255, 255, 255)
BUNDLE = 32  # files per task of the pool: handing over one small image costs as much as decoding it
BUNDLE_BYTES = 2**23  # and less of large ones, for the memory's sake
WAITING_BYTES = 2**28  # of files that wait to be decoded; small images never come near


def decode(content: bytes, *, side: int, name: str) -> Pixels:
    """Decode an image file into (side, side, 3): the short side is brought to `side`, the middle is kept.

    Grey, palette, CMYK and 16-bit images become RGB, see-through parts white, the EXIF orientation is honoured; of
    an animation the first frame is used. Raises DataError with `name` where the file is no whole image of FORMATS.
    """
    try:
        return _decode(content, side)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    # Pillow's parsers raise whatever they meet in broken bytes: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = str(error) or type(error).__name__
        if "BytesIO" in reason:
            reason = "its content is of no known format"
        raise DataError(
            f"{name}: cannot be read as an image ({reason}); "
            f"take it out, or replace it by a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        ) from error


def decode_many(files: Iterator[tuple[str, bytes]], *, side: int) -> Iterator[Decoded]:
    """Decode (name, content) in threads, a bundle at a time and in order; an error stands in the place of its image.

    Pillow lets go of the interpreter while it decodes; a few bundles are in memory at a time.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bundles = _bundles(files)
    waiting: list[tuple[int, Future[Decoded]]] = []
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(waiting) <= workers and sum(size for size, _ in waiting) < WAITING_BYTES:
                if (bundle := next(bundles, None)) is None:
                    break
                waiting.append((sum(len(content) for _, content in bundle), pool.submit(_decode_bundle, bundle, side)))
            if not waiting:
                return
            yield waiting.pop(0)[1].result()


def _decode(content: bytes, side: int) -> Pixels:
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"has {image.width} x {image.height} pixels, but at most {MAX_PIXELS // 10**6} million are read; "
                "scale it down"
            )
        if image.format == "JPEG" and content.count(SCAN) > MAX_SCANS:
            raise DataError(f"is drawn in more than {MAX_SCANS} scans, which no camera does; save it again")
        if min(image.size) > 4 * side:
            # JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the time; twice the size leaves enough to filter.
            image.draft(None, (2 * side * image.width // min(image.size), 2 * side * image.height // min(image.size)))
        image.load()
        square = ImageOps.fit(_rgb(ImageOps.exif_transpose(image)), (side, side), Image.Resampling.BICUBIC)
        return np.asarray(square, dtype=np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, WHITE), seen).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to RGB by its upper byte; Pillow's own convert() would cut everything above 255 off."""
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
