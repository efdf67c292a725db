"""data/image.py and decoding.py: image files of every kind, intact and broken."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from PIL import Image, PngImagePlugin, features

from data import image as image_module
from data.decoding import File, decode_many
from data.depth import SAMPLED
from data.errors import DataError
from data.image import ORIENTATIONS, decode
from data.preprocessing import Fit, Preprocessing
from tests.data.pictures import BROKEN_EXIF, exif_block, jpeg_with_exif, picture, png, png16, saved, tiff

SIDE = 16
Pixels = NDArray[np.uint8]
RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def pixels_of(
    content: bytes, *, side: int = SIDE, fit: Fit = "crop", depth: tuple[float, float] | None = None
) -> Pixels:
    return decode(content, Preprocessing(side=side, fit=fit, depth=depth), name="x").pixels


def distance(one: Pixels, other: ArrayLike) -> int:
    return int(np.abs(one.astype(int) - other).max())


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
    "gif": (lambda: Image.new("RGB", (20, 20), (10, 200, 30)).quantize(4), "gif", (10, 200, 30)),
    "tiff": (lambda: Image.new("RGB", (20, 20), (10, 200, 30)), "tiff", (10, 200, 30)),
    "cmyk-tiff": (lambda: Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "tiff", (255, 0, 0)),
    "ppm": (lambda: Image.new("RGB", (20, 20), (10, 200, 30)), "ppm", (10, 200, 30)),
    "pgm": (lambda: Image.new("L", (20, 20), 90), "ppm", (90, 90, 90)),
    "pbm": (lambda: Image.new("1", (20, 20), 1), "ppm", (255, 255, 255)),
    "jpeg-2000": (lambda: Image.new("RGB", (20, 20), (10, 200, 30)), "jpeg2000", (10, 200, 30)),
    "jpeg-of-several-pictures": (lambda: Image.new("RGB", (20, 20), (9, 99, 199)), "mpo", (9, 99, 199)),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "colour"), MODES.values(), ids=MODES)
def test_every_kind_of_image_becomes_rgb(
    make: Callable[[], Image.Image], kind: str, colour: tuple[int, int, int]
) -> None:
    pixels = pixels_of(saved(make(), kind))

    assert pixels.shape == (SIDE, SIDE, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 2


def test_a_transparent_colour_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (20, 20), 3)
    image.putpalette([value for number in range(256) for value in (number, 0, 0)])

    pixels = pixels_of(saved(image, "png", transparency=3))

    assert (pixels == 255).all()


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, BLUE)]

    for kind in ("gif", "webp", "png"):
        assert distance(pixels_of(saved(frames[0], kind, save_all=True, append_images=frames[1:])), RED) <= 2


# -- fit -----------------------------------------------------------------------------------------------------------


def test_a_crop_keeps_the_middle_square() -> None:
    wide = picture(1, (30, 10))

    assert np.array_equal(pixels_of(saved(wide, "png"), side=10, fit="crop"), np.asarray(wide)[:, 10:20])
    high = wide.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(pixels_of(saved(high, "png"), side=10, fit="crop"), np.asarray(high)[10:20])


def test_a_pad_keeps_all_pixels_and_adds_black_bars() -> None:
    wide = picture(1, (30, 10))
    expected = np.zeros((30, 30, 3), np.uint8)
    expected[10:20] = np.asarray(wide)

    assert np.array_equal(pixels_of(saved(wide, "png"), side=30, fit="pad"), expected)
    high = wide.transpose(Image.Transpose.TRANSPOSE)
    assert np.array_equal(pixels_of(saved(high, "png"), side=30, fit="pad"), expected.swapaxes(0, 1))


def test_a_squash_keeps_all_pixels_and_changes_the_proportions() -> None:
    wide = Image.new("RGB", (120, 30), RED)
    wide.paste(BLUE, (60, 0, 120, 30))

    pixels = pixels_of(saved(wide, "png"), side=30, fit="squash")

    assert (pixels[:, :13] == RED).all()
    assert (pixels[:, 17:] == BLUE).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_square_image_of_the_right_size_is_unchanged_by_any_fit(fit: Fit) -> None:
    square = picture(1, (16, 16))

    assert np.array_equal(pixels_of(saved(square, "png"), fit=fit), np.asarray(square))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 5000)], ids=str)
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_an_image_of_any_shape_has_pixels_of_its_colour(fit: Fit, size: tuple[int, int]) -> None:
    for kind in ("png", "jpeg"):
        pixels = pixels_of(saved(Image.new("RGB", size, (200, 40, 40)), kind), fit=fit)

        assert distance(pixels.reshape(-1, 3).max(axis=0), np.array((200, 40, 40))) <= 2


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(640, 480), (1600, 200)], ids=["photo", "panorama"])
def test_a_large_photo_decoded_at_a_fraction_matches_its_full_decoding(size: tuple[int, int], fit: Fit) -> None:
    photo = picture(3, size=size)

    small = pixels_of(saved(photo, "jpeg", quality=95), side=32, fit=fit)

    assert distance(small, pixels_of(saved(photo, "png"), side=32, fit=fit)) <= 8


# -- orientation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_by_its_exif_orientation(orientation: int, kind: str) -> None:
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    stored = picture(1, (48, 32))
    upright = stored.transpose(ORIENTATIONS[orientation]) if orientation > 1 else stored
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = decode(saved(stored, kind, exif=exif.tobytes(), quality=95), Preprocessing(side=48, fit="pad"), name="x")

    assert decoded.size == upright.size
    assert distance(decoded.pixels, pixels_of(saved(upright, "png"), side=48, fit="pad")) <= 12


def test_the_eight_orientations_are_those_of_the_standard() -> None:
    """The standard tells where the first row and the first column of the stored image are seen (CIPA DC-008, 4.6.4)."""
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40
    seen = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: stored.T[:, ::-1], 7: stored.T[::-1, ::-1], 8: stored.T[::-1],
    }  # fmt: skip

    for orientation, expected in seen.items():
        content = saved(Image.fromarray(stored), "png", exif=exif_block(orientation)[6:])
        pixels = pixels_of(content, side=3, fit="pad")[..., 0]
        height, width = expected.shape
        found = [
            pixels[row : row + height, column : column + width]
            for row in range(4 - height)
            for column in range(4 - width)
        ]
        assert any(np.array_equal(part, expected) for part in found), orientation


@pytest.mark.parametrize(("block", "orientation"), BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_metadata_do_not_refuse_an_image(block: bytes, orientation: int) -> None:
    decoded = decode(jpeg_with_exif(picture(1), block), Preprocessing(side=SIDE), name="x")

    expected = picture(1).transpose(ORIENTATIONS[orientation]) if orientation > 1 else picture(1)
    assert decoded.size == expected.size
    assert distance(decoded.pixels, pixels_of(saved(expected, "png"))) <= 12


def test_pillow_prints_no_warning(tmp_path: Path) -> None:
    contents = [jpeg_with_exif(picture(1), block) for block, _ in BROKEN_EXIF.values()]
    contents += [
        saved(picture(1), "mpo")[:-1],
        tiff(np.zeros((4, 4, 3), np.uint8)) + b"x",
        png16(np.zeros((4, 4), np.uint16)),
    ]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    code = """
