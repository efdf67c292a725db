"""data/sources/layout.py and listing.py: layouts of folders and archives of images."""

import io
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from data.archive import open_store
from data.config import DataConfig
from data.errors import DataError
from data.sources.layout import Listing, list_images
from data.sources.listing import check_counts, group_numbers, in_order

CATS_AND_DOGS = ("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg")


def write(folder: Path, paths: Iterable[str]) -> Path:
    """Write empty files: a layout is found by names alone. A path with a slash at its end is a folder."""
    for path in paths:
        file = folder / path
        if path.endswith("/"):
            file.mkdir(parents=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return folder


def listed(path: Path, **changes: Any) -> Listing:
    config = DataConfig(source="folder", path=str(path), **changes)
    return list_images(open_store(path), config)


def lists(tmp_path: Path, paths: Iterable[str], **changes: Any) -> Listing:
    return listed(write(tmp_path / "set", paths), **changes)


def zipped(path: Path, paths: Iterable[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in paths:
            archive.writestr(name, b"")
    return path


def tarred(path: Path, paths: Iterable[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in paths:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


# -- parts and classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "read"),
    [
        pytest.param(CATS_AND_DOGS, "train/", id="train"),
        pytest.param([path.replace("train", "Train") for path in CATS_AND_DOGS], "Train/", id="Train"),
        pytest.param([path.replace("train", "TRAINING") for path in CATS_AND_DOGS], "TRAINING/", id="TRAINING"),
        pytest.param([path.removeprefix("train/") for path in CATS_AND_DOGS], "", id="classes-alone"),
        pytest.param([f"a/b/{path}" for path in CATS_AND_DOGS], "a/b/train/", id="two-folders-around"),
        pytest.param(
            [path.replace("train", "photos") for path in CATS_AND_DOGS], "photos/", id="a-folder-around-classes"
        ),
        pytest.param(
            [*(f"a/{path}" for path in CATS_AND_DOGS), "README.md", "__MACOSX/a/._x"], "a/train/", id="side-files"
        ),
        pytest.param(
            [*(f"a/{path}" for path in CATS_AND_DOGS), "cover.jpg"], "a/train/", id="image-beside-the-top-folder"
        ),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_layout_is_found(tmp_path: Path, kind: str, paths: list[str], read: str) -> None:
    match kind:
        case "zip":
            listing = listed(zipped(tmp_path / "a.zip", paths))
        case "tar":
            listing = listed(tarred(tmp_path / "a.tar", paths))
        case _:
            listing = lists(tmp_path, paths)

    assert listing.train == {"cat": [f"{read}cat/1.jpg", f"{read}cat/2.jpg"], "dog": [f"{read}dog/1.jpg"]}
    assert (listing.validation, listing.test, listing.groups) == ({}, {}, {})


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_a_validation_folder_is_found(tmp_path: Path, name: str) -> None:
    listing = lists(tmp_path, [*CATS_AND_DOGS, f"{name}/cat/3.jpg", "test/dog/4.jpg"])

    assert listing.validation == {"cat": [f"{name}/cat/3.jpg"]}
    assert listing.test == {"dog": ["test/dog/4.jpg"]}
    assert listing.notes == ("class 'dog' has no validation images", "class 'cat' has no test images")


@pytest.mark.parametrize("name", ["test", "testing", "Test"])
def test_a_test_folder_is_found(tmp_path: Path, name: str) -> None:
    assert lists(tmp_path, [*CATS_AND_DOGS, f"{name}/cat/3.jpg"]).test == {"cat": [f"{name}/cat/3.jpg"]}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        pytest.param("training/cat/1.jpg", "has 'train' and 'training' for the train images; join them", id="train"),
        pytest.param("Train/cat/1.jpg", "has 'Train' and 'train' for the train images; join them", id="case"),
    ],
)
def test_two_folders_for_one_part_are_refused(tmp_path: Path, extra: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        lists(tmp_path, [*CATS_AND_DOGS, extra])


def test_two_validation_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 'val' and 'valid' for the validation images; join them"):
        lists(tmp_path, [*CATS_AND_DOGS, "val/cat/1.jpg", "valid/cat/1.jpg"])


def test_a_validation_folder_is_not_used_if_a_number_is_set_and_this_is_said(tmp_path: Path) -> None:
    paths = [*CATS_AND_DOGS, "val/cat/3.jpg", "val/eel/3.jpg", "val/loose.jpg"]

    listing = lists(tmp_path, paths, validation=0.5)

    assert listing.validation == {}
    assert listing.notes == ('val/ is not used, as [data] validation is 0.5; "folder" uses it',)


def test_a_wanted_validation_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'\[data\] validation = "folder", but there is no folder val/; add it'):
        lists(tmp_path, CATS_AND_DOGS, validation="folder")


@pytest.mark.parametrize(
    ("paths", "note"),
    [
        pytest.param(
            ["test/1.jpg", "test/2.jpg"],
            "2 images in test/ without labels, as in no class folder: ignored",
            id="loose",
        ),
        pytest.param(
            ["Test/unknown/1.jpg", "Test/unknown/2.jpg"],
            "2 images in Test/unknown without labels, as 'unknown' is no class: ignored",
            id="in-one-folder",
        ),
    ],
)
def test_test_images_without_labels_are_ignored_with_a_word(tmp_path: Path, paths: list[str], note: str) -> None:
    listing = lists(tmp_path, [*CATS_AND_DOGS, *paths])

    assert listing.test == {}
    assert listing.notes == (note,)
    assert all(path.startswith("train/") for path in listing.paths())


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        pytest.param(
            [*CATS_AND_DOGS, "train/1.jpg"], "'train/1.jpg' lies outside of the class folders; it must", id="loose"
        ),
        pytest.param([*CATS_AND_DOGS, "val/1.jpg"], "'val/1.jpg' lies outside of the class folders", id="loose-val"),
        pytest.param(
            [*CATS_AND_DOGS, "test/cat/1.jpg", "test/1.jpg"],
            "'test/1.jpg' lies outside of the class",
            id="some-labelled",
        ),
        pytest.param([*CATS_AND_DOGS, "train/eel/"], "the class folder train/eel is empty; add images or", id="empty"),
        pytest.param([*CATS_AND_DOGS, "train/eel/x.txt"], "the class folder train/eel is empty", id="no-image"),
        pytest.param(
            [*CATS_AND_DOGS, "test/"], "test/ is empty; fill it, or delete it: then a share of train/", id="test"
        ),
        pytest.param([*CATS_AND_DOGS, "val/"], "val/ is empty; fill it, or delete it", id="val"),
        pytest.param(
            [*CATS_AND_DOGS, "val/eel/1.jpg"],
            r"class 'eel' is in val/ but not in train/ \('cat', 'dog'\); add",
            id="only-val",
        ),
        pytest.param(
            [*CATS_AND_DOGS, "test/eel/1.jpg", "test/cat/1.jpg"],
            "class 'eel' is in test/ but not in train/",
            id="only-test",
        ),
        pytest.param(["train/cat/1.jpg"], "has only one class, 'cat'; a classifier needs at least two", id="one-class"),
        pytest.param(["cat/1.jpg"], "has only one class, 'cat'", id="one-class-without-train"),
        pytest.param(
            ["val/cat/1.jpg", "test/cat/1.jpg"], "has no folder train/, only 'test', 'val'; it must", id="no-train"
        ),
        pytest.param(
            ["1.jpg", "2.jpg"], "has no folder of images, only '1.jpg', '2.jpg'; it must hold", id="no-folder"
        ),
        pytest.param(["a/1.txt", "b/2.csv"], "has no images in folders, only 'a', 'b'; it must hold", id="no-images"),
        pytest.param(["train/1.jpg", "train/2.jpg"], "'train/1.jpg' lies outside of the class folders", id="all-loose"),
    ],
)
def test_a_wrong_layout_is_refused_with_the_way_out(tmp_path: Path, paths: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        lists(tmp_path, paths)

    assert str(caught.value).startswith(str(tmp_path / "set"))


def test_files_and_folders_beside_the_parts_are_named(tmp_path: Path) -> None:
    listing = lists(tmp_path, [*CATS_AND_DOGS, "extra/cat/1.jpg", "cover.jpg", "labels.csv"])

    assert listing.notes == (
        "not read: 'cover.jpg', 'extra'; read: train/",
        "ignored: 1 with the ending of another kind of file (.csv)",
    )


def test_folders_beside_classes_that_hold_no_image_are_named(tmp_path: Path) -> None:
    listing = lists(tmp_path, ["cat/1.jpg", "dog/1.jpg", "docs/a.txt", "empty/", "cover.jpg"])

    assert list(listing.train) == ["cat", "dog"]
    assert listing.notes[0] == "not read: 'cover.jpg', 'docs', 'empty'; read: folders with images"


def test_litter_and_side_files_are_ignored_at_every_level_and_counted(tmp_path: Path) -> None:
    litter = [
        ".DS_Store", "train/@eaDir/cat/1.jpg/SYNO.jpg", "train/cat/@eaDir/1.jpg/x.jpg", "train/cat/Desktop.ini",
        "train/dog/thumbs.db", "train/dog/Icon\r", "train/.ipynb_checkpoints/1.jpg", "__MACOSX/train/cat/._1.jpg",
        "train/dog/._1.jpg", "train/labels.csv", "train/cat/1.xml", "train/cat/labels.txt",
    ]  # fmt: skip
    expected = lists(tmp_path, CATS_AND_DOGS)

    folder = listed(write(tmp_path / "set", litter))
    archive = listed(zipped(tmp_path / "a.zip", [*CATS_AND_DOGS, *litter]))

    assert folder.train == archive.train == expected.train
    assert expected.notes == ()
    assert archive.notes == (
        "ignored: 9 hidden or of file managers (hidden, @eaDir, Desktop.ini, ...) and "
        "3 with the ending of another kind of file (.csv, .xml, .txt)",
    )
    assert len(folder.notes) == 1


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "\u0645\u06cc\u200c\u0634\u0648\u062f", "rouge\u00a0vif", "\u8d64\u3044\u3000\u82b1",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0915\u094d\u200d\u0937", "red|pipe <b>x<b>", "gr\"een, 'x'",
        "=1+1", " cat", "c.at", "train", "Test", "val", "cat.txt",
    ],
    ids=ascii,
)  # fmt: skip
def test_class_names_of_any_script_are_accepted(tmp_path: Path, name: str) -> None:
    assert list(lists(tmp_path, [f"train/{name}/1.jpg", "train/dog/1.jpg"]).train) == sorted([name, "dog"])


@pytest.mark.parametrize(
    "name", ["c\nt", "\x1b[2J", "a\x9bb", "\u202egnp", "\u2067x", "a\u2028b", "caf\udce9"], ids=ascii
)
def test_class_names_with_control_characters_are_refused_by_a_printable_message(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="has characters that cannot be printed; rename it") as caught:
        lists(tmp_path, [f"train/{name}/1.jpg", "train/dog/1.jpg"])

    assert repr(name) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_name_in_an_old_encoding_is_read(tmp_path: Path) -> None:
    listing = lists(tmp_path, [*CATS_AND_DOGS, "train/cat/caf\udce9.jpg"])

    assert listing.train["cat"][-1] == "train/cat/caf\udce9.jpg"


def test_two_unicode_forms_of_one_class_are_joined(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "gr\u00fcn") for form in ("NFC", "NFD"))

    listing = lists(
        tmp_path,
        [f"train/{composed}/1.jpg", f"train/{decomposed}/2.jpg", "train/blau/1.jpg", f"test/{decomposed}/3.jpg"],
    )

    assert list(listing.train) == ["blau", composed]
    assert listing.train[composed] == sorted([f"train/{composed}/1.jpg", f"train/{decomposed}/2.jpg"])
    assert list(listing.test) == [composed]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [*CATS_AND_DOGS, "train/cat/1.jpg"])

    with pytest.raises(DataError, match="train/cat has two files of one name; pack it again"):
        listed(path)


