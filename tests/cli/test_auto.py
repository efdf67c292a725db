"""The command line with images in place of a study file, without a search."""

from pathlib import Path

import pytest

from tests.data.pictures import paint_shapes
from tests.harness import Harness

LARGEST = 80
"""Columns of a terminal."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without studies."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes of 24 painted images of 20 pixels."""
    paint_shapes(tmp_path / "Lisa's photos", images=24, side=20)
    return tmp_path / "Lisa's photos"


def stored(harness: Harness) -> bool:
    return harness.dirs.root.exists() and any(harness.dirs.root.rglob("*.db"))


def test_validate_shows_the_recipe_with_its_reasons_and_stores_nothing(harness: Harness, photos: Path) -> None:
    table = harness.run("validate", str(photos))
    answer = harness.run("validate", str(photos), "--json")

    assert (table.code, answer.code) == (0, 0)
    assert "43 training images in 2 classes (21 to 22 each), 20 pixels wide, in colour" in table.err
    assert "Which CNN tells 'cross' from 'disc' best?" in table.out
    recipe = answer.json["recipe"]
    assert answer.json["spec"]["data"]["image_size"] == recipe["image_size"]["value"] == 20
    assert recipe["image_size"]["reason"] == "that of the files"
    for key, setting in recipe.items():
        (line,) = (line for line in table.out.splitlines() if line.startswith(f"recipe {key} "))
        assert line.endswith(setting["reason"])
        assert len(line) <= LARGEST + len("recipe ") + len("search_images")
    assert not stored(harness)


def test_validate_of_the_automatic_study_without_images_says_that_its_values_are_the_usual_ones(
    harness: Harness,
) -> None:
    answer = harness.run("validate", "auto")

    assert answer.code == 0
    assert "there are no images at photos yet, so the values of the recipe are those for usual images" in answer.err
    assert "[data] path" in answer.out


def test_validate_downloads_nothing(harness: Harness, here: Path) -> None:
    (here / "s.toml").write_text('[data]\nsource = "cifar10"\n[budget]\nhours = 1\n[space]\nwidth = ["auto", 8]\n')
    answer = harness.run("validate", "s.toml", "--cache", str(here / "empty"))
    assert answer.code == 0
    assert "there are no images yet" in answer.err


def test_drawn_images_have_their_own_size(harness: Harness, here: Path) -> None:
    (here / "s.toml").write_text(
        '[data]\nsource = "shapes"\ntrain_images = 300\nimage_size = "auto"\n'
        '[budget]\nhours = 1\n[space]\nwidth = ["auto", 8]\n'
    )
    answer = harness.run("validate", "s.toml", "--json")
    assert answer.code == 0
    assert answer.json["spec"]["data"]["image_size"] == 32


def test_a_dry_run_estimates_the_study_with_its_recipe_and_stores_nothing(harness: Harness, photos: Path) -> None:
    answer = harness.run("run", str(photos), "--hours", "0.01", "--workers", "1", "--dry-run", "--json")

    assert answer.code == 0
    assert "recipe: 20 pixels" in answer.err
    assert "this takes 36 s; --hours 0.06 would give" in answer.err
    assert answer.json["hours"] == 0.01
    assert answer.json["images"] < 44
    assert not stored(harness)


@pytest.mark.parametrize("verb", ["validate", "run"])
@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        pytest.param(lambda path: path.mkdir(), 65, "it must hold train/CLASS/* or CLASS/*", id="empty folder"),
        pytest.param(
            lambda path: path.write_bytes(b""), 2, "the name of an archive of images ends in", id="empty file"
        ),
        pytest.param(lambda path: None, 2, "there are no images at", id="nothing"),
    ],
)
def test_a_path_without_images_is_refused(
    harness: Harness, here: Path, verb: str, make: object, code: int, message: str
) -> None:
    assert callable(make)
    make(here / "photos")
    answer = harness.run(verb, "photos")
    assert answer.code == code
    assert message in answer.err


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_a_file_that_only_has_the_name_of_an_archive_is_refused(harness: Harness, here: Path, verb: str) -> None:
    (here / "photos.tar.gz").write_text("hello")
    answer = harness.run(verb, "photos.tar.gz")
    assert answer.code == 65
    assert "photos.tar.gz" in answer.err


def test_show_needs_a_trial_where_there_is_no_recipe(harness: Harness) -> None:
    harness.create()
    answer = harness.run("show", "s")
    assert answer.code == 2
    assert "'s' has no recipe" in answer.err
