"""data/selection.py and sources/images.py: the images that make up a set, and the steps that all go through."""

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.cache import read_array
from data.config import DataConfig
from data.dataset import DataInfo, count_images, find, prepare
from data.errors import DataError
from data.parts import load_test, load_train
from tests.data.pictures import noise, png16, saved, tiff
from tests.harness import quiet

COLOURS = {"cat": (200, 40, 40), "dog": (40, 180, 60), "eel": (40, 60, 200)}


def shot(number: int, name: str = "cat", size: tuple[int, int] = (16, 16)) -> bytes:
    return saved(noise(number, COLOURS[name], size), "png")


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def images(*parts: str, count: int = 6, start: int = 0) -> dict[str, bytes]:
    """Different pictures of three classes in each part."""
    numbers = iter(range(start, 10_000))
    return {
        f"{part}/{name}/{index}.png": shot(next(numbers), name)
        for part in parts
        for name in COLOURS
        for index in range(count)
    }


def config_of(path: Path, **changes: Any) -> DataConfig:
    return DataConfig(source="folder", path=str(path), image_size=8, **changes)


def prepared(tmp_path: Path, files: Mapping[str, bytes], **changes: Any) -> DataInfo:
    return prepare(config_of(write(tmp_path / "set", files), **changes), tmp_path / "cache", quiet)


