"""An exported model that averages its predictions over copies of an image."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from data.parts import load_test
from models.config import TestTimeAugmentation
from models.export import CONFIG, ONNX, PAGE, WEIGHTS, Deployed, probabilities, read, write
from models.libraries import load_onnxruntime
from models.test_time import plain_and_averaged
from search.export.page import quality_lines
from search.storage.rdb import Storage
from search.study import stored_study
from tests.export.networks import IMAGES, deployed
from tests.harness import Harness

#: One process loads the exporter of torch, which takes seconds.
pytestmark = pytest.mark.xdist_group("onnx")

STUDY: dict[str, Any] = {
    "budget": {"trials": 2, "epochs": 1},
    "final": {"epochs": 1, "test_time_augmentation": "flip"},
    "space": {"learning_rate": {"low": 0.0005, "high": 0.002, "log": True}},
}


def onnx_probabilities(folder: Path, images: torch.Tensor) -> torch.Tensor:
    session = load_onnxruntime().InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def as_averaging(model: Deployed, augmentation: TestTimeAugmentation) -> Deployed:
    """The same network, averaged over copies."""
    return Deployed(model.network, factor=model.factor, shift=model.shift, test_time_augmentation=augmentation).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmentation", "changes"),
    [
        ("flip", {}),
        ("flip_shift", {"stem": "whiten", "activation": "gelu", "pool_first": True}),
        ("flip_shift", {"backbone": "resnet18", "backbone_side": 32, "tuned_stages": 0}),
    ],
    ids=["flip", "shift", "backbone"],
)
def test_the_onnx_file_and_the_model_that_is_read_back_average(
    tmp_path: Path, augmentation: TestTimeAugmentation, changes: dict[str, Any]
) -> None:
    plain, card = deployed(**changes)
    model = as_averaging(plain, augmentation)
    with torch.inference_mode():
        normalised = (IMAGES.float() * model.factor + model.shift).permute(0, 3, 1, 2)
        expected = plain_and_averaged(model.network, normalised, augmentation)[1].softmax(dim=1)

    card = card.model_copy(update={"test_time_augmentation": augmentation})
    write(tmp_path / "m", model, card, page="# m\n", images=IMAGES)

    loaded = read(tmp_path / "m")
    assert json.loads((tmp_path / "m" / CONFIG).read_text())["test_time_augmentation"] == augmentation
    assert torch.equal(probabilities(loaded.model, IMAGES), expected)
    assert not torch.allclose(expected, probabilities(plain, IMAGES), atol=1e-3)
    for count in (1, 40):
        assert torch.allclose(onnx_probabilities(tmp_path / "m", IMAGES[:count]), expected[:count], atol=1e-4)
    without = read(tmp_path / "m", test_time_augmentation="none")
    assert torch.equal(probabilities(without.model, IMAGES), probabilities(plain, IMAGES))


@pytest.fixture
def exported(harness: Harness) -> dict[TestTimeAugmentation, Path]:
    """The model folders of a study whose verdict averages over mirrored images."""
    assert harness.train(**STUDY).code == 0
    folders: dict[TestTimeAugmentation, Path] = {}
    for augmentation in get_args(TestTimeAugmentation):
        folders[augmentation] = harness.folder / augmentation
        answer = harness.run("export", "s", "--tta", augmentation, "--to", str(folders[augmentation]))
        assert answer.code == 0, answer.err
        assert ("averages  over" in answer.out) == (augmentation != "none")
    return folders


def test_a_model_has_the_accuracy_of_what_it_does_and_the_page_has_both(
    harness: Harness, exported: dict[TestTimeAugmentation, Path]
) -> None:
    (trial,) = harness.trials("s.final")
    assert trial.averaged is not None
    plain, averaged = (f"{value:.4f}" for value in (trial.values[0], trial.averaged["value"]))

    pages = {name: (folder / PAGE).read_text() for name, folder in exported.items()}

    assert accuracy(harness, exported["none"]) == pytest.approx(trial.values[0])
    assert accuracy(harness, exported["flip"]) == pytest.approx(trial.averaged["value"])
    assert f"accuracy {plain} on 40 test images (one training, 95 % interval " in pages["none"]
    assert f"Averaged over mirrored images {averaged} (one training, 95 % interval " in pages["none"]
    assert "`convsearch export --tta flip` writes a model that averages: 2 passes for each image." in pages["none"]
    assert f"accuracy {averaged} on 40 test images, averaged over mirrored images (one training, " in pages["flip"]
    assert f"Without averages {plain} (one training, 95 % interval " in pages["flip"]
    assert "gives probabilities, which average over mirrored images, (N, 4)" in pages["flip"]
    assert "million multiply-accumulates per image, in 2 passes for each image." in pages["flip"]
    assert f"accuracy {plain} on 40 test images, without averages (one training, " in pages["flip_shift"]
    untested = "The model averages over mirrored and shifted images, which was not tested: "
    assert f"{untested}`convsearch final --tta flip_shift` does that." in pages["flip_shift"]
    weights = {(folder / WEIGHTS).read_bytes() for folder in exported.values()}
    assert len(weights) == 1


def test_predict_does_what_the_model_was_exported_for_or_what_its_option_says(
    harness: Harness, exported: dict[TestTimeAugmentation, Path]
) -> None:
    images = str(harness.images / "test" / "red")

    def predicted(model: Path, *words: str) -> Any:
        return harness.run("predict", str(model), images, *words, "--json").json

    averaged, plain = predicted(exported["flip"]), predicted(exported["none"])
    without, overridden = predicted(exported["flip"], "--tta", "none"), predicted(exported["none"], "--tta", "flip")

    assert [answer["test_time_augmentation"] for answer in (averaged, plain, without, overridden)] == [
        "flip",
        "none",
        "none",
        "flip",
    ]
    assert averaged["images"] == overridden["images"]
    assert plain["images"] == without["images"]
    assert averaged["images"] != plain["images"]


def test_a_model_folder_of_an_older_version_does_not_average(exported: dict[TestTimeAugmentation, Path]) -> None:
    config = exported["none"] / CONFIG
    content = json.loads(config.read_text())
    del content["test_time_augmentation"], content["verdict"]["averaged"]
    config.write_text(json.dumps(content))

    package = read(exported["none"])

    assert package.model.test_time_augmentation == "none"
    assert not any("verage" in line for line in quality_lines(package.card))


def test_a_model_without_a_verdict_names_the_command_that_tests_its_averages(harness: Harness) -> None:
    assert harness.train(budget={"trials": 2, "epochs": 1}).code == 0
    folder = harness.folder / "exported"

    answer = harness.run("export", "s", "--tta", "flip", "--to", str(folder), "--json")

    trial = harness.trials()[answer.json["card"]["provenance"]["trial"]]
    assert answer.json["card"]["test_time_augmentation"] == "flip"
    page = (folder / PAGE).read_text()
    assert f"{trial.values[0]:.4f} on the validation images that it was chosen by, without averages." in page
    assert "How good it is on other images is not known: `convsearch final --tta flip` finds out." in page


def accuracy(harness: Harness, folder: Path) -> float:
    """Accuracy of the ONNX file of a model on the test images of the study."""
    test = load_test(stored_study.load(Storage(harness.url), "s").spec.data, harness.cache)
    predicted = onnx_probabilities(folder, test.images[test.indices]).argmax(dim=1)
    return float((predicted == test.labels[test.indices]).float().mean())
