"""Images, folders and archives as strangers have them become the right set, or are refused with the right word."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data.cache import read_array
from data.config import DataConfig
from data.dataset import DataInfo, find, prepare
from data.errors import DataError
from data.ignore import Ignored
from data.image import decode
from data.preprocessing import Preprocessing
from data.store import Directory
from tests.data.pictures import BROKEN_EXIF
from tests.harness import quiet
from tests.strangers import inputs

CROPPED = 'fit = "crop" (chosen) cuts 25% of the pixels of the median image off; "pad" and "squash" keep all'
SIDE = 16


def config_of(path: Path, **changes: Any) -> DataConfig:
    return DataConfig(source="folder", path=str(path), image_size=SIDE, **changes)


def set_aside(count: int) -> str:
    return f"there is no test/: {count} images set aside as test images"


class Room:
    """A folder for the inputs of one test, with a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, path: Path, **changes: Any) -> DataInfo:
        return prepare(config_of(path, **changes), self.folder / "cache", quiet)

    def array(self, path: Path, name: str, **changes: Any) -> NDArray[Any]:
        return np.asarray(read_array(find(config_of(path, **changes), self.folder / "cache"), name))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> DataInfo:
    """The ordinary folder."""
    folder = tmp_path_factory.mktemp("usual")
    return Room(folder).prepare(inputs.base(folder)["base"])


def decoded(folder: Path) -> dict[str, NDArray[np.uint8]]:
    steps = Preprocessing(side=SIDE, fit="squash")
    return {file.name: decode(file.read_bytes(), steps, name=file.name).pixels for file in sorted(folder.iterdir())}


def test_base(usual: DataInfo) -> None:
    assert usual.classes == ("blue", "green", "red")
    assert [sum(pair) for pair in zip(usual.train_counts, usual.test_counts, strict=True)] == [12, 12, 12]
    assert usual.notes == (CROPPED, set_aside(4))


# -- images --------------------------------------------------------------------------------------------------------


def test_motion(room: Room, usual: DataInfo) -> None:
    """The video behind the end of a JPEG changes nothing."""
    assert room.prepare(inputs.motion(room.folder)["motion"]) == usual


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif(room: Room) -> None:
    """Every image is read, and turned if its orientation can be read."""
    path = inputs.exif(room.folder)["exif"]

    info = room.prepare(path)

    assert sum(info.train_counts) + sum(info.test_counts) == 36
    assert info.notes == (CROPPED, set_aside(4))
    for index, (_, orientation) in enumerate(BROKEN_EXIF.values()):
        content = (path / f"train/red/{index:02}.jpeg").read_bytes()
        size = decode(content, Preprocessing(side=SIDE), name="x").size
        assert size == (inputs.SIZE if orientation < 5 else inputs.SIZE[::-1])


def test_big(room: Room, usual: DataInfo) -> None:
    """Photos of more than 25 megapixels are read."""
    path = inputs.big(room.folder)["big"]

    info = room.prepare(path, test_share=0.1)

    assert sum(info.train_counts) + sum(info.test_counts) == 37
    found = {tuple(np.unique(image.reshape(-1, 3), axis=0).ravel()) for image in room.array(path, "train")}
    found |= {tuple(np.unique(image.reshape(-1, 3), axis=0).ravel()) for image in room.array(path, "test")}
    flat = sorted(values for values in found if len(values) == 3)
    assert np.abs(np.array(flat) - [(120, 120, 120), inputs.COLOURS["red"]]).max() <= 2


