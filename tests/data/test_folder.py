"""data/sources/folder.py, store.py and image.py: a user's own images, intact and broken."""

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.cache import ensure, read_array, read_meta
from data.config import DataConfig
from data.errors import DataError
from data.image import decode
from data.preprocessing import Preprocessing
from data.sources.folder import Folder
from tests.data.pictures import picture, saved
from tests.harness import without_root

SIDE = 16
CROPPED = 'fit = "crop" (chosen) cuts 17% of the pixels of the median image off; "pad" and "squash" keep all'
COUNTS = {"train/cat": 6, "train/dog": 5, "test/cat": 2, "test/dog": 3}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory with two classes, each with test images."""
    kinds = ("jpeg", "png", "webp", "bmp")
    for base, (folder, count) in enumerate(COUNTS.items()):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(count):
            kind = kinds[number % 4]
            path = tmp_path / "images" / folder / f"{number}.{kind}"
            path.write_bytes(saved(picture(number + 10 * base), kind))
    return tmp_path / "images"


def packed(images: Path, kind: str, *, top: str = "") -> Path:
    path = images.with_name(f"packed.{kind}")
    files = sorted(file for file in images.rglob("*"))
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in reversed(files):
                archive.write(file, f"{top}{file.relative_to(images)}")
        return path
    with tarfile.open(path, "w:" + kind.removeprefix("tar").removeprefix(".")) as tar:  # type: ignore[call-overload]
        for file in reversed(files):
            tar.add(file, f"{top}{file.relative_to(images)}", recursive=False)
    return path


def folder(path: Path, **changes: Any) -> Folder:
    config = DataConfig(source="folder", path=str(path), image_size=SIDE, **{"test_share": 0.25, **changes})
    return Folder(config, path.parent / "cache")


def prepared(source: Folder, tmp_path: Path) -> Path:
    return ensure(source, tmp_path / "cache", print)


def test_images_become_arrays_in_the_order_of_class_and_name(images: Path, tmp_path: Path) -> None:
    result = prepared(folder(images), tmp_path)

    meta = read_meta(result)
    assert meta.classes == ("cat", "dog")
    assert meta.test_counts == (2, 3)
    assert meta.notes == (CROPPED,)
    assert read_array(result, "train_labels").tolist() == [0] * 6 + [1] * 5
    expected = decode((images / "train/dog/2.webp").read_bytes(), Preprocessing(side=SIDE), name="").pixels
    assert np.array_equal(read_array(result, "train")[8], expected)


@pytest.mark.parametrize("top", ["", "my images/"], ids=["bare", "one-top-folder"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_gives_the_same_images_as_its_directory_and_extracts_nothing(
    images: Path, tmp_path: Path, kind: str, top: str
) -> None:
    archive = packed(images, kind, top=top)
    expected = read_meta(prepared(folder(images), tmp_path)).fingerprint
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}

    result = prepared(folder(archive), tmp_path)

    assert read_meta(result).fingerprint == expected
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert {path.suffix for path in result.iterdir()} == {".npy", ".json"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_cut_anywhere_is_refused(images: Path, tmp_path: Path, kind: str) -> None:
    content = packed(images, kind).read_bytes()
    end = len(content.rstrip(b"\0")) if kind == "tar" else len(content)  # a tar ends in a run of zeros
    cuts = {*range(0, end, end // 40), *(end // 512 * 512 - step for step in (0, 512, 1024)), end - 1}

    for cut in sorted(cuts):
        (tmp_path / f"cut.{kind}").write_bytes(content[:cut])

        with pytest.raises(DataError, match=r"truncated|damaged") as caught:
            prepared(folder(tmp_path / f"cut.{kind}"), tmp_path)

        assert f"cut.{kind}" in str(caught.value)
    assert not list((tmp_path / "cache").glob("sets/*/meta.json"))


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [pytest.param(6, 99, "zip file version 9.9", id="newer"), pytest.param(8, 1, "is encrypted", id="encrypted")],
)
def test_a_zip_that_cannot_be_unpacked_is_refused_with_the_reason(
    images: Path, tmp_path: Path, offset: int, value: int, reason: str
) -> None:
    path = packed(images, "zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + offset] = value  # in the first entry of the directory at the end of the file
    path.write_bytes(content)

    with pytest.raises(DataError, match=reason):
        prepared(folder(path), tmp_path)


def test_a_tar_with_a_damaged_header_in_the_middle_is_refused(images: Path, tmp_path: Path) -> None:
    path = packed(images, "tar")
    content = bytearray(path.read_bytes())
    position = content.index(b"test/cat/0.jpeg")
    content[position] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(DataError, match="damaged"):
        prepared(folder(path), tmp_path)


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "train/../../evil.png", "C:/evil.png", "..", "train/../.."], ids=str
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_with_a_path_outside_itself_is_refused(images: Path, tmp_path: Path, kind: str, name: str) -> None:
    path = packed(images, kind)
    if kind == "zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "a") as tar:
            tar.addfile(tarfile.TarInfo(name))

    with pytest.raises(DataError, match="leads out of the archive"):
        prepared(folder(path), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(images: Path, tmp_path: Path, kind: bytes) -> None:
    path = packed(images, "tar")
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("train/cat/odd.png")
        info.type, info.linkname = kind, "train/cat/0.jpeg"
        tar.addfile(info)

    with pytest.raises(DataError, match=r"'train/cat/odd.png' is a link"):
        prepared(folder(path), tmp_path)


@pytest.mark.parametrize("name", ["train\\cat\\9.png", "train\\..\\train/cat/9.png", ".\\train/cat//9.png"], ids=str)
def test_a_backslash_in_the_name_of_a_zip_member_separates_folders(images: Path, tmp_path: Path, name: str) -> None:
    path = packed(images, "zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name  # the constructor would change it on Windows
        archive.writestr(info, saved(picture(99), "png"))

    assert read_array(prepared(folder(path), tmp_path), "train_labels").tolist() == [0] * 7 + [1] * 5


def test_links_in_a_zip_are_refused(images: Path, tmp_path: Path) -> None:
    path = packed(images, "zip")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("train/cat/odd.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")

    with pytest.raises(DataError, match=r"'train/cat/odd.png' is a link"):
        prepared(folder(path), tmp_path)


def test_hidden_files_and_files_of_file_managers_change_nothing(images: Path, tmp_path: Path) -> None:
    expected = prepared(folder(images), tmp_path)
    for litter in (".DS_Store", "train/.DS_Store", "train/cat/Thumbs.db", "test/dog/._1.png"):
        (images / litter).write_bytes(b"litter")

    results = [prepared(folder(path), tmp_path) for path in (images, packed(images, "zip"))]

    assert results[0] == expected
    assert read_meta(results[1]).fingerprint == read_meta(expected).fingerprint


def put(path: str, content: bytes = b"no image") -> Callable[[Path], None]:
    def change(images: Path) -> None:
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        (images / path).write_bytes(content)

    return change


def make(path: str) -> Callable[[Path], None]:
    return lambda images: (images / path).mkdir()


def remove(*paths: str) -> Callable[[Path], None]:
    def change(images: Path) -> None:
        for path in paths:
            shutil.rmtree(images / path)

    return change


def dead_link(path: str) -> Callable[[Path], None]:
    return lambda images: (images / path).symlink_to("nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(put("train/cat/0.jpeg"), r"\n  train/cat/0.jpeg: is a text file named .jpeg", id="text"),
        pytest.param(put("train/cat/0.jpeg", b"\x9d\0\3"), r"\n  train/cat/0.jpeg: is of no known", id="garbage"),
        pytest.param(put("test/cat/9.png", b""), r"\n  test/cat/9.png: is empty; replace it", id="empty-file"),
        pytest.param(put("train/cat/a/b/1.png"), r"\n  train/cat/a/b/1.png: is a text file", id="broken-in-a-group"),
        pytest.param(put("train/1.png"), r"'train/1.png' lies outside of the class folders", id="no-class"),
        pytest.param(make("train/eel"), r"class folder train/eel is empty; add", id="empty-class"),
        pytest.param(make("test/eel"), r"class folder test/eel is empty", id="empty-test-class"),
        pytest.param(put("test/eel/1.png"), r"class 'eel' is in test/ but not in train/ .'cat', 'dog'", id="only-test"),
        pytest.param(remove("train/cat"), r"'cat' is in test/ but not in train", id="gone"),
        pytest.param(
            lambda d: (d / "train").rename(d / "learn"), "no folder train/, only 'learn', 'test'", id="no-train"
        ),
        pytest.param(remove("test/cat", "test/dog"), "test/ is empty", id="empty-test"),
        pytest.param(remove("train/cat", "train/dog"), "no class folder", id="empty-train"),
        pytest.param(remove("train/cat", "test"), "only one class, 'dog'", id="one-class"),
        pytest.param(lambda d: (d / "train/cat").rename(d / "train/c\nt"), "cannot be printed", id="odd-name"),
        pytest.param(lambda d: os.mkfifo(d / "train/cat/7.png"), "neither a file nor a folder", id="pipe"),
        pytest.param(dead_link("train/cat/7.png"), r"\n  train/cat/7.png: is a link to nowhere; take", id="dead-link"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_folder_of_the_wrong_structure_is_refused_with_its_path(
    images: Path, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(images)

    with pytest.raises(DataError, match=words) as caught:
        prepared(folder(images), tmp_path)

    assert str(images) in str(caught.value)
    assert not list((tmp_path / "cache").glob("sets/*/meta.json"))


def test_broken_images_are_counted_ten_are_named_and_all_are_listed_in_a_file(images: Path, tmp_path: Path) -> None:
    for number in range(50):
        (images / f"train/cat/broken{number:02}.png").write_bytes(b"no image")
    dead_link("train/dog/lost.png")(images)

    with pytest.raises(DataError) as caught:
        prepared(folder(images), tmp_path)

    first, *shown, rest, advice = str(caught.value).splitlines()
    assert first == f"{images}: 51 of 67 images cannot be read, but [data] max_errors is 0:"
    assert [line.split(":")[0] for line in shown] == [f"  train/cat/broken{number:02}.png" for number in range(10)]
    assert rest == "  and 41 more"
    assert 'with [data] on_error = "skip" and max_errors = 51' in advice
    listed = Path(advice.split(" lists all of them")[0]).read_text().splitlines()
    assert len(listed) == 51
    assert [f"  {line}" for line in listed[:10]] == shown
    assert listed[-1].startswith("train/dog/lost.png: is a link to nowhere")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda path: None, r"there is no .*thing; correct the path", id="missing"),
        pytest.param(os.mkfifo, "is neither", id="pipe"),
        pytest.param(lambda path: path.write_bytes(b""), r"\(0 bytes\) has none of these formats", id="empty"),
        pytest.param(lambda path: path.write_text("hello"), r"\.zip, \.tar, \.tar\.gz or \.tar\.xz", id="text"),
        pytest.param(lambda path: path.mkdir(), "no folder of images, only nothing", id="empty-folder"),
    ],
)
def test_a_path_without_images_is_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "thing")

    with pytest.raises(DataError, match=words):
        folder(tmp_path / "thing").key()


@pytest.mark.parametrize("kind", ["", "zip"], ids=["directory", "archive"])
def test_a_path_without_read_permission_is_refused(images: Path, kind: str) -> None:
    source = packed(images, kind) if kind else images
    with tempfile.TemporaryDirectory() as parent:  # other users cannot enter pytest's folders
        Path(parent).chmod(0o755)
        path = Path(parent) / source.name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
        path.chmod(0o755)
        folder(path).key()  # imports lazily loaded modules, which the user nobody may not be able to read
        with without_root():
            folder(path).key()
        path.chmod(0)

        with without_root(), pytest.raises(DataError, match="check its permissions"):
            folder(path).key()

        path.chmod(0o700)


def test_other_folders_are_not_read_and_are_noted(images: Path, tmp_path: Path) -> None:
    put("extra/cat/1.png")(images)
    put("cover.png")(images)
    put("README.txt")(images)

    notes = folder(images).notes()

    assert notes == (
        "not read: 'cover.png', 'extra'; read: test/, train/",
        "ignored: 1 with the ending of another kind of file (.txt)",
    )
    assert read_meta(prepared(folder(images), tmp_path)).notes == (CROPPED,)


def test_a_class_without_test_images_is_noted(images: Path, tmp_path: Path) -> None:
    shutil.rmtree(images / "test/dog")

    source = folder(images)
    meta = read_meta(prepared(source, tmp_path))

    assert source.notes() == ("class 'dog' has no test images",)
    assert meta.test_counts == (2, 0)


def test_without_test_images_a_share_of_every_class_is_set_aside_by_seed(images: Path, tmp_path: Path) -> None:
    shutil.rmtree(images / "test")

    results = [prepared(folder(images, seed=seed), tmp_path) for seed in (0, 0, 1)]

    meta = read_meta(results[0])
    assert sum(meta.test_counts) == 3
    assert min(meta.test_counts) >= 1
    assert meta.notes == (CROPPED, "there is no test/: 3 images set aside as test images")
    assert results[0] == results[1]
    assert results[0] != results[2]
    pixels = [image.tobytes() for part in ("train", "test") for image in read_array(results[0], part)]
    assert len(set(pixels)) == 11


def test_the_seed_does_not_matter_if_there_are_test_images(images: Path) -> None:
    assert folder(images, seed=0).key() == folder(images, seed=1, test_share=0.5).key()


@pytest.mark.parametrize("kind", ["", "zip", "tar.xz"], ids=["directory", "zip", "tar.xz"])
def test_the_key_changes_with_every_edit_even_if_size_and_time_are_kept(images: Path, kind: str) -> None:
    file = images / "train/cat/3.bmp"
    path = packed(images, kind) if kind else images
    watched = path if kind else file
    before, times = folder(path).key(), (watched.stat().st_atime_ns, watched.stat().st_mtime_ns)
    content = file.read_bytes()

    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    path = packed(images, kind) if kind else images
    os.utime(watched, ns=times)

    assert folder(path).key() != before


def test_moving_and_touching_files_keeps_the_key(images: Path) -> None:
    before = folder(images).key()

    (images / "train/cat/3.bmp").touch()
    moved = images.rename(images.with_name("elsewhere"))

    assert folder(moved).key() == before
