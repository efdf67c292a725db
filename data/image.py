"""Decodes an image file in memory to a square of RGB bytes."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from data.contents import Pixels
from data.depth import check_kind, check_signs, has_lower_bytes, is_deep, samples_of, split_bytes, to_bytes, values_of
from data.errors import DataError
from data.formats import EMPTY, HEIC_ADVICE, READ, READABLE, UNKNOWN, name_of
from data.jpeg import has_more_scans
from data.preprocessing import Fit, Preprocessing

MAX_SCANS: Final = 100  # of a JPEG; a progressive JPEG has about ten
#: Pixels times scans of a JPEG: as many as 25 megapixels in MAX_SCANS. 200 megapixels in ten scans have fewer.
MAX_SCANNED_PIXELS: Final = 2_500_000_000
#: Memory for one decoded image: a PNG of 200 megapixels, at four bytes each, needs less.
MAX_DECODED_BYTES: Final = 2**30
#: An image that takes more is decoded alone in its process.
LARGE_BYTES: Final = 100_000_000
#: An image of more pixels is scaled down in strips.
LARGE_PIXELS: Final = 25_000_000
STRIP_PIXELS: Final = 2**22
MAX_FACTOR: Final = 16  # larger ones lose precision in Pillow's reduce()
#: Pillow's decoders of these formats keep a second copy of the pixels.
BUFFERED: Final = frozenset({"WEBP", "AVIF", "HEIF", "JPEG2000", "GIF"})
#: Bytes of a pixel in Pillow's memory; every other mode takes four.
MODE_BYTES: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
#: EXIF orientation -> the way to turn the image upright (CIPA DC-008, 4.6.4).
ORIENTATIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TILE_WIDTH, TILE_LENGTH = 322, 323  # TIFF 6.0, section 15
WHITE: Final = (255, 255, 255, 255)

_large = threading.Lock()


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image."""

    pixels: Pixels
    """(side, side, 3) RGB."""

    size: tuple[int, int]
    """Width and height of the upright image in pixels."""

    samples: NDArray[np.float32] | None
    """Some values of a 16-bit or float image, if wanted; None for any other image."""


def decode(content: bytes, preprocessing: Preprocessing, *, name: str, sample: bool = False) -> Decoded:
    """Decode an image file and make it square.

    Grey, palette, CMYK and 16-bit images become RGB, and transparent parts white. The EXIF orientation is applied. The
    first frame of an animation is used.

    Args:
        content: the bytes of the file.
        preprocessing: the size and the steps.
        name: the name of the file for the error.
        sample: whether `samples` are wanted.

    Raises:
        DataError: the file is not a complete image of a format that is read, or would cost too much to decode.
    """
    try:
        with Image.open(BytesIO(content), formats=READABLE) as image:
            return _decode(image, content, preprocessing, sample=sample)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    # Pillow's parsers raise many types on broken bytes: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise DataError(f"{name}: {_explain(content, name, error)}") from error


def _explain(content: bytes, name: str, error: Exception) -> str:
    kind = name_of(content)
    ending = name.rpartition(".")[2] if "." in name.rpartition("/")[2] else ""
    named = f" named .{ending}" if ending and ending.lower() not in kind.lower().replace("jpeg", "jpeg jpg") else ""
    if not isinstance(error, UnidentifiedImageError):
        reason = str(error) or type(error).__name__
        return f"is {kind}{named}, but cannot be decoded ({reason}); replace it or take it out"
    if kind in (EMPTY, UNKNOWN):
        return f"is {kind}; replace it or take it out"
    if kind == "a HEIC file" and kind not in READ:
        return f"is {kind}{named}; {HEIC_ADVICE}"
    if kind in READ:
        return f"is {kind}{named} of a variant that is not read, or damaged; convert it to 8 or 16 bits, or take it out"
    return f"is {kind}{named}, which is not read as an image; convert it, or take it out"


def _decode(image: Image.Image, content: bytes, preprocessing: Preprocessing, *, sample: bool) -> Decoded:
    full = image.size
    check_kind(image)
    if isinstance(image, JpegImageFile):
        _check_scans(image, content)
        _draft(image, preprocessing)
    is_split = has_lower_bytes(image) and (sample or preprocessing.depth is not None)
    memory = _memory(image, full) * (2 if is_split else 1)
    if memory > MAX_DECODED_BYTES:
        raise DataError(
            f"has {full[0]} x {full[1]} pixels, which take {memory / 1e9:.1f} GB to decode, but at most "
            f"{MAX_DECODED_BYTES / 1e9:.1f} GB are used for an image; scale it down"
        )
    with _large if memory > LARGE_BYTES else nullcontext():
        opened, low = image, None
        if is_split:
            image, low = split_bytes(opened, content)
        image.load()
        check_signs(image)
        turn = _turn(opened)
        samples = samples_of(image, low) if sample and (low or is_deep(image)) else None
        rgb = _rgb(image, low, preprocessing)
    upright = rgb if turn is None else rgb.transpose(turn)
    return Decoded(
        pixels=np.asarray(_square(upright, preprocessing.side, preprocessing.fit), dtype=np.uint8),
        size=full[::-1] if (full[0] > full[1]) != (upright.width > upright.height) else full,
        samples=samples,
    )