def pixels(tmp_path: Path, part: str, **changes: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return read_array(find(config_of(tmp_path / "set", **changes), tmp_path / "cache"), part)


# -- copies --------------------------------------------------------------------------------------------------------


def test_different_pictures_are_accepted_without_a_word(tmp_path: Path) -> None:
    info = prepared(tmp_path, images("train", "val", "test"))

    assert (info.notes, info.seen_test_images, info.skipped_images) == ((), 0, 0)


def test_training_images_among_the_test_images_are_refused_with_numbers_and_examples(tmp_path: Path) -> None:
    files = images("train", "test")
    files |= {f"test/{name}/{index}.png": files[f"train/{name}/{index}.png"] for name in COLOURS for index in range(2)}

    with pytest.raises(DataError) as caught:
        prepared(tmp_path, files)

    assert str(caught.value) == (
        f"{tmp_path / 'set'}: 6 of 18 test images are training images, too: train/cat/0.png = test/cat/0.png, "
        "train/cat/1.png = test/cat/1.png, train/dog/0.png = test/dog/0.png and 3 more; a result on them proves "
        'nothing: take them out of one part, or set [data] duplicates = "allow"'
    )
    assert not list((tmp_path / "cache").glob("sets/*/meta.json"))


def test_copies_are_found_by_their_pixels_and_not_by_their_bytes(tmp_path: Path) -> None:
    files = images("train", "test")
    files["test/dog/9.bmp"] = saved(noise(0, COLOURS["cat"], (16, 16)), "bmp")

    with pytest.raises(
        DataError, match=r"1 of 19 test images are training images, too: train/cat/0.png = test/dog/9.bmp;"
    ):
        prepared(tmp_path, files)


def test_a_validation_image_among_the_test_images_is_refused(tmp_path: Path) -> None:
    files = images("train", "val", "test")
    files["test/cat/0.png"] = files["val/cat/3.png"]

    with pytest.raises(
        DataError, match=r"1 of 18 test images are training images, too: val/cat/3.png = test/cat/0.png"
    ):
        prepared(tmp_path, files)


def test_allowed_copies_are_counted_and_said(tmp_path: Path) -> None:
    files = images("train", "test")
    files |= {f"test/cat/{index}.png": files[f"train/cat/{index}.png"] for index in range(4)}

    info = prepared(tmp_path, files, duplicates="allow")

    assert info.seen_test_images == 4
    assert info.notes == (
        "the same picture is in two parts 4 times: train/cat/0.png = test/cat/0.png, train/cat/1.png = test/cat/1.png, "
        "train/cat/2.png = test/cat/2.png and 1 more",
    )


def test_a_picture_in_two_classes_is_said(tmp_path: Path) -> None:
    files = images("train", "test")
    files["train/dog/9.png"] = files["train/cat/0.png"]

    info = prepared(tmp_path, files)

    assert info.notes == ("the same picture is in two classes 1 time: train/cat/0.png = train/dog/9.png",)
    assert info.train_counts == (6, 7, 6)


def test_a_picture_that_is_twice_in_a_class_is_counted(tmp_path: Path) -> None:
    files = images("train", "test")
    files |= {"train/dog/8.png": files["train/dog/0.png"], "test/dog/9.png": files["test/dog/0.png"]}

    assert prepared(tmp_path, files).notes == ("images with the same pixels as another one of their class: 2",)


def test_a_near_copy_in_another_part_is_said_but_not_refused(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.random.default_rng(5).integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize((64, 64))
    files = images("train", "test")
    files |= {"train/cat/a.png": saved(smooth, "png"), "test/dog/b.jpg": saved(smooth, "jpeg", quality=85)}

    info = prepared(tmp_path, files)

    near = "train/cat/a.png = test/dog/b.jpg"
    assert info.seen_test_images == 0
    assert info.notes == (
        f"nearly the same picture is in two parts 1 time: {near}",
        f"nearly the same picture is in two classes 1 time: {near}",
    )


def test_a_test_part_that_is_set_aside_holds_no_copy_of_a_training_image(tmp_path: Path) -> None:
    files = images("train", count=12)
    files |= {path.replace(".png", "-again.png"): content for path, content in files.items()}

    info = prepared(tmp_path, files, test_share=0.25, validation=0.25)

    train = load_train(config_of(tmp_path / "set", test_share=0.25, validation=0.25), tmp_path / "cache")
    parts = [
        {image.numpy().tobytes() for image in part.images[part.indices]}
        for part in (
            train.train,
            train.validation,
            load_test(config_of(tmp_path / "set", test_share=0.25, validation=0.25), tmp_path / "cache"),
        )
    ]
    assert info.seen_test_images == 0
    assert min(info.test_counts) >= 1
    assert all(len(part) >= 3 for part in parts)
    assert len(set.union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize(("groups", "is_seen"), [(None, False), ("none", True)])
def test_allowed_copies_are_set_aside_together_unless_there_are_no_groups(
    tmp_path: Path, groups: str | None, is_seen: bool
) -> None:
    files = images("train", count=12)
    files |= {path.replace(".png", "-again.png"): content for path, content in files.items()}

    info = prepared(tmp_path, files, test_share=0.25, duplicates="allow", groups=groups)

    assert (info.seen_test_images > 0) == is_seen


def test_a_class_that_is_one_picture_cannot_be_split(tmp_path: Path) -> None:
    files = images("train") | {f"train/eel/{index}.png": shot(9999, "eel") for index in range(6)}

    with pytest.raises(
        DataError, match=r"test_share needs images of class 'eel' that can be held out, but too many of them"
    ):
        prepared(tmp_path, files)


def test_groups_stay_together_in_the_test_part_and_in_the_validation_part(tmp_path: Path) -> None:
    files = {
        f"train/{name}/p{patient}/{index}.png": shot(100 * patient + index + 1000 * number, name)
        for number, name in enumerate(COLOURS)
        for patient in range(6)
        for index in range(4)
    }
    patients = {
        np.asarray(Image.fromarray(np.asarray(noise(100 * patient + index + 1000 * number, COLOURS[name], (16, 16))))
        .resize((8, 8), Image.Resampling.BICUBIC)).tobytes(): patient
        for number, name in enumerate(COLOURS)
        for patient in range(6)
        for index in range(4)
    }  # fmt: skip
    changes = {"test_share": 0.2, "validation": 0.25}

    info = prepared(tmp_path, files, **changes)

    config = config_of(tmp_path / "set", **changes)
    data, test = load_train(config, tmp_path / "cache"), load_test(config, tmp_path / "cache")
    found = [
        {patients[image.numpy().tobytes()] for image in part.images[part.indices]}
        for part in (data.train, data.validation, test)
    ]
    assert sum(map(len, found)) == 6
    assert set.union(*found) == set(range(6))
    assert min(map(len, found)) >= 1
    assert "images of one group, by their folder below the class, stay together" in info.notes[0]
    counts = count_images(config)
    assert (counts.train, counts.validation, counts.test) == (len(data.train), len(data.validation), len(test))


# -- broken images -------------------------------------------------------------------------------------------------

BROKEN = {"train/cat/0.png": b"", "train/dog/3.png": b"<html>404</html>", "test/eel/1.png": shot(1)[:40]}


def test_broken_images_are_skipped_up_to_a_bound_and_said(tmp_path: Path) -> None:
    files = images("train", "test") | BROKEN

    info = prepared(tmp_path, files, on_error="skip", max_errors=3)

    assert (info.skipped_images, info.train_counts, info.test_counts) == (3, (5, 5, 6), (6, 6, 5))
    names = "'test/eel/1.png', 'train/cat/0.png', 'train/dog/3.png'"
    assert info.notes == (f"left out, as they cannot be read: 3 of 36 images, {names}",)


def test_more_broken_images_than_the_bound_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"3 of 36 images cannot be read, but \[data\] max_errors is 2:(.|\n)*max_errors = 3"
    ):
        prepared(tmp_path, images("train", "test") | BROKEN, on_error="skip", max_errors=2)


def test_the_same_images_are_skipped_on_every_machine(tmp_path: Path) -> None:
    first = prepared(tmp_path, images("train", "test") | BROKEN, on_error="skip", max_errors=5)
    moved = shutil.copytree(tmp_path / "set", tmp_path / "other" / "place")

    second = prepare(config_of(moved, on_error="skip", max_errors=3), tmp_path / "other" / "cache", quiet)

    assert second.fingerprint == first.fingerprint
    without = prepared(tmp_path / "clean", {p: c for p, c in images("train", "test").items() if p not in BROKEN})
    assert without.fingerprint == first.fingerprint


def test_broken_images_that_are_set_aside_for_the_test_are_skipped(tmp_path: Path) -> None:
    files = images("train", count=10) | {"train/cat/a.png": b"", "train/cat/b.png": b""}

    info = prepared(tmp_path, files, on_error="skip", max_errors=2, test_share=0.2)

    assert sum(info.train_counts) + sum(info.test_counts) == 30
    assert info.skipped_images == 2


def test_a_class_that_loses_all_its_images_is_refused(tmp_path: Path) -> None:
    files = images("train", "test") | {f"train/dog/{index}.png": b"" for index in range(6)}

    with pytest.raises(DataError, match=r"set: no training image of class 'dog' can be read"):
        prepared(tmp_path, files, on_error="skip", max_errors=6)


def test_a_validation_folder_that_loses_images_keeps_the_others(tmp_path: Path) -> None:
    files = images("train", "val", "test") | {"val/cat/0.png": b"", "train/cat/0.png": b""}

    info = prepared(tmp_path, files, on_error="skip", max_errors=2)

    assert (info.validation_folder, info.train_count, info.validation_count) == (17, 17, 17)


# -- steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "other", "fit", "note"),
    [
        pytest.param((16, 16), (16, 16), "crop", None, id="square"),
        pytest.param(
            (20, 15),
            (20, 15),
            "crop",
            'fit = "crop" (chosen) cuts 25% of the pixels of the median image off; "pad" and "squash" keep all',
            id="photos",
        ),
        pytest.param(
            (48, 16),
            (48, 16),
            "squash",
            'fit = "squash" (chosen) changes the proportions; a crop would cut 67% of the median image off',
            id="wide",
        ),
        pytest.param(
            (48, 16),
            (16, 48),
            "pad",
            'fit = "pad" (chosen) adds black bars, 67% of the median image; a crop would cut as much off',
            id="wide-and-high",
        ),
    ],
)
def test_a_fit_is_chosen_said_and_used(
    tmp_path: Path, size: tuple[int, int], other: tuple[int, int], fit: str, note: str | None
) -> None:
    files = {
        f"{part}/{name}/{index}.png": shot(index + 100 * number, name, size if index % 2 else other)
        for number, (part, name) in enumerate((part, name) for part in ("train", "test") for name in COLOURS)
        for index in range(6)
    }

    info = prepared(tmp_path, files)

    assert info.preprocessing.fit == fit
    assert info.notes == ((note,) if note else ())
    given = prepared(tmp_path, files, fit=fit)
    assert given.fingerprint == info.fingerprint
    assert given.notes == ((note.replace(" (chosen)", ""),) if note else ())


def test_a_fit_that_is_given_is_used(tmp_path: Path) -> None:
    files = {path: shot(number, "cat", (48, 16)) for number, path in enumerate(images("train", "test"))}

    infos = [prepared(tmp_path, files, fit=fit) for fit in ("crop", "pad", "squash")]

    assert [info.preprocessing.fit for info in infos] == ["crop", "pad", "squash"]
    assert len({info.fingerprint for info in infos}) == 3
    padded = pixels(tmp_path, "train", fit="pad")
    assert not padded[:, 0].any()
    assert padded[:, 4].all(axis=(1, 2)).any()


def deep(level: int, seed: int) -> bytes:
    """A grey picture of 16 bits, whose values lie within 25 of a level."""
    random = np.random.default_rng(seed)
    return png16((level + random.integers(-25, 26, (16, 16))).astype(np.uint16))


def deep_files(levels: Mapping[str, int]) -> dict[str, bytes]:
    numbers = iter(range(1000))
    return {
        f"{part}/{name}/{index}.png": deep(level, next(numbers))
        for part in ("train", "test")
        for name, level in levels.items()
        for index in range(6)
    }


def test_the_depth_of_a_set_is_found_and_said(tmp_path: Path) -> None:
    info = prepared(tmp_path, deep_files({"low": 3900, "high": 4040}))

    assert info.preprocessing.depth is not None
    low, high = info.preprocessing.depth
    assert 3875 <= low <= 3880
    assert 4060 <= high <= 4065
    assert info.std[0] > 0.2
    assert info.notes == (
        f"12 training images have 16 bits or more: values from {low:g} to {high:g} are read as black to white "
        "(their 0.1 and 99.9 percentiles; [data] depth)",
    )
    means = pixels(tmp_path, "train").reshape(12, -1).mean(axis=1)
    assert means[:6].min() > 180  # "high" comes first
    assert means[6:].max() < 75


def test_the_depth_is_found_from_the_training_images_alone(tmp_path: Path) -> None:
    files = deep_files({"low": 3900, "high": 4040})
    depth = prepared(tmp_path, files).preprocessing.depth

    bright = {path: deep(60_000, number) for number, path in enumerate(files) if path.startswith("test/")}

    assert prepared(tmp_path, files | bright).preprocessing.depth == depth


def test_a_single_hot_pixel_does_not_set_the_range(tmp_path: Path) -> None:
    files = deep_files({"low": 3900, "high": 4040})
    hot = np.full((16, 16), 3900, np.uint16)
    hot[3, 3] = 65535

    depth = prepared(tmp_path, files | {"train/low/0.png": png16(hot)}).preprocessing.depth

    assert depth is not None
    assert depth[1] < 4100


@pytest.mark.parametrize(
    ("depth", "steps"),
    [(12, (0.0, 4095.0)), ((3800, 4100), (3800.0, 4100.0)), (16, None)],
    ids=["bits", "range", "16-bits"],
)
def test_a_depth_that_is_given_is_used(tmp_path: Path, depth: object, steps: tuple[float, float] | None) -> None:
    files = {
        f"{part}/{name}/{index}.png": png16(
            np.random.default_rng(index + start).integers(0, 65536, (16, 16)).astype(np.uint16)
        )
        for part, start in (("train", 0), ("test", 50))
        for name, start in (("low", start), ("high", start + 25))
        for index in range(6)
    }

    info = prepared(tmp_path, files, depth=depth)

    assert info.preprocessing.depth == steps
    low, high = steps or (0.0, 65535.0)
    first = np.random.default_rng(25).integers(0, 65536, (16, 16))  # test_image.py checks the pixels exactly
    assert pixels(tmp_path, "train", depth=depth)[0].mean() == pytest.approx(
        (255 * (first - low) / (high - low)).clip(0, 255).mean(), abs=6
    )


def test_a_depth_that_leaves_no_difference_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"all training images have the same pixels; .* set \[data\] depth, such as 12"):
        prepared(tmp_path, deep_files({"low": 3900, "high": 4040}), depth=16)


