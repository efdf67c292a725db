"""Images and archives that are small on disk and huge in memory, and invalid images, are refused by name."""

import gzip
import io
import lzma
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from data import archive
from data.decoding import WAITING_BYTES, decode_many
from data.errors import DataError
from data.image import MAX_SCANNED_PIXELS, MAX_SCANS, decode
from data.preprocessing import Preprocessing
from tests.data.pictures import saved
from tests.harness import CONVSEARCH, Answer, Harness
from tests.security.archives import tar_with, zip_with

#: Address space that `run` may use beyond what it has at its start. Most bombs would take 0.5 to 1.6 GB.
SPARE_BYTES = 300_000_000
#: Peak memory of a `run` in a new Python, with the 0.1 GB of its packages.
MOST_BYTES = 400_000_000
#: Runs a command and prints its exit code and peak memory in KiB. A process inherits the peak of its parent, and this
#: parent is small.
METER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
#: A tar bomb unpacks to BLOCKS times BLOCK; other bombs repeat BLOCK as often as they say.
BLOCK, BLOCKS = bytes(2**20), 1536


def png(width: int, height: int, *, whole: bool = False) -> bytes:
    """A black PNG of that size in few bytes; its pixels are missing unless `whole` is true."""
    body = zlib.compress(bytes((width + 1) * height)) if whole else zlib.compress(b"")
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def red(side: int) -> Image.Image:
    return Image.new("RGB", (side, side), (200, 10, 10))


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/owned) (w) file\n%%EOF\n"

