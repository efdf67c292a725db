"""An exported model: a self-describing folder that gives the same predictions wherever it is read."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.parts import load_test, load_train
from data.store import MAX_FILE_BYTES
from models.export import (
    CONFIG,
    ONNX,
    PAGE,
    WEIGHTS,
    NoModel,
    disagreement,
    probabilities,
    read,
    write,
)
from models.libraries import load_onnxruntime
from search.export import predict
from search.export.page import page
from search.storage.rdb import Storage
from search.study import stored_study
from tests.export.networks import IMAGES, deployed
from tests.harness import COLOURS, Harness, once

#: One process loads the exporter of torch, which takes seconds.
pytestmark = pytest.mark.xdist_group("onnx")

BUDGET: dict[str, Any] = {"trials": 2, "epochs": 1}
#: Networks that together contain every kind of layer.
NETWORKS = {
    "plain": {},
    "whitened": {"stem": "whiten", "activation": "gelu", "pool_first": True, "pool_every": 2, "conv_layers": 4},
    "grey": {"input_channels": 1, "stem": "whiten", "kernel_size": 5},
    "residual": {"residual": True, "norm": "group", "activation": "silu", "pool": "avg", "conv_layers": 3},
    "flat": {"head": "flatten", "norm": "none", "activation": "elu", "kernel_size": 5, "dense_layers": 2},
    "small": {"head": "max", "activation": "leaky_relu", "dropout_conv": 0.5, "dropout_dense": 0.5, "logit_scale": 0.1},
    "enlarged": {"backbone": "resnet18", "backbone_side": 32, "tuned_stages": 0},
    "pretrained": {"backbone": "mobilenet_v3", "dense_layers": 1},
}


@pytest.fixture
def written(shared: Path, tmp_path: Path) -> Path:
    """A copy of the model folder of a plain network."""

    def make(part: Path) -> None:
        model, card = deployed()
        write(part, model, card, page="old", images=IMAGES)

    return shutil.copytree(once(shared / "plain-model", make), tmp_path / "m")


@pytest.mark.slow
@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_a_model_that_is_read_back_and_its_onnx_file_predict_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    model, card = deployed(**changes)
    expected = probabilities(model, IMAGES)

    folder = tmp_path / os.fsdecode(b"m\xff")  # a name that is not UTF-8

    written, difference = write(folder, model, card, page="# m\n", images=IMAGES)

    loaded = read(folder)
    assert torch.equal(probabilities(loaded.model, IMAGES), expected)
    assert loaded.card == written
    assert loaded.card.network == card.network
    assert difference < 1e-4
    assert torch.allclose(expected.sum(dim=1), torch.ones(40))
    assert sorted(path.name for path in folder.iterdir()) == sorted((WEIGHTS, CONFIG, ONNX, PAGE))


@pytest.mark.slow
def test_the_onnx_file_takes_bytes_in_batches_of_any_size_and_names_its_classes(written: Path) -> None:
    session = load_onnxruntime().InferenceSession(written / ONNX)

    (model_input,) = session.get_inputs()
    assert (model_input.name, model_input.type, model_input.shape[1:]) == ("images", "tensor(uint8)", [16, 16, 3])
    for count in (1, 7):
        (output,) = session.run(None, {"images": IMAGES[:count].numpy()})
        assert output.shape == (count, 3)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["cat", "dog", "owl"]


@pytest.mark.slow
def test_the_onnx_file_contains_no_path_of_this_machine(written: Path) -> None:
    content = (written / ONNX).read_bytes()

    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_an_onnx_file_with_other_predictions_is_detected(written: Path) -> None:
    model, _ = deployed()
    assert disagreement(written / ONNX, model, IMAGES) < 1e-4
    with torch.no_grad():
        model.network.classifier.bias.add_(torch.tensor([0.0, 0.5, -0.5]))

    with pytest.raises(ValueError, match="of 40 images differently from PyTorch"):
        disagreement(written / ONNX, model, IMAGES)


@pytest.mark.slow
def test_weights_changed_after_the_export_are_refused(written: Path) -> None:
    weights = bytearray((written / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (written / WEIGHTS).write_bytes(weights)

    with pytest.raises(NoModel, match="is not the file that config"):
        read(written)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "not a model folder: config.json: No such file"), ("{}", "network: Field required"), ("[", "Invalid JSON")],
    ids=["none", "empty", "broken"],
)
def test_a_folder_without_a_model_is_refused_with_the_reason(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / CONFIG).write_text(content)

    with pytest.raises(NoModel, match=complaint):
        read(tmp_path)


@pytest.mark.slow
def test_a_model_replaces_an_older_one_and_nothing_else(tmp_path: Path, written: Path) -> None:
    model, card = deployed()
    assert (written / PAGE).read_text() == "old"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "photos" / CONFIG).write_text("{}")  # not the config.json of a model

    write(written, model, card, page="new", images=IMAGES)
    with pytest.raises(FileExistsError, match="holds more than a model"):
        write(tmp_path / "photos", model, card, page="", images=IMAGES)

    assert (written / PAGE).read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "photos"]


def test_the_best_trial_is_exported_and_predicts_as_in_its_evaluation(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    folder = harness.folder / "exported"

    answer = harness.run("export", "s", "--to", str(folder), "--json")

    best = max(harness.trials(), key=lambda trial: trial.values)
    card = answer.json["card"]
    assert (answer.code, card["provenance"]["trial"], card["verdict"]) == (0, best.number, None)
    assert card["classes"] == list(COLOURS)
    assert accuracy(harness, folder, part="validation") == pytest.approx(best.values[0])
    page = (folder / PAGE).read_text()
    assert "How good it is on other images is not known: `convsearch final` finds out." in page
    assert page.index('os.environ["ORT_DISABLE_TELEMETRY"] = "1"') < page.index("import numpy, onnxruntime")
    everything = harness.images.parent  # the folder of the images, of the training and of the model
    assert everything in folder.parents
    assert str(everything) not in page + (folder / CONFIG).read_text()


def paint_grey(folder: Path) -> Path:
    """Write 60 training and 10 test images of 8 x 8 pixels, without colour, for each of two classes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for name, brightness in (("dark", 80), ("light", 170)):
            (folder / part / name).mkdir(parents=True)
            for index, pixels in enumerate(np.clip(random.normal(brightness, 40, (count, 8, 8)), 0, 255)):
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{index:03d}.png")
    return folder


