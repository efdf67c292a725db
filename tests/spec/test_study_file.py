"""Study files: found by name or path, and read with their bases."""

import os
from pathlib import Path

import pytest

from search.errors import SpecError, UsageError
from search.spec import study_file

SHIPPED = study_file.STUDY_DIRS[-1]


def test_a_study_is_found_by_name_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    for folder, names in ((mine, ["a"]), (shipped, ["a", "b"])):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.toml").touch()

    assert study_file.find("a", (mine, shipped)) == mine / "a.toml"
    assert study_file.find("b", (mine, shipped)) == shipped / "b.toml"
    assert study_file.find(str(shipped / "a.toml"), (mine,)) == shipped / "a.toml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", "there is no study 'cifar11'; there are cifar10, grid; did you mean 'cifar10'?"),
        ("zzz", "there is no study 'zzz'; there are cifar10, grid"),
        ("no/such.toml", "there is no study 'no/such.toml', nor any other beside it"),
    ],
)
def test_an_unknown_study_is_refused_with_the_available_names(tmp_path: Path, name: str, message: str) -> None:
    for existing in ("cifar10", "grid", "pyproject"):
        (tmp_path / f"{existing}.toml").touch()

    with pytest.raises(UsageError) as refused:
        study_file.find(name, (tmp_path,))

    assert str(refused.value) == message


def test_shipped_studies_are_found_by_name() -> None:
    assert {path.stem for path in SHIPPED.glob("*.toml")} >= {"quickstart", "cifar10", "grid", "findings"}
    assert study_file.find("quickstart").samefile(SHIPPED / "quickstart.toml")


def write(folder: Path, **texts: str) -> None:
    """Write study files with these texts by name."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def test_the_base_of_a_base_is_read_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        top="base = 'middle'\n[budget]\nepochs = 3",
        middle="base = 'root'\n[budget]\nepochs = 2\ntrials = 2",
        root="[budget]\nepochs = 1\ntrials = 1\nhours = 1.0",
    )

    file = study_file.read(tmp_path / "top.toml")

    assert file.tables == {"budget": {"epochs": 3, "trials": 2, "hours": 1.0}}
    assert file.bases == (tmp_path / "middle.toml", tmp_path / "root.toml")


def test_a_base_by_name_is_looked_up_beside_the_file_then_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "studies", a="", b="")
    write(tmp_path / "mine", a="", x="base = 'a'", y="base = 'b'", z="base = 'grid'")
    monkeypatch.chdir(tmp_path)

    bases = [study_file.read(Path("mine") / f"{name}.toml").bases for name in "xyz"]

    assert bases == [(Path("mine/a.toml"),), (Path("studies/b.toml"),), (SHIPPED / "grid.toml",)]


def test_a_base_by_path_is_relative_to_the_file_and_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a="question = 'A?'")
    write(tmp_path / "deep", x="base = '../a.toml'", y="base = '~/a.toml'", z=f"base = '{tmp_path}/a.toml'")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")

    for name in "xyz":
        assert study_file.read(tmp_path / "deep" / f"{name}.toml").tables == {"question": "A?"}


def test_a_file_of_the_name_of_its_base_changes_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "studies", cifar10="base = 'cifar10'")
    write(tmp_path / "mine", cifar10="base = 'cifar10'")
    monkeypatch.chdir(tmp_path)

    assert study_file.read(Path("studies/cifar10.toml")).bases == (SHIPPED / "cifar10.toml",)
    assert study_file.read(Path("mine/cifar10.toml")).bases[0] == Path("studies/cifar10.toml")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "base = 'a'"}, "a.toml: base leads back to the same file: a.toml > a.toml; take it out of one of them"),
        (
            {"a": "base = 'b'", "b": "base = 'c.toml'", "c": "base = '../{}/b.toml'"},
            "a.toml: base b.toml: base c.toml: base leads back to the same file: b.toml > c.toml > ../{}/b.toml; take",
        ),
    ],
    ids=["itself", "two others"],
)
def test_a_circle_of_bases_is_refused_with_its_files(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    write(tmp_path, **{name: text.format(tmp_path.name) for name, text in texts.items()})

    with pytest.raises(SpecError) as refused:
        study_file.read(tmp_path / "a.toml")

    assert str(refused.value).replace(f"{tmp_path}/", "").startswith(message.format(tmp_path.name))


def test_a_link_to_the_file_itself_is_a_circle(tmp_path: Path) -> None:
    write(tmp_path, a="base = 'b'")
    (tmp_path / "b.toml").symlink_to("a.toml")

    with pytest.raises(SpecError, match=r"leads back to the same file: \S+/a.toml > \S+/b.toml"):
        study_file.read(tmp_path / "a.toml")


def test_bases_are_counted(tmp_path: Path) -> None:
    write(tmp_path, **{f"s{n}": f"base = 's{n + 1}'" for n in range(9)}, s9="question = 'The last?'")

    assert study_file.read(tmp_path / "s1.toml").tables == {"question": "The last?"}
    with pytest.raises(SpecError, match=r"s8\.toml: base = 's9' is one too many: \S+/s0\.toml has 8 bases already"):
        study_file.read(tmp_path / "s0.toml")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("'b'", "base = 'b': there is no study 'b'; there are a, "),
        ("'cifar11'", "; did you mean 'cifar10'?"),
        ("'b.toml'", "a.toml: base = 'b.toml': there is no study '{0}/b.toml'; there are a"),
        ("'no/b.toml'", "there is no study '{0}/no/b.toml', nor any other beside it"),
        ("'https://x.org/b.toml'", "there is no study '{0}/https:/x.org/b.toml', nor any other beside it"),
        ("'~nobody-here/b.toml'", "~nobody-here/b.toml: there is no user 'nobody-here'; write the path without ~"),
        ("'folder.toml'", "there is no study '{0}/folder.toml'"),
        ("'loop.toml'", "there is no study '{0}/loop.toml'"),
        ("'loop/b.toml'", "there is no study '{0}/loop/b.toml', nor any other beside it"),
        ("'pipe.toml'", "there is no study '{0}/pipe.toml'"),
        ("'/etc/passwd'", "/etc/passwd is a file, but the name of a study file ends in .toml; rename it"),
        ("'/dev/zero'", "there is no study '/dev/zero'"),
        (f"'{'x' * 5000}'", "there is no study 'xxx"),
        (f"'{'x' * 5000}/b.toml'", "there is no study '"),
        ("''", "base must be the name or the path of a study file, but got ''"),
        ('"a\\u0000b"', 'base must be the name or the path of a study file, but got "a\\u0000b"'),
        ("3", "base must be the name or the path of a study file, but got 3"),
        ("['a', 'b']", "base must be the name or the path of a study file, but got ['a', 'b']"),
    ],
    ids=lambda text: text[:30],
)
def test_a_base_that_is_no_study_file_is_refused(tmp_path: Path, base: str, message: str) -> None:
    write(tmp_path, a=f"base = {base}")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.toml")

    with pytest.raises(SpecError) as refused:
        study_file.read(tmp_path / "a.toml")

    assert str(refused.value).startswith(f"{tmp_path}/a.toml: base")
    assert message.format(tmp_path) in str(refused.value)