def test_links_that_lead_to_one_folder_in_many_ways_are_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "set", CATS_AND_DOGS)
    for number in range(30):  # 2 ** 30 ways; Linux follows 40 links in a path
        folder = write(tmp_path / "chain", [f"{number}/1.jpg"]) / str(number)
        for name in ("a", "b"):
            (folder / name).symlink_to(tmp_path / "chain" / str(number + 1), target_is_directory=True)
    (path / "train/cat/all").symlink_to(tmp_path / "chain" / "0", target_is_directory=True)

    with pytest.raises(DataError, match="is a link to a folder above it, or to one that is read already; take it out"):
        listed(path)


# -- groups --------------------------------------------------------------------------------------------------------

PATIENTS = (
    "train/cat/p1/1.jpg",
    "train/cat/p1/2.jpg",
    "train/cat/p2/1.jpg",
    "train/dog/p1/1.jpg",
    "train/dog/p3/1.jpg",
)
GROUPED = "images of one group, by their folder below the class, stay together in a split ([data] groups)"


@pytest.mark.parametrize("rule", [None, "folder"])
def test_a_folder_below_its_class_is_a_group(tmp_path: Path, rule: str | None) -> None:
    listing = lists(tmp_path, PATIENTS, groups=rule)

    assert listing.train["cat"] == list(PATIENTS[:3])
    assert listing.groups == dict(zip(PATIENTS, ("p1", "p1", "p2", "p1", "p3"), strict=True))
    assert listing.notes == (GROUPED,)