def test_grey_images_are_trained_exported_and_predicted_with_one_channel(harness: Harness) -> None:
    grey = replace(harness, images=paint_grey(harness.folder / "grey"))
    space = {"input_channels": 1, "stem": "whiten", "learning_rate": 0.02}
    file = grey.write(data={"validation": 20}, budget={"trials": 1, "epochs": 5}, space=space)
    assert grey.run("run", file, "--workers", "1").code == 0
    folder = grey.folder / "exported"

    exported = grey.run("export", "s", "--to", str(folder), "--json")
    predicted = grey.run("predict", str(folder), str(grey.images / "test"), "--json")

    (trial,) = grey.trials()
    card = exported.json["card"]
    assert (card["network"]["input_channels"], card["parameters"], trial.parameters) == (1, 610, 610)
    assert len(card["mean"]) == 3
    assert accuracy(grey, folder, part="validation") == pytest.approx(trial.values[0])
    right = [row["class"] == Path(row["image"]).parent.name for row in predicted.json["images"]]
    assert np.mean(right) > 0.9


def test_after_a_verdict_the_first_run_of_its_leader_is_exported(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    judged = harness.run("final", "s", "--top", "2", "--seeds", "2", "--epochs", "1", "--workers", "1", "--json")
    folder = harness.folder / "exported"

    answer = harness.run("export", "s", "--to", str(folder), "--json")

    leader = judged.json["standings"][0]
    verdict = answer.json["card"]["verdict"]
    (first,) = [row for row in harness.trials("s.final") if row.config["row"] == leader["name"] and row.repeat == 0]
    assert (verdict["configuration"], verdict["test"], verdict["runs"]) == (leader["name"], leader["test"], 2)
    assert verdict["this_run"] == first.values[0]
    assert accuracy(harness, folder, part="test") == pytest.approx(first.values[0])
    assert f"accuracy {leader['test']:.4f} on 40 test images (mean of 2 trainings" in (folder / PAGE).read_text()


def test_the_page_shows_names_of_classes_as_they_are() -> None:
    _, card = deployed()
    origin = {"question": "q", "study": "s", "trial": 0, "source": "folder", "fingerprint": "f", "exported": "now"}
    names = ("سبز", "red|pipe <b>x</b>", "_a_`b`", "c\u202ed", "species_003")
    card = card.model_copy(
        update={
            "classes": names,
            "provenance": {**origin, "versions": {}, "validation": 0.5},
            "training": {"epochs": 1.0, "seconds": 2.0},
        }
    )

    text = page(card, "m")

    others = r"red|pipe \<b>x\</b>, \_a\_\`b\`, c\\u202ed, species_003"  # as Markdown
    assert f"distinguishes 5 classes: \u2068سبز\u2069, {others}." in text


def test_images_other_than_those_of_the_study_are_refused(harness: Harness) -> None:
    images = shutil.copytree(harness.images, harness.folder / "copy")
    file = harness.write(data={"path": str(images)}, budget={"trials": 1, "epochs": 1})
    assert harness.run("run", file, "--workers", "1").code == 0
    for part in ("train", "test"):
        (images / part / "red").rename(images / part / "zebra")

    answer = harness.run("export", "s", "--to", str(harness.folder / "exported"))

    assert answer.code == 65
    assert "the images of 's' are not those it was trained on" in answer.err


@pytest.mark.slow
def test_a_search_whose_images_moved_or_are_gone_goes_on_and_is_exported(harness: Harness) -> None:
    images = shutil.copytree(harness.images, harness.folder / "copy")
    (images / "train" / "red" / "003.png").unlink()  # a set of its own, to be forgotten
    file = harness.write(data={"path": str(images)}, budget={"trials": 1, "epochs": 1})
    assert harness.run("run", file, "--workers", "1").code == 0
    images.rename(harness.folder / "moved")
    moved, exported = str(harness.folder / "moved"), str(harness.folder / "exported")

    resumed = harness.run("resume", "s", "--trials", "2", "--workers", "1")
    exports = [harness.run("export", "s", "--to", exported)]
    harness.forget_images()
    exports += [harness.run("export", "s", "--to", exported, *words) for words in ([], ["--data", moved])]
    final = harness.run("final", "s", "--top", "1", "--seeds", "1", "--epochs", "1", "--workers", "1", "--data", moved)

    assert f"the images are not at {images}; their decoded copy" in resumed.err
    assert [answer.code for answer in (resumed, *exports, final)] == [0, 0, 65, 0, 0], final.err
    assert f"the images are not at {images}" in exports[1].err
    assert "name them with --data PATH" in exports[1].err


def test_the_moving_average_of_a_study_on_smaller_images_is_exported_for_their_size(harness: Harness) -> None:
    budget = {"trials": 1, "epochs": 1}
    assert harness.train(budget=budget, data={"search_size": 6}, space={"ema": 0.9}).code == 0

    answer = harness.run("export", "s", "--to", str(harness.folder / "exported"), "--json")

    assert answer.json["card"]["image_size"] == 6
    state = harness.trained()
    averaged = state["average"]["model"]["classifier.weight"]
    assert torch.equal(read(harness.folder / "exported").model.network.classifier.weight, averaged)
    assert not torch.equal(averaged, state["model"]["classifier.weight"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("export", "nobody"), "there is no study 'nobody'"),
        (("export", "s"), "no trial of 's' is complete, so there is no model; `convsearch resume s`"),
        (("export", "s", "--trial", "7"), "study 's' has no trial 7; it has no trials yet"),
    ],
    ids=["no-study", "no-trial", "no-such-trial"],
)
def test_an_export_without_a_model_is_refused_with_the_reason(
    harness: Harness, words: tuple[str, ...], complaint: str
) -> None:
    harness.create("s")

    answer = harness.run(*words)

    assert answer.code == 2
    assert complaint in answer.err