import sys
from pathlib import Path
from data.decoding import decode_many
from data.preprocessing import Preprocessing
files = [(path.name, path.read_bytes()) for path in Path(sys.argv[1]).iterdir()]
print(sum(len(bundle) for bundle in decode_many(iter(files), Preprocessing(side=8), sample=True)))
"""

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == (f"{len(contents)}\n", "")


# -- 16 bits and float ---------------------------------------------------------------------------------------------

TWELVE_BITS = (0.0, 4095.0)
#: Each value of 12 bits is one byte of the result: 0, 16, 32, ... 4080, and 7 more in the lower bits.
GREY = (np.arange(256, dtype=np.uint16) * 16 + 7).reshape(16, 16)
RGB = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)


def as_bytes(values: NDArray[np.generic], low: float, high: float) -> Pixels:
    scaled = (values.astype(float) - low) * 255 / (high - low)
    result: Pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.repeat(result[..., None], 3, axis=-1) if result.ndim == 2 else result


DEEP: dict[str, tuple[bytes, NDArray[np.generic]]] = {
    "grey-png": (png16(GREY), GREY),
    "rgb-png": (png16(RGB), RGB),
    "grey-with-alpha-png": (png16(np.stack([GREY, np.full_like(GREY, 65535)], axis=-1)), GREY),
    "rgb-with-alpha-png": (png16(np.concatenate([RGB, np.full((16, 16, 1), 65535, np.uint16)], axis=-1)), RGB),
    "pgm": (b"P5 16 16 65535\n" + GREY.astype(">u2").tobytes(), GREY),
    "ppm": (b"P6 16 16 65535\n" + RGB.astype(">u2").tobytes(), RGB),
} | {
    f"{kind}-tiff-{'little' if order == '<' else 'big'}-endian{'-deflate' * deflate}-{strips}-strips": (
        tiff(values, order=order, deflate=deflate, strips=strips), values
    )
    for kind, values in (("grey", GREY), ("rgb", RGB))
    for order in "<>"
    for deflate in (False, True)
    for strips in (1, 4)
}  # fmt: skip


@pytest.mark.parametrize(("content", "values"), DEEP.values(), ids=DEEP)
def test_16_bit_colours_keep_their_lower_bytes(content: bytes, values: NDArray[np.uint16]) -> None:
    decoded = decode(content, Preprocessing(side=16, depth=TWELVE_BITS), name="x", sample=True)

    assert np.array_equal(decoded.pixels, as_bytes(values, *TWELVE_BITS))
    assert decoded.samples is not None
    assert decoded.samples.dtype == np.float32
    assert sorted(decoded.samples) == sorted(values.ravel())


@pytest.mark.parametrize(("content", "values"), DEEP.values(), ids=DEEP)
def test_without_a_depth_the_upper_byte_is_taken(content: bytes, values: NDArray[np.uint16]) -> None:
    assert distance(pixels_of(content), as_bytes(values >> 8, 0, 255)) <= 1


@pytest.mark.parametrize(
    ("values", "order"),
    [
        pytest.param((GREY / 1000).astype(np.float32), "<", id="float32"),
        pytest.param((GREY / 1000).astype(np.float32), ">", id="float32-big-endian"),
        pytest.param(GREY.astype(np.int16) - 1024, "<", id="int16-as-of-a-ct"),
        pytest.param(GREY.astype(np.int16) - 1024, ">", id="int16-big-endian"),
        pytest.param(GREY.astype(np.int32) * 1000, "<", id="int32"),
        pytest.param(GREY.astype(np.uint32) * 1000, "<", id="uint32"),
    ],
)
def test_other_numbers_are_scaled_from_the_depth(values: NDArray[np.generic], order: str) -> None:
    low, high = float(values.min()), float(values.max())

    decoded = decode(tiff(values, order=order), Preprocessing(side=16, depth=(low, high)), name="x", sample=True)

    assert np.array_equal(decoded.pixels, as_bytes(values, low, high))
    assert decoded.samples is not None
    assert np.array_equal(np.sort(decoded.samples), np.sort(values.astype(np.float32).ravel()))


def test_values_beyond_the_depth_become_black_and_white() -> None:
    pixels = pixels_of(png16(GREY), depth=(1000.0, 2000.0))

    assert (pixels[GREY < 1000] == 0).all()
    assert (pixels[GREY > 2000] == 255).all()
    assert len(np.unique(pixels)) > 50


def test_values_that_are_no_numbers_are_black_and_no_samples() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    values[0, :3] = np.nan, np.inf, -np.inf

    decoded = decode(tiff(values), Preprocessing(side=16, depth=(0.0, 1.0)), name="x", sample=True)

    assert decoded.pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert decoded.samples is not None
    assert len(decoded.samples) == 253
    assert np.isfinite(decoded.samples).all()


def test_few_samples_are_taken_of_a_large_image() -> None:
    decoded = decode(
        png16(np.arange(90_000).reshape(300, 300).astype(np.uint16)), Preprocessing(side=8), name="x", sample=True
    )

    assert decoded.samples is not None
    assert len(decoded.samples) == SAMPLED**2
    assert decoded.samples.min() < 1000
    assert decoded.samples.max() > 60_000


def test_an_image_of_8_bits_has_no_samples_and_no_depth() -> None:
    content = saved(picture(1), "png")

    assert decode(content, Preprocessing(side=8), name="x", sample=True).samples is None
    assert np.array_equal(pixels_of(content, depth=(0.0, 10.0)), pixels_of(content))


def test_no_samples_are_taken_unless_wanted() -> None:
    assert decode(png16(GREY), Preprocessing(side=8), name="x").samples is None


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("depth", [None, TWELVE_BITS])
def test_16_bit_colours_in_separate_planes_are_refused(depth: tuple[float, float] | None, deflate: bool) -> None:
    with pytest.raises(DataError, match=r"x: stores colours of 16 bits in separate planes; save it with interleaved"):
        pixels_of(tiff(RGB, planar=True, deflate=deflate), depth=depth)


def test_8_bit_colours_in_separate_planes_are_read() -> None:
    values = np.asarray(picture(1, (16, 16)))

    assert np.array_equal(pixels_of(tiff(values, planar=True)), values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_bytes_of_16_bit_colours_are_turned_upright(orientation: int) -> None:
    pixels = pixels_of(tiff(RGB, orientation=orientation, deflate=True), depth=TWELVE_BITS)

    upright = Image.fromarray(as_bytes(RGB, *TWELVE_BITS))
    turned = upright.transpose(ORIENTATIONS[orientation]) if orientation > 1 else upright
    assert np.array_equal(pixels, np.asarray(turned))


@pytest.mark.parametrize("kind", ["rgb", "float64"])
def test_numbers_that_pillow_cannot_read_are_refused_as_what_they_are(kind: str) -> None:
    values = RGB.astype(np.float32) if kind == "rgb" else GREY.astype(np.float64)

    with pytest.raises(
        DataError, match=r"is a TIFF file of a variant that is not read, or damaged; convert it to 8 or 16"
    ):
        decode(tiff(values), Preprocessing(side=8), name="x.tif")


# -- large images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mode", "colour"),
    [((8064, 6048), "RGB", (200, 40, 40)), ((16_320, 12_240), "L", (90, 90, 90))],
    ids=["48-megapixels", "200-megapixels"],
)
def test_a_photo_of_many_megapixels_is_read(size: tuple[int, int], mode: str, colour: tuple[int, int, int]) -> None:
    content = saved(Image.new(mode, size, colour if mode == "RGB" else colour[0]), "jpeg", quality=60)

    decoded = decode(content, Preprocessing(side=SIDE), name="x")

    assert decoded.size == size
    assert distance(decoded.pixels, np.array(colour)) <= 2


def test_a_png_of_many_megapixels_equals_its_small_copy() -> None:
    shades = np.add.outer(np.linspace(0, 127, 5200), np.linspace(0, 127, 5200)).astype(np.uint8)
    large = Image.fromarray(shades)
    content = saved(large, "png", compress_level=1)

    pixels = pixels_of(content, side=26)

    assert distance(pixels[..., 0], np.asarray(large.resize((26, 26), Image.Resampling.BICUBIC))) <= 1


STRIPS: dict[str, tuple[Callable[[], bytes], tuple[float, float] | None]] = {
    "rgb": (lambda: saved(picture(1, (320, 160)), "png"), None),
    "half-transparent": (lambda: saved(translucent((320, 160)), "png"), None),
    "palette": (lambda: saved(picture(1, (320, 160)).quantize(64), "png"), None),
    "deep": (lambda: png16(np.add.outer(np.arange(160), np.arange(320)).astype(np.uint16) * 8), TWELVE_BITS),
    "deep-rgb": (lambda: png16(np.asarray(picture(1, (320, 160))).astype(np.uint16) * 16 + 7), TWELVE_BITS),
}


def translucent(size: tuple[int, int]) -> Image.Image:
    image = picture(1, size).convert("RGBA")
    image.putalpha(picture(2, size).convert("L"))
    return image


@pytest.mark.parametrize(("make", "depth"), STRIPS.values(), ids=STRIPS)
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_strips_of_a_large_image_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes], depth: tuple[float, float] | None, fit: Fit
) -> None:
    content = make()
    expected = pixels_of(content, fit=fit, depth=depth)
    monkeypatch.setattr(image_module, "LARGE_PIXELS", 50_000)  # true ones take long
    monkeypatch.setattr(image_module, "STRIP_PIXELS", 3_000)

    assert distance(pixels_of(content, fit=fit, depth=depth), expected) <= 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(png((50_000, 50_000), b""), "has 50000 x 50000 pixels, which take 2.5 GB", id="grey-png"),
        pytest.param(png((20_000, 20_000), b"", kind=2), "has 20000 x 20000 pixels, which take 1.6 GB", id="rgb-png"),
        pytest.param(png((25_000, 25_000), b"", bits=16), "which take 1.2 GB", id="16-bit-png"),
        pytest.param(png((50_000, 50_000), b"", bits=1), "which take 2.5 GB", id="black-and-white-png"),
        pytest.param(
            saved(Image.new("P", (9, 9)), "gif").replace(struct.pack("<HH", 9, 9), b"\xff\xff\xff\xff", 1),
            "has 65535 x 65535 pixels, which take 8.6 GB to decode, but at most 1.1 GB are used for an image; scale it",
            id="gif",
        ),
        pytest.param(b"P6 40000 40000 255\n", "has 40000 x 40000 pixels, which take 6.4 GB", id="ppm"),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"x: {words}|x: has .* {words}"):
        pixels_of(content)


def test_the_second_half_of_16_bit_colours_counts_as_memory() -> None:
    content = png((13_000, 13_000), b"", bits=16, kind=2)

    with pytest.raises(DataError, match="but cannot be decoded"):  # its pixels are missing
        pixels_of(content)
    with pytest.raises(DataError, match=r"which take 1\.4 GB to decode"):
        pixels_of(content, depth=TWELVE_BITS)


def test_a_png_with_megabytes_of_profile_and_text_is_whole() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1_500_000, zip=True)
    content = saved(picture(1), "png", pnginfo=info, icc_profile=bytes(1_500_000))

    assert np.array_equal(pixels_of(content), pixels_of(saved(picture(1), "png")))


def test_a_png_with_a_bomb_of_text_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 100_000_000, zip=True)

    with pytest.raises(DataError, match=r"is a PNG file, but cannot be decoded \(Decompressed data too large"):
        decode(saved(picture(1), "png", pnginfo=info), Preprocessing(side=8), name="x.png")


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.jpg", b"", "a.jpg: is empty; replace it or take it out", id="empty"),
        pytest.param("a.jpg", bytes(99), "a.jpg: is full of zero bytes, as after a failed copy", id="zeros"),
        pytest.param("a.jpg", b"\x9d\0\3", "a.jpg: is of no known format; replace it or take it out", id="unknown"),
        pytest.param("a.jpg", b"<html>404</html>", "a.jpg: is a web page named .jpg, which is not read as", id="page"),
        pytest.param("a", b"%PDF-1.7", "a: is a PDF file, which is not read as an image; convert it", id="no-ending"),
        pytest.param("x.y/a", b"%PDF-1.7", "x.y/a: is a PDF file, which is not", id="point-in-a-folder"),
        pytest.param("a.pdf", b"%PDF-1.7", "a.pdf: is a PDF file, which is not", id="right-ending"),
        pytest.param("a.JPG", saved(picture(1), "png")[:-30], "a.JPG: is a PNG file named .JPG, but cannot", id="png"),
        pytest.param("a.JPG", saved(picture(1), "jpeg")[:-30], "a.JPG: is a JPEG file, but cannot be", id=".JPG"),
        pytest.param("a.jpeg", saved(picture(1), "jpeg")[:-30], "a.jpeg: is a JPEG file, but cannot be", id=".jpeg"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_image_is_named_for_what_it_is(name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(content, Preprocessing(side=8), name=name)

    assert str(caught.value).startswith(message)


def test_a_heic_file_is_read_where_its_plug_in_is_installed() -> None:
    pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(picture(1, (64, 48)), "heif", quality=95, exif=exif.tobytes())

    decoded = decode(content, Preprocessing(side=16), name="photo.jpg")

    assert decoded.size == (48, 64)
    upright = picture(1, (64, 48)).transpose(Image.Transpose.ROTATE_270)
    assert distance(decoded.pixels, pixels_of(saved(upright, "png"))) <= 16


def test_a_heic_file_without_the_plug_in_is_refused_with_the_way_out() -> None:
    code = """