@pytest.mark.parametrize("prefix", ["a/b/", ""])
def test_folders_around_the_parts_and_below_the_group_do_not_matter(tmp_path: Path, prefix: str) -> None:
    paths = [f"{prefix}{path.replace('/p1/', '/p1/left/')}" for path in PATIENTS]

    assert set(lists(tmp_path, paths).groups.values()) == {"p1", "p2", "p3"}


def test_folders_are_groups_without_a_train_folder(tmp_path: Path) -> None:
    groups = lists(tmp_path, [path.removeprefix("train/") for path in PATIENTS]).groups

    assert set(groups.values()) == {"p1", "p2", "p3"}


def test_a_single_folder_with_all_images_of_a_class_is_no_group(tmp_path: Path) -> None:
    listing = lists(tmp_path, ["train/cat/images/1.jpg", "train/cat/images/2.jpg", "train/dog/images/1.jpg"])

    assert listing.groups == {}
    assert listing.notes == ()


def test_images_beside_group_folders_are_by_themselves(tmp_path: Path) -> None:
    listing = lists(tmp_path, ["train/cat/p1/1.jpg", "train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg"])

    assert listing.groups == {"train/cat/p1/1.jpg": "p1"}
    assert group_numbers(listing.paths(), listing.groups).tolist() == [0, 1, 2, 3]


