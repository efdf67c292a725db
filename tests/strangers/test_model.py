"""Training, `predict`, the ONNX file and the code on the model's page see the same pixels, of every kind of image."""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.image import decode
from data.preprocessing import Preprocessing
from models.export import PAGE, read, write
from search.export.page import page
from search.export.predict import predict
from search.export.reading_code import reading_code
from tests.data.pictures import noise, png16, saved, tiff
from tests.export.networks import IMAGES, deployed
from tests.strangers import inputs

STEPS = {
    "crop": Preprocessing(side=16),
    "pad": Preprocessing(side=17, fit="pad"),
    "squash": Preprocessing(side=15, fit="squash"),
    "range": Preprocessing(side=16, depth=(3875.0, 4065.0)),
    "padded-range": Preprocessing(side=16, fit="pad", depth=(0.0, 4095.0)),
}
#: Inputs whose files differ from those of others only in their names or numbers are left out.
KINDS: tuple[Callable[[Path], Any], ...] = (
    inputs.motion,
    inputs.exif,
    inputs.big,
    inputs.iccp,
    inputs.deep16,
    inputs.hard,
    inputs.corrupt,
    inputs.wide,
    inputs.alpha,
    inputs.pred,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of every kind."""
    root = tmp_path_factory.mktemp("images")
    for make in KINDS:
        make(root / make.__name__)
    for name, content in further():
        (root / name).write_bytes(content)
    return sorted(path for path in root.rglob("*") if path.is_file())


def further() -> Iterator[tuple[str, bytes]]:
    """Kinds of images beside those that strangers report."""
    values = np.random.default_rng(0).integers(3800, 4096, (60, 50, 4), dtype=np.uint16)
    for channels in (1, 2, 3, 4):
        yield f"{channels}-channels-of-16-bits.png", png16(values[..., :channels])
    for strips in (1, 4):
        yield f"{strips}-strips.tif", tiff(values[..., :3], strips=strips)
    yield "big-endian.tif", tiff(values[..., :3], order=">")
    yield "deflate.tif", tiff(values[..., :3], deflate=True)
    yield "float.tif", tiff(values[..., 0].astype(np.float32))
    yield "16-bits.ppm", b"P6 50 60 65535\n" + values[..., :3].astype(">u2").tobytes()
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        yield f"orientation-{orientation}.jpg", saved(noise(1, (90, 90, 90), (300, 200)), "jpeg", exif=exif)
    large = noise(2, (90, 90, 90), (60, 50)).resize((5600, 4500), Image.Resampling.NEAREST)
    yield "large.png", saved(large, "png", exif=exif, compress_level=1)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # the page's code runs without convsearch
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_code_on_the_page_reads_every_image_as_training_does(files: list[Path], steps: Preprocessing) -> None:
    space: dict[str, Any] = {}
    exec("import numpy\nfrom PIL import Image, ImageOps\n" + reading_code(steps), space)
    compared = 0

    for path in files:
        try:
            expected = decode(path.read_bytes(), steps, name=path.name).pixels
        except DataError:
            continue
        assert np.array_equal(space["read"](path), expected), path
        compared += 1

    assert compared > 150


@pytest.mark.slow
@pytest.mark.xdist_group("onnx")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_the_code_on_the_page_predicts_as_convsearch_does(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, card = deployed(Preprocessing(side=16, fit="pad", depth=(0.0, 4095.0)))
    write(tmp_path / "m", model, card, page=page(card, "m"), images=IMAGES)
    shown = (tmp_path / "m" / PAGE).read_text()
    lines = shown[shown.index("    import os") :].splitlines()
    end = next(number for number, line in enumerate(lines) if line and not line.startswith("    "))
    code = textwrap.dedent("\n".join(lines[:end]))
    predictions = list(predict(read(tmp_path / "m"), files))

    for prediction in predictions:
        if prediction.error is not None:
            continue
        space: dict[str, Any] = {}
        exec(code.replace("photo.jpg", prediction.image), space)
        by_class = dict(zip(card.classes, space["probabilities"][0].tolist(), strict=True))
        assert by_class == pytest.approx(dict(prediction.ranked), abs=1e-4), prediction.image

    assert sum(prediction.error is None for prediction in predictions) > 150
