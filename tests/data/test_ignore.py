"""data/ignore.py: files that are not images by their names."""

import pytest

from data.ignore import Ignored, is_litter, is_side_file

LITTER = (
    ".DS_Store", "._00.jpg", ".", ".ipynb_checkpoints", ".thumbnails", "Thumbs.db", "THUMBS.DB", "thumbs.db",
    "thumbs.db:encryptable", "ehthumbs.db", "Desktop.ini", "desktop.ini", "DESKTOP.INI", "Icon\r", "ICON\r",
    "__MACOSX", "@eaDir", "@EADIR", "SYNOPHOTO_THUMB_M.jpg", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot",
    "$RECYCLE.BIN", "System Volume Information", "lost+found", "Picasa.ini", ".picasa.ini", "ZbThumbnail.info",
    "__pycache__", "00.jpg~", "~$labels.docx",
)  # fmt: skip
IMAGES = (
    "00.jpg", "00.JPG", "00", "00.jfif", "00.jpe", "00.tif", "00.TIFF", "00.gif", "00.webp", "00.ppm", "00.pgm",
    "00.avif", "00.heic", "00.HEIF", "a.b.c", "a.123", "icon", "Icon", "icon.png", "desktop", "thumbs.jpg", "eaDir",
    "@cat", "#1", "~cat.jpg", "$cat", "cat~1.jpg", "thumb.db2", "recycle", "macosx", "txt", "labels", "jpg.",
)  # fmt: skip
SIDE = (
    "labels.txt", "00.xml", "00.XML", "labels.csv", "a.JSON", "README.md", "00.mp4", "00.MOV", "00.aae", "x.zip",
    "a.tar.gz",
)  # fmt: skip


@pytest.mark.parametrize("name", LITTER, ids=ascii)
def test_the_litter_of_file_managers_is_known_in_any_case(name: str) -> None:
    assert is_litter(name)


@pytest.mark.parametrize("name", IMAGES, ids=ascii)
def test_a_name_that_only_looks_alike_is_an_image(name: str) -> None:
    assert not is_litter(name)
    assert not is_side_file(name)


@pytest.mark.parametrize("name", SIDE)
def test_labels_and_videos_beside_images_are_known_by_their_endings(name: str) -> None:
    assert is_side_file(name)
    assert not is_litter(name)


def test_whatever_lies_in_an_ignored_folder_is_ignored() -> None:
    ignored = Ignored()

    assert ignored.add("red/@eaDir/00.jpg/SYNOPHOTO_THUMB_M.jpg", is_folder=False)
    assert ignored.add("@eaDir", is_folder=True)
    assert not ignored.add("red/00.jpg", is_folder=False)


def test_a_folder_with_the_ending_of_a_side_file_is_a_folder() -> None:
    assert not Ignored().add("train/class.txt", is_folder=True)
    assert not Ignored().add("train/class.txt/00.jpg", is_folder=False)


def test_the_ignored_are_counted_in_one_sentence() -> None:
    ignored = Ignored()
    for name in (
        ".DS_Store",
        "a/.DS_Store",
        "a/Thumbs.db",
        "b/THUMBS.DB",
        "b/Icon\r",
        "labels.csv",
        "a/1.xml",
        "a/2.XML",
    ):
        ignored.add(name, is_folder=False)

    assert ignored.sentence() == (
        "ignored: 5 hidden or of file managers (hidden, Thumbs.db, THUMBS.DB, ...) and "
        "3 with the ending of another kind of file (.xml, .csv)"
    )


def test_nothing_ignored_is_no_sentence() -> None:
    assert Ignored().sentence() == ""
