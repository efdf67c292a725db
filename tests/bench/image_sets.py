"""Image sets of a benchmark: folders or archives with train/CLASS/* and test/CLASS/*, found by name or by path."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.atomic import sha256_of
from search.errors import UsageError

PARTS = ("train", "test")
SUFFIXES = (".tar", ".zip", ".tar.xz", ".tar.gz", ".tgz", ".txz")
HASH_LENGTH = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """A folder or an archive of images."""

    name: str
    path: Path
    digest: str
    """A hash of the content, shortened; for a folder of the names and sizes of its files."""

    @property
    def is_cifar10(self) -> bool:
        return self.name.startswith("cifar10")


def find(names: Sequence[str], data: Path | None) -> tuple[ImageSet, ...]:
    """Find sets by name or by path.

    Args:
        names: Names of archives below `data`, or paths; without any, all archives in `data` and in its folder sets/.
        data: Folder of archives, or an archive in it; None if there is none.

    Raises:
        UsageError: A set does not exist.
    """
    archives = {} if data is None else _archives(data.parent if data.is_file() else data)
    if not names and not archives:
        raise UsageError(
            "name image sets by --sets PATH, or their folder by --data or CONVSEARCH_TEST_DATA; "
            f"{'no folder is given' if data is None else f'{data} has no archive'}"
        )
    paths = [archives.get(name, Path(name)) for name in names] or list(archives.values())
    for name, path in zip(names, paths, strict=False):
        if not path.exists():
            known = f"; the names are {', '.join(archives)}" if archives else ""
            raise UsageError(f"there is no image set {name!r}, neither as a path nor as a name{known}")
    return tuple(ImageSet(name=_stem(path), path=path.resolve(), digest=_digest(path)) for path in paths)


def unpacked(images: ImageSet, folder: Path) -> Path:
    """The folder with train/ and test/ of a set. An archive is unpacked below `folder`, once.

    Raises:
        UsageError: There is no train/ or no test/.
    """
    root = images.path
    if not root.is_dir():
        root = folder / f"{images.name}-{images.digest}"
        if not root.exists():
            partial = root.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.unpack_archive(images.path, partial, filter="data")
            partial.rename(root)
    inner = [root, *(path for path in root.iterdir() if path.is_dir())]
    for place in inner:
        if all((place / part).is_dir() for part in PARTS):
            return place
    raise UsageError(f"{images.path} must hold train/CLASS/* and test/CLASS/*, for a test of every arm")


def _archives(folder: Path) -> dict[str, Path]:
    found = [path for place in (folder / "sets", folder) if place.is_dir() for path in sorted(place.iterdir())]
    return {_stem(path): path for path in found if path.name.endswith(SUFFIXES)}


def _stem(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.name.split(".")[0]


def _digest(path: Path) -> str:
    if path.is_file():
        return sha256_of(path)[:HASH_LENGTH]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()}\t{file.stat().st_size}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:HASH_LENGTH]
