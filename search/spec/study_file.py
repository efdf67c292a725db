"""Study files: found by name or path, and read as text."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from data import home
from data.errors import DataError
from search.errors import SpecError, UsageError
from search.spec import text_file
from search.spec.toml_table import did_you_mean, to_toml

STUDY_DIRS: Final = (Path("studies"), Path(__file__).resolve().parents[2] / "studies")
"""Search path for study names: `studies` in the working folder, then the studies shipped with the service."""

MAX_BYTES: Final = 100_000
"""Maximum size of a study file in bytes. Real files have a few thousand; tomllib is quadratic in dotted keys."""


def find(name_or_path: str, folders: Sequence[Path] = STUDY_DIRS) -> Path:
    """Find a study file.

    Args:
        name_or_path: The name of a study, or a path that ends in `.toml`.
        folders: The folders in which a name is looked up, in this order.

    Raises:
        UsageError: There is no such file. The message lists the available names.
    """
    try:
        path = home.expand(name_or_path)
    except DataError as error:
        raise UsageError(str(error)) from error
    is_path = path.suffix.lower() == ".toml"
    candidates = [path] if is_path else [folder / f"{name_or_path}.toml" for folder in folders]
    for candidate in candidates:
        if os.path.isfile(candidate):  # a hidden folder or a name that is too long is no error
            return candidate
    if os.path.isfile(path):
        raise UsageError(f"{path} is a file, but the name of a study file ends in .toml; rename it")
    if is_path:
        folders = [path.parent]
    names = sorted({file.stem for folder in folders for file in folder.glob("*.toml")} - {"pyproject"})
    if not names:
        raise UsageError(f"there is no study {to_toml(name_or_path)}, nor any other beside it")
    message = f"there is no study {to_toml(name_or_path)}; there are {', '.join(names)}"
    raise UsageError("; ".join(filter(None, [message, did_you_mean(path.stem, names)])))


def read_text(path: Path) -> str:
    """Read a study file.

    Raises:
        SpecError: The file is too long, or is no text.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(f"a study file has at most {MAX_BYTES // 1000} kB; is this one?")
    return text_file.decode(content)
