"""search/cli/study_argument.py: a study file, or images in its place."""

import os
from pathlib import Path

import pytest

from search.artifacts.study_dir import StudyDirs
from search.cli import study_argument
from search.errors import UsageError
from search.storage.records import is_verdict


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("photos", "photos"),
        ("photos/", "photos"),
        ("My Photos 2", "My-Photos-2"),
        ("Lisa's photos", "Lisas-photos"),
        ("Fotos für Käthe", "Fotos-fur-Kathe"),
        ("写真", "images"),
        ("写真 2024", "2024"),
        ("-rf", "rf"),
        ("..photos..", "photos"),
        ("a__b", "a__b"),
        ("photos.final", "photos-final"),
        ("photos.final-2", "photos-final-2"),
        ("v1.2", "v1-2"),
        ("a" * 200, "a" * 50),
    ],
)
def test_images_name_their_study(here: Path, path: str, name: str) -> None:
    (here / path).mkdir()
    argument = study_argument.resolve(path, None)
    assert (argument.file.stem, argument.name) == ("auto", name)
    assert Path(argument.images or "").samefile(here / path)
    StudyDirs(here).study(argument.name)  # a valid name of a folder
    assert not is_verdict(argument.name)


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".ZIP", ".TAR.GZ"])
def test_an_archive_names_its_study_without_its_ending(here: Path, ending: str) -> None:
    (here / f"photos{ending}").touch()
    argument = study_argument.resolve(f"photos{ending}", None)
    assert (argument.file.stem, argument.name) == ("auto", "photos")


@pytest.mark.parametrize("text", [".", "./", "../here", "../here/."])
def test_a_relative_path_names_the_study_after_the_folder_that_it_means(
    here: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (here / "here").mkdir()
    monkeypatch.chdir(here / "here")
    assert study_argument.resolve(text, None).name == "here"


def test_the_root_has_a_name() -> None:
    assert study_argument.name_of(Path("/")) == "images"


def test_a_link_is_named_after_the_images(here: Path) -> None:
    (here / "photos").mkdir()
    (here / "link").symlink_to("photos")
    assert study_argument.resolve("link", None).name == "photos"


def test_a_path_in_the_home_folder_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "photos").mkdir()
    assert study_argument.resolve("~/photos", None).name == "photos"


def test_the_name_of_a_study_means_the_study_and_a_path_means_images(here: Path) -> None:
    (here / "quickstart").mkdir()
    assert study_argument.resolve("quickstart", None).images is None
    for path in ("./quickstart", "quickstart/", str(here / "quickstart")):
        argument = study_argument.resolve(path, None)
        assert (argument.file.stem, argument.name) == ("auto", "quickstart")
        assert argument.images is not None


def test_a_study_file_may_be_given_images(here: Path) -> None:
    argument = study_argument.resolve("quickstart", "photos")
    assert (argument.file.stem, argument.name, argument.images) == ("quickstart", "quickstart", "photos")


def test_images_are_not_given_twice(here: Path) -> None:
    (here / "photos").mkdir()
    with pytest.raises(UsageError, match="--data 'others'; give one of them"):
        study_argument.resolve("photos", "others")


@pytest.mark.parametrize("text", ["photos", "photos/", "photos.zip", "/nowhere/photos", "写真", "a\0b", "x" * 5_000])
def test_what_is_neither_a_study_nor_images_is_refused_as_both(text: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)there is no study.*there are no images at") as caught:
        study_argument.resolve(text, None)
    assert "quickstart" in str(caught.value)


def test_a_missing_study_file_is_refused_as_a_study_file() -> None:
    with pytest.raises(UsageError) as caught:
        study_argument.resolve("photos.toml", None)
    assert "images" not in str(caught.value)


def test_a_file_that_is_no_archive_is_refused(here: Path) -> None:
    (here / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"name of a study file ends in .toml; .* archive of images ends in .zip"):
        study_argument.resolve("notes.txt", None)


def test_a_folder_of_a_name_that_ends_like_a_study_file_is_no_study(here: Path) -> None:
    (here / "photos.toml").mkdir()
    with pytest.raises(UsageError):
        study_argument.resolve("photos.toml", None)


def test_a_pipe_is_not_opened(here: Path) -> None:
    os.mkfifo(here / "photos.zip")
    with pytest.raises(UsageError):
        study_argument.resolve("photos.zip", None)
