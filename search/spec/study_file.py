"""Study files: found by name or path, and read together with their bases."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from data import home
from data.errors import DataError
from search.errors import SpecError, UsageError
from search.spec import inheritance, text_file
from search.spec.toml_table import check_keys, did_you_mean, to_toml

STUDY_DIRS: Final = (Path("studies"), Path(__file__).resolve().parents[2] / "studies")
"""Search path for study names: `studies` in the working folder, then the studies shipped with the service."""

MAX_BYTES: Final = 100_000
"""Maximum size of a study file in bytes. Real files have a few thousand; tomllib is quadratic in dotted keys."""

TABLES: Final = ("question", "checkpoints", "data", "budget", "search", "space", "try", "compare", "final")
"""The keys at the top of a study, in a file and in the database."""

INHERITANCE: Final = ("base", "remove")
"""The keys at the top of a file that say what it inherits."""

MAX_BASES: Final = 8
"""Maximum number of bases of a file, one on top of another. A longer chain is a mistake: nobody could read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFile:
    """A study file and its base."""

    path: Path
    tables: Mapping[str, Any]
    """The tables by name as tomllib returns them, merged into those of the base."""
    base: "StudyFile | None" = None

    @property
    def bases(self) -> tuple[Path, ...]:
        """The paths of the base, its base, and so on."""
        return () if self.base is None else (self.base.path, *self.base.bases)


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
    names = sorted({name for folder in folders for name in _names(folder)} - {"pyproject"})
    if not names:
        raise UsageError(f"there is no study {to_toml(name_or_path)}, nor any other beside it")
    message = f"there is no study {to_toml(name_or_path)}; there are {', '.join(names)}"
    raise UsageError("; ".join(filter(None, [message, did_you_mean(path.stem, names)])))


def is_known(name: str, folders: Sequence[Path] = STUDY_DIRS) -> bool:
    """Whether a study file has this name."""
    return any(os.path.isfile(folder / f"{name}.toml") for folder in folders)


def read(path: Path, *, above: tuple[Path, ...] = ()) -> StudyFile:
    """Read a study file and its bases.

    Args:
        path: The TOML file.
        above: The files whose base it is, the first one first.

    Raises:
        SpecError: A file cannot be read, has an unknown key at its top, or does not fit its base. The message has the
            file, and the files whose base it is.
    """
    try:
        tables = tomllib.loads(_text(path))
        check_keys("", tables, known=(*TABLES, *INHERITANCE))
        if "base" not in tables:
            if "remove" in tables:
                raise SpecError("remove takes keys of a base out, and this file names none; add base, or leave it out")
            return StudyFile(path=path, tables=tables)
        base = _read_base(tables.pop("base"), chain=(*above, path))
        kept = inheritance.remove(base.tables, tables.pop("remove", []))
        return StudyFile(path=path, tables=inheritance.merge(kept, tables), base=base)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: bad TOML, a huge integer
        raise SpecError(f"{path} cannot be read as TOML: {error}") from error


def _read_base(name: object, *, chain: tuple[Path, ...]) -> StudyFile:
    """Read the base that the last file of a chain names."""
    path = _find_base(name, chain[-1])
    circle = [number for number, other in enumerate(chain) if path.samefile(other)]
    if circle:
        listed = " > ".join(map(str, (*chain[circle[0] :], path)))
        raise SpecError(f"base leads back to the same file: {listed}; take it out of one of them")
    if len(chain) > MAX_BASES:
        raise SpecError(f"base = {to_toml(name)} is one too many: {chain[0]} has {MAX_BASES} bases already")
    try:
        return read(path, above=chain)
    except SpecError as error:
        raise SpecError(f"base {error}") from error


def _find_base(name: object, path: Path) -> Path:
    """Find the base that a file names: a path is relative to the file, and a name is looked up beside it first.

    The file itself comes last: with `base = "cifar10"` a file cifar10.toml changes the shipped study of its name.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise SpecError(f"base must be the name or the path of a study file, but got {to_toml(name)}")
    try:
        if name.lower().endswith(".toml"):
            return find(str(path.parent / home.expand(name)))
        folders = (path.parent, *STUDY_DIRS)
        return find(name, sorted(folders, key=lambda folder: _is_same(folder / f"{name}.toml", path)))
    except (DataError, UsageError) as error:
        raise SpecError(f"base = {to_toml(name)}: {error}") from error


def _is_same(path: Path, other: Path) -> bool:
    return os.path.isfile(path) and path.samefile(other)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(f"a study file has at most {MAX_BYTES // 1000} kB; is this one?")
    return text_file.decode(content)


def _names(folder: Path) -> set[str]:
    """The names of the study files in a folder; none if it is hidden, or its name is too long."""
    try:
        return {file.stem for file in folder.glob("*.toml")}
    except OSError:
        return set()
