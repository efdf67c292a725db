"""Decoded images on disk, shared by all processes through memory maps.

    CACHE/sets/KEY/train.npy, train_labels.npy   (N, S, S, 3) uint8 and (N,) int64
                   test.npy, test_labels.npy     the same in separate files, which a search does not open
                   meta.json                     written last, with the sizes of the other files

A set is written to a temporary folder and renamed, so it is complete or missing. KEY is a hash of the bytes of the
source and of the relevant options.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data.atomic import flush
from data.errors import DataError
from data.progress import Advance, Say, progress

Pixels: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.int64]

SCHEMA = 1
CHUNK_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The content of a source before decoding."""

    classes: tuple[str, ...]
    train_labels: Labels
    test_labels: Labels
    notes: tuple[str, ...] = ()
    """Remarks for the user about the images."""

    fill: Callable[[Pixels, Pixels, Advance], None]
    """Writes train and test images, (N, S, S, 3), in the order of the labels; calls Advance with the number done."""


class Source(Protocol):
    """A source of images."""

    name: str
    side: int

    def key(self) -> str:
        """A hash that changes whenever open() would give other images; cheap if nothing has changed."""
        ...

    def open(self, say: Say) -> Contents:
        """List the images of the source, after downloading it if necessary."""
        ...


class Meta(BaseModel):
    """meta.json: the description of a set, readable without its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_number: int
    fingerprint: str
    """SHA-256 of the decoded content: classes, size, labels and pixels of train and test."""

    classes: tuple[str, ...]
    image_size: int
    test_counts: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...]
    sizes: dict[str, int]
    """File -> bytes."""


def ensure(source: Source, cache: Path, say: Say) -> Path:
    """Decode a set into the cache unless it is complete. A lock keeps two processes from decoding it twice.

    Args:
        source: the images.
        cache: root folder of the cache.
        say: receives lines of progress.

    Returns:
        The folder of the set.

    Raises:
        DataError: the source cannot be used.
        OSError: the cache cannot be written.
    """
    folder = _folder(source, cache)
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder, say) as is_alone:
        if _is_whole(folder):
            return folder
        if is_alone:
            _remove_leftovers(folder)
        _make(source, folder, say)
    return folder


def is_made(source: Source, cache: Path) -> bool:
    """Whether the decoded set is complete."""
    return _is_whole(_folder(source, cache))


def find(source: Source, cache: Path) -> Path:
    """Return the folder of the decoded set. Raises DataError if it is missing or damaged."""
    folder = _folder(source, cache)
    if not _is_whole(folder):
        raise DataError(f"{source.name} has not been prepared in {cache}, or has changed since; run the study again")
    return folder


def read_meta(folder: Path) -> Meta:
    """Return the description of a complete set."""
    return Meta.model_validate_json((folder / "meta.json").read_bytes())


def read_array(folder: Path, name: str) -> NDArray[np.generic]:
    """Map an array of a set into memory, copy-on-write.

    Args:
        folder: the folder of the set.
        name: the array, such as "train_labels".

    Raises:
        DataError: the file is missing or damaged.
    """
    file = folder / f"{name}.npy"
    try:
        # "c" is copy-on-write: processes share the pages, and writes stay private.
        array: NDArray[np.generic] = np.load(file, mmap_mode="c", allow_pickle=False)
        return array
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is missing or damaged; delete {folder} and run the study again") from error


def _folder(source: Source, cache: Path) -> Path:
    return cache / "sets" / source.key()[:32]


def _is_whole(folder: Path) -> bool:
    """Whether all files have their recorded sizes; the test files may be missing."""
    try:
        meta = read_meta(folder)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name in meta.sizes}
    except (OSError, ValidationError):
        return False
    expected = {name: size for name, size in meta.sizes.items() if name in sizes or not name.startswith("test")}
    return meta.schema_number == SCHEMA and sizes == expected


@contextmanager
def _lock(folder: Path, say: Say) -> Iterator[bool]:
    """Wait until no other process makes this set. Yields False if the file system does not support locks."""
    with folder.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is preparing these images; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False  # both processes then make the set, and the second rename fails
            return
        yield True


def _remove_leftovers(folder: Path) -> None:
    """Delete the temporary folders of killed processes, and the set itself if it is damaged."""
    for path in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(path, ignore_errors=True)
    if folder.exists():
        damaged = folder.parent / f".{folder.name}-damaged"
        folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _make(source: Source, folder: Path, say: Say) -> None:
    contents = source.open(say)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(contents, part, side=source.side, name=source.name, say=say)
        part.chmod(0o755)
        part.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(contents: Contents, part: Path, *, side: int, name: str, say: Say) -> None:
    train = _new_array(part / "train.npy", (len(contents.train_labels), side, side, 3), np.uint8)
    test = _new_array(part / "test.npy", (len(contents.test_labels), side, side, 3), np.uint8)
    total = len(train) + len(test)
    say(f"preparing {total} images of {name}")
    with progress("preparing images", total=total, say=say) as advance:
        contents.fill(train, test, advance)
    _new_array(part / "train_labels.npy", contents.train_labels.shape, np.int64)[:] = contents.train_labels
    _new_array(part / "test_labels.npy", contents.test_labels.shape, np.int64)[:] = contents.test_labels
    files = sorted(part.glob("*.npy"))
    for file in files:
        flush(file)
    mean, std = _moments(train)
    meta = Meta(
        schema_number=SCHEMA,
        fingerprint=_fingerprint(contents, train, test),
        classes=contents.classes,
        image_size=side,
        test_counts=tuple(np.bincount(contents.test_labels, minlength=len(contents.classes)).tolist()),
        mean=mean,
        std=std,
        notes=contents.notes,
        sizes={file.name: file.stat().st_size for file in files},
    )
    (part / "meta.json").write_text(meta.model_dump_json(indent=1))
    flush(part / "meta.json")


def _new_array(file: Path, shape: tuple[int, ...], kind: type[np.uint8 | np.int64]) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
    if hasattr(os, "posix_fallocate"):  # raises on a full disk; a mapped write would be a SIGBUS
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return array


def _moments(images: Pixels) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in [0, 1], from exact integer sums."""
    total, squares = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    for chunk in _chunks(images):
        pixels = chunk.reshape(len(chunk), -1).astype(np.uint16)
        total += pixels.sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
        squares += (pixels * pixels).sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
    count = images.size // 3
    mean = [int(channel_sum) / count / 255 for channel_sum in total]
    std = [
        max(int(channel_sum) / count / 255**2 - average**2, 0.0) ** 0.5
        for channel_sum, average in zip(squares, mean, strict=True)
    ]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _fingerprint(contents: Contents, train: Pixels, test: Pixels) -> str:
    digest = hashlib.sha256(json.dumps([contents.classes, train.shape, test.shape]).encode())
    for labels in (contents.train_labels, contents.test_labels):
        digest.update(labels.astype("<i8").tobytes())
    for images in (train, test):
        for chunk in _chunks(images):
            digest.update(chunk.data)
    return digest.hexdigest()


def _chunks(images: Pixels) -> Iterator[Pixels]:
    rows = max(CHUNK_BYTES // max(images[:1].nbytes, 1), 1)
    for start in range(0, len(images), rows):
        yield images[start : start + rows]
