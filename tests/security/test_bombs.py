"""Images and archives that are small on disk and huge in memory, and images that are none: refused, by their names."""

import gzip
import io
import lzma
import os
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from data import archive
from data.errors import DataError
from data.image import MAX_PIXELS, WAITING_BYTES, decode_many
from tests.lab import CONVSEARCH, Lab

#: What `run` may take in all. Loading its packages takes 0.7 GB; each of the bombs would take 1.6 GB more.
MOST_BYTES = 1_400_000_000
#: What a stream of these unpacks to.
BLOCK, BLOCKS = bytes(2**25), 48


def png(width: int, height: int, *, whole: bool = False) -> bytes:
    """A black PNG of that size in few bytes; its pixels are missing unless it is to be `whole`."""
    body = zlib.compress(bytes((width + 1) * height)) if whole else zlib.compress(b"")
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def encoded(kind: str, size: int = 9) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (200, 10, 10)).save(file, kind)
    return file.getvalue()


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/owned) (w) file\n%%EOF\n"

IMAGES = {
    "wide-png": (png(50_000, 50_000), "50000 x 50000|exceeds limit"),
    "just-too-wide-png": (png(5_001, 5_000, whole=True), "has 5001 x 5000 pixels, but at most 25 million are read"),
    "wide-webp": (encoded("webp")[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6, "cannot be read"),
    "truncated-jpeg": (encoded("jpeg", 99)[:-400], "cannot be read as an image"),
    "gif": (encoded("gif"), "cannot be read as an image .its content is of no known format"),
    "tiff": (encoded("tiff"), "cannot be read as an image .its content is of no known format"),
    "svg": (SVG, "cannot be read as an image .its content is of no known format"),
    "eps": (EPS, "cannot be read as an image .its content is of no known format"),
    "empty": (b"", "cannot be read as an image"),
}


@pytest.mark.parametrize(("content", "words"), IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar.xz"])
def test_an_absurd_image_is_refused_by_its_name(lab: Lab, kind: str, content: bytes, words: str) -> None:
    path = source(lab, kind, content)

    answer = lab.run("run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert answer.code == 65
    said = [line for line in answer.err.splitlines() if "train/red/odd.jpg: " in line]
    assert len(said) == 1
    assert any(word in said[0] for word in words.replace(" .", " (").split("|"))


def test_the_largest_image_that_may_be_is_read(lab: Lab) -> None:
    path = source(lab, "zip", png(5_000, MAX_PIXELS // 5_000, whole=True))

    answer = lab.run("run", lab.write(data={"path": str(path)}, budget={"trials": 1, "epochs": 1}), "--workers", "1")

    assert answer.code == 0, answer.err


def source(lab: Lab, kind: str, content: bytes) -> Path:
    """The images of the lab, and one more: train/red/odd.jpg."""
    files = {str(file.relative_to(lab.images)): file.read_bytes() for file in sorted(lab.images.rglob("*.png"))}
    files["train/red/odd.jpg"] = content
    path = lab.folder / ("own" if kind == "folder" else f"own.{kind}")
    if kind == "folder":
        for name, each in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(each)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, each in files.items():
                packed.writestr(name, each)
    else:
        with tarfile.open(path, "w:xz", preset=0) as tar:
            for name, each in files.items():
                tar.addfile(info(name, len(each)), io.BytesIO(each))
    return path


def info(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    return made


# -- archives -----------------------------------------------------------------------------------------------------


def tar_bomb(pack: Callable[[bytes], bytes], kind: bytes) -> bytes:
    """A tar of one member of 1.6 GB, packed to some kilobytes: a file, or a header that says more of the next one."""
    header = info("train/red/odd.png", len(BLOCK) * BLOCKS, kind).tobuf()
    return pack(header) + pack(BLOCK) * BLOCKS + pack(bytes(1024))


def zip_bomb(method: int, size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed, packed.open("train/red/odd.png", "w", force_zip64=True) as odd:
        for _ in range(size // len(BLOCK)):
            odd.write(BLOCK)
    return file.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "xz-file": (lambda: tar_bomb(lzma.compress, tarfile.REGTYPE), "tar.xz", "'train/red/odd.png' has 1611 MB"),
    "gz-file": (lambda: tar_bomb(gzip.compress, tarfile.REGTYPE), "tar.gz", "'train/red/odd.png' has 1611 MB"),
    "xz-pax": (lambda: tar_bomb(lzma.compress, tarfile.XHDTYPE), "tar.xz", "a header says 1610612736 bytes"),
    "xz-global": (lambda: tar_bomb(lzma.compress, tarfile.XGLTYPE), "tar.xz", "a header says 1610612736 bytes"),
    "gz-name": (lambda: tar_bomb(gzip.compress, tarfile.GNUTYPE_LONGNAME), "tar.gz", "a header says 1610612736 bytes"),
    "zip-file": (lambda: zip_bomb(zipfile.ZIP_DEFLATED, 2**29), "zip", "'train/red/odd.png' has 537 MB"),
    "zip-bzip2": (lambda: zip_bomb(zipfile.ZIP_BZIP2, 2**25), "zip", "is packed by another method than deflate"),
    "zip-lzma": (lambda: zip_bomb(zipfile.ZIP_LZMA, 2**25), "zip", "is packed by another method than deflate"),
}


@pytest.mark.parametrize(("make", "kind", "words"), BOMBS.values(), ids=BOMBS)
def test_an_archive_that_grows_in_memory_is_refused_before_it_does(
    lab: Lab, make: Callable[[], bytes], kind: str, words: str
) -> None:
    path = lab.folder / f"bomb.{kind}"
    path.write_bytes(make())

    code, said, peak = measured(lab, "run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert path.stat().st_size < 20_000_000
    assert code == 65, said
    assert str(path) in said
    assert words in said
    assert peak < MOST_BYTES


def test_a_list_of_members_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_LIST_BYTES", 100_000)  # the true limit takes minutes to reach
    path = tmp_path / "names.tar"
    path.write_bytes(info("train/red/odd.png", 0).tobuf() * 1000 + bytes(1024))

    with pytest.raises(DataError, match=r"names\.tar names more files than can be listed in memory"):
        list(archive.open_store(path).entries())


def test_a_negative_size_does_not_lead_in_circles(lab: Lab) -> None:
    path = lab.folder / "circle.tar"
    header = info("train/red/odd.png", 0)
    header.pax_headers = {"size": "-1024"}
    path.write_bytes(header.tobuf(tarfile.PAX_FORMAT) + bytes(1024))

    code, said, _ = measured(lab, "run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert code == 65
    assert "truncated or damaged (a header says -1024 bytes, which cannot be)" in said


def test_a_file_of_a_folder_that_is_larger_than_any_image_is_not_read(lab: Lab) -> None:
    path = source(lab, "folder", b"")
    with (path / "train/red/odd.jpg").open("wb") as file:
        file.truncate(2**34)  # sparse: it takes no room on the disk

    code, said, peak = measured(lab, "run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert code == 65
    assert "'train/red/odd.jpg' has 17180 MB, but no image of more than 268 MB is read; take it out" in said
    assert peak < MOST_BYTES


def test_large_files_wait_on_the_disk_and_not_in_memory() -> None:
    size, read = WAITING_BYTES // 4, []

    def files() -> Iterator[tuple[str, bytes]]:
        for number in range(20):
            read.append(number)
            yield str(number), bytes(size)

    decoded = decode_many(files(), side=8)
    ((name, result),) = next(decoded)

    assert name == "0"
    assert isinstance(result, DataError)
    assert len(read) <= 5
    assert sum(len(bundle) for bundle in decoded) == 19


def measured(lab: Lab, *words: str) -> tuple[int, str, int]:
    """Run a command in a process; its exit code, what it said, and the most memory it had, in bytes."""
    command = [str(CONVSEARCH), *words, "--storage", lab.url, "--cache", str(lab.cache)]
    with (lab.folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return process.returncode, said.read(), usage.ru_maxrss * 1024