import sys
sys.modules["pillow_heif"] = None
from data.errors import DataError
from data.image import decode
from data.preprocessing import Preprocessing
for name in ("photo.jpg", "photo.HEIC"):
    try:
        decode(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic" + bytes(100), Preprocessing(side=8), name=name)
    except DataError as error:
        print(error)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == (
        "photo.jpg: is a HEIC file named .jpg; install pillow-heif or convert it\n"
        "photo.HEIC: is a HEIC file; install pillow-heif or convert it\n"
    )


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "gif", "tiff", "ppm"])
def test_a_truncated_image_is_refused_unless_all_its_pixels_are_there(kind: str) -> None:
    content = saved(picture(1), kind)
    full = decode(content, Preprocessing(side=SIDE), name="x").pixels

    def decode_cut(cut: int) -> NDArray[np.uint8] | None:
        try:
            return decode(content[:cut], Preprocessing(side=SIDE), name="cut.img").pixels
        except DataError:
            return None

    decoded = {cut: pixels for cut in range(0, len(content), 7) if (pixels := decode_cut(cut)) is not None}

    assert all(np.array_equal(pixels, full) for pixels in decoded.values())
    assert all(cut >= len(content) - 20 for cut in decoded)  # checksums and end mark of a PNG


def test_many_images_are_decoded_in_order_with_errors_at_their_positions() -> None:
    contents = [saved(picture(number), "png") for number in range(100)]
    contents[70] = b"no image"

    files = ((str(number), content) for number, content in enumerate(contents))
    decoded = [pair for bundle in decode_many(files, Preprocessing(side=SIDE)) for pair in bundle]

    assert [name for name, _ in decoded] == [str(number) for number in range(100)]
    assert [name for name, result in decoded if isinstance(result, DataError)] == ["70"]
    last = decoded[99][1]
    assert not isinstance(last, DataError)
    assert np.array_equal(last.pixels, pixels_of(contents[99]))


