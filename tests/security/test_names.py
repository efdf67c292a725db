"""Hostile names of studies, classes and files cause no read, write or delete outside the right folder."""

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from search.storage.rdb import Storage
from tests.harness import Harness
from tests.security.archives import tar_with, zip_with

SECRET = "root-of-all-secrets"
NAMES = {
    "parent": "../x",
    "root": "/etc/x",
    "dots": "..",
    "dot": ".",
    "hidden": ".hidden",
    "folders": "a/b",
    "backslash": "..\\x",
    "nul": "a\0b",
    "newline": "a\nb",
    "long": "s" * 65,
    "empty": "",
    "space": "a b",
    "wide-dots": "\uff0e\uff0e",
    "wide-slash": "a\uff0fb",
    "cyrillic": "\u0441ifar10",
    "turned-round": "a\u202eb",
    "shell": "$(touch x)",
    "option": "-rf",
}
HOSTILE = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@pytest.fixture
def harness(tmp_path: Path, images: Path, cache: Path) -> Harness:
    """A service whose folder is alone in its parent, so that all files around it can be listed."""
    (tmp_path / "service").mkdir()
    return Harness(tmp_path / "service", images, cache)


def paths_below(folder: Path) -> set[str]:
    """Relative paths of all files and folders below `folder`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@HOSTILE
def test_a_study_name_that_is_no_plain_file_name_is_refused(harness: Harness, name: str) -> None:
    file = harness.write()
    before = paths_below(harness.folder.parent)

    answer = harness.run("run", file, f"--name={name}")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("convsearch: a study's name must be up to 64 letters, digits, ")
    assert paths_below(harness.folder.parent) == before


@pytest.mark.parametrize("name", ["studies.db", "studies.db-journal", "studies.db-wal", "studies.db.migrating"])
def test_the_name_of_a_file_of_the_database_is_refused_as_a_study_name(harness: Harness, name: str) -> None:
    answer = harness.run("run", harness.write(), "--name", name)

    assert (answer.code, answer.out) == (2, "")
    assert f"a study cannot be called '{name}', because the database keeps a file of that name" in answer.err
    assert not harness.dirs.root.exists()


@pytest.mark.parametrize("name", [".hidden", "-rf", "s" * 65, "a b", "\uff0e\uff0e", "\u0441ifar10", "a\nb"], ids=repr)
def test_a_study_file_whose_name_is_no_study_name_is_refused(harness: Harness, name: str) -> None:
    file = Path(harness.write()).rename(harness.folder / f"{name}.toml")
    before = paths_below(harness.folder.parent)

    answer = harness.run("run", str(file))

    assert answer.code == 2
    assert "a study's name must be up to 64 letters, digits" in answer.err
    assert paths_below(harness.folder.parent) == before


@pytest.mark.parametrize("verb", ["best", "show", "delete", "stop", "resume", "compare", "run"])
def test_no_command_uses_a_study_name_as_a_path(harness: Harness, verb: str) -> None:
    harness.create()
    before = paths_below(harness.folder.parent)
    words = {"show": ["0"], "delete": ["--yes"], "run": ["--again", "0"]}.get(verb, [])
    names = [name for name in NAMES.values() if not name.startswith("-")]

    answers = {name: harness.run(verb, name, *words) for name in names}

    assert {answer.code for answer in answers.values()} == {2}
    for name, answer in answers.items():
        assert answer.err.startswith(f"convsearch: there is no study {name!r}")
    assert paths_below(harness.folder.parent) == before


@pytest.mark.parametrize("name", ["../victim", "..", ".hidden", "a/b"])
def test_deleting_a_foreign_study_with_a_path_as_name_deletes_no_folder(harness: Harness, name: str) -> None:
    optuna.create_study(study_name=name, storage=Storage(harness.url, create=True), direction="maximize")
    for folder in ("victim", ".hidden", "home/a/b"):
        (harness.folder / folder / "trial-00000").mkdir(parents=True)
        (harness.folder / folder / "convsearch.lock").write_text("1\nstudies.db\n")
    before = paths_below(harness.folder)

    answer = harness.run("delete", name, "--yes")

    assert answer.code == 2
    assert "a study's name must be up to 64 letters, digits" in answer.err
    assert paths_below(harness.folder) == before


def test_delete_does_not_follow_links_out_of_the_home(harness: Harness, tmp_path: Path) -> None:
    harness.create()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "photo.png").write_text("mine")
    with harness.dirs.running("s"):
        (harness.dirs.study("s") / "trial-00000").symlink_to(tmp_path / "victim", target_is_directory=True)

    answer = harness.run("delete", "s", "--yes")

    assert answer.code == 0
    assert (tmp_path / "victim" / "photo.png").read_text() == "mine"


# -- archives -----------------------------------------------------------------------------------------------------


def picture(harness: Harness) -> bytes:
    return (harness.images / "train" / "red" / "000.png").read_bytes()


def zipped(path: Path, harness: Harness, info: zipfile.ZipInfo, content: bytes) -> Path:
    """Write the images of the harness and one more member as a zip."""
    path.write_bytes(zip_with(harness.images, info, content))
    return path


def tarred(path: Path, harness: Harness, info: tarfile.TarInfo, content: bytes) -> Path:
    """Write the images of the harness and one more member as a tar, which is packed if the path ends with .xz."""
    info.size = len(content)
    path.write_bytes(tar_with(harness.images, "tar.xz" if path.suffix == ".xz" else "tar", info, content))
    return path


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("train/red/odd.png")
    info.external_attr = 0o120777 << 16
    return info


def tar_of(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("train/red/odd.png")
    info.type, info.linkname = kind, target
    return info


OUTSIDE_PATHS = [
    "../outside.png",
    "train/red/../../../outside.png",
    "train/../../outside.png",
    "train/..\\..\\outside.png",
    "/OUTSIDE",
    "train/./../../outside.png",
    "..",
    "C:\\outside.png",
]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("zip", "tar", "tar.xz")
        for name in OUTSIDE_PATHS
        if kind == "zip" or "\\" not in name  # in a tar a backslash is a letter
    ],
)
def test_a_member_path_outside_the_archive_is_refused_and_nothing_is_written(
    harness: Harness, kind: str, name: str
) -> None:
    name = name.replace("/OUTSIDE", str(harness.folder / "outside.png"))
    if kind == "zip":
        path = zipped(harness.folder / "a.zip", harness, zipfile.ZipInfo(name), picture(harness))
    else:
        path = tarred(harness.folder / f"a.{kind}", harness, tarfile.TarInfo(name), picture(harness))

    answer = harness.run("run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert_refused(harness, answer.code, answer.err, path)
    assert "leads out of the archive, which is refused; pack plain files" in answer.err


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda harness, to: zipped(harness.folder / "a.zip", harness, zip_link(), to.encode()), id="zip-link"
        ),
        pytest.param(
            lambda harness, to: tarred(harness.folder / "a.tar", harness, tar_of(tarfile.SYMTYPE, to), b""), id="link"
        ),
        pytest.param(
            lambda harness, to: tarred(harness.folder / "a.tar", harness, tar_of(tarfile.LNKTYPE, to), b""), id="hard"
        ),
        pytest.param(
            lambda harness, to: tarred(harness.folder / "a.tar.xz", harness, tar_of(tarfile.LNKTYPE, to), b""), id="xz"
        ),
        pytest.param(
            lambda harness, to: tarred(harness.folder / "a.tar", harness, tar_of(tarfile.CHRTYPE), b""), id="device"
        ),
        pytest.param(
            lambda harness, to: tarred(harness.folder / "a.tar", harness, tar_of(tarfile.BLKTYPE), b""), id="disk"
        ),
        pytest.param(
            lambda harness, to: tarred(harness.folder / "a.tar", harness, tar_of(tarfile.FIFOTYPE), b""), id="pipe"
        ),
    ],
)
def test_an_archive_member_that_is_no_plain_file_is_refused(
    harness: Harness, make: Callable[[Harness, str], Path]
) -> None:
    outside = harness.folder / "outside.txt"
    outside.write_text(SECRET)
    path = make(harness, str(outside))

    answer = harness.run("run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert_refused(harness, answer.code, answer.err, path)
    assert "'train/red/odd.png' is a link" in answer.err
    assert outside.read_text() == SECRET


def test_control_characters_in_a_member_name_are_escaped_in_the_message(harness: Harness) -> None:
    path = harness.folder / "own.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("train/red/../\x1b]0;owned\x07.png", b"")

    answer = harness.run("run", harness.write(data={"path": str(path)}))

    assert answer.code == 65
    assert r"\x1b]0;owned\x07.png" in answer.err
    assert all(line.isprintable() for line in answer.err.split("\n"))


@pytest.mark.parametrize("name", ["\x1b[2J", "a\rb", "\u202egnp", "a\x9b2Jb"], ids=ascii)
def test_a_class_name_with_control_characters_is_refused_and_not_printed(harness: Harness, name: str) -> None:
    path = zipped(harness.folder / "a.zip", harness, zipfile.ZipInfo(f"train/{name}/1.png"), picture(harness))

    answer = harness.run("run", harness.write(data={"path": str(path)}), "--workers", "1")

    assert_refused(harness, answer.code, answer.err, path)
    assert "has characters that cannot be printed; rename it" in answer.err
    assert name not in answer.err


def assert_refused(harness: Harness, code: int, stderr: str, path: Path) -> None:
    """Assert that the data were refused with the file's name, and that only the database was written."""
    assert code == 65, stderr
    assert str(path) in stderr
    assert SECRET not in stderr
    assert {entry.name for entry in harness.folder.iterdir()} <= {"home", "s.toml", path.name, "outside.txt"}
    assert paths_below(harness.dirs.root) == {"studies.db"}
    assert not (harness.folder.parent / "outside.png").exists()


