"""The values of images with 16 bits or floats. Pillow reads only the upper bytes of 16-bit colours.

Its raw mode tells where they are: "RGB;16B" is the first of the two bytes of a big-endian value. The raw mode of the
other byte order gives the lower bytes.
"""

import re
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from data.contents import Pixels
from data.errors import DataError

RAW_MODE: Final = re.compile(r"(RGB|RGBA|RGBa|RGBX);16[BLN]")
#: The letter of the other byte order; N is that of the machine, which is little-endian (x86, ARM).
OTHER: Final = {"B": "L", "L": "B", "N": "B"}
GREY_WITH_ALPHA: Final = "LA;16B"  # of PNG
SEPARATE_PLANES: Final = 2  # TIFF 6.0, section 8
WHITE_IS_ZERO: Final = 0  # TIFF 6.0, section 8
UNSIGNED: Final = 1  # TIFF 6.0, section 19
SAMPLED: Final = 32  # side of the grid of pixels whose values tell the range of a set


def check_kind(image: Image.Image) -> None:
    """Refuse TIFFs of more than 8 bits whose values Pillow reads wrongly.

    Of colours in separate planes it reads half of the bytes, as if they had 8 bits. It does not invert grey whose zero
    is white, and the lower bytes of CMYK cannot be read.
    """
    if not isinstance(image, TiffImageFile) or max(bits := image.tag_v2.get(BITSPERSAMPLE, (1,))) <= 8:
        return
    if len(bits) > 1 and image.tag_v2.get(PLANAR_CONFIGURATION) == SEPARATE_PLANES:
        raise DataError(f"stores colours of {max(bits)} bits in separate planes; save it with interleaved colours")
    if image.mode == "CMYK" or image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        raise DataError(f"has {max(bits)} bits of CMYK, or of grey whose zero is white; save it as RGB or usual grey")


def check_signs(image: Image.Image) -> None:
    """Refuse a loaded TIFF whose unsigned values of 32 bits Pillow reads as negative ones."""
    if not isinstance(image, TiffImageFile) or image.mode != "I" or image.tag_v2.get(SAMPLEFORMAT, (1,))[0] != UNSIGNED:
        return
    if np.asarray(image).min(initial=0) < 0:
        raise DataError("has values of 2**31 and more, which are not read; save it with 16 bits or as floats")


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow reads the values of an image as they are: grey of 16 or 32 bits, and floats."""
    return image.mode.startswith("I") or image.mode == "F"


def has_lower_bytes(image: Image.Image) -> bool:
    """Whether an opened image has 16-bit colours, of which Pillow reads the upper bytes."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return False
    raw_mode, *rest = _arguments(image)
    is_ppm = isinstance(image, PpmImageFile) and image.mode == "RGB" and rest == [65535]
    return is_ppm or raw_mode == GREY_WITH_ALPHA or RAW_MODE.fullmatch(str(raw_mode)) is not None


def _arguments(image: ImageFile.ImageFile) -> list[object]:
    args = image.tile[0].args
    return list(args) if isinstance(args, tuple) else [args]


def split_bytes(image: Image.Image, content: bytes) -> tuple[Image.Image, Image.Image]:
    """The upper and lower bytes of an opened image for which `has_lower_bytes` holds.

    Args:
        image: the image, which is not loaded yet.
        content: the bytes of its file.
    """
    assert isinstance(image, ImageFile.ImageFile)
    raw_mode = str(_arguments(image)[0])
    if isinstance(image, PpmImageFile):
        return _of_ppm(image, content)
    if raw_mode == GREY_WITH_ALPHA:
        red, green, blue, _ = _reopened(image, content, "RGBA").split()  # the four bytes of a pixel
        return Image.merge("LA", (red, blue)), Image.merge("LA", (green, blue))
    base, _, order = raw_mode.rpartition(";16")
    return image, _reopened(image, content, f"{base};16{OTHER[order]}")


def _of_ppm(image: ImageFile.ImageFile, content: bytes) -> tuple[Image.Image, Image.Image]:
    size = image.width * image.height * 3
    values = np.frombuffer(content, ">u2", count=size, offset=image.tile[0].offset).reshape(
        image.height, image.width, 3
    )
    return Image.fromarray((values >> 8).astype(np.uint8)), Image.fromarray((values & 255).astype(np.uint8))


def _reopened(image: ImageFile.ImageFile, content: bytes, raw_mode: str) -> Image.Image:
    """The same image, read in another raw mode."""
    other = Image.open(BytesIO(content), formats=(str(image.format),))
    assert isinstance(other, ImageFile.ImageFile)
    other.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in other.tile
    ]
    return other


def values_of(image: Image.Image, low: Image.Image | None) -> NDArray[np.generic]:
    """The values of an image, (H, W) or (H, W, 3), without alpha.

    Args:
        image: a deep image, or the upper bytes.
        low: the lower bytes.
    """
    values: NDArray[np.generic] = np.asarray(image)
    if low is not None:
        values = values.astype(np.uint16) << 8 | np.asarray(low)
    match image.mode:
        case "LA":
            return values[..., 0]
        case "RGBA":
            return values[..., :3]
        case _:
            return values


def samples_of(image: Image.Image, low: Image.Image | None) -> NDArray[np.float32]:
    """The finite values of a grid of pixels; see `values_of`."""
    size = (min(image.width, SAMPLED), min(image.height, SAMPLED))
    small = image.resize(size, Image.Resampling.NEAREST)
    small_low = low and low.resize(size, Image.Resampling.NEAREST)
    samples = values_of(small, small_low).ravel().astype(np.float32)
    return samples[np.isfinite(samples)]


def to_bytes(values: NDArray[np.generic], depth: tuple[float, float] | None) -> Pixels:
    """Map `depth` to 0 and 255, and other values linearly. Default: the upper byte of 16 bits; floats as they are."""
    if depth is not None:
        scaled = (values.astype(np.float64) - depth[0]) * (255 / (depth[1] - depth[0]))
    elif values.dtype.kind == "f":
        scaled = values.astype(np.float64)
    else:
        scaled = (values.astype(np.int64) >> 8).astype(np.float64)
    pixels: Pixels = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
    return pixels
