"""A new value of a choice cannot fall through: mypy names every place that must handle it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: (file, its text, the text with one more value, the files that mypy refuses then)
NEW_VALUES = [
    pytest.param(
        "search/spec/settings.py",
        '"random", "grid"]',
        '"random", "grid", "gp"]',
        {"search/study/strategy.py"},
        id="sampler",
    ),
    pytest.param(
        "search/spec/settings.py",
        '"median", "none"]',
        '"median", "none", "patient"]',
        {"search/pruners/asha.py"},
        id="pruner",
    ),
    pytest.param(
        "search/spec/settings.py",
        '"balanced_accuracy"]',
        '"balanced_accuracy", "f1"]',
        {"search/trial/final_training.py"},
        id="metric",
    ),
    pytest.param(
        "data/config.py",
        '"cifar10", "folder"]',
        '"cifar10", "folder", "web"]',
        {"data/dataset.py", "search/service/dry_run.py"},
        id="data source",
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "refused"), NEW_VALUES)
def test_a_new_value_is_refused_where_it_is_not_handled(
    tmp_path: Path, file: str, old: str, new: str, refused: set[str]
) -> None:
    for package in ("data", "models", "search"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if (ROOT / ".mypy_cache").exists():  # which `make check` has filled; without it this takes a minute
        shutil.copytree(ROOT / ".mypy_cache", tmp_path / ".mypy_cache")
    source = (tmp_path / file).read_text()
    assert source.count(old) == 1
    (tmp_path / file).write_text(source.replace(old, new))

    words = [sys.executable, "-m", "mypy", "--no-error-summary", "-p", "search", "-p", "data"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert {line.split(":")[0] for line in found if "assert_never" in line} == refused, done.stdout
