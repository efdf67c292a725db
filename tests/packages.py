"""A copy of the packages, which a test may change."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def copy_packages(folder: Path) -> None:
    """Copy the packages, the settings of mypy and the cache of mypy."""
    for package in ("data", "models", "search"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if (ROOT / ".mypy_cache").exists():  # filled by `make check`; without it mypy takes a minute
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")


def replace(copy: Path, file: str, old: str, new: str) -> None:
    """Replace the only occurrence of a text in a file of the copy."""
    source = (copy / file).read_text()
    assert source.count(old) == 1, f"{file} has {source.count(old)} x {old!r}"
    (copy / file).write_text(source.replace(old, new))
