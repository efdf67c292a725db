"""Unusual surroundings: no home folder, and names that no study may have."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data import home
from data.errors import DataError
from search.cli import cache_folder
from search.cli.main import main
from search.errors import DiskError
from tests.harness import Harness, without_root


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, while HOME names a folder that does not exist."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "CONVSEARCH_CACHE"):
        monkeypatch.setenv(name, "")  # restores it, even if the command sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    folder = tmp_path / "work"
    folder.mkdir(mode=0o755)
    monkeypatch.chdir(folder)
    return folder


# -- the home folder ----------------------------------------------------------------------------------------------


def test_without_a_home_folder_images_and_weights_are_kept_beside_the_studies(
    harness: Harness, homeless: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = harness.write(budget={"trials": 1, "epochs": 1})

    code = main(["run", file, "--detach", "--workers", "1"])

    assert code == 0
    cache = homeless / "runs" / ".cache"
    assert f"decoded images go to {cache}; --cache or CONVSEARCH_CACHE names another" in capsys.readouterr().err
    assert len(list(cache.glob("sets/*/meta.json"))) == 1
    assert os.environ["TORCH_HOME"] == str(cache / "torch")
    assert not Path("~").exists()
    assert main(["clean", "--data"]) == 0  # and it is no study


def test_where_others_may_write_the_images_go_to_a_private_temporary_folder(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    folder = cache_folder.default_cache()

    assert folder == tmp_path / f"convsearch-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cache_folder.default_cache() == folder


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda folder: folder.symlink_to(folder.parent), id="a link"),
        pytest.param(lambda folder: folder.symlink_to("nowhere"), id="a dangling link"),
        pytest.param(lambda folder: (folder.mkdir(), folder.chmod(0o777)), id="open to all"),
        pytest.param(lambda folder: folder.write_text(""), id="a file"),
    ],
)
def test_a_temporary_folder_that_another_user_may_have_made_is_refused(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupy: Callable[[Path], object]
) -> None:
    homeless.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    occupy(tmp_path / f"convsearch-{os.geteuid()}")

    with pytest.raises(DiskError, match="is not a private folder of this user"):
        cache_folder.default_cache()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_temporary_folder_of_another_user_is_refused(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homeless.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / f"convsearch-{os.geteuid()}"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 54321, 54321)

    with pytest.raises(DiskError, match="is not a private folder of this user"):
        cache_folder.default_cache()


@pytest.mark.parametrize("text", ["", "relative"])
def test_an_unusable_home_is_replaced_by_that_in_passwd(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("HOME")
    named = home.find()

    monkeypatch.setenv("HOME", text)

    assert home.find() == named


def test_a_home_folder_that_cannot_be_written_is_not_used(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as parent:  # other users cannot enter pytest's folders
        Path(parent).chmod(0o777)
        (Path(parent) / "home").mkdir(mode=0o555)
        monkeypatch.setenv("HOME", f"{parent}/home")
        monkeypatch.setattr("tempfile.tempdir", parent)
        with without_root():
            folder = cache_folder.default_cache()

    assert folder.parent == Path(parent)
    said = f"{parent}/home/.cache/convsearch cannot be written: decoded images go to {folder}"
    assert said in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_home_and_passwd_entry_has_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # the user of a process cannot be changed back
        try:
            os.setuid(54321)
            try:
                found = str(home.expand("~/x"))
            except DataError as error:
                found = f"{home.find()}; {error}"
            os.write(writer, found.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        found = stream.read()
    os.waitpid(child, 0)

    assert found == ("None; ~/x: this user has no home folder (no HOME, no entry in passwd); write the path without ~")


@pytest.mark.parametrize(
    ("words", "code", "place"),
    [
        ("best s --storage sqlite:///~/x/y.db", 69, "/x/y.db yet"),
        ("best s --storage sqlite+pysqlite:///~/x.db?timeout=3", 69, "/x.db yet"),
        ("validate ~/x.toml", 2, "there is no study '~/x.toml'"),
        ("validate FILE --data ~/x.zip", 0, ""),
        ("run FILE --data ~/x.zip --storage sqlite:///s.db", 65, "/x.zip"),
        ("run FILE --set data.source=folder --set data.path=~/x.zip --storage sqlite:///s.db", 65, "/x.zip"),
        ("run FILE --set data.source=folder --set data.path=~/x.zip --dry-run", 65, "/x.zip"),
        ("predict ~/m ~/x.jpg", 65, "/m is not a model folder"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_tilde_is_the_home_folder_in_every_path(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, words: str, code: int, place: str
) -> None:
    home_folder = harness.folder / "my 100 % home?"
    home_folder.mkdir()
    monkeypatch.setenv("HOME", str(home_folder))
    monkeypatch.chdir(harness.folder)
    file = harness.write()

    answer = harness.run(*words.replace("FILE", file).split())

    assert answer.code == code
    assert (str(home_folder) + place if place.startswith("/") else place) in answer.err
    assert not (harness.folder / "~").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("best s --storage sqlite:///~nobodyhere/x.db", 2),
        ("copy-study s --to sqlite:///~nobodyhere/x.db", 2),
        ("validate ~nobodyhere/x.toml", 2),
        ("run FILE --data ~nobodyhere/x", 2),
        ("run FILE --set data.path=~nobodyhere/x", 65),
        ("run FILE --set data.path=~nobodyhere/x --dry-run", 65),
        ("doctor --cache ~nobodyhere/x", 2),
        ("export s --to ~nobodyhere/x", 2),
        ("report s --to ~nobodyhere/x", 2),
        ("predict ~nobodyhere/m a.jpg", 2),
        ("predict m ~nobodyhere/a.jpg", 2),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_the_home_folder_of_an_unknown_user_is_an_error_that_names_the_user(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    harness = Harness(tmp_path, images, tmp_path / "cache")
    arguments = words.replace("FILE", harness.write()).split()
    if "--storage" not in words and arguments[0] in ("run", "export", "report"):
        arguments += ["--storage", harness.url]

    assert main(arguments) == code
    assert "there is no user 'nobodyhere'; write the path without ~" in capsys.readouterr().err


def test_a_file_whose_name_begins_with_a_tilde_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~photo.jpg").touch()

    assert home.expand("~photo.jpg") == Path("~photo.jpg")


# -- names of studies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my study", "größe", "it's", "n" * 65, "studies.db"])
def test_a_file_whose_name_no_study_may_have_is_refused_with_the_way_out(harness: Harness, name: str) -> None:
    answer = harness.run("run", harness.write(name))

    assert answer.code == 2
    assert answer.err.endswith("; choose another one with --name\n")
    assert not harness.dirs.root.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("study.toml.txt", "is a file, but the name of a study file ends in .toml; rename it"),
        ("n" * 300, "there is no study"),
    ],
)
def test_a_file_that_is_no_study_file_is_refused(harness: Harness, name: str, message: str) -> None:
    (harness.folder / "study.toml.txt").touch()

    answer = harness.run("validate", str(harness.folder / name))

    assert answer.code == 2
    assert message in answer.err
