"""Pictures, and the content of their files."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def picture(number: int, size: tuple[int, int] = (20, 24)) -> Image.Image:
    """A smooth picture that differs for each number."""
    across, down = np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1])[:, None]
    planes = [np.cos((number + 2) * across + channel) * np.sin(3 * down + number) for channel in range(3)]
    return Image.fromarray((np.stack(planes, -1) * 127 + 128).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(
    seed: int, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), *, spread: int = 35
) -> Image.Image:
    """A picture of random pixels around a colour."""
    random = np.random.default_rng(seed)
    offsets = random.integers(-spread, spread + 1, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + offsets).clip(0, 255).astype(np.uint8))


def paint_shapes(folder: Path, *, images: int, side: int) -> None:
    """Paint a folder `disc` and a folder `cross` of images with a white shape somewhere on a dark ground."""
    random, shape = np.random.default_rng(0), side // 2 + 1
    for name in ("disc", "cross"):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            image = Image.new("RGB", (side, side), tuple(random.integers(0, 60, 3).tolist()))
            canvas, (x, y) = ImageDraw.Draw(image), random.integers(1, side - shape - 1, 2).tolist()
            if name == "disc":
                canvas.ellipse((x, y, x + shape, y + shape), fill="white")
            else:
                canvas.line((x, y, x + shape, y + shape), fill="white", width=2)
                canvas.line((x + shape, y, x, y + shape), fill="white", width=2)
            image.save(folder / name / f"{number:02}.png")


# -- PNG and TIFF of 16 bits, which Pillow reads but does not write ------------------------------------------------


def png(size: tuple[int, int], body: bytes, *, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG of the colour type `kind` with these filtered rows (https://www.w3.org/TR/png-3)."""
    head = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def png16(values: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits: (H, W) is grey; (H, W, C) is grey with alpha, RGB, or RGBA."""
    rows = values.reshape(len(values), -1).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    return png((values.shape[1], values.shape[0]), body, bits=16, kind=kind)


def tiff(
    values: NDArray[np.generic],
    *,
    order: str = "<",
    deflate: bool = False,
    planar: bool = False,
    strips: int = 1,
    orientation: int = 1,
) -> bytes:
    """A TIFF of one frame (TIFF 6.0): (H, W) is grey, (H, W, 3) RGB.

    Args:
        values: of unsigned, signed or float numbers.
        order: of the bytes, "<" or ">".
        deflate: whether the pixels are packed.
        planar: whether the colours are stored one after the other.
        strips: number of strips of rows.
        orientation: as in EXIF.
    """
    samples = values.shape[2] if values.ndim == 3 else 1
    rows = len(values) // strips
    planes = [values[..., channel] for channel in range(samples)] if planar else [values]
    parts = [plane[top : top + rows] for plane in planes for top in range(0, len(values), rows)]
    data = [part.astype(part.dtype.newbyteorder("<" if order == "<" else ">")).tobytes() for part in parts]
    data = [zlib.compress(part) for part in data] if deflate else data
    starts = np.cumsum([8, *map(len, data)]).tolist()
    entries: list[tuple[int, int, Sequence[int]]] = [
        (256, 4, [values.shape[1]]),
        (257, 4, [len(values)]),
        (258, 3, [values.dtype.itemsize * 8] * samples),
        (259, 3, [8 if deflate else 1]),
        (262, 3, [2 if samples == 3 else 1]),
        (273, 4, starts[:-1]),
        (274, 3, [orientation]),
        (277, 3, [samples]),
        (278, 4, [rows]),
        (279, 4, [len(part) for part in data]),
        (284, 3, [2 if planar else 1]),
        (339, 3, [{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * samples),
    ]
    return _tiff_file(entries, data, order)


def _tiff_file(entries: Sequence[tuple[int, int, Sequence[int]]], data: Sequence[bytes], order: str) -> bytes:
    start = 8 + sum(map(len, data))
    directory, tail = struct.pack(f"{order}H", len(entries)), b""
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, numbers in entries:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            packed, tail = struct.pack(f"{order}I", behind + len(tail)), tail + packed
        directory += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", start) + b"".join(data) + directory + bytes(4) + tail


# -- EXIF ----------------------------------------------------------------------------------------------------------


def exif_block(orientation: int, entries: Sequence[tuple[int, int, int, bytes]] = ()) -> bytes:
    """An EXIF block: the orientation, and (tag, type, count, bytes), which need not be valid."""
    items = [(0x0112, 3, 1, struct.pack("<HH", orientation, 0))]
    tail, start = b"", 8 + 2 + 12 * (1 + len(entries)) + 4
    for tag, kind, count, content in entries:
        value = content.ljust(4, b"\0")
        if len(content) > 4:
            value, tail = struct.pack("<I", start + len(tail)), tail + content
        items.append((tag, kind, count, value))
    body = b"II*\0" + struct.pack("<IH", 8, len(items))
    for item in sorted(items):
        body += struct.pack("<HHI", *item[:3]) + item[3]
    return b"Exif\0\0" + body + bytes(4) + tail


def jpeg_with_exif(image: Image.Image, block: bytes) -> bytes:
    content = saved(image, "jpeg", quality=95)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


#: EXIF blocks as cameras and programs write them, with faults, and the orientation that they hold.
BROKEN_EXIF: dict[str, tuple[bytes, int]] = {
    "negative-rational": (exif_block(6, [(0x9204, 10, 1, struct.pack("<ii", -1, 0))]), 6),
    "marker-twice": (b"Exif\0\0" + exif_block(1), 1),
    "rational-of-the-wrong-sign": (exif_block(6, [(0x011A, 5, 1, struct.pack("<ii", -1, 0))]), 6),
    "only-a-marker": (b"Exif\0\0", 1),
    "cut-off": (exif_block(6)[:-9], 1),
    "text-as-bytes-and-a-count-of-zero": (exif_block(8, [(0x010F, 1, 0, b""), (0x0110, 7, 3, b"abc")]), 8),
    "orientation-9": (exif_block(9), 1),
    "zero-by-zero": (exif_block(6, [(0x011A, 5, 1, struct.pack("<II", 0, 0))]), 6),
    "pointers-to-nowhere": (
        exif_block(6, [(0x8769, 4, 1, struct.pack("<I", 60_000)), (0x8825, 4, 1, struct.pack("<I", 4_000_000_000))]),
        6,
    ),
    "orientation-as-text": (
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x112, 2, 2) + b"6\0\0\0" + bytes(4),
        1,
    ),
    "garbage": (b"Exif\0\0" + bytes(range(200)), 1),
}  # fmt: skip
