"""Study files: found by name or path."""

from pathlib import Path

import pytest

from search.errors import UsageError
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