def test_iccp(room: Room, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Images with megabytes of profile or text are whole."""
    plain = tmp_path_factory.mktemp("plain")
    expected = Room(plain).prepare(inputs.classes(plain / "png", kind="png"))

    assert room.prepare(inputs.iccp(room.folder)["iccp"]) == expected


def test_deep16(room: Room) -> None:
    """The values of 16-bit images are scaled to the range that they use, and the classes differ."""
    path = inputs.deep16(room.folder)["deep16"]

    info = room.prepare(path)

    assert info.preprocessing.depth is not None
    assert info.preprocessing.depth == pytest.approx((3875, 4065), abs=4)
    assert info.std[0] > 0.3
    means = room.array(path, "train").mean(axis=(1, 2, 3))
    labels = room.array(path, "train_labels")
    assert means[labels == info.classes.index("high")].min() > 200
    assert means[labels == info.classes.index("low")].max() < 55
    assert "36 training images have 16 bits or more: values from 38" in info.notes[0]
    with pytest.raises(DataError, match=r"all training images have the same pixels; .* set \[data\] depth, such as 12"):
        room.prepare(path, depth=16)


def test_hard(room: Room) -> None:
    """Formats other than JPEG are read under its ending, and what cannot be read is named for what it is."""
    path = inputs.hard(room.folder)["hard"]

    with pytest.raises(DataError, match=r"1 of 36 images cannot be read") as caught:
        room.prepare(path)

    (named,) = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert named.startswith(
        "  train/red/00.jpeg: is a HEIC file named .jpeg"
    )  # test_image.py tests it without a plug-in
    info = room.prepare(path, on_error="skip", max_errors=1)
    assert info.skipped_images == 1
    assert sum(info.train_counts) + sum(info.test_counts) == 35


def test_corrupt(room: Room) -> None:
    """All broken files are counted and listed, and may be left out."""
    path = inputs.corrupt(room.folder)["corrupt"]

    with pytest.raises(DataError) as caught:
        room.prepare(path)

    first, *shown, rest, advice = str(caught.value).splitlines()
    assert first == f"{path}: 15 of 60 images cannot be read, but [data] max_errors is 0:"
    assert shown[0] == "  train/green/00.jpeg: is empty; replace it or take it out"
    assert (
        shown[1]
        == "  train/green/01.jpeg: is a web page named .jpeg, which is not read as an image; convert it, or take it out"
    )
    assert all("is a JPEG file, but cannot be decoded" in line for line in shown[2:])
    assert (len(shown), rest) == (10, "  and 5 more")
    assert len(Path(advice.partition(" lists all")[0]).read_text().splitlines()) == 15
    with pytest.raises(DataError, match=r"max_errors is 14:"):
        room.prepare(path, on_error="skip", max_errors=14)
    info = room.prepare(path, on_error="skip", max_errors=15)
    assert info.skipped_images == 15
    assert sum(info.train_counts) + sum(info.test_counts) == 45
    assert info.notes[0].startswith("left out, as they cannot be read: 15 of 60 images, ")


def test_wide(room: Room) -> None:
    """Pictures of one long shape are squashed, and what tells their classes apart is kept."""
    path = inputs.wide(room.folder)["wide"]

    info = room.prepare(path)

    assert info.preprocessing.fit == "squash"
    assert info.notes[0] == (
        'fit = "squash" (chosen) changes the proportions; a crop would cut 75% of the median image off'
    )
    patches = room.array(path, "train")[:, 5:11, :2].mean(axis=(1, 2))
    is_red = room.array(path, "train_labels") == info.classes.index("red")
    assert (patches[is_red] - inputs.COLOURS["red"]).mean() == pytest.approx(0, abs=20)
    assert (patches[~is_red] - inputs.COLOURS["green"]).mean() == pytest.approx(0, abs=20)
    assert room.prepare(path, fit="pad").preprocessing.fit == "pad"
    cropped = room.prepare(path, fit="crop")
    assert 'fit = "crop" cuts 75% of the pixels of the median image off; "pad" and "squash" keep all' in cropped.notes


def test_squashed(room: Room) -> None:
    """Square pictures are read without a word."""
    info = room.prepare(inputs.squashed(room.folder)["squashed"])

    assert (info.classes, info.preprocessing.fit, info.notes) == (("green", "red"), "crop", (set_aside(8),))


def test_alpha(room: Room) -> None:
    """One thing in several encodings is one picture."""
    pixels = decoded(inputs.alpha(room.folder)["alpha"])

    for twin in ("rgba-black.png", "rgba-blue-hidden.png", "palette.png"):
        assert np.abs(pixels[twin].astype(int) - pixels["rgb-white.png"]).max() <= 1, twin
    assert np.array_equal(pixels["grey16.png"], pixels["grey8.png"])
    assert np.array_equal(pixels["turned.png"], pixels["upright.png"])
    assert np.abs(pixels["cmyk.jpg"].astype(int) - (254, 0, 0)).max() <= 2
    assert (pixels["grey.jpg"] == pixels["grey.jpg"][..., :1]).all()
    assert len(np.unique(pixels["one.png"].reshape(-1, 3), axis=0)) == 1


# -- folders -------------------------------------------------------------------------------------------------------


def test_litter(room: Room, usual: DataInfo) -> None:
    """Litter and labels change nothing, and are counted in one line."""
    ignored = {
        "synology": "1 hidden or of file managers (@eaDir)",
        "synology-in-a-class": "1 hidden or of file managers (@eaDir)",
        "other-case": "2 hidden or of file managers (thumbs.db, Desktop.ini)",
        "icon": "1 hidden or of file managers (Icon)",
        "labels": "2 with the ending of another kind of file (.xml, .txt)",
        "table": "1 with the ending of another kind of file (.csv)",
    }

    infos = {kind: room.prepare(path) for kind, path in inputs.litter(room.folder).items()}

    assert {info.fingerprint for info in infos.values()} == {usual.fingerprint}
    for kind, sentence in ignored.items():
        assert infos[kind].notes[0] == f"ignored: {sentence}"
        assert infos[kind].notes[1:] == usual.notes
    assert infos["usual"].notes[0].startswith("ignored: 8 hidden or of file managers (hidden, ")


def test_links(room: Room, usual: DataInfo) -> None:
    """Links are followed; a link to nowhere is one broken image."""
    paths = inputs.links(room.folder)

    info = room.prepare(paths["links"])

    assert info.fingerprint == usual.fingerprint
    assert info.notes == ("not read: 'store'; read: train/", *usual.notes)
    with pytest.raises(DataError, match=r"1 of 36 images cannot be read.*\n  train/red/00.jpeg: "):
        room.prepare(paths["links-broken"])
    assert room.prepare(paths["links-broken"], on_error="skip", max_errors=1).skipped_images == 1


def test_latin(room: Room) -> None:
    """A file name that is no UTF-8 is read, and shown in a message that can be printed."""
    paths = inputs.latin(room.folder)

    info = room.prepare(paths["latin"])

    assert sum(info.train_counts) + sum(info.test_counts) == 36
    one, other = decoded(paths["predict"]).values()
    assert np.array_equal(one, other)
    (broken,) = paths["broken"].iterdir()
    with pytest.raises(DataError, match=r"is a text file named \.jpg, which is not read as an image"):
        decode(broken.read_bytes(), Preprocessing(side=SIDE), name=broken.name)


def test_latin_broken(room: Room) -> None:
    """The list of broken images holds a name that is no UTF-8."""
    path = inputs.latin(room.folder)["latin"]
    (path / "train/red/br\udce9.jpeg").write_bytes(b"")

    with pytest.raises(DataError) as caught:
        room.prepare(path)

    listed = Path(str(caught.value).splitlines()[-1].partition(" lists all")[0])
    assert listed.read_text() == "train/red/br\\udce9.jpeg: is empty; replace it or take it out\n"


def test_val(room: Room) -> None:
    """The images of val/ are the validation images; the letter case of the folders does not matter."""
    paths = inputs.val(room.folder)

    info = room.prepare(paths["val"])
    capitals = room.prepare(paths["capitals"])

    assert (info.validation_folder, info.validation_count) == (12, 12)
    assert sum(info.train_counts) + sum(info.test_counts) == 48
    assert info.notes == (CROPPED, set_aside(4))
    assert room.prepare(paths["val"], validation=9).validation_count == 9
    assert (capitals.train_counts, capitals.test_counts, capitals.notes) == ((6, 6, 6), (6, 6, 6), (CROPPED,))


def test_flat(room: Room) -> None:
    """Class folders alone are a set; folders below them are groups; test images without labels are ignored."""
    paths = inputs.flat(room.folder)

    flat, nested, unlabelled = (room.prepare(paths[name]) for name in ("flat", "nested", "unlabelled"))

    assert flat.classes == ("blue", "green", "red")
    assert flat.notes == (CROPPED, set_aside(3))
    assert unlabelled.fingerprint == flat.fingerprint
    assert unlabelled.notes == (
        "3 images in test/ without labels, as in no class folder: ignored",
        *flat.notes,
    )
    assert sum(nested.train_counts) + sum(nested.test_counts) == 18
    assert "images of one group, by their folder below the class, stay together" in nested.notes[0]
    assert not any("group" in note for note in room.prepare(paths["nested"], groups="none").notes)


def test_few(room: Room) -> None:
    """A refusal counts the images in the folder, and three are enough."""
    paths = inputs.few(room.folder)
    words = "each to train, to validate, to test; add images or take the class out"

    for count, images in (("1", "1 image"), ("2", "2 images")):
        with pytest.raises(DataError, match=f"class 'red' has {images}, but needs at least 3, one {words}"):
            room.prepare(paths[count])
    info = room.prepare(paths["3"])

    assert info.train_counts[2] + info.test_counts[2] == 3
    assert not list((room.folder / "cache").glob("sources/*-errors.txt"))


def test_tiny(room: Room) -> None:
    """Three images of each class are one to train, one to validate and one to test."""
    info = room.prepare(inputs.tiny(room.folder)["tiny"])

    assert (info.train_count, info.validation_count, info.test_counts) == (3, 3, (1, 1, 1))


def test_rgb(room: Room) -> None:
    """24 images of each class are split in proportion."""
    info = room.prepare(inputs.rgb(room.folder)["rgb"])

    assert sum(info.test_counts) == 7
    assert info.train_count + info.validation_count == 65
    assert min(info.test_counts) >= 2


def test_many(room: Room) -> None:
    """300 classes of four images each have an image in every part."""
    info = room.prepare(inputs.many(room.folder)["many"])

    assert len(info.classes) == 300
    assert min(info.test_counts) == 1
    assert min(info.train_counts) >= 2
    assert info.validation_count >= 300


def test_rare(room: Room) -> None:
    """Classes of very different sizes are said."""
    info = room.prepare(inputs.rare(room.folder)["rare"])

    assert info.classes == ("common", "rare")
    assert info.notes[-1] == (
        "unbalanced: 'rare' has 9 images, 'common' 171; consider objective = \"balanced_accuracy\""
    )


def test_dups(room: Room) -> None:
    """Training images among the test images are refused, or counted if they are allowed."""
    path = inputs.dups(room.folder)["dups"]

    with pytest.raises(
        DataError, match=r"36 of 36 test images are training images, too: train/blue/00.jpeg = test/blue"
    ):
        room.prepare(path)
    info = room.prepare(path, duplicates="allow")

    assert info.seen_test_images == 36
    assert info.notes[1].startswith("the same picture is in two parts 36 times: ")
    assert info.notes[2].startswith("the same picture is in two classes 2 times: ")  # of train/green, and of test/red


def test_pred(room: Room) -> None:
    """Images are known by their content, whatever their ending; litter and labels are left out."""
    path = inputs.pred(room.folder)["pred"]
    ignored = Ignored()

    below = [entry.path for entry in Directory(path).below() if not ignored.add(entry.path, is_folder=entry.is_folder)]

    assert below == ["a.jpg", "b.JPG", "c.jfif", "d.jpe", "e.JPEG", "f", "g.tif", "h.gif", "i.webp"]
    assert ignored.sentence() == (
        "ignored: 3 hidden or of file managers (hidden, @eaDir, __MACOSX) and "
        "1 with the ending of another kind of file (.csv)"
    )
    steps = Preprocessing(side=SIDE)
    pixels = [decode((path / name).read_bytes(), steps, name=name).pixels for name in below]
    assert all(np.array_equal(pixels[0], other) for other in pixels[:6])
    assert np.abs(pixels[6].astype(int) - pixels[0]).max() < 40


# -- names and archives --------------------------------------------------------------------------------------------


def test_names(room: Room) -> None:
    """Joiners, special spaces and emoji are part of a name."""
    for kind, path in inputs.names(room.folder).items():
        assert room.prepare(path).classes == tuple(sorted(inputs.NAMES[kind])), kind


def test_names_odd(room: Room) -> None:
    assert room.prepare(inputs.names_odd(room.folder)["names_odd"]).classes == tuple(sorted(inputs.ODD_NAMES))


def test_cjk(room: Room) -> None:
    assert room.prepare(inputs.cjk(room.folder)["cjk"]).classes == tuple(sorted(inputs.CJK_NAMES))


def test_nfd(room: Room) -> None:
    """A name is the same class in both Unicode forms."""
    info = room.prepare(inputs.nfd(room.folder)["nfd"])

    assert info.classes == ("blau", "gr\u00fcn", "ros\u00e9")
    assert (info.train_counts, info.test_counts, info.notes) == ((12, 12, 12), (4, 4, 4), (CROPPED,))


def test_winzip(room: Room, usual: DataInfo) -> None:
    """Archives of Windows and macOS hold the same images as the folder."""
    paths = inputs.winzip(room.folder)

    windows, mac = room.prepare(paths["windows"]), room.prepare(paths["mac"])

    assert windows == usual
    assert mac.fingerprint == usual.fingerprint
    assert mac.notes == ("ignored: 1 hidden or of file managers (hidden)", *usual.notes)  # within photos/


def test_cp932(room: Room) -> None:
    """Names in an old code page are read as what they are, and said."""
    path = inputs.cp932(room.folder)["cp932"]

    info = room.prepare(path)

    assert info.classes == tuple(sorted(inputs.CP932_NAMES))
    assert "are read as cp932: 'train/" in info.notes[0]
    given = room.prepare(path, name_encoding="cp932")
    assert given.fingerprint == info.fingerprint
    assert given.notes == info.notes[1:]


def test_every_input_has_a_test() -> None:
    assert {f"test_{name}" for name in inputs.INPUTS} <= set(globals())