def _check_scans(image: JpegImageFile, content: bytes) -> None:
    if has_more_scans(content, MAX_SCANS):
        raise DataError(f"has more than {MAX_SCANS} scans, which no camera writes; save it again")
    pixels = image.width * image.height
    if pixels > MAX_SCANNED_PIXELS // MAX_SCANS and has_more_scans(content, MAX_SCANNED_PIXELS // pixels):
        raise DataError(
            f"has {image.width} x {image.height} pixels in too many scans: at most {MAX_SCANNED_PIXELS / 1e9} billion "
            "pixels times scans are decoded; save it as a smaller or as a baseline JPEG"
        )


def _draft(image: JpegImageFile, preprocessing: Preprocessing) -> None:
    """Decode at 1/2, 1/4 or 1/8, in a fraction of the time; twice the final size suffices for resampling."""
    width, height = _scaled(image.size, 2 * preprocessing.side, preprocessing.fit)
    if min(image.width / width, image.height / height) > 2:
        image.draft(None, (width, height))


def _scaled(size: tuple[int, int], side: int, fit: Fit) -> tuple[int, int]:
    """The size to which an image is scaled before it is cropped or padded."""
    width, height = size
    match fit:
        case "crop":
            return side * width // min(size), side * height // min(size)
        case "pad":
            return max(1, side * width // max(size)), max(1, side * height // max(size))
        case "squash":
            return side, side
        case _:
            assert_never(fit)


def _memory(image: Image.Image, full: tuple[int, int]) -> int:
    """Bytes that decoding takes: the pixels, the decoder's copy of them, and the coefficients of all scans."""
    size = image.width * image.height * MODE_BYTES.get(image.mode, 4) * (2 if image.format in BUFFERED else 1)
    if isinstance(image, TiffImageFile):  # the decoder takes a buffer for a complete tile, which may exceed the image
        size += 8 * image.tag_v2.get(TILE_WIDTH, 0) * image.tag_v2.get(TILE_LENGTH, 0)
    if isinstance(image, JpegImageFile) and image.info.get("progressive"):
        samples = [across * down for _, across, down, _ in image.layer]
        size += 2 * full[0] * full[1] * sum(samples) // max(samples)
    return size


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The way to turn an image upright, by its EXIF orientation; none if the metadata are damaged."""
    try:
        return ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


def _rgb(image: Image.Image, low: Image.Image | None, preprocessing: Preprocessing) -> Image.Image:
    """Convert to RGB, strip by strip to bound memory; a large image is scaled down on the way."""
    is_large = image.width * image.height > LARGE_PIXELS
    if not is_large and low is None and not is_deep(image):
        return _to_rgb(image, low, preprocessing.depth)
    width, height = _scaled(image.size, 2 * preprocessing.side, preprocessing.fit)
    factor = min(max(1, min(image.width // width, image.height // height)), MAX_FACTOR) if is_large else 1
    result = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = max(1, STRIP_PIXELS // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = _to_rgb(image.crop(box), low and low.crop(box), preprocessing.depth)
        result.paste(strip.reduce(factor), (0, top // factor))
    return result


def _to_rgb(image: Image.Image, low: Image.Image | None, depth: tuple[float, float] | None) -> Image.Image:
    if is_deep(image) or (low is not None and depth is not None):
        scaled = Image.fromarray(to_bytes(values_of(image, low), depth)).convert("RGB")
        if "A" not in image.getbands():
            return scaled
        scaled.putalpha(image.getchannel("A"))
        image = scaled
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, side: int, fit: Fit) -> Image.Image:
    if image.size == (side, side):
        return image
    match fit:
        case "crop":
            return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
        case "pad":
            width, height = _scaled(image.size, side, fit)
            scaled = image.resize((width, height), Image.Resampling.BICUBIC)
            square = Image.new("RGB", (side, side))
            square.paste(scaled, ((side - width) // 2, (side - height) // 2))
            return square
        case "squash":
            return image.resize((side, side), Image.Resampling.BICUBIC)
        case _:
            assert_never(fit)
