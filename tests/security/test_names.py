"""Names of studies, classes and files stay where they belong: nothing outside is read, written or deleted."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from search.storage.rdb import Storage
from tests.lab import Lab

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


def seen(folder: Path) -> set[str]:
    """Every file and folder below, by its path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@HOSTILE
def test_a_study_cannot_be_given_a_name_that_is_no_plain_file_name(lab: Lab, name: str) -> None:
    file = lab.write()
    before = seen(lab.folder.parent)

    answer = lab.run("run", file, f"--name={name}" if name else "--name=.")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("convsearch: a study's name is up to 64 letters, digits, ")
    assert seen(lab.folder.parent) == before


@pytest.mark.parametrize("name", ["studies.db", "studies.db-journal", "studies.db-wal", "studies.db.migrating"])
def test_a_study_takes_no_name_of_a_file_that_the_database_keeps(lab: Lab, name: str) -> None:
    answer = lab.run("run", lab.write(), "--name", name)

    assert (answer.code, answer.out) == (2, "")
    assert f"a study cannot be called '{name}', because the database keeps a file of that name" in answer.err
    assert not lab.dirs.root.exists()


@pytest.mark.parametrize("name", [".hidden", "-rf", "s" * 65, "a b", "\uff0e\uff0e", "\u0441ifar10", "a\nb"], ids=repr)
def test_nor_does_its_file_give_it_one(lab: Lab, name: str) -> None:
    file = Path(lab.write()).rename(lab.folder / f"{name}.toml")
    before = seen(lab.folder.parent)

    answer = lab.run("run", str(file))

    assert answer.code == 2
    assert "a study's name is up to 64 letters, digits" in answer.err
    assert seen(lab.folder.parent) == before


@pytest.mark.parametrize("verb", ["best", "show", "delete", "stop", "resume", "compare", "run"])
def test_no_question_takes_a_name_for_a_path(lab: Lab, verb: str) -> None:
    lab.create()
    before = seen(lab.folder.parent)
    words = {"show": ["0"], "delete": ["--yes"], "run": ["--again", "0"]}.get(verb, [])
    names = [name for name in NAMES.values() if not name.startswith("-")]

    answers = {name: lab.run(verb, name, *words) for name in names}

    assert {answer.code for answer in answers.values()} == {2}
    for name, answer in answers.items():
        assert answer.err.startswith(f"convsearch: there is no study {name!r}")
    assert seen(lab.folder.parent) == before


@pytest.mark.parametrize("name", ["../victim", "..", ".hidden", "a/b"])
def test_deleting_a_foreign_study_of_such_a_name_deletes_no_folder(lab: Lab, name: str) -> None:
    optuna.create_study(study_name=name, storage=Storage(lab.url, create=True), direction="maximize")
    for folder in ("victim", ".hidden", "home/a/b"):
        (lab.folder / folder / "trial-00000").mkdir(parents=True)
        (lab.folder / folder / "convsearch.lock").write_text("1\nstudies.db\n")
    before = seen(lab.folder)

    answer = lab.run("delete", name, "--yes")

    assert answer.code == 2
    assert "a study's name is up to 64 letters, digits" in answer.err
    assert seen(lab.folder) == before


def test_deleting_follows_no_link_out_of_the_home(lab: Lab, tmp_path: Path) -> None:
    lab.create()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "photo.png").write_text("mine")
    with lab.dirs.running("s"):
        (lab.dirs.study("s") / "trial-00000").symlink_to(tmp_path / "victim", target_is_directory=True)

    answer = lab.run("delete", "s", "--yes")

    assert answer.code == 0
    assert (tmp_path / "victim" / "photo.png").read_text() == "mine"


# -- archives -----------------------------------------------------------------------------------------------------


def picture(lab: Lab) -> bytes:
    return (lab.images / "train" / "red" / "000.png").read_bytes()


