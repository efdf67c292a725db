"""Data that the dashboard shows for a study in addition to Optuna's plots."""

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from optuna_dashboard import save_note
from optuna_dashboard._note import get_note_from_system_attrs
from PIL import Image

from search.artifacts import misclassified
from search.dashboard import server
from search.dashboard.overlay import OverlayCache, StudyOverlay
from search.optuna_internals import OverlayStorage
from search.storage import queries, ranking
from search.storage.read_only import open_reader
from search.storage.records import StudyRecord
from tests.harness import Harness

BUDGET: dict[str, Any] = {"trials": 5, "epochs": 2}
#: Namespaces of elements.
SVG, HTML = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xhtml}"


def open_overlays(harness: Harness) -> tuple[OverlayCache, OverlayStorage, int]:
    overlays = OverlayCache(open_reader(harness.url), harness.dirs, every_s=0.0)
    storage = OverlayStorage(server._history(harness.url), overlays.beside)
    return overlays, storage, storage.get_study_id_from_name("s")


@pytest.fixture
def ended(harness: Harness) -> Harness:
    assert harness.train(budget=BUDGET).code == 0
    return harness


def test_the_best_trials_show_their_confusion_and_most_confident_mistakes(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    attrs = storage.get_study_system_attrs(study_id)
    files = [json.loads(value) for key, value in attrs.items() if key.startswith("artifacts:")]
    best = [trial.number for trial in ranking.best(open_reader(ended.url), "s", top=3).trials]
    wrong = {file["filename"] for file in files if file["mimetype"] == "image/svg+xml"}
    with_mistakes = [number for number in best if misclassified.picture(ended.dirs.trial("s", number))]
    assert with_mistakes
    assert wrong == {f"trial-{number}-wrong.svg" for number in with_mistakes}
    assert {key.split(":")[2] for key in attrs if key.startswith("dashboard:plot_data:")} == {
        f"confusion-{number}" for number in best
    }
    for artifact in files:
        with overlays.open_reader(artifact["artifact_id"]) as stream:
            assert stream.read(4) in (b"<svg", b"tria")


def test_a_picture_of_an_older_version_is_shown(ended: Harness) -> None:
    folder = ended.dirs.trial("s", ranking.best(open_reader(ended.url), "s", top=1).trials[0].number)
    confusion = misclassified.counts(folder)
    misclassified.delete(folder)
    Image.new("RGB", (8, 8)).save(folder / "wrong.png")
    (folder / misclassified.COUNTS).write_text(json.dumps({**(confusion or {}), "study": None}))
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    files = [json.loads(value) for key, value in storage.get_study_system_attrs(study_id).items() if "artifacts" in key]
    (old,) = [file for file in files if file["mimetype"] == "image/png"]
    assert old["filename"] == f"{folder.name.replace('trial-0000', 'trial-')}-wrong.png"
    with overlays.open_reader(old["artifact_id"]) as stream:
        assert stream.read(4) == b"\x89PNG"


def test_files_of_a_deleted_study_of_the_same_name_are_not_shown(ended: Harness) -> None:
    for folder in ended.dirs.study("s").glob("trial-*"):
        confusion = misclassified.counts(folder)
        if confusion is not None:
            (folder / misclassified.COUNTS).write_text(json.dumps(confusion | {"study": "that of the deleted one"}))
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    attrs = storage.get_study_system_attrs(study_id)
    assert not [key for key in attrs if key.startswith("dashboard:plot_data:")]
    files = [json.loads(value)["filename"] for key, value in attrs.items() if key.startswith("artifacts:")]
    assert files == ["trials.csv"]


def test_a_picture_that_is_written_again_has_another_address(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)
    overlays.refresh(study_id, "s", history="one")
    before = [key for key in storage.get_study_system_attrs(study_id) if key.startswith("artifacts:")]
    for path in ended.dirs.study("s").glob("trial-*/wrong.svg"):
        os.utime(path, ns=(0, 0))

    overlays.refresh(study_id, "s", history="other")

    after = [key for key in storage.get_study_system_attrs(study_id) if key.startswith("artifacts:")]
    assert len(before) == len(after) > 1
    assert len(set(before) & set(after)) == 1  # the table of all trials


def test_the_note_names_the_best_trial_and_the_report_command(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    note = storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]
    best = queries.study(open_reader(ended.url), "s").best
    assert best is not None
    assert f"Best: trial {best.number}, accuracy {best.values[0]:.4f}" in note
    assert "`convsearch report s`" in note


def test_the_overlay_is_rebuilt_only_after_a_trial_ends(ended: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    overlays, _, study_id = open_overlays(ended)
    made: list[str] = []
    before = OverlayCache._make

    def make(self: OverlayCache, row: StudyRecord, verdicts: Sequence[str], shows: tuple[object, ...]) -> StudyOverlay:
        made.append(row.name)
        return before(self, row, verdicts, shows)

    monkeypatch.setattr(OverlayCache, "_make", make)

    for _ in range(3):
        overlays.refresh(study_id, "s")
    assert ended.run("resume", "s", "--trials", "6", "--workers", "1").code == 0
    overlays.refresh(study_id, "s")

    assert made == ["s", "s"]


def test_a_recent_overlay_is_not_rebuilt_for_every_poll(ended: Harness) -> None:
    overlays = OverlayCache(open_reader(ended.url), ended.dirs, every_s=3600.0)
    study_id = server._history(ended.url).get_study_id_from_name("s")
    overlays.refresh(study_id, "s")
    before = overlays.beside(study_id, {})
    assert ended.run("resume", "s", "--trials", "6", "--workers", "1").code == 0

    overlays.refresh(study_id, "s")

    assert overlays.beside(study_id, {}) == before


def test_a_user_note_is_shown_below_the_generated_note(ended: Harness) -> None:
    save_note(optuna.load_study(study_name="s", storage=ended.url), "What **we** make of it.")
    overlays, storage, study_id = open_overlays(ended)

    overlays.refresh(study_id, "s")

    (study,) = storage.get_all_studies()
    for attrs in (storage.get_study_system_attrs(study_id), study.system_attrs):
        note = get_note_from_system_attrs(attrs, None)["body"]
        assert note.startswith("Best: trial")
        assert note.count("What **we** make of it.") == 1
        assert note.endswith("What **we** make of it.")


def test_the_note_of_a_search_has_its_verdict_after_the_final_run(ended: Harness) -> None:
    overlays, storage, study_id = open_overlays(ended)
    overlays.refresh(study_id, "s")
    assert "Verdict" not in storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]
    assert ended.run("final", "s", "--top", "1", "--seeds", "1", "--no-baseline", "--workers", "1").code == 0

    overlays.refresh(study_id, "s")

    assert "Verdict (s.final): trial" in storage.get_study_system_attrs(study_id)["dashboard:note_str:0"]


def test_the_overlay_is_not_written_to_the_database(ended: Harness) -> None:
    overlays, _, study_id = open_overlays(ended)
    file = Path(ended.url.removeprefix("sqlite:///"))
    content = file.read_bytes()

    overlays.refresh(study_id, "s")

    assert file.read_bytes() == content


def test_only_the_best_trials_keep_their_confusion_counts(ended: Harness) -> None:
    best = {trial.number for trial in ranking.best(open_reader(ended.url), "s", top=3).trials}

    kept = {number for number in range(5) if (ended.dirs.trial("s", number) / misclassified.COUNTS).exists()}

    assert kept == best


def test_the_confusion_matrix_is_from_the_last_evaluation(ended: Harness) -> None:
    best = queries.study(open_reader(ended.url), "s").best
    assert best is not None

    stored = misclassified.counts(ended.dirs.trial("s", best.number))

    assert stored is not None
    counts = np.array(stored["confusion"])
    assert counts.sum() == 80
    assert np.trace(counts) / 80 == pytest.approx(best.values[0])


#: Names, and how a picture shows them: long ones with the same beginning, scripts, markup, characters that move others.
NAMES = {
    "long": (f"{'a' * 30}{'b' * 50}", f"{'a' * 30}{'b' * 50}"),
    "long, with the same beginning": (f"{'a' * 30}{'c' * 50}", f"{'a' * 30}{'c' * 50}"),
    "chinese": ("红花", "红花"),
    "persian": ("می\u200cشود", "می\u200cشود"),
    "hindi": ("हिन्दी", "हिन्दी"),
    "family": ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
    "markup": ("red|pipe <b>x</b> &amp;", "red|pipe <b>x</b> &amp;"),
    "override": ("a\u202eb", r"a\u202eb"),
    "control": ("a\x1b[31m\x00\uffff", r"a\x1b[31m\x00\uffff"),
    "undecodable": ("caf\udce9", r"caf\udce9"),
}


def pictured(folder: Path, names: Sequence[str]) -> ElementTree.Element:
    """The picture of a mistake for each class, which is taken for the next one."""
    images = np.random.default_rng(0).integers(0, 256, (len(names), 16, 16, 3), dtype=np.uint8)
    captions = [(name, other, 0.9) for name, other in zip(names, [*names[1:], names[0]], strict=True)]
    misclassified.save(folder, images=images, captions=captions, confusion=[[8]], classes=names)
    return ElementTree.parse(folder / misclassified.PICTURE).getroot()


def texts(picture: ElementTree.Element) -> list[tuple[str, str]]:
    """Label, and prediction with its probability, of each image."""
    captions = picture.findall(f"{SVG}foreignObject/{HTML}div")
    return [("".join(label.itertext()), "".join(prediction.itertext())) for label, prediction in captions]


def test_the_picture_has_every_image_with_its_names_in_full(tmp_path: Path) -> None:
    names, shown = [name for name, _ in NAMES.values()], [shown for _, shown in NAMES.values()]

    picture = pictured(tmp_path, names)

    assert texts(picture) == [
        (name, f"> {other} 0.90") for name, other in zip(shown, [*shown[1:], shown[0]], strict=True)
    ]
    assert len({label for label, _ in texts(picture)}) == len(NAMES)
    assert {len(label) for label in picture.findall(f".//{HTML}bdi")} == {0}  # a name has no elements
    images = [image.get("href", "") for image in picture.findall(f"{SVG}image")]
    assert len(images) == len(NAMES)
    for image in images:
        with Image.open(io.BytesIO(base64.b64decode(image.removeprefix("data:image/png;base64,")))) as pixels:
            assert pixels.size == (16, 16)
    assert not list(tmp_path.glob("*.part"))


def test_the_picture_has_room_for_the_names_of_each_row(tmp_path: Path) -> None:
    picture = pictured(tmp_path, ["cat"] * (misclassified.ROW + 1) + ["M" * 255])

    boxes = [{key: int(box.get(key, "")) for key in ("y", "height")} for box in picture.findall(f"{SVG}foreignObject")]
    assert [box["height"] for box in boxes[:-2]] == [2 * misclassified.LINE] * misclassified.ROW
    assert boxes[-1]["height"] >= misclassified.LINE * 255 * 9 / misclassified.SIDE  # letters of 9 pixels
    assert int(picture.get("height", "")) >= boxes[-1]["y"] + boxes[-1]["height"]


def test_a_trial_without_mistakes_has_no_picture(tmp_path: Path) -> None:
    pictured(tmp_path, ["cat"])  # that of a deleted study

    misclassified.save(tmp_path, images=np.zeros((0, 8, 8, 3), np.uint8), captions=[], confusion=[[8]], classes=["cat"])

    assert [path.name for path in tmp_path.iterdir()] == [misclassified.COUNTS]
