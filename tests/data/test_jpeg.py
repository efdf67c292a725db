"""data/jpeg.py: scans are counted in the stream of the first image."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.image import MAX_SCANS, decode
from data.jpeg import has_more_scans
from data.preprocessing import Preprocessing
from tests.data.pictures import picture, saved

SCAN, END = b"\xff\xda", b"\xff\xd9"


def jpeg(**options: object) -> bytes:
    return saved(picture(1, (64, 64)), "jpeg", **options)


def scans(content: bytes) -> int:
    return next(number for number in range(1000) if not has_more_scans(content, number))


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def with_scans(count: int, between: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated, with `between` before each repetition."""
    start, scan, rest = jpeg(progressive=True).rpartition(SCAN)
    repeated = scan + rest.removesuffix(END)
    return start + repeated + (between + repeated) * (count - 10) + END


@pytest.mark.parametrize(
    ("options", "count"),
    [
        pytest.param({}, 1, id="baseline"),
        pytest.param({"progressive": True}, 10, id="progressive"),
        pytest.param({"restart_marker_rows": 1}, 1, id="restart-markers"),
        pytest.param({"progressive": True, "restart_marker_blocks": 1}, 10, id="progressive-with-restart-markers"),
        pytest.param({"comment": SCAN * 50}, 1, id="comment"),
        pytest.param({"icc_profile": SCAN * 50_000}, 1, id="profile-of-several-segments"),
        pytest.param({"exif": b"Exif\0\0" + SCAN * 50}, 1, id="exif"),
    ],
)
def test_the_scans_of_an_image_are_counted(options: dict[str, object], count: int) -> None:
    assert scans(jpeg(**options)) == count


def test_the_scans_of_a_thumbnail_are_not_counted() -> None:
    content = jpeg()
    thumbnail = segment(0xE1, b"Exif\0\0" + jpeg(progressive=True))

    assert scans(content[:2] + thumbnail + content[2:]) == 1


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(b"\0\0\0\x18ftypmp42" + np.random.default_rng(5).bytes(1_000_000) + SCAN * 200, id="video"),
        pytest.param(b"\0\2" + with_scans(150), id="picture"),
        pytest.param(b"\0\2" + segment(0xDA, b"") * 150, id="scans"),
    ],
)
def test_what_follows_the_end_of_the_image_is_not_counted(behind: bytes) -> None:
    content = jpeg() + behind

    assert content.count(SCAN) > MAX_SCANS
    assert scans(content) == 1
    long, usual = (decode(file, Preprocessing(side=8), name="x").pixels for file in (content, jpeg()))
    assert np.array_equal(long, usual)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(segment(0xFE, END), id="comment-with-an-end-marker"),
        pytest.param(segment(0xFE, END + b"\xff\xd8" + jpeg()), id="comment-with-a-picture"),
        pytest.param(b"\xff\xff\xff" + segment(0xFE, b"x")[1:], id="filled-marker"),
    ],
)
def test_a_segment_between_scans_does_not_end_the_count(between: bytes) -> None:
    content = with_scans(150, between)

    assert scans(content) == 150
    with pytest.raises(DataError, match=f"x: has more than {MAX_SCANS} scans"):
        decode(content, Preprocessing(side=8), name="x")


def test_several_pictures_in_one_file_are_counted_as_the_first() -> None:
    file = io.BytesIO()
    picture(1, (64, 64)).save(file, "MPO", save_all=True, append_images=[picture(2, (64, 64))])

    assert scans(file.getvalue()) == 1
    assert decode(file.getvalue(), Preprocessing(side=8), name="x").size == (64, 64)


def test_too_many_scans_are_refused_in_a_file_of_several_pictures() -> None:
    file = io.BytesIO()
    picture(1, (64, 64)).save(file, "MPO", save_all=True, append_images=[picture(2, (64, 64))])
    index = file.getvalue()[2:].partition(b"\xff\xe2")[2]  # the multi-picture index makes Pillow give it another name
    size = struct.unpack(">H", index[:2])[0]
    content = with_scans(150)
    content = content[:2] + b"\xff\xe2" + index[:size] + content[2:]

    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "MPO"
    with pytest.raises(DataError, match=f"x: has more than {MAX_SCANS} scans"):
        decode(content, Preprocessing(side=8), name="x")


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 300, 700])
def test_a_stream_that_is_cut_off_ends_the_count(cut: int) -> None:
    assert scans(jpeg(progressive=True)[:cut]) <= 10


def test_a_segment_of_length_zero_causes_no_endless_loop() -> None:
    assert scans(b"\xff\xd8" + b"\xff\xda\0\0" * 500) == 500
