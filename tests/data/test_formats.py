"""data/formats.py: names of formats by the first bytes of a file."""

import pytest
from PIL import Image

from data.formats import READABLE, name_of
from tests.data.pictures import picture, saved

BOX = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\0" * 5000, "full of zero bytes, as after a failed copy", id="zeros"),
        pytest.param(b"\x9d\0\3\x80", "of no known format", id="unknown"),
        pytest.param(b"\xff\xd8\xff\xe0", "a JPEG file", id="jpeg"),
        pytest.param(b"GIF89a", "a GIF file", id="gif"),
        pytest.param(b"II*\0\x08\0\0\0", "a TIFF file", id="tiff-little-endian"),
        pytest.param(b"MM\0*\0\0\0\x08", "a TIFF file", id="tiff-big-endian"),
        pytest.param(b"II+\0\x08\0\0\0", "a BigTIFF file", id="bigtiff"),
        pytest.param(b"P6\n4 4\n255\n", "a PPM file", id="ppm"),
        pytest.param(b"P5 4 4 255 ", "a PPM file", id="pgm"),
        pytest.param(BOX + b"heic\0\0\0\0mif1heic", "a HEIC file", id="heic"),
        pytest.param(BOX + b"mif1\0\0\0\0mif1heic", "a HEIC file", id="heic-as-mif1"),
        pytest.param(BOX + b"avif\0\0\0\0avifmif1", "an AVIF file", id="avif"),
        pytest.param(BOX + b"mp42\0\0\0\0isommp42", "a video", id="mp4"),
        pytest.param(BOX + b"qt  \0\0\0\0", "a video", id="quicktime"),
        pytest.param(BOX + b"crx \0\0\0\1crx isom", "a raw file of a camera", id="cr3"),
        pytest.param(b"\x1aE\xdf\xa3\x9fB\x86", "a video", id="matroska"),
        pytest.param(b"RIFF\x10\0\0\0AVI LIST", "a video or sound file", id="avi"),
        pytest.param(b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP file", id="webp"),
        pytest.param(bytes(128) + b"DICM\2\0\0\0", "a DICOM file", id="dicom"),
        pytest.param(b"\xff\x0a\xfa\x1f", "a JPEG XL file", id="jpeg-xl"),
        pytest.param(b"8BPS\0\1", "a Photoshop file", id="psd"),
        pytest.param(b"\x93NUMPY\1\0v\0", "a NumPy file", id="npy"),
        pytest.param(b"\x89HDF\r\n\x1a\n", "an HDF5 file", id="hdf5"),
        pytest.param(b"%PDF-1.7\n", "a PDF file", id="pdf"),
        pytest.param(b"PK\3\4\x14\0", "a zip archive", id="zip"),
        pytest.param(b"x".ljust(257, b"\0") + b"ustar\0", "a tar archive", id="tar"),
        pytest.param(b"\xd0\xcf\x11\xe0\xa1\xb1", "an Office or Thumbs.db file", id="thumbs.db"),
        pytest.param(b"\0\5\x16\7\0\2", "an AppleDouble file of macOS", id="appledouble"),
        pytest.param(b"<!DOCTYPE html><html>", "a web page", id="page"),
        pytest.param(b"\xef\xbb\xbf\n <HTML>404</HTML>", "a web page", id="page-with-a-mark"),
        pytest.param(b'<?xml version="1.0"?><svg xmlns="x">', "an SVG drawing", id="svg"),
        pytest.param(b'<?xml version="1.0"?><annotation>', "an XML file", id="xml"),
        pytest.param(b"00.jpg red\n01.jpg blue\n", "a text file", id="text"),
        pytest.param("Grün ".encode() * 1000, "a text file", id="long-text-cut-within-a-letter"),
        pytest.param(b"Gr\xfcn", "of no known format", id="latin-1"),
        pytest.param(b"abc\x1b\0", "of no known format", id="control-characters"),
    ],
)
def test_a_file_is_named_by_its_content(content: bytes, name: str) -> None:
    assert name_of(content) == name


def test_a_pointer_of_git_lfs_is_named_with_the_way_out() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"

    assert name_of(pointer) == "a pointer of Git LFS (`git lfs pull` fetches the file)"


@pytest.mark.parametrize("kind", READABLE)
def test_every_format_that_is_read_has_a_name(kind: str) -> None:
    image = picture(1, (64, 64)).convert("RGB")

    assert name_of(saved(image, "JPEG2000" if kind == "JPEG2000" else kind)).removeprefix("a").strip("n ") in {
        f"{name} file" for name in ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "PPM", "JPEG 2000", "AVIF", "HEIC")
    }


def test_pillow_does_not_limit_the_number_of_pixels_itself() -> None:
    assert Image.MAX_IMAGE_PIXELS is None  # decode() limits the cost
