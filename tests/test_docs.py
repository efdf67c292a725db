"""The documentation is correct: its studies load, its files and commands exist, and it is complete."""

import re
import subprocess
from pathlib import Path

import pytest

from search.cli.main import VERBS
from search.spec import study_spec
from search.spec.parameters import DEFAULTS
from tests.packages import ROOT

PAGES = ("README.md", "studies/README.md")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    matches = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [block for name, block in matches if name == language]


def sources() -> set[str]:
    files = (file for package in ("search", "models", "data") for file in (ROOT / package).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix() for file in files}


@pytest.mark.parametrize("page", PAGES)
def test_every_complete_study_in_the_docs_loads(page: str, tmp_path: Path) -> None:
    studies = [block for block in blocks(page, "toml") if block.startswith(("question", "base"))]
    file = tmp_path / "shown.toml"

    for block in studies:
        file.write_text(block)
        study_spec.load(file)

    assert studies


def test_the_comparison_in_the_docs_loads_with_a_space_and_a_budget(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("studies/README.md", "toml") if "[[compare]]" in block]
    file = tmp_path / "shown.toml"
    file.write_text(block + "\n[budget]\nepochs = 1\n")

    assert [row.name for row in study_spec.load(file).rows] == ["base", "LeakyReLU"]


def test_every_key_of_the_space_is_documented() -> None:
    page = (ROOT / "studies" / "README.md").read_text()

    missing = [key for key in DEFAULTS if f"`{key}`" not in page]

    assert missing == []


def test_the_file_map_names_every_file_once_and_no_other() -> None:
    (tree,) = [block for block in blocks("README.md", "") if block.startswith("search/")]
    named: list[str] = []
    package = folder = ""
    for line in tree.splitlines():
        if line[0] != " ":
            package, folder = line.split("/")[0], ""
        elif match := re.match(r"  (\w+)/", line):
            folder = f"{match[1]}/"
        elif line[2] != " ":
            folder = ""
        named += [f"{package}/{folder}{file}" for file in re.findall(r"\b(\w+\.py)\b", line)]

    assert sorted(named) == sorted(file for file in sources() if not file.endswith("__init__.py"))


def test_every_shipped_study_is_described() -> None:
    page = (ROOT / "studies" / "README.md").read_text()

    assert [file.stem for file in (ROOT / "studies").glob("*.toml") if f"`{file.stem}`" not in page] == []


def test_every_make_target_that_the_readme_names_exists_and_every_verb_has_one() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"^make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE)}

    assert named <= targets
    assert {"study" if verb == "run" else verb for verb in VERBS} <= targets
    assert max(map(len, listed.splitlines())) <= 80
