"""Formats of files: those that are read, and names for those that are not."""

import warnings
from contextlib import suppress
from typing import Final

from PIL import Image, PngImagePlugin, features

#: Pillow warns of harmless faults in metadata, without the name of the file.
warnings.filterwarnings("ignore", module=r"PIL\.")
#: decode() limits the cost itself, by the needs of each format.
Image.MAX_IMAGE_PIXELS = None
#: A photo may carry some megabytes of colour profile or text. Pillow's limit for all text of a file stays.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

HEIC_ADVICE: Final = "install pillow-heif or convert it"


def _readable() -> tuple[str, ...]:
    names = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"]
    if features.check("avif"):
        names.append("AVIF")
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        names.append("HEIF")
    return tuple(names)


READABLE: Final = _readable()
"""Pillow's names of the formats that are read."""

EMPTY: Final = "empty"
UNKNOWN: Final = "of no known format"
#: Names, where they differ from "a NAME file" with Pillow's name.
NAMES: Final = {"WEBP": "a WebP file", "JPEG2000": "a JPEG 2000 file", "AVIF": "an AVIF file", "HEIF": "a HEIC file"}
READ: Final = frozenset(NAMES.get(name, f"a {name} file") for name in READABLE)
"""Names of the formats that are read."""

#: First bytes -> name; from the specification of each format, as in https://en.wikipedia.org/wiki/List_of_file_signatures.
SIGNATURES: Final = (
    (b"\xff\xd8\xff", "a JPEG file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG file"),
    (b"GIF8", "a GIF file"),
    (b"BM", "a BMP file"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"II+\0", "a BigTIFF file"),
    (b"MM\0+", "a BigTIFF file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"8BPS", "a Photoshop file"),
    (b"IIRO", "a raw file of a camera"),
    (b"IIU\0", "a raw file of a camera"),
    (b"FUJIFILMCCD-RAW", "a raw file of a camera"),
    (b"FOVb", "a raw file of a camera"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance HDR file"),
    (b"\0\0\1\0", "an icon file"),
    (b"%PDF", "a PDF file"),
    (b"%!PS", "a PostScript file"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", "an Office or Thumbs.db file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"\0\5\x16\7", "an AppleDouble file of macOS"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file)"),
)
#: Brand of an ISO base media file (ISO/IEC 14496-12, bytes 4 to 12) -> name.
BRANDS: Final = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC file"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF file"),
    b"crx ": "a raw file of a camera",
}


def name_of(content: bytes) -> str:
    """Name the format of a file by its content, with an article, or as EMPTY or UNKNOWN."""
    if not content:
        return EMPTY
    if not content.strip(b"\0"):
        return "full of zero bytes, as after a failed copy"
    if content[4:8] == b"ftyp":
        return BRANDS.get(content[8:12], "a video")
    if content[:4] == b"RIFF":
        return "a WebP file" if content[8:12] == b"WEBP" else "a video or sound file"
    if content[128:132] == b"DICM":
        return "a DICOM file"
    if content[257:262] == b"ustar":
        return "a tar archive"
    if content[:1] == b"P" and content[1:2] in b"123456Ff" and content[2:3].isspace():
        return "a PPM file"
    for signature, name in SIGNATURES:
        if content.startswith(signature):
            return name
    return _text(content[:1000])


def _text(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<?xml", b"<")):
        return "an XML file"
    try:
        text = head.decode("utf-8", "strict" if len(head) < 1000 else "ignore")
    except UnicodeDecodeError:
        return UNKNOWN
    is_text = all(character.isprintable() or character.isspace() for character in text)
    return "a text file" if is_text else UNKNOWN
