"""Images in place of a study: from a folder to a tested network, and what the same command does then."""

import contextlib
import json
import shutil
import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from search.storage import queries
from tests.data.pictures import paint_shapes
from tests.harness import Answer, Harness, once, reader, wait_until

HOURS = ("--hours", "0.02")


@pytest.fixture(autouse=True)
def here(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of each test, where runs write reports and models."""
    monkeypatch.chdir(harness.folder)


@pytest.fixture
def photos(harness: Harness) -> str:
    """The path of a folder of images."""
    return str(once(harness.images.parent / "photos", partial(paint_shapes, images=40, side=16)))


@pytest.fixture
def first(harness: Harness, photos: str) -> Answer:
    """The answer of the first command on the folder; each test has a copy of its study."""

    def run(folder: Path) -> None:
        folder.mkdir()
        with contextlib.chdir(folder):
            answer = Harness(folder, harness.images, harness.cache).run("run", photos, *HOURS, "--workers", "1")
        (folder / "answer.json").write_text(json.dumps(asdict(answer)))

    finished = once(harness.images.parent / "trained" / "photos", run)
    shutil.copytree(finished, harness.folder, dirs_exist_ok=True)
    return Answer(**json.loads((finished / "answer.json").read_text()))


def test_one_command_on_a_folder_ends_with_a_tested_network(harness: Harness, first: Answer) -> None:
    best = harness.run("best", "photos.final", "--json")

    assert first.code == 0, first.err
    for words in ("72 training images in 2 classes (36 each)", "recipe: 16 pixels", "plan: full trials of about"):
        assert words in first.err
    assert "this takes 72 s; --hours 0.1 would give" in first.err
    assert "Which CNN tells 'cross' from 'disc' best?" in first.out
    assert "verdict: " in first.out
    assert "report:          exports/photos.html" in first.err
    assert "model:           exports/photos" in first.err
    assert "<html" in (harness.folder / "exports" / "photos.html").read_text()
    assert (harness.folder / "exports" / "photos" / "model.onnx").exists()
    (trial,) = best.json["trials"]
    assert trial["state"] == "COMPLETE"
    assert all(0 <= value <= 1 for value in trial["values"])


def test_the_same_command_after_the_end_prints_the_result_again_and_searches_no_more(
    harness: Harness, photos: str, first: Answer
) -> None:
    begun = harness.counts("photos")
    again = harness.run("run", photos, *HOURS, "--workers", "1")

    assert again.code == 0
    assert "the last training of 'photos' has been tested already" in again.err
    assert "convsearch resume photos --hours 1" in again.err
    (line,) = (line for line in first.out.splitlines() if line.startswith("verdict: "))
    assert line in again.out
    assert harness.counts("photos") == begun


def test_show_and_the_report_have_the_recipe_with_its_reasons(harness: Harness, first: Answer) -> None:
    recipe = harness.run("show", "photos", "--json").json["recipe"]
    table = harness.run("show", "photos").out
    report = harness.run("report", "photos", "--markdown").out

    record = queries.study(reader(harness.url), "photos")
    assert recipe["image_size"]["value"] == record.spec["data"]["image_size"]
    assert record.spec["try"][0]["batch_size"] == recipe["batch_size"]["value"]
    assert record.recipe["inputs"]["compute"]["final_macs_per_second"] > 0  # measured at the recipe's own size
    assert "Recipe" in report
    for setting in recipe.values():
        assert setting["reason"] in table
        assert setting["reason"] in report
    assert harness.run("show", "photos.final").out == table


def test_a_trial_of_the_study_can_be_repeated_and_the_study_be_copied(harness: Harness, first: Answer) -> None:
    other = f"sqlite:///{harness.folder / 'other' / 'copies.db'}"
    recipe = harness.run("show", "photos", "--json").json

    assert harness.run("copy-study", "photos", "--to", other).code == 0
    assert harness.run("show", "photos", "--json", "--storage", other).json == recipe
    assert harness.run("run", "photos", "--again", "0", "--workers", "1").code == 0
    (again,) = harness.trials("photos.again-0")
    assert again.config == harness.trials("photos")[0].config


def test_other_images_of_the_same_name_are_refused_with_the_way_out(
    harness: Harness, photos: str, first: Answer
) -> None:
    other = harness.folder / "photos"
    shutil.copytree(photos, other)
    (other / "disc" / "00.png").unlink()
    answer = harness.run("run", str(other), *HOURS)

    assert answer.code == 78
    assert "--name" in answer.err


def test_moved_images_are_the_same_study(harness: Harness, photos: str, first: Answer) -> None:
    moved = harness.folder / "moved" / "photos"
    shutil.copytree(photos, moved)
    answer = harness.run("run", str(moved), *HOURS)

    assert answer.code == 0
    assert "verdict: " in answer.out


def test_ctrl_c_during_the_measurement_stops_at_once_and_the_same_command_begins(harness: Harness, photos: str) -> None:
    words = ("run", photos, "--trials", "1", "--set", "final.epochs=1", "--hours", "0.005", "--workers", "1")
    with harness.start(*words) as launcher:
        launcher.until(lambda: "measuring some of the images" in launcher.said)
        launcher.signal(signal.SIGINT)
        stopped = launcher.end()
        wait_until(lambda: not launcher.family())
    stored = harness.run("run", photos, "--detach")

    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert stored.code == 0
    assert harness.run("show", "photos", "--json").json["recipe"]["image_size"]["value"] == 16
