"""data/image.py: image files of every kind, intact and broken."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.errors import DataError
from data.image import decode, decode_many
from tests.data.pictures import picture, saved

SIDE = 16


MODES: dict[str, tuple[Callable[[], Image.Image], str, tuple[int, int, int]]] = {
    "grey": (lambda: Image.new("L", (20, 20), 90), "png", (90, 90, 90)),
    "black-and-white": (lambda: Image.new("1", (20, 20), 1), "png", (255, 255, 255)),
    "palette": (lambda: Image.new("RGB", (20, 20), (10, 200, 30)).quantize(4), "png", (10, 200, 30)),
    "alpha-half-on-white": (lambda: Image.new("RGBA", (20, 20), (0, 100, 200, 51)), "png", (204, 224, 244)),
    "grey-alpha-on-white": (lambda: Image.new("LA", (20, 20), (0, 0)), "png", (255, 255, 255)),
    "16-bit-grey": (
        lambda: Image.fromarray(np.full((20, 20), 0x80FF, np.uint16)), "png", (0x80, 0x80, 0x80)
    ),
    "cmyk": (lambda: Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "jpeg", (254, 0, 0)),
    "grey-jpeg": (lambda: Image.new("L", (20, 20), 90), "jpeg", (90, 90, 90)),
    "alpha-webp": (lambda: Image.new("RGBA", (20, 20), (9, 9, 9, 0)), "webp", (255, 255, 255)),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "colour"), MODES.values(), ids=MODES)
def test_every_kind_of_image_becomes_rgb(
    make: Callable[[], Image.Image], kind: str, colour: tuple[int, int, int]
) -> None:
    pixels = decode(saved(make(), kind), side=SIDE, name="x")

    assert pixels.shape == (SIDE, SIDE, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 2


def test_a_transparent_colour_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (20, 20), 3)
    image.putpalette([value for number in range(256) for value in (number, 0, 0)])

    pixels = decode(saved(image, "png", transparency=3), side=SIDE, name="x")

    assert (pixels == 255).all()


def test_the_middle_of_an_oblong_image_is_kept() -> None:
    image = Image.new("RGB", (90, 30), (255, 0, 0))
    image.paste((0, 0, 255), (30, 0, 60, 30))

    pixels = decode(saved(image, "png"), side=30, name="x")

    assert (pixels == (0, 0, 255)).all()


def test_a_photo_is_rotated_by_its_exif_orientation() -> None:
    image = Image.new("RGB", (20, 20), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down

    pixels = decode(saved(image, "png", exif=exif), side=20, name="x")

    assert pixels[0].max() == 0
    assert pixels[-1].min() == 255


def test_a_large_photo_decoded_at_a_fraction_matches_its_full_decoding() -> None:
    photo = picture(3, size=(640, 480))

    small = decode(saved(photo, "jpeg", quality=95), side=32, name="x").astype(int)

    assert np.abs(small - decode(saved(photo, "png"), side=32, name="x")).max() <= 8


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_a_truncated_image_is_refused_unless_all_its_pixels_are_there(kind: str) -> None:
    content = saved(picture(1), kind)
    full = decode(content, side=SIDE, name="x")

    def decode_cut(cut: int) -> NDArray[np.uint8] | None:
        try:
            return decode(content[:cut], side=SIDE, name="cut.img")
        except DataError:
            return None

    decoded = {cut: pixels for cut in range(0, len(content), 7) if (pixels := decode_cut(cut)) is not None}

    assert all(np.array_equal(pixels, full) for pixels in decoded.values())
    assert all(cut >= len(content) - 20 for cut in decoded)  # checksums and end mark of a PNG


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    content = bytearray(saved(Image.new("L", (8, 8)), "bmp"))
    content[18:26] = struct.pack("<ii", 6000, 5000)

    with pytest.raises(DataError, match=r"big: has 6000 x 5000 pixels, but at most 25 million"):
        decode(bytes(content), side=SIDE, name="big")


def test_formats_other_than_the_four_are_refused() -> None:
    content = saved(picture(1), "gif")

    with pytest.raises(DataError, match=r"replace it by a complete JPEG, PNG, WEBP or BMP file"):
        decode(content, side=SIDE, name="x")


def test_many_images_are_decoded_in_order_with_errors_at_their_positions() -> None:
    contents = [saved(picture(number), "png") for number in range(100)]
    contents[70] = b"no image"

    decoded = [
        pair for bundle in decode_many(((str(i), c) for i, c in enumerate(contents)), side=SIDE) for pair in bundle
    ]

    assert [name for name, _ in decoded] == [str(number) for number in range(100)]
    assert [name for name, result in decoded if isinstance(result, DataError)] == ["70"]
    assert np.array_equal(np.asarray(decoded[99][1]), decode(contents[99], side=SIDE, name=""))
