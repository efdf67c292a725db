"""The image sets of the recorded curves. Each uses training images alone; a part of these stands for test images."""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.atomic import replacing
from data.config import DataConfig
from search.errors import UsageError

#: Debian's packages dataset-fashion-mnist and fonts-*.
FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
FONTS: Final = Path("/usr/share/fonts")
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
GLYPH_SIDE: Final = 32
FACES: Final = 2
FASHION_PER_CLASS: Final = 800
CIFAR10: Final = "cifar10-jpeg.tar.xz"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFamily:
    """An image set of the recorded curves."""

    name: str
    archive: str = ""
    """Archive below the data folder or below the folder of made archives; empty for drawn shapes."""
    train: int | None
    """Training images, drawn class by class; None: the rest."""
    validation: int
    test: int
    core_s: float
    """Seconds of a training of the recipe on one core at `record.MACS_PER_SECOND`."""


FAMILIES: Final[Mapping[str, ImageFamily]] = {
    images.name: images
    for images in (
        ImageFamily(name="cifar10", archive=CIFAR10, train=5_000, validation=2_000, test=4_000, core_s=14),
        ImageFamily(name="cifar10-1000", archive=CIFAR10, train=800, validation=200, test=3_000, core_s=8),
        ImageFamily(name="fashion", archive="fashion.tar", train=2_400, validation=600, test=3_000, core_s=8),
        ImageFamily(name="glyphs", archive="glyphs.tar", train=None, validation=800, test=2_500, core_s=11),
        ImageFamily(name="shapes", train=2_000, validation=500, test=3_000, core_s=9),
        ImageFamily(name="traffic", archive="sets/traffic.tar", train=1_600, validation=700, test=1_500, core_s=11),
        ImageFamily(name="flowers", archive="sets/flowers.tar", train=None, validation=180, test=200, core_s=9),
        ImageFamily(name="signs", archive="sets/signs.tar", train=None, validation=60, test=110, core_s=7),
        ImageFamily(name="bees", archive="sets/bees.tar", train=None, validation=60, test=80, core_s=6),
        ImageFamily(name="steel", archive="sets/steel.tar", train=None, validation=30, test=54, core_s=5),
    )
}


def config_of(images: ImageFamily, data: Path, made: Path) -> DataConfig:
    """The table [data] of a family.

    Args:
        images: The family.
        data: Folder of the archives that are given.
        made: Folder of the archives that are made here.

    Raises:
        UsageError: An archive is missing.
    """
    if not images.archive:
        held = images.validation + images.test
        return DataConfig(source="shapes", train_images=(images.train or 0) + held, validation=held)
    path = made / images.archive if images.archive in MADE else data / images.archive
    if images.archive in MADE and not path.exists():
        write_tar(path, MADE[images.archive]())
    if not path.exists():
        raise UsageError(f"there is no {path}; name its folder with --data")
    return DataConfig(
        source="folder",
        path=str(path),
        validation=images.validation + images.test,
        search_images=images.train,
        duplicates="allow",
    )


def write_tar(path: Path, files: Iterator[tuple[str, Image.Image]]) -> None:
    """Write images as PNG files into a tar archive: train/CLASS/NUMBER.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, tarfile.open(temporary, "w") as archive:
        for name, image in files:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            member = tarfile.TarInfo(name)
            member.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(member, buffer)


def fashion() -> Iterator[tuple[str, Image.Image]]:
    """The first training images of each class of Fashion-MNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747)."""
    images, labels = _idx(FASHION / "train-images-idx3-ubyte.gz"), _idx(FASHION / "train-labels-idx1-ubyte.gz")
    for label in range(10):
        for number, row in enumerate(np.flatnonzero(labels == label)[:FASHION_PER_CLASS]):
            yield f"train/{label}/{number:04}.png", Image.fromarray(images[row])


def glyphs() -> Iterator[tuple[str, Image.Image]]:
    """Letters and digits of installed fonts, grey, each moved and scaled a little."""
    rng = np.random.default_rng(0)
    for number, font in enumerate(_latin_fonts()):
        for letter in LETTERS:
            paper, ink, size = (int(rng.integers(*ends)) for ends in ((150, 256), (0, 110), (18, 27)))
            face = ImageFont.truetype(font, size)
            left, top, right, bottom = face.getbbox(letter)
            right_by, down_by = (int(pixels) for pixels in rng.integers(-3, 4, 2))
            image = Image.new("L", (GLYPH_SIDE, GLYPH_SIDE), paper)
            place = ((GLYPH_SIDE - left - right) / 2 + right_by, (GLYPH_SIDE - top - bottom) / 2 + down_by)
            ImageDraw.Draw(image).text(place, letter, font=face, fill=ink)
            yield f"train/{ord(letter):03}/{number:04}.png", image


def _latin_fonts() -> list[Path]:
    """Font files with a drawing of its own for each letter, at most FACES of a typeface."""
    faces: dict[str, list[Path]] = {}
    for path in sorted(FONTS.rglob("*.[ot]tf")):
        try:
            face = ImageFont.truetype(path, GLYPH_SIDE)
        except OSError:
            continue
        if len({bytes(face.getmask(letter)) for letter in LETTERS}) >= len(LETTERS) - 6:  # small capitals, l and I
            faces.setdefault(face.getname()[0] or path.stem, []).append(path)
    return [path for paths in faces.values() for path in paths[:FACES]]


def _idx(path: Path) -> NDArray[np.uint8]:
    """The array of an IDX file (http://yann.lecun.com/exdb/mnist)."""
    with gzip.open(path) as file:
        content = file.read()
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


MADE: Final[Mapping[str, Callable[[], Iterator[tuple[str, Image.Image]]]]] = {
    "fashion.tar": fashion,
    "glyphs.tar": glyphs,
}