# -- folders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def image_folder(harness: Harness) -> Path:
    """A small folder of images."""
    folder = harness.folder / "own"
    for name in ("red", "blue"):
        (folder / "train" / name).mkdir(parents=True)
        for file in sorted((harness.images / "train" / name).iterdir())[:20]:
            (folder / "train" / name / file.name).write_bytes(file.read_bytes())
    return folder


def few(image_folder: Path) -> dict[str, object]:
    """The table [data] for the small folder."""
    return {"path": str(image_folder), "validation": 8}


@pytest.mark.parametrize("target", ["outside.txt", "/etc/passwd", "/proc/self/environ"])
def test_a_link_to_a_file_that_is_no_image_does_not_reveal_its_content(
    harness: Harness, image_folder: Path, target: str
) -> None:
    (harness.folder / "outside.txt").write_text(SECRET)
    (image_folder / "train" / "red" / "odd.png").symlink_to(harness.folder / target)

    answer = harness.run("run", harness.write(data=few(image_folder)), "--workers", "1")

    assert answer.code == 65
    assert "train/red/odd.png" in answer.err
    assert not any(text in answer.err for text in (SECRET, "root:", "PATH="))
    assert (harness.folder / "outside.txt").read_text() == SECRET


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/kmsg"])
def test_an_endless_file_is_not_read(harness: Harness, image_folder: Path, target: str) -> None:
    (image_folder / "train" / "red" / "odd.png").symlink_to(target)

    answer = harness.run("run", harness.write(data=few(image_folder)), "--workers", "1")

    assert answer.code == 65
    assert "odd.png" in answer.err or target in answer.err


@pytest.mark.parametrize("target", ["..", ".", "../..", "/"])
def test_circular_links_are_refused(harness: Harness, image_folder: Path, target: str) -> None:
    (image_folder / "train" / "red" / "odd").symlink_to(target, target_is_directory=True)

    answer = harness.run("run", harness.write(data={"path": str(image_folder)}), "--workers", "1")

    assert answer.code == 65
    assert "is a link to a folder above it, or to one that is read already; take it out" in answer.err


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a\0b", "cannot be a path"),
        ("/dev/zero", "must be a directory or an archive"),
        ("/proc/self/environ", "has none of these formats"),
        ("x" * 5000, "cannot be read"),
    ],
    ids=["nul", "device", "environment", "long"],
)
def test_an_impossible_image_path_is_refused(harness: Harness, path: str, words: str) -> None:
    answer = harness.run("run", harness.write(data={"path": path}), "--workers", "1")

    assert answer.code == 65
    assert words in answer.err
    assert not any(f"{name}=" in answer.err for name in os.environ)
