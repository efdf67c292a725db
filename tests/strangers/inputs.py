"""Small inputs as strangers report them of tools like this one: photos, folders and archives that people really have.

Every function writes its inputs into a folder and returns them by name.
"""

import os
import shutil
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, PngImagePlugin

from tests.data.pictures import BROKEN_EXIF, exif_block, jpeg_with_exif, noise, png16, saved
from tests.data.zips import Member, zipped

Inputs = Mapping[str, Path]

COLOURS: Final = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
SIZE: Final = (40, 30)
#: The pictures of a part differ from those of every other part.
STARTS: Final = {"train": 0, "val": 10_000, "test": 20_000}


def shot(colour: str, seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A noisy picture around a colour."""
    return noise(seed, COLOURS[colour], size)


def classes(
    root: Path,
    *,
    count: int = 12,
    parts: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
    kind: str = "jpeg",
) -> Path:
    """Write a picture folder of three classes.

    Args:
        root: the folder.
        count: images per class in train/.
        parts: images per class in each part, if there are other parts than train/.
        names: colour -> name of its class; default: the colour.
        kind: format of the files.
    """
    for part, number in (parts or {"train": count}).items():
        for order, colour in enumerate(COLOURS):
            folder = root / part / (names or {}).get(colour, colour)
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(number):
                picture = shot(colour, STARTS[part.lower()] + 1000 * order + index)
                (folder / f"{index:02}.{kind}").write_bytes(saved(picture, kind, quality=90))
    return root


def put(root: Path, files: Mapping[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def base(root: Path) -> Inputs:
    """An ordinary folder."""
    return {"base": classes(root / "base")}


# -- images --------------------------------------------------------------------------------------------------------


def motion(root: Path) -> Inputs:
    """A JPEG with megabytes of video behind its end, as telephones write it."""
    path = classes(root / "motion")
    file = path / "train/red/00.jpeg"
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(5).bytes(9_000_000)
    file.write_bytes(file.read_bytes() + video)
    return {"motion": path}


def exif(root: Path) -> Inputs:
    """Metadata with faults that cameras and programs make."""
    path = classes(root / "exif")
    for index, (block, _) in enumerate(BROKEN_EXIF.values()):
        (path / f"train/red/{index:02}.jpeg").write_bytes(jpeg_with_exif(shot("red", index), block))
    return {"exif": path}


def big(root: Path) -> Inputs:
    """A photo of 48 megapixels, of one colour, and one of 27 megapixels that cannot be decoded at a fraction."""
    path = classes(root / "big")
    large = Image.new("RGB", (8064, 6048), COLOURS["red"])
    (path / "train/red/00.jpeg").write_bytes(saved(large, "jpeg", quality=60))
    grey = Image.new("L", (6000, 4500), 120)
    (path / "train/red/01.png").write_bytes(saved(grey, "png", compress_level=1))
    return {"big": path}


def iccp(root: Path) -> Inputs:
    """Images with megabytes of profile and text."""
    path = classes(root / "iccp", kind="png")
    (path / "train/red/00.png").write_bytes(saved(shot("red", 0), "png", icc_profile=bytes(1_500_000)))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 1_500_000, zip=True)
    (path / "train/red/01.png").write_bytes(saved(shot("red", 1), "png", pnginfo=text))
    return {"iccp": path}


def deep16(root: Path) -> Inputs:
    """Grey images of 16 bits with 12 significant ones: the classes differ within 256 levels."""
    files = {}
    for order, (name, level) in enumerate({"low": 3900, "high": 4040}.items()):
        for index in range(20):
            offsets = np.random.default_rng(100 * order + index).integers(-25, 26, (32, 32))
            files[f"train/{name}/{index:02}.png"] = png16((level + offsets).astype(np.uint16))
    return {"deep16": put(root / "deep16", files)}


def hard(root: Path) -> Inputs:
    """Files named .jpeg that are none: HEIC, which needs a plug-in, and others that are read."""
    path = classes(root / "hard")
    picture = shot("red", 1)
    put(
        path / "train/red",
        {
            "00.jpeg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
            "01.jpeg": saved(picture, "gif"),
            "02.jpeg": saved(shot("red", 2), "tiff"),
            "03.jpeg": saved(shot("red", 3), "webp"),
        },
    )
    return {"hard": path}


def corrupt(root: Path) -> Inputs:
    """Fifteen broken files among sixty."""
    path = classes(root / "corrupt", count=20)
    for index in range(13):
        file = path / f"train/red/{index:02}.jpeg"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    put(path / "train/green", {"00.jpeg": b"", "01.jpeg": b"<html>404</html>"})
    return {"corrupt": path}


def _wide(index: int, order: int, colour: str) -> Image.Image:
    pixels = np.random.default_rng(1000 * order + index).integers(90, 160, (24, 96, 3)).astype(np.uint8)
    pixels[4:20, 2:18] = COLOURS[colour]
    return Image.fromarray(pixels)


def wide(root: Path) -> Inputs:
    """Wide pictures, whose class is told by a patch at their left end."""
    files = {
        f"train/{colour}/{index:02}.png": saved(_wide(index, order, colour), "png")
        for order, colour in enumerate(("red", "green"))
        for index in range(40)
    }
    return {"wide": put(root / "wide", files)}


def squashed(root: Path) -> Inputs:
    """The wide pictures, made square by hand."""
    files = {
        f"train/{colour}/{index:02}.png": saved(
            _wide(index, order, colour).resize((24, 24), Image.Resampling.BOX), "png"
        )
        for order, colour in enumerate(("red", "green"))
        for index in range(40)
    }
    return {"squashed": put(root / "squashed", files)}


def alpha(root: Path) -> Inputs:
    """Images that several readers see in several ways: transparent, 16 bits, turned, CMYK, of one pixel."""
    cut_out = np.zeros((32, 32, 4), np.uint8)
    cut_out[10:22, 10:22] = (*COLOURS["red"], 255)
    hidden = cut_out.copy()
    hidden[cut_out[..., 3] == 0] = (*COLOURS["blue"], 0)
    on_white = np.full((32, 32, 3), 255, np.uint8)
    on_white[10:22, 10:22] = COLOURS["red"]
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([0, 0, 0, *COLOURS["red"]] + [0] * 762)
    palette.paste(1, (10, 10, 22, 22))
    grey = np.full((32, 32), 40_000, np.uint16)
    upright = np.random.default_rng(3).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    upright[:20] = COLOURS["red"]
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    files = {
        "rgba-black.png": saved(Image.fromarray(cut_out), "png"),
        "rgba-blue-hidden.png": saved(Image.fromarray(hidden), "png"),
        "rgb-white.png": saved(Image.fromarray(on_white), "png"),
        "palette.png": saved(palette, "png", transparency=0),
        "grey16.png": png16(grey),
        "grey8.png": saved(Image.fromarray((grey >> 8).astype(np.uint8)), "png"),
        "upright.png": saved(Image.fromarray(upright), "png"),
        "turned.png": saved(turned, "png", exif=exif_block(6)[6:]),
        "cmyk.jpg": saved(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "jpeg", quality=95),
        "grey.jpg": saved(shot("red", 9).convert("L"), "jpeg"),
        "one.png": saved(shot("red", 9, (1, 1)), "png"),
    }
    return {"alpha": put(root / "alpha", files)}


# -- folders -------------------------------------------------------------------------------------------------------


def litter(root: Path) -> Inputs:
    """Files of file managers and storage devices, and labels beside the images; the images are those of base."""
    thumbnail = saved(shot("red", 1, (20, 20)), "jpeg")
    kinds: dict[str, dict[str, bytes]] = {
        "synology": {"train/@eaDir/red/SYNO.jpg": b"x"},
        "synology-in-a-class": {"train/red/@eaDir/00.jpeg/SYNOPHOTO_THUMB_M.jpg": thumbnail},
        "other-case": {"train/red/Desktop.ini": b"[.ShellClassInfo]\r\n", "train/green/thumbs.db": b"\xd0\xcf\x11\xe0"},
        "icon": {"train/red/Icon\r": b""},
        "labels": {"train/red/labels.txt": b"00.jpeg red\n", "train/red/00.xml": b"<a/>"},
        "table": {"train/labels.csv": b"file,label\n"},
        "usual": {
            **dict.fromkeys(
                ("train/.DS_Store", "train/red/.DS_Store", ".DS_Store", "train/red/._00.jpeg"), b"\0\0\0\1Bud1"
            ),
            **dict.fromkeys(("train/red/Thumbs.db", "train/desktop.ini"), b"x"),
            "train/.ipynb_checkpoints/00-checkpoint.jpeg": b"x",
            "__MACOSX/train/red/._00.jpeg": b"x",
        },
    }
    return {name: put(classes(root / f"litter-{name}"), files) for name, files in kinds.items()}


def links(root: Path) -> Inputs:
    """Links to the images of a class, and one link to nowhere."""
    path = classes(root / "links")
    (path / "store").mkdir()
    for file in sorted((path / "train/red").iterdir()):
        target = file.rename(path / "store" / file.name)
        file.symlink_to(target)
    broken = shutil.copytree(path, root / "links-broken", symlinks=True)
    (broken / "train/red/00.jpeg").unlink()
    (broken / "train/red/00.jpeg").symlink_to("/nowhere/00.jpeg")
    return {"links": path, "links-broken": broken}


def latin(root: Path) -> Inputs:
    """File names in Latin-1, which are no UTF-8: of a training image, of images to predict, and of a broken one."""
    path = classes(root / "latin")
    os.rename(os.fsencode(path / "train/red/00.jpeg"), os.fsencode(path / "train/red") + b"/caf\xe9.jpeg")
    picture = saved(shot("red", 77), "jpeg")
    predicted = put(root / "latin-predict", {"ok.jpg": picture, "caf\udce9.jpg": picture})
    broken = put(root / "latin-broken", {"bro\udce9ken.jpg": b"xx"})
    return {"latin": path, "predict": predicted, "broken": broken}


def val(root: Path) -> Inputs:
    """A folder val/, and folders with capitals."""
    return {
        "val": classes(root / "val", parts={"train": 12, "val": 4}),
        "capitals": classes(root / "capitals", parts={"Train": 6, "Test": 6}),
    }


def flat(root: Path) -> Inputs:
    """Class folders without train/, a folder per patient below the classes, and test images without labels."""
    path = classes(root / "flat", count=6)
    for folder in sorted((path / "train").iterdir()):
        folder.rename(path / folder.name)
    (path / "train").rmdir()
    nested = classes(root / "nested", count=6)
    for folder in sorted((nested / "train").iterdir()):
        (folder / "patient1").mkdir()
        for file in sorted(folder.glob("*.jpeg"))[:3]:
            file.rename(folder / "patient1" / file.name)
    unlabelled = classes(root / "unlabelled", count=6)
    put(unlabelled, {f"test/{index}.jpeg": saved(shot("red", 500 + index), "jpeg") for index in range(3)})
    return {"flat": path, "nested": nested, "unlabelled": unlabelled}


def few(root: Path) -> Inputs:
    """Classes of one, two and three images."""
    paths = {}
    for count in (1, 2, 3):
        path = classes(root / f"few{count}")
        for file in sorted((path / "train/red").iterdir())[count:]:
            file.unlink()
        paths[str(count)] = path
    return paths


def tiny(root: Path) -> Inputs:
    """Three images of each class."""
    return {"tiny": classes(root / "tiny", count=3)}


def rgb(root: Path) -> Inputs:
    """24 images of each class: fewer than a batch."""
    return {"rgb": classes(root / "rgb", count=24)}


def many(root: Path) -> Inputs:
    """300 classes of four images."""
    files = {}
    for order in range(300):
        colour = (order * 37 % 256, order * 91 % 256, order * 53 % 256)
        for index in range(4):
            files[f"train/species_{order:03}/{index}.png"] = saved(noise(10 * order + index, colour, (8, 8)), "png")
    return {"many": put(root / "many", files)}


def rare(root: Path) -> Inputs:
    """One class has nineteen times the images of the other."""
    files = {}
    for name, count, colour in (("common", 190, (120, 120, 120)), ("rare", 10, (132, 118, 118))):
        for index in range(count):
            seed = index + 5000 * (name == "rare")
            files[f"train/{name}/{index:03}.png"] = saved(noise(seed, colour, (16, 16)), "png")
    return {"rare": put(root / "rare", files)}


def dups(root: Path) -> Inputs:
    """The test images are the training images, and one picture is in two classes."""
    path = classes(root / "dups", parts={"train": 12, "test": 12})
    for file in (path / "test").rglob("*.jpeg"):
        shutil.copy(path / "train" / file.parent.name / file.name, file)
    shutil.copy(path / "train/red/00.jpeg", path / "train/green/99.jpeg")
    return {"dups": path}


def pred(root: Path) -> Inputs:
    """Images to predict with all endings and with none, among litter."""
    picture = shot("red", 55)
    files = dict.fromkeys(("a.jpg", "b.JPG", "c.jfif", "d.jpe", "e.JPEG", "f"), saved(picture, "jpeg"))
    files |= {"g.tif": saved(picture, "tiff"), "h.gif": saved(picture, "gif"), "i.webp": saved(picture, "webp")}
    files |= dict.fromkeys(("._a.jpg", "__MACOSX/._a.jpg"), b"\0\5\x16\7")
    files |= {
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_S.jpg": saved(picture.resize((20, 15)), "jpeg"),
        "labels.csv": b"a.jpg,red\n",
    }
    return {"pred": put(root / "pred", files)}


# -- names and archives --------------------------------------------------------------------------------------------

#: Names of three classes, in the order of red, green and blue.
NAMES: Final = {
    "persian": ("\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0633\u0628\u0632", "\u0622\u0628\u06cc"),
    "no-break-space": ("rouge\u00a0vif", "vert", "bleu"),
    "ideographic-space": ("\u8d64\u3044\u3000\u82b1", "\u7dd1", "\u9752"),
    "emoji": ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f33f", "\U0001f499"),
    "hindi": ("\u0915\u094d\u200d\u0937", "\u0939\u0930\u093e", "\u0928\u0940\u0932\u093e"),
}
ODD_NAMES: Final = ("red|pipe <b>x<b>", "gr\"een, 'x'", "=1+1")
CJK_NAMES: Final = ("\u7ea2\u82b1", "\u7eff\u53f6", "Gr\u00fcn \u0645\u0631\u062d\u0628\u0627")
CP932_NAMES: Final = ("\u8d64\u3044\u82b1", "\u7dd1\u306e\u8449", "\u9752\u3044\u7a7a")


def _named(names: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(COLOURS, names, strict=True))


def names(root: Path) -> Inputs:
    """Class names with joiners, no-break and ideographic spaces, and emoji."""
    return {kind: classes(root / f"names-{kind}", count=6, names=_named(three)) for kind, three in NAMES.items()}


def names_odd(root: Path) -> Inputs:
    """Class names with markup, quotes, and what a spreadsheet takes for a formula."""
    return {"names_odd": classes(root / "names-odd", names=_named(ODD_NAMES))}


def cjk(root: Path) -> Inputs:
    """Class names beyond Latin letters."""
    return {"cjk": classes(root / "cjk", count=16, names=_named(CJK_NAMES))}


def nfd(root: Path) -> Inputs:
    """The classes of test/ have decomposed names, as macOS writes them; those of train/ have composed ones."""
    composed = {"red": "ros\u00e9", "green": "gr\u00fcn", "blue": "blau"}
    decomposed = {colour: unicodedata.normalize("NFD", name) for colour, name in composed.items()}
    path = classes(root / "nfd", names=composed)
    return {"nfd": classes(path, parts={"test": 4}, names=decomposed)}


def winzip(root: Path) -> Inputs:
    """A zip that Windows packed, with backslashes, and one that macOS packed; the images are those of base."""
    source = classes(root / "winzip-source")
    files = {file.relative_to(source): file.read_bytes() for file in sorted(source.rglob("*.jpeg"))}
    windows, mac = root / "windows.zip", root / "mac.zip"
    windows.write_bytes(zipped({"\\".join(path.parts).encode(): Member(content=data) for path, data in files.items()}))
    with zipfile.ZipFile(mac, "w") as archive:
        for path, data in files.items():
            archive.writestr(f"photos/{path}", data)
            archive.writestr(f"__MACOSX/photos/{path.parent}/._{path.name}", b"\0\5\x16\7")
        archive.writestr("photos/.DS_Store", b"x")
        archive.writestr("__MACOSX/._photos", b"x")
    return {"windows": windows, "mac": mac}


def cp932(root: Path) -> Inputs:
    """A zip of an old archiver of a Japanese Windows: names in cp932, and no flag that tells it."""
    members = {
        f"train/{name}/{index}.jpg".encode("cp932"): Member(
            content=saved(shot(colour, 1000 * order + index), "jpeg", quality=90)
        )
        for order, (colour, name) in enumerate(_named(CP932_NAMES).items())
        for index in range(6)
    }
    path = root / "cp932.zip"
    path.write_bytes(zipped(members))
    return {"cp932": path}


INPUTS: Final[Mapping[str, Callable[[Path], Inputs]]] = {
    make.__name__: make
    for make in (
        alpha, base, big, cjk, corrupt, cp932, deep16, dups, exif, few, flat, hard, iccp, latin, links, litter, many,
        motion, names, names_odd, nfd, pred, rare, rgb, squashed, tiny, val, wide, winzip,
    )
}  # fmt: skip
"""All inputs by name."""
