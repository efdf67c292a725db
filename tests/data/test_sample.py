"""data/sample.py: statistics of training images, measured on a sample."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import sample
from data.config import DataConfig
from data.errors import DataError
from data.statistics import ImageStatistics
from tests.data.pictures import noise, picture, png16, saved
from tests.harness import quiet

RED, BLUE = (200, 40, 40), (40, 60, 200)


def write(root: Path, folder: str, count: int, content: Callable[[int], bytes], suffix: str = "png") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / folder / f"{number:03}.{suffix}").write_bytes(content(number))


def coloured(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> Callable[[int], bytes]:
    return lambda number: saved(noise(number, colour, size), "png")


def grey(number: int) -> bytes:
    return saved(noise(number, (90, 90, 90), spread=0).convert("L"), "png")


def measure(path: Path, **changes: Any) -> ImageStatistics:
    config = DataConfig(source="folder", path=str(path), image_size=32, **changes)
    return sample.measure(config, path.parent / "cache", quiet)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 12 and 8 images of 40 x 30 pixels, and test images of another size."""
    root = tmp_path / "images"
    write(root, "train/red", 12, coloured(RED))
    write(root, "train/blue", 8, coloured(BLUE))
    for name, colour in (("red", RED), ("blue", BLUE)):
        write(root, f"test/{name}", 3, coloured(colour, (90, 90)))
    return root


def test_a_folder_has_its_classes_counts_and_size(images: Path) -> None:
    seen = measure(images)
    assert (seen.classes, seen.counts, seen.is_grey) == (("blue", "red"), (8, 12), False)
    assert seen.side in (30, 40)


def test_an_archive_has_the_statistics_of_its_folder(images: Path) -> None:
    path = images.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(images.rglob("*.png")):
            archive.write(file, file.relative_to(images))
    assert measure(path) == measure(images)


def test_the_sample_is_the_same_wherever_the_images_are(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLE", 7)
    first = measure(images)
    shutil.copytree(images, images.with_name("moved"))
    assert measure(images.with_name("moved")) == first


def test_the_size_depends_on_the_fit(images: Path) -> None:
    sides = {fit: measure(images, fit=fit).side for fit in ("crop", "squash", "pad")}
    assert sides == {"crop": 30, "squash": round(np.sqrt(40 * 30)), "pad": 40}


def test_images_of_the_test_and_of_a_validation_folder_are_not_looked_at(images: Path) -> None:
    before = measure(images)
    for part in ("test", "val"):
        for name in ("red", "blue"):
            write(images, f"{part}/{name}", 40, coloured(RED, (90, 90)))
    after = measure(images)
    assert (after.side, after.is_grey, after.mirror) == (before.side, before.is_grey, before.mirror)


def test_images_set_aside_to_test_are_not_counted(images: Path) -> None:
    shutil.rmtree(images / "test")
    assert sum(measure(images, test_share=0.25).counts) == 15


def test_only_images_without_colour_are_grey(tmp_path: Path) -> None:
    write(tmp_path / "images", "a", 6, grey)
    write(tmp_path / "images", "b", 6, lambda number: saved(picture(number).convert("L").convert("RGB"), "jpeg"))
    assert measure(tmp_path / "images").is_grey
    write(tmp_path / "images", "b", 12, coloured(RED), suffix="jpg")
    assert not measure(tmp_path / "images").is_grey


def test_images_of_16_bits_are_seen_with_their_contrast(tmp_path: Path) -> None:
    def content(number: int) -> bytes:
        values = np.random.default_rng(number).integers(0, 900, (24, 24))
        return png16(values.astype(np.uint16))

    write(tmp_path / "images", "a", 6, content)
    write(tmp_path / "images", "b", 6, lambda number: content(100 + number))
    seen = measure(tmp_path / "images")
    assert (seen.is_grey, seen.side) == (True, 24)


@pytest.mark.parametrize("side", [1, 8])
def test_tiny_images_are_measured(tmp_path: Path, side: int) -> None:
    write(tmp_path / "images", "a", 6, coloured(RED, (side, side)))
    write(tmp_path / "images", "b", 6, coloured(BLUE, (side, side)))
    assert measure(tmp_path / "images").side == side


def test_images_that_cannot_be_read_are_left_out(images: Path) -> None:
    for number in range(5):
        (images / f"train/red/{number:03}.png").write_bytes(b"broken")
    assert measure(images, on_error="skip", max_errors=5).side == 30


def test_a_set_of_unreadable_images_is_refused_with_the_reasons(images: Path) -> None:
    for file in images.glob("train/*/*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of 20 images can be read: .*blue/000.png"):
        measure(images)


@pytest.mark.parametrize(("classes", "each"), [(2, 3), (60, 3)])
def test_few_images_of_a_class_suffice(tmp_path: Path, classes: int, each: int) -> None:
    for label in range(classes):
        content = coloured((label * 4, 255 - label * 4, 90), (12, 12))
        write(tmp_path / "images", f"{label:03}", each, lambda number, make=content: make(number))  # type: ignore[misc]
    seen = measure(tmp_path / "images")
    assert len(seen.counts) == classes
    assert min(seen.counts) >= 1


def test_equal_images_are_measured(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "images", name, 6, lambda number: saved(Image.new("RGB", (20, 20), RED), "png"))
    assert measure(tmp_path / "images", duplicates="allow").mirror.keeps_class


def test_fewer_training_images_of_the_study_file_are_counted(images: Path) -> None:
    assert measure(images, train_images=10).images == 10


def test_drawn_images_are_measured(tmp_path: Path) -> None:
    seen = sample.measure(DataConfig(source="shapes", train_images=300, image_size=24), tmp_path, quiet)
    assert (len(seen.classes), seen.images, seen.side, seen.is_grey) == (10, 300, 24, False)
