"""The variables of make reach the command as they are, and no shell interprets them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packages import ROOT

VARIABLES = "".join(re.findall(r"^VARIABLES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)).split()
#: Prints its arguments, each with a NUL behind it.
STAND_IN = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"
#: Everything that a shell or make interprets. Each attempt would leave a file `pwned`.
EVIL = (
    'it\'s "quoted" $HOME $(shell touch pwned) $$x $(touch pwned) `touch pwned`; touch pwned #(a) & | > pwned < ~ * ?'
    " [a-z] {a,b} ${STUDY} %s \\ \\\\ \\n é 红 ,)(\ntouch pwned\n\ttouch pwned"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone in a folder with an apostrophe and a space, installed with a command that prints its arguments."""
    folder = tmp_path / "it's a folder"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copyfile(ROOT / name, folder / name)
    command = folder / ".venv" / "bin" / "convsearch"
    command.write_text(STAND_IN)
    command.chmod(0o755)
    (folder / ".venv" / "installed").touch()  # newer than the requirements
    return folder


def make(folder: Path, target: str, *, where: str, **values: str) -> list[str]:
    """Run a target, and return the arguments of its command.

    Args:
        folder: The clone.
        target: Name of the target.
        where: Whether the values are given in the environment or on the command line.
        **values: Values of the variables.
    """
    in_line = [f"{name}={value}" for name, value in values.items()] if where == "command line" else []
    in_environment = values if where == "environment" else {}
    # `make test EXTRAS=ray` exports its own variables.
    unset = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in VARIABLES}
    result = subprocess.run(
        ["make", target, *in_line], cwd=folder, env=unset | in_environment, capture_output=True, text=True, check=True
    )
    assert not list(folder.rglob("pwned"))
    return result.stdout.split("\0")[:-1]


PLACES = pytest.mark.parametrize("where", ["environment", "command line"])


@PLACES
@pytest.mark.parametrize(
    ("target", "names", "expected"),
    [
        (
            "study",
            "STUDY DATA NAME TRIALS WORKERS HOURS",
            "run --trials TRIALS --workers WORKERS --hours HOURS --data DATA --name NAME -- STUDY",
        ),
        ("study", "DATA NAME HOURS", "run --hours HOURS --name NAME -- DATA"),
        ("final", "STUDY TOP SEEDS HOURS", "final --top TOP --seeds SEEDS --hours HOURS -- STUDY"),
        ("show", "STUDY TRIAL", "show -- STUDY TRIAL"),
        ("predict", "MODEL", "predict -- MODEL"),
        ("worker", "STORAGE DATA", "worker --storage STORAGE --data DATA"),
        ("serve", "PORT", "serve --port PORT"),
        ("copy-study", "STUDY TO", "copy-study --to TO -- STUDY"),
        ("validate", "STUDY DATA", "validate --data DATA -- STUDY"),
        ("delete", "STUDY", "delete -- STUDY"),
    ],
    ids=lambda case: case if case.islower() else "",
)
def test_each_value_is_one_argument_and_nothing_in_it_is_run(
    folder: Path, where: str, target: str, names: str, expected: str
) -> None:
    values = {name: f"{name}: {EVIL}" for name in names.split()}

    arguments = make(folder, target, where=where, **values)

    assert arguments == [values.get(word, word) for word in expected.split()]


def test_without_values_the_defaults_are_used(folder: Path) -> None:
    assert make(folder, "study", where="environment") == ["run", "--", "quickstart"]
    assert make(folder, "show", where="environment") == ["show", "--", "quickstart", "0"]


@PLACES
@pytest.mark.parametrize(
    ("images", "expected"),
    [
        pytest.param("Lisa's cats [1] $x.jpg", ["Lisa's cats [1] $x.jpg"], id="a name with spaces"),
        pytest.param("a.jpg b.jpg", ["a.jpg", "b.jpg"], id="several"),
        pytest.param("?.jpg", ["a.jpg", "b.jpg"], id="a pattern"),
        pytest.param(
            "a.jpg; touch pwned `touch pwned`", ["a.jpg;", "touch", "pwned", "`touch", "pwned`"], id="commands"
        ),
    ],
)
def test_images_are_one_name_or_several(folder: Path, where: str, images: str, expected: list[str]) -> None:
    for name in ("Lisa's cats [1] $x.jpg", "a.jpg", "b.jpg"):
        (folder / name).touch()
    (folder / "Lisa's cats 1 $x.jpg").symlink_to("nowhere")  # the first name is also a pattern for this one

    arguments = make(folder, "predict", where=where, STUDY="s", IMAGES=images)

    assert arguments == ["predict", "--", "exports/s", *expected]


def test_an_unknown_extra_is_refused(folder: Path) -> None:
    command = ["make", "study", "EXTRAS=ray; touch pwned"]

    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert "EXTRAS may name postgres and ray, but got ray; touch pwned" in result.stderr
    assert not (folder / "pwned").exists()