def test_a_file_of_the_name_of_a_group_is_not_in_it() -> None:
    assert group_numbers(["a", "b", "c"], {"b": "a", "c": "a"}).tolist() == [0, 1, 1]


def test_groups_may_be_turned_off(tmp_path: Path) -> None:
    listing = lists(tmp_path, PATIENTS, groups="none")

    assert (listing.groups, listing.notes) == ({}, ())


def test_wanted_groups_by_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'\[data\] groups = "folder", but the class folders have no folders; leave it'):
        lists(tmp_path, CATS_AND_DOGS, groups="folder")


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        pytest.param(r"^(\d+)_", ["7", "7", "8"], id="one-group"),
        pytest.param(r"^\d+", ["7", "7", "8"], id="no-group"),
        pytest.param(r"^(\d)_(.)", ["7\0a", "7\0b", "8\0a"], id="two-groups"),
        pytest.param(r"^(\d)_a|^(\d)_b", ["7\0", "\0007", "8\0"], id="alternatives"),
    ],
)
def test_a_pattern_finds_groups_in_the_names_of_files(tmp_path: Path, pattern: str, groups: list[str]) -> None:
    paths = ["train/cat/7_a.jpg", "train/cat/7_b.jpg", "train/dog/8_a.jpg"]

    listing = lists(tmp_path, paths, groups=pattern)

    assert [listing.groups[path] for path in paths] == groups
    assert "by the name of the file, stay together" in listing.notes[0]


def test_a_pattern_that_finds_nothing_is_refused_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"groups = '\^\(\\\\d\+\)_' finds nothing in the names of 2 of 3 images, such as 'train"
    ):
        lists(tmp_path, ["train/cat/7_a.jpg", "train/cat/b.jpg", "train/dog/c.jpg"], groups=r"^(\d+)_")


# -- counts and order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        pytest.param(
            ["train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "train/dog/3.jpg"],
            "class 'cat' has 1 image, but needs at least 3, one each to train, to validate, to test; add images or "
            "take the class out",
            id="one",
        ),
        pytest.param(
            ["train/cat/1.jpg", "train/cat/2.jpg", *(f"train/dog/{number}.jpg" for number in range(3))],
            "class 'cat' has 2 images, but needs at least 3, one each to train, to validate, to test; add images or "
            "take the class out",
            id="two",
        ),
        pytest.param(
            ["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg"],
            "class 'cat' has 1 image, but needs at least 2, one each to train, to validate; add images or take the "
            "class out",
            id="with-test",
        ),
        pytest.param(["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg", "val/cat/1.jpg"], "", id="with-both"),
        pytest.param([f"train/{name}/{number}.jpg" for name in ("cat", "dog") for number in range(3)], "", id="three"),
    ],
)
def test_a_class_with_too_few_images_is_refused_with_the_number_in_the_folder(
    tmp_path: Path, paths: list[str], message: str
) -> None:
    listing = lists(tmp_path, paths)

    if not message:
        check_counts(listing)
        return
    with pytest.raises(DataError) as caught:
        check_counts(listing)
    assert str(caught.value) == message


def test_images_are_in_the_order_of_part_class_and_name() -> None:
    train, validation = {"cat": ["c2", "c1"], "dog": ["d"]}, {"dog": ["v"]}

    paths, labels = in_order((train, validation), ("cat", "dog"))

    assert paths == ["c2", "c1", "d", "v"]
    assert labels.tolist() == [0, 0, 1, 1]