def test_an_incomplete_trial_and_the_current_folder_are_refused(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = harness.write(budget={"trials": 2, "epochs": 100_000})
    harness.run_until(file, lambda: any(trial.epochs >= 2 for trial in harness.trials()))
    current = harness.folder / "current"
    current.mkdir()
    monkeypatch.chdir(current)

    waiting = harness.run("export", "s", "--trial", "0")
    replacing = harness.run("export", "s", "--to", ".")

    assert [waiting.code, replacing.code] == [2, 2]
    assert "trial 0 of 's' is waiting, and only complete ones are exported" in waiting.err
    assert "the folder that you are in would be replaced" in replacing.err
    assert current.exists()


def test_missing_weights_are_named_with_the_command_that_trains_them_again(harness: Harness) -> None:
    assert harness.train(budget=BUDGET).code == 0
    shutil.rmtree(harness.dirs.trial("s", 1))

    answer = harness.run("export", "s", "--trial", "1", "--to", str(harness.folder / "exported"))

    assert answer.code == 2
    assert "the weights of trial 1 of 's' are not in" in answer.err
    assert "`convsearch run s --again 1` trains it again" in answer.err
    assert not (harness.folder / "exported").exists()


@pytest.fixture
def model_folder(harness: Harness) -> Path:
    """The model folder of a small search."""
    assert harness.train(budget={"trials": 2, "epochs": 3}).code == 0

    def make(part: Path) -> None:
        assert harness.run("export", "s", "--to", str(part)).code == 0

    return shutil.copytree(once(harness.images.parent / "exported", make), harness.folder / "exported")


def test_images_of_any_size_and_format_are_classified(harness: Harness, model_folder: Path) -> None:
    paths = []
    for size, ending in [((8, 8), "png"), ((640, 480), "jpg"), ((33, 90), "webp"), ((1, 1), "bmp")]:
        paths.append(harness.folder / f"photo-{size[0]}.{ending}")
        Image.new("RGB", size, COLOURS["red"]).save(paths[-1])

    answer = harness.run("predict", str(model_folder), *map(str, paths), "--json")
    table = harness.run("predict", str(model_folder), *map(str, paths), "--top", "2")

    assert (answer.code, table.code) == (0, 0)
    assert [prediction["image"] for prediction in answer.json["images"]] == [str(path) for path in paths]
    for row in answer.json["images"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["class"]]
    assert len(table.out.splitlines()) == 1 + len(paths)


def test_a_folder_of_images_is_predicted_in_the_order_of_the_file_names(harness: Harness, model_folder: Path) -> None:
    answer = harness.run("predict", str(model_folder), str(harness.images / "test"), "--json")

    names = [prediction["image"] for prediction in answer.json["images"]]
    assert len(names) == 40
    assert names == sorted(names)
    right = [row["class"] == Path(row["image"]).parent.name for row in answer.json["images"]]
    assert np.mean(right) == pytest.approx(accuracy(harness, model_folder, part="test"))


def test_unreadable_images_are_reported_beside_the_predictions(harness: Harness, model_folder: Path) -> None:
    good, bad = harness.folder / "good.png", harness.folder / "bad.png"
    Image.new("RGB", (8, 8)).save(good)
    bad.write_text("no image")

    answer = harness.run("predict", str(model_folder), str(bad), str(good))
    missing = harness.run("predict", str(model_folder), str(harness.folder / "none.png"))
    empty = harness.run("predict", str(model_folder), str(model_folder))
    no_model = harness.run("predict", str(harness.folder), str(good))

    assert [answer.code, missing.code, empty.code, no_model.code] == [65, 2, 2, 65]
    assert "bad.png: is a text file named .png, which is not read as an image" in answer.err
    assert len(answer.out.splitlines()) == 3
    assert "there is no file or folder" in missing.err
    assert "has no image" in empty.err
    assert "not a model folder" in no_model.err


def test_an_oversized_and_an_unreadable_file_are_named_with_the_reason(harness: Harness, model_folder: Path) -> None:
    huge, folder = harness.folder / "huge.png", harness.folder / "folder.png"
    with huge.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    folder.mkdir()

    predictions = tuple(predict.predict(predict.load(model_folder), [huge, folder]))

    assert [prediction.error for prediction in predictions] == [
        f"{huge}: has 268 MB, but no image of more than 268 MB is read",
        f"{folder}: Is a directory",
    ]


def accuracy(harness: Harness, folder: Path, *, part: str) -> float:
    """Accuracy of an exported model on the validation or test images of the study."""
    stored, package = stored_study.load(Storage(harness.url), "s"), read(folder)
    split = (
        load_train(stored.spec.data, harness.cache).validation
        if part == "validation"
        else load_test(stored.spec.data, harness.cache)
    )
    right = probabilities(package.model, split.images[split.indices]).argmax(dim=1) == split.labels[split.indices]
    return float(right.float().mean())
