"""A new value of a choice cannot fall through: mypy reports every file that must handle it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent

#: (file, text in it, that text with one more value, files in which mypy then reports an error)
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
    if (ROOT / ".mypy_cache").exists():  # filled by `make check`; without it this test takes a minute
        shutil.copytree(ROOT / ".mypy_cache", tmp_path / ".mypy_cache")
    source = (tmp_path / file).read_text()
    assert source.count(old) == 1
    (tmp_path / file).write_text(source.replace(old, new))

    command = [sys.executable, "-m", "mypy", "--no-error-summary", "-p", "search", "-p", "data"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    errors = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert {line.split(":")[0] for line in errors if "assert_never" in line} == refused, result.stdout