def test_images_of_8_and_of_16_bits_are_mixed(tmp_path: Path) -> None:
    files = images("train", "test") | {"train/cat/deep.png": deep(3900, 1), "train/cat/deeper.png": deep(4040, 2)}

    info = prepared(tmp_path, files)

    assert info.preprocessing.depth is not None
    assert "2 training images have 16 bits or more" in info.notes[0]
    whole = prepared(tmp_path / "eight", images("train", "test"))
    rows = [row for row in range(20) if row not in (6, 7)]
    assert np.array_equal(pixels(tmp_path, "train")[rows], pixels(tmp_path / "eight", "train"))
    assert whole.preprocessing.depth is None


def test_float_images_are_scaled(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    files = {
        f"{part}/{name}/{index}.tif": tiff(random.uniform(level, level + 0.1, (16, 16)).astype(np.float32))
        for part in ("train", "test")
        for name, level in (("low", 0.2), ("high", 0.4))
        for index in range(6)
    }

    info = prepared(tmp_path, files)

    assert info.preprocessing.depth == pytest.approx((0.2, 0.5), abs=0.01)
    assert info.std[0] > 0.2


# -- contrast ------------------------------------------------------------------------------------------------------


def test_images_that_are_all_one_picture_are_refused(tmp_path: Path) -> None:
    files = dict.fromkeys(images("train", "test"), shot(1))

    with pytest.raises(DataError, match="set: all training images have the same pixels; if they use few of 16 bits"):
        prepared(tmp_path, files, duplicates="allow")


def test_images_without_contrast_are_refused(tmp_path: Path) -> None:
    grey = np.full((8, 8, 3), 90, np.uint8)
    files = {}
    for number, path in enumerate(images("train", "test")):
        pixels = grey.copy()
        pixels[number // 8, number % 8, 0] = 91
        files[path] = saved(Image.fromarray(pixels), "png")

    with pytest.raises(DataError, match="set: the training images have no contrast: every pixel is 90 of 255; if they"):
        prepared(tmp_path, files)


def test_images_of_16_bits_and_one_value_are_refused(tmp_path: Path) -> None:
    files = dict.fromkeys(images("train", "test"), png16(np.full((16, 16), 700, np.uint16)))

    with pytest.raises(
        DataError, match="16-bit or float training images have no contrast: every value is 700; check how"
    ):
        prepared(tmp_path, files, duplicates="allow")


def test_a_channel_of_deep_images_without_contrast_is_refused_by_name(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    files = {}
    for path in images("train", "test"):
        values = random.integers(0, 4000, (16, 16, 3))
        values[..., 2] = 2
        files[path] = png16(values.astype(np.uint16))

    with pytest.raises(
        DataError, match=r"blue of the training images has no contrast where values from \d+ to [\d.]+ are"
    ):
        prepared(tmp_path, files)


def test_a_channel_of_8_bit_images_may_be_empty(tmp_path: Path) -> None:
    def without_blue(number: int, name: str) -> bytes:
        array = np.asarray(noise(number, COLOURS[name], (16, 16))).copy()
        array[..., 2] = 0
        return saved(Image.fromarray(array), "png")

    files = {path: without_blue(number, path.split("/")[1]) for number, path in enumerate(images("train", "test"))}

    assert prepared(tmp_path, files).std[2] == 0


# -- cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"fit": "pad"}, {"depth": 12}, {"groups": "none"}, {"duplicates": "allow"}, {"on_error": "skip", "max_errors": 1}],
    ids=str,
)
def test_a_key_that_changes_the_images_gives_another_set(tmp_path: Path, change: dict[str, Any]) -> None:
    prepared(tmp_path, images("train", "test"))

    prepared(tmp_path, images("train", "test"), **change)

    assert len(list((tmp_path / "cache").glob("sets/*/meta.json"))) == 2


def test_notes_are_those_of_this_folder_and_not_of_another_one_with_the_same_images(tmp_path: Path) -> None:
    first = prepared(tmp_path, images("train", "test"))
    (tmp_path / "set" / "labels.csv").write_text("file,label\n")

    second = prepare(config_of(tmp_path / "set"), tmp_path / "cache", quiet)

    assert (first.notes, second.notes) == ((), ("ignored: 1 with the ending of another kind of file (.csv)",))
    assert len(list((tmp_path / "cache").glob("sets/*/meta.json"))) == 1


def test_a_number_of_validation_images_changes_the_set_only_with_a_validation_folder(tmp_path: Path) -> None:
    info = prepared(tmp_path, images("train", "val", "test"))

    counted = prepare(config_of(tmp_path / "set", validation=6), tmp_path / "cache", quiet)

    assert (info.validation_folder, info.validation_count, info.train_counts) == (18, 18, (12, 12, 12))
    assert (counted.validation_folder, counted.validation_count, counted.train_counts) == (0, 6, (6, 6, 6))
    assert 'val/ is not used, as [data] validation is 6; "folder" uses it' in counted.notes


# -- images that moved ---------------------------------------------------------------------------------------------


def test_images_that_are_gone_are_found_by_their_fingerprint(tmp_path: Path) -> None:
    info = prepared(tmp_path, images("train", "test"), validation=6)
    config = config_of(tmp_path / "set", validation=6)
    before = load_train(config, tmp_path / "cache")
    shutil.rmtree(tmp_path / "set")
    said: list[str] = []

    again = prepare(config, tmp_path / "cache", said.append, fingerprint=info.fingerprint)
    data = load_train(config, tmp_path / "cache", fingerprint=info.fingerprint)

    assert again == info
    assert said == [f"the images are not at {tmp_path / 'set'}; their decoded copy in {tmp_path / 'cache'} is used"]
    assert data.validation.indices.equal(before.validation.indices)
    assert len(load_test(config, tmp_path / "cache", fingerprint=info.fingerprint)) == 18


def test_images_that_are_gone_are_not_found_without_a_fingerprint(tmp_path: Path) -> None:
    prepared(tmp_path, images("train", "test"))
    shutil.rmtree(tmp_path / "set")

    with pytest.raises(DataError, match=r"there is no .*set; correct the path"):
        prepare(config_of(tmp_path / "set"), tmp_path / "cache", quiet)


@pytest.mark.parametrize("place", ["cache", "elsewhere"])
def test_images_that_are_nowhere_are_refused_with_the_way_out(tmp_path: Path, place: str) -> None:
    info = prepared(tmp_path, images("train", "test"))
    shutil.rmtree(tmp_path / "set")
    wanted = "0" * 64 if place == "cache" else info.fingerprint

    words = r"the images are not at .*set, and .* has no decoded copy of them; name them with --data"
    config = config_of(tmp_path / "set")
    with pytest.raises(DataError, match=words):
        prepare(config, tmp_path / place, quiet, fingerprint=wanted)
    with pytest.raises(DataError, match=words):
        load_train(config, tmp_path / place, fingerprint=wanted)


def test_images_that_are_there_are_read_and_not_their_copy(tmp_path: Path) -> None:
    info = prepared(tmp_path, images("train", "test"))
    write(tmp_path / "set", {"train/cat/9.png": shot(777)})

    changed = prepare(config_of(tmp_path / "set"), tmp_path / "cache", quiet, fingerprint=info.fingerprint)

    assert changed.train_counts == (7, 6, 6)


def test_images_that_moved_are_read_at_their_new_place_under_the_old_fingerprint(tmp_path: Path) -> None:
    info = prepared(tmp_path, images("train", "test"))
    (tmp_path / "set").rename(tmp_path / "moved")

    moved = prepare(config_of(tmp_path / "moved"), tmp_path / "cache", quiet, fingerprint=info.fingerprint)

    assert moved == info
    assert len(list((tmp_path / "cache").glob("sets/*/meta.json"))) == 1


@pytest.mark.parametrize("groups", [None, "none"])
def test_a_decoded_copy_with_other_groups_is_not_taken_for_images_that_are_gone(
    tmp_path: Path, groups: str | None
) -> None:
    files = {
        f"{part}/{name}/p{index // 4}/{index}.png": shot(index + 1000 * number, name)
        for number, (part, name) in enumerate((part, name) for part in ("train", "test") for name in COLOURS)
        for index in range(24)
    }
    infos = {rule: prepared(tmp_path, files, validation=0.25, groups=rule) for rule in ("none", None)}
    config = config_of(tmp_path / "set", validation=0.25, groups=groups)
    before = load_train(config, tmp_path / "cache").validation.indices
    shutil.rmtree(tmp_path / "set")

    after = load_train(config, tmp_path / "cache", fingerprint=infos[groups].fingerprint).validation.indices

    assert after.equal(before)


def test_a_set_of_an_older_version_is_described(tmp_path: Path) -> None:
    info = prepared(tmp_path, images("train", "test"))
    folder = find(config_of(tmp_path / "set"), tmp_path / "cache")
    shutil.rmtree(tmp_path / "set")
    meta = json.loads((folder / "meta.json").read_text())
    for key in ("preprocessing", "validation_folder", "seen_test_images", "skipped"):
        del meta[key]
    (folder / "meta.json").write_text(json.dumps(meta))

    old = prepare(config_of(tmp_path / "set"), tmp_path / "cache", quiet, fingerprint=info.fingerprint)

    assert old == info
    assert (old.preprocessing.fit, old.preprocessing.depth) == ("crop", None)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_whose_images_are_all_broken_is_refused(tmp_path: Path, part: str) -> None:
    files = images("train", "val", "test")
    files |= {path: b"" for path in files if path.startswith(part)}
    broken = sum(content == b"" for content in files.values())

    with pytest.raises(DataError, match=f"no {'validation' if part == 'val' else 'test'} image can be read"):
        prepared(tmp_path, files, on_error="skip", max_errors=broken)


def test_a_damaged_member_of_a_zip_is_one_broken_image(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in images("train", count=12).items():
            archive.writestr(name, content)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"IDAT") + 8] ^= 1  # of the first image
    path.write_bytes(damaged)
    config = config_of(path, on_error="skip", max_errors=1)

    info = prepare(config, tmp_path / "cache", quiet)

    assert info.skipped_images == 1
    assert info.notes[0].startswith("left out, as they cannot be read: 1 of 36 images, 'train/cat/0.png'")


def test_a_study_of_an_older_version_splits_its_training_images_beside_val(tmp_path: Path) -> None:
    files = images("train", "val", "test", count=12)

    info = prepared(tmp_path, files, validation="split")

    assert (info.validation_folder, sum(info.train_counts)) == (0, 36)
    assert info.notes[0] == 'val/ is not used, as [data] validation is split; "folder" uses it'