IMAGES = {
    "wide-png": (png(50_000, 50_000), "has 50000 x 50000 pixels, which take 2.5 GB to decode, but at most 1.1 GB"),
    "just-too-wide-png": (png(32_768, 32_769), "has 32768 x 32769 pixels, which take 1.1 GB to decode"),
    "wide-webp": (
        saved(red(9), "webp")[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
        "is a WebP file named .jpg, but cannot be decoded",
    ),
    "truncated-jpeg": (saved(red(99), "jpeg")[:-400], "is a JPEG file, but cannot be decoded"),
    "truncated-gif": (saved(red(99), "gif")[:-40], "is a GIF file named .jpg, but cannot be decoded"),
    "truncated-tiff": (saved(red(99), "tiff")[:-400], "is a TIFF file named .jpg, but cannot be decoded"),
    "svg": (SVG, "is an SVG drawing named .jpg, which is not read as an image; convert it"),
    "eps": (EPS, "is a PostScript file named .jpg, which is not read as an image; convert it"),
    "empty": (b"", "is empty; replace it or take it out"),
}


@pytest.mark.parametrize(("content", "words"), IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar.xz"])
def test_an_invalid_or_huge_image_is_refused_by_its_name(
    harness: Harness, kind: str, content: bytes, words: str
) -> None:
    path = source(harness, kind, content)

    answer = harness.run("run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert answer.code == 65
    lines = [line for line in answer.err.splitlines() if "train/red/odd.jpg: " in line]
    assert len(lines) == 1, answer.err
    assert words in lines[0]


def test_an_image_of_a_hundred_megapixels_is_read(harness: Harness) -> None:
    path = source(harness, "zip", png(10_000, 10_000, whole=True))

    answer = harness.run(
        "run", harness.write(data={"path": str(path)}, budget={"trials": 1, "epochs": 1}), "--workers", "1"
    )

    assert answer.code == 0, answer.err


def source(harness: Harness, kind: str, content: bytes) -> Path:
    """The images of the harness and one more, train/red/odd.jpg."""
    path, odd = harness.folder / ("own" if kind == "folder" else f"own.{kind}"), "train/red/odd.jpg"
    if kind == "folder":
        shutil.copytree(harness.images, path)  # no links: they would change the status of images that other tests read
        (path / odd).write_bytes(content)
        return path
    if kind == "zip":
        path.write_bytes(zip_with(harness.images, zipfile.ZipInfo(odd), content))
    else:
        path.write_bytes(tar_with(harness.images, kind, info(odd, len(content)), content))
    return path


def info(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member


# -- archives -----------------------------------------------------------------------------------------------------


def tar_bomb(pack: Callable[[bytes], bytes], kind: bytes) -> bytes:
    """A tar of one member of 1.6 GB, packed to 2 MB at most: a file, or an extension header of the next member."""
    header = info("train/red/odd.png", len(BLOCK) * BLOCKS, kind).tobuf()
    return pack(header) + pack(BLOCK) * BLOCKS + pack(bytes(1024))


def sparse_bomb() -> bytes:
    """A tar whose only member is sparse, with a map of 400 MB in extension blocks (GNU's old format)."""
    header = bytearray(info("train/red/odd.png", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # the map continues in the next block
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    block = b"77777777777\0" * 42 + b"\1" + bytes(7)
    return lzma.compress(bytes(header)) + lzma.compress(block * 2**11) * 400 + lzma.compress(bytes(1024))


def sparse_pax_bomb() -> bytes:
    """The same in the pax format: a map of a hundred million numbers before the content."""
    words = {"major": "1", "minor": "0", "name": "train/red/odd.png", "realsize": "10"}
    header = info("odd", 2**28)
    header.pax_headers = {f"GNU.sparse.{key}": value for key, value in words.items()}
    start = header.tobuf(tarfile.PAX_FORMAT) + b"100000000\n"
    return lzma.compress(start) + lzma.compress(b"0\n" * 2**19) * 256 + lzma.compress(bytes(1024))


def global_bomb() -> bytes:
    """A tar of a hundred global headers of 65 kB each; all are kept, because each applies to all later members."""
    headers = (tarfile.TarInfo.create_pax_global_header({f"k{number}": "v" * 65_000}) for number in range(100))
    folder = info("train/", 0, tarfile.DIRTYPE).tobuf()
    return b"".join(lzma.compress(header + folder, preset=0) for header in headers)


def dictionary_bomb() -> bytes:
    """An .xz whose first block header asks for 4 GiB of memory (https://tukaani.org/xz/xz-file-format.txt, 3.1)."""
    packed = bytearray(lzma.compress(info("train/", 0, tarfile.DIRTYPE).tobuf() + bytes(2**20), preset=0))
    size = (packed[12] + 1) * 4
    block = packed[12 : 12 + size]
    block[block.index(b"\x21\x01") + 2] = 40
    block[-4:] = struct.pack("<I", zlib.crc32(bytes(block[:-4])))
    packed[12 : 12 + size] = block
    return bytes(packed)


def idle_bomb() -> bytes:
    """Two gigabytes of zeros outside the image folders, which take long to skip."""
    header = info("other/zeros", 2**31)
    return lzma.compress(header.tobuf()) + lzma.compress(BLOCK, preset=0) * 2**11 + lzma.compress(bytes(1024))


def zip_of(method: int) -> bytes:
    """A zip of one member, packed by `method`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr("train/red/odd.png", BLOCK)
    return file.getvalue()


def deflate_bomb() -> bytes:
    """A zip with a member of 537 MB. Its checksum is wrong, but is compared after everything is unpacked."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packer.compress(BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in ("red/1", "red/2", "red/3", "blue/1", "blue/2", "blue/3"):
            packed.writestr(f"train/{name}.png", png(8, 8, whole=True))
        packed.writestr("train/red/odd.png", block * 512 + packer.flush())
        odd = packed.filelist[-1]  # the directory at the end of the file gets these values
        odd.compress_type, odd.file_size = zipfile.ZIP_DEFLATED, len(BLOCK) * 512
    return file.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "xz-file": (lambda: tar_bomb(lzma.compress, tarfile.REGTYPE), "tar.xz", "unpacks to more than 100 times its size"),
    "gz-file": (lambda: tar_bomb(gzip.compress, tarfile.REGTYPE), "tar.gz", "unpacks to more than 100 times its size"),
    "xz-pax": (lambda: tar_bomb(lzma.compress, tarfile.XHDTYPE), "tar.xz", "a header says 1610612736 bytes"),
    "xz-global": (lambda: tar_bomb(lzma.compress, tarfile.XGLTYPE), "tar.xz", "a header says 1610612736 bytes"),
    "gz-name": (lambda: tar_bomb(gzip.compress, tarfile.GNUTYPE_LONGNAME), "tar.gz", "a header says 1610612736 bytes"),
    "xz-sparse": (sparse_bomb, "tar.xz", "'train/red/odd.png' is a sparse file, which is refused"),
    "xz-sparse-pax": (sparse_pax_bomb, "tar.xz", "a header has more than 1048576 bytes"),
    "xz-globals": (global_bomb, "tar.xz", "its global headers have more than 65536 bytes"),
    "xz-dictionary": (dictionary_bomb, "tar.xz", "Memory usage limit exceeded"),
    "zip-file": (deflate_bomb, "zip", "train/red/odd.png: has 537 MB, but at most 268 MB are read"),
    "zip-bzip2": (lambda: zip_of(zipfile.ZIP_BZIP2), "zip", "is packed by another method than deflate"),
    "zip-lzma": (lambda: zip_of(zipfile.ZIP_LZMA), "zip", "is packed by another method than deflate"),
}


@pytest.mark.parametrize(("make", "kind", "words"), BOMBS.values(), ids=BOMBS)
def test_an_archive_bomb_is_refused_within_the_memory_limit(
    harness: Harness, make: Callable[[], bytes], kind: str, words: str
) -> None:
    path = harness.folder / f"bomb.{kind}"
    path.write_bytes(make())

    answer = run_limited(harness, "run", harness.write(data={"path": str(path), "validation": 2}), "--workers", "1")

    assert path.stat().st_size < 20_000_000
    assert answer.code == 65, answer.err
    assert str(path) in answer.err
    assert words in answer.err


def test_a_new_process_refuses_an_archive_bomb_in_bounded_memory(harness: Harness) -> None:
    path = harness.folder / "bomb.tar.xz"
    path.write_bytes(idle_bomb())

    code, stderr, peak = run_measured(harness, "run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert path.stat().st_size < 20_000_000
    assert code == 65, stderr
    assert f"{path} unpacks to more than 100 times its size" in stderr
    assert peak < MOST_BYTES


def test_an_archive_with_too_many_members_to_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_LIST_BYTES", 100_000)  # the true limit takes minutes to reach
    path = tmp_path / "names.tar"
    path.write_bytes(info("train/red/odd.png", 0).tobuf() * 1000 + bytes(1024))

    with pytest.raises(DataError, match=r"names\.tar names more files than can be listed in memory"):
        list(archive.open_store(path).entries())


@pytest.mark.parametrize("kind", archive.TAR_EXTENSIONS, ids=repr)
@pytest.mark.parametrize("size", [-1024, archive.MAX_EXTENSION_BYTES + 1])
def test_an_extension_header_with_an_impossible_size_is_refused(tmp_path: Path, kind: bytes, size: int) -> None:
    path = tmp_path / "odd.tar"
    header = info("train/red/odd.png", 0, kind).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(resized(header, size) + bytes(2**17))

    with pytest.raises(DataError, match=rf"odd\.tar is truncated or damaged \(a header says {size} bytes"):
        list(archive.open_store(path).entries())


def resized(header: bytes, size: int) -> bytes:
    """A tar header with another size; a negative size is stored as a binary number (GNU tar)."""
    changed = bytearray(header)
    changed[124:136] = size.to_bytes(12, signed=True) if size < 0 else b"%011o\0" % size
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def test_a_jpeg_with_too_many_scans_is_refused() -> None:
    usual = saved(red(64), "jpeg", progressive=True)
    start, scan, rest = usual.rpartition(b"\xff\xda")
    scans = start + (scan + rest.removesuffix(b"\xff\xd9")) * (MAX_SCANS + 1) + b"\xff\xd9"

    assert decode(usual, Preprocessing(side=8), name="usual.jpg").pixels.shape == (8, 8, 3)
    with pytest.raises(DataError, match=rf"odd\.jpg: has more than {MAX_SCANS} scans"):
        decode(scans, Preprocessing(side=8), name="odd.jpg")


def test_a_jpeg_of_many_pixels_may_have_few_scans_only() -> None:
    usual = saved(red(64), "jpeg", progressive=True)
    start, scan, rest = usual.rpartition(b"\xff\xda")
    scans = bytearray(start + (scan + rest.removesuffix(b"\xff\xd9")) * 50 + b"\xff\xd9")
    height = scans.index(b"\xff\xc2") + 5
    scans[height : height + 4] = struct.pack(">HH", 10_000, MAX_SCANNED_PIXELS // 50 // 10_000 + 1)

    with pytest.raises(DataError, match=r"odd\.jpg: has 5001 x 10000 pixels in too many scans: at most 2.5 billion"):
        decode(bytes(scans), Preprocessing(side=8), name="odd.jpg")


def test_concatenated_xz_streams_are_read(tmp_path: Path) -> None:
    path = tmp_path / "two.tar.xz"
    tar = info("train/red/1.png", 3).tobuf() + b"abc".ljust(512, b"\0") + bytes(1024)
    path.write_bytes(lzma.compress(tar[:600]) + bytes(4) + lzma.compress(tar[600:]) + bytes(8))

    assert dict(archive.open_store(path).read(frozenset({"train/red/1.png"}))) == {"train/red/1.png": b"abc"}


def test_a_negative_member_size_causes_no_endless_loop(harness: Harness) -> None:
    path = harness.folder / "circle.tar"
    header = info("train/red/odd.png", 0)
    header.pax_headers = {"size": "-1024"}
    path.write_bytes(header.tobuf(tarfile.PAX_FORMAT) + bytes(1024))

    answer = run_limited(harness, "run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert answer.code == 65
    assert "truncated or damaged (a header says -1024 bytes, which cannot be)" in answer.err


def test_a_file_in_a_folder_that_is_larger_than_any_image_is_not_read(harness: Harness) -> None:
    path = source(harness, "folder", b"")
    with (path / "train/red/odd.jpg").open("wb") as file:
        file.truncate(2**34)  # sparse: it takes no room on the disk

    answer = run_limited(harness, "run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert answer.code == 65
    assert "train/red/odd.jpg: has 17180 MB, but at most 268 MB are read; take it out" in answer.err


def test_large_files_are_not_all_read_before_they_are_decoded() -> None:
    size, read = WAITING_BYTES // 4, []

    def files() -> Iterator[tuple[str, bytes]]:
        for number in range(20):
            read.append(number)
            yield str(number), bytes(size)

    decoded = decode_many(files(), Preprocessing(side=8))
    ((name, result),) = next(decoded)

    assert name == "0"
    assert isinstance(result, DataError)
    assert len(read) <= 5
    assert sum(len(bundle) for bundle in decoded) == 19


def run_limited(harness: Harness, *words: str) -> Answer:
    """Run a command in a forked process whose address space may grow by SPARE_BYTES."""
    with harness.start(*words) as launcher:
        process = psutil.Process(launcher.process.pid)
        most = process.memory_info().vms + SPARE_BYTES
        process.rlimit(psutil.RLIMIT_AS, (most, most))
        return launcher.end()


def run_measured(harness: Harness, *words: str) -> tuple[int, str, int]:
    """Run a command in a process; return its exit code, stderr and peak memory in bytes."""
    command = [str(CONVSEARCH), *words, "--storage", harness.url, "--cache", str(harness.cache)]
    done = subprocess.run([sys.executable, "-c", METER, *command], capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    return code, done.stderr, peak * 1024