def test_a_file_that_could_not_be_read_keeps_its_error_and_its_position() -> None:
    files: list[File] = [("a", saved(picture(1), "png")), ("b", DataError("b: lost")), ("c", saved(picture(2), "png"))]

    ((*_, second, third),) = decode_many(iter(files), Preprocessing(side=SIDE))

    assert str(second[1]) == "b: lost"
    assert not isinstance(third[1], DataError)


def test_a_tile_that_is_larger_than_its_image_counts_as_memory() -> None:
    content = tiff_tiled(side=25_000)

    with pytest.raises(DataError, match=r"x: has 8 x 8 pixels, which take 5\.0 GB to decode"):
        decode(content, Preprocessing(side=SIDE), name="x")


def test_grey_of_16_bits_whose_zero_is_white_is_refused() -> None:
    content = tiff(np.full((8, 8), 1000, np.uint16))
    inverted = content.replace(struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0))

    assert inverted != content
    with pytest.raises(DataError, match="grey whose zero is white; save it as RGB or usual grey"):
        decode(inverted, Preprocessing(side=SIDE), name="x")


def tiff_tiled(*, side: int) -> bytes:
    """A TIFF of 8 x 8 grey pixels in one deflated tile of `side` pixels."""
    data = zlib.compress(bytes(64))
    entries = ((256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 8))
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(entries) + 1)
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return head + body + struct.pack("<HHII", 325, 4, 1, len(data)) + bytes(4)