def zipped(path: Path, lab: Lab, info: zipfile.ZipInfo, content: bytes) -> Path:
    """The images of the lab, and one member more."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(lab.images.rglob("*.png")):
            archive.write(file, file.relative_to(lab.images))
        archive.writestr(info, content)
    return path


def tarred(path: Path, lab: Lab, info: tarfile.TarInfo, content: bytes) -> Path:
    """The images of the lab, and one member more."""
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        archive.add(lab.images, "")
        info.size = len(content) if info.type == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(content))
    return path


def zip_link(target: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("train/red/odd.png")
    info.external_attr = 0o120777 << 16
    return info


def tar_of(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("train/red/odd.png")
    info.type, info.linkname = kind, target
    return info


LEADS_OUT = [
    "../outside.png",
    "train/red/../../../outside.png",
    "train/../../outside.png",
    "train/..\\..\\outside.png",
    "/OUTSIDE",
    "train/red/..",
    "train/./../../outside.png",
]


@pytest.mark.parametrize("name", LEADS_OUT)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.xz"])
def test_a_member_that_leads_out_is_refused_and_nothing_is_written(lab: Lab, kind: str, name: str) -> None:
    name = name.replace("/OUTSIDE", str(lab.folder / "outside.png"))
    if kind == "zip":
        path = zipped(lab.folder / "a.zip", lab, zipfile.ZipInfo(name), picture(lab))
    else:
        path = tarred(lab.folder / f"a.{kind}", lab, tarfile.TarInfo(name), picture(lab))

    answer = lab.run("run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert_refused(lab, answer.code, answer.err, path)
    assert "leads out of the archive, which is refused; pack plain files" in answer.err


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda lab, to: zipped(lab.folder / "a.zip", lab, zip_link(to), to.encode()), id="zip-link"),
        pytest.param(lambda lab, to: tarred(lab.folder / "a.tar", lab, tar_of(tarfile.SYMTYPE, to), b""), id="link"),
        pytest.param(lambda lab, to: tarred(lab.folder / "a.tar", lab, tar_of(tarfile.LNKTYPE, to), b""), id="hard"),
        pytest.param(lambda lab, to: tarred(lab.folder / "a.tar.xz", lab, tar_of(tarfile.LNKTYPE, to), b""), id="xz"),
        pytest.param(lambda lab, to: tarred(lab.folder / "a.tar", lab, tar_of(tarfile.CHRTYPE), b""), id="device"),
        pytest.param(lambda lab, to: tarred(lab.folder / "a.tar", lab, tar_of(tarfile.BLKTYPE), b""), id="disk"),
        pytest.param(lambda lab, to: tarred(lab.folder / "a.tar", lab, tar_of(tarfile.FIFOTYPE), b""), id="pipe"),
    ],
)
def test_a_member_that_is_no_plain_file_is_refused(lab: Lab, make: Callable[[Lab, str], Path]) -> None:
    outside = lab.folder / "outside.txt"
    outside.write_text(SECRET)
    path = make(lab, str(outside))

    answer = lab.run("run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert_refused(lab, answer.code, answer.err, path)
    assert "'train/red/odd.png' is a link" in answer.err
    assert outside.read_text() == SECRET


def test_a_member_that_steers_a_terminal_is_named_without_doing_so(lab: Lab) -> None:
    path = lab.folder / "own.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("train/red/../\x1b]0;owned\x07.png", b"")

    answer = lab.run("run", lab.write(data={"path": str(path)}))

    assert answer.code == 65
    assert r"\x1b]0;owned\x07.png" in answer.err
    assert all(line.isprintable() for line in answer.err.split("\n"))


@pytest.mark.parametrize("name", ["\x1b[2J", "a\rb", "\u202egnp", "a\x9b2Jb"], ids=ascii)
def test_a_class_whose_name_steers_a_terminal_is_refused_without_doing_so(lab: Lab, name: str) -> None:
    path = zipped(lab.folder / "a.zip", lab, zipfile.ZipInfo(f"train/{name}/1.png"), picture(lab))

    answer = lab.run("run", lab.write(data={"path": str(path)}), "--workers", "1")

    assert_refused(lab, answer.code, answer.err, path)
    assert "has a name that cannot be printed; rename it" in answer.err
    assert name not in answer.err


def assert_refused(lab: Lab, code: int, said: str, path: Path) -> None:
    """As bad data, with the file's name, and nothing was written beside the database."""
    assert code == 65, said
    assert str(path) in said
    assert SECRET not in said
    assert {each.name for each in lab.folder.iterdir()} <= {"home", "s.toml", path.name, "outside.txt"}
    assert seen(lab.dirs.root) == {"studies.db"}
    assert not (lab.folder.parent / "outside.png").exists()


# -- folders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(lab: Lab) -> Path:
    """A small folder of images of one's own."""
    folder = lab.folder / "own"
    for name in ("red", "blue"):
        (folder / "train" / name).mkdir(parents=True)
        for file in sorted((lab.images / "train" / name).iterdir())[:20]:
            (folder / "train" / name / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("target", ["outside.txt", "/etc/passwd", "/proc/self/environ"])
def test_a_link_in_a_folder_is_followed_but_shows_nothing_of_what_is_no_image(lab: Lab, own: Path, target: str) -> None:
    (lab.folder / "outside.txt").write_text(SECRET)
    (own / "train" / "red" / "odd.png").symlink_to(lab.folder / target)

    answer = lab.run("run", lab.write(data={"path": str(own)}), "--workers", "1")

    assert answer.code == 65
    assert "train/red/odd.png" in answer.err
    assert not any(each in answer.err for each in (SECRET, "root:", "PATH="))
    assert (lab.folder / "outside.txt").read_text() == SECRET


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/kmsg"])
def test_what_has_no_end_is_not_read(lab: Lab, own: Path, target: str) -> None:
    (own / "train" / "red" / "odd.png").symlink_to(target)

    answer = lab.run("run", lab.write(data={"path": str(own)}), "--workers", "1")

    assert answer.code == 65
    assert "odd.png" in answer.err or target in answer.err


@pytest.mark.parametrize("target", ["..", ".", "../..", "/"])
def test_links_that_go_in_circles_come_to_an_end(lab: Lab, own: Path, target: str) -> None:
    (own / "train" / "red" / "odd").symlink_to(target, target_is_directory=True)

    answer = lab.run("run", lab.write(data={"path": str(own)}), "--workers", "1")

    assert answer.code == 65
    assert "is too deep; images lie directly in their class folder" in answer.err


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a\0b", "cannot be a path"),
        ("/dev/zero", "must be a directory or an archive"),
        ("/proc/self/environ", "begins like none of them"),
        ("x" * 5000, "cannot be read"),
    ],
    ids=["nul", "device", "environment", "long"],
)
def test_a_path_that_no_images_can_lie_at_is_refused(lab: Lab, path: str, words: str) -> None:
    answer = lab.run("run", lab.write(data={"path": path}), "--workers", "1")

    assert answer.code == 65
    assert words in answer.err
    assert not any(f"{name}=" in answer.err for name in os.environ)
