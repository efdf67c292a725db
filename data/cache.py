"""Decoded images on disk, shared by all processes through memory maps.

    CACHE/sets/KEY/train.npy, train_labels.npy   (N, S, S, 3) uint8 and (N,) int64
                   train_groups.npy              (N,) int64, if images stay together in a split
                   test.npy, test_labels.npy     as for training, in files of their own that no search opens
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
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data.atomic import flush
from data.contents import Contents, Indices, Labels, Pixels
from data.errors import DataError
from data.preprocessing import Preprocessing
from data.progress import Say, progress
from data.selection import Selection, check_contrast, select

SCHEMA = 1
CHUNK_BYTES = 2**24


class Source(Protocol):
    """A source of images."""

    name: str
    side: int

    def key(self) -> str:
        """A hash that changes whenever open() would give other images; cheap if nothing has changed."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Remarks for the user about this place of the images, beside those of their content."""
        ...

    def open(self, say: Say) -> Contents:
        """List the images of the source, after downloading it if necessary."""
        ...


class Meta(BaseModel):
    """meta.json: the description of a set, readable without its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_number: int
    fingerprint: str
    """SHA-256 of the decoded content: classes, size, labels, pixels, validation part and groups."""

    classes: tuple[str, ...]
    image_size: int
    test_counts: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    """None: an older version wrote the set."""

    validation_folder: int = 0
    """Number of training images, the last ones, that are those of a folder val/."""

    seen_test_images: int = 0
    """Number of test images that are training images, too, with equal pixels."""

    skipped: int = 0
    """Number of images that could not be read and were left out."""

    sizes: dict[str, int]
    """File -> bytes."""

    def has_groups(self) -> bool:
        """Whether some images stay together in a split: train_groups.npy."""
        return "train_groups.npy" in self.sizes

    def steps(self) -> Preprocessing:
        """The steps from an image file to the pixels of the set."""
        return self.preprocessing or Preprocessing(side=self.image_size)


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


def find_by_fingerprint(fingerprint: str, cache: Path) -> Path | None:
    """Return the folder of the complete set with these images, wherever they came from."""
    folders = sorted(path.parent for path in cache.glob("sets/*/meta.json"))
    return next(
        (folder for folder in folders if _is_whole(folder) and read_meta(folder).fingerprint == fingerprint), None
    )


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
    count, total = len(contents.train_labels), len(contents.train_labels) + len(contents.test_labels)
    images = _new_array(part / "images", (total, side, side, 3), np.uint8)
    say(f"preparing {total} images of {name}")
    with progress("preparing images", total=total, say=say) as advance:
        filled = contents.fill(images[:count], images[count:], advance)
    selection = select(contents, filled, images, name=name)
    labels = np.concatenate((contents.train_labels, contents.test_labels))
    train = _copy(images, selection.train, part / "train.npy")
    test = _copy(images, selection.test, part / "test.npy")
    (part / "images").unlink()
    train_labels, test_labels = labels[selection.train], labels[selection.test]
    arrays = {"train_labels": train_labels, "test_labels": test_labels, "train_groups": selection.groups}
    for array_name, array in arrays.items():
        if array is not None:
            _new_array(part / f"{array_name}.npy", array.shape, np.int64)[:] = array
    files = sorted(part.glob("*.npy"))
    for file in files:
        flush(file)
    mean, std = _moments(train)
    check_contrast(mean, std, filled.preprocessing, name=name)
    meta = Meta(
        schema_number=SCHEMA,
        fingerprint=_fingerprint(contents.classes, (train_labels, test_labels), (train, test), selection),
        classes=contents.classes,
        image_size=side,
        test_counts=tuple(np.bincount(test_labels, minlength=len(contents.classes)).tolist()),
        mean=mean,
        std=std,
        notes=(*filled.notes, *selection.notes),
        preprocessing=filled.preprocessing,
        validation_folder=selection.validation_folder,
        seen_test_images=selection.seen_test_images,
        skipped=len(filled.broken),
        sizes={file.name: file.stat().st_size for file in files},
    )
    (part / "meta.json").write_text(meta.model_dump_json(indent=1))
    flush(part / "meta.json")


def _copy(images: Pixels, rows: Indices, file: Path) -> Pixels:
    """Write some rows to a file."""
    copy = _new_array(file, (len(rows), *images.shape[1:]), np.uint8)
    for chunk in _chunked(rows, images[:1].nbytes):
        copy[chunk] = images[rows[chunk]]
    return copy


def _new_array(file: Path, shape: tuple[int, ...], kind: type[np.uint8 | np.int64]) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
    if hasattr(os, "posix_fallocate"):  # raises on a full disk; a mapped write would be a SIGBUS
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return array


def _moments(images: Pixels) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel in [0, 1], from exact integer sums."""
    total, squares = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
    for chunk in _chunked(images, images[:1].nbytes):
        pixels = images[chunk].reshape(len(images[chunk]), -1).astype(np.uint16)
        total += pixels.sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
        squares += (pixels * pixels).sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
    count = images.size // 3
    mean = [int(channel_sum) / count / 255 for channel_sum in total]
    std = [
        max(int(channel_sum) / count / 255**2 - average**2, 0.0) ** 0.5
        for channel_sum, average in zip(squares, mean, strict=True)
    ]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _fingerprint(
    classes: tuple[str, ...], labels: tuple[Labels, Labels], images: tuple[Pixels, Pixels], selection: Selection
) -> str:
    digest = hashlib.sha256(json.dumps([classes, images[0].shape, images[1].shape]).encode())
    for part_labels in labels:
        digest.update(part_labels.astype("<i8").tobytes())
    for part in images:
        for chunk in _chunked(part, part[:1].nbytes):
            digest.update(part[chunk].data)
    if selection.validation_folder:
        digest.update(f"validation {selection.validation_folder}".encode())
    if selection.groups is not None:
        digest.update(np.unique(selection.groups, return_inverse=True)[1].astype("<i8").tobytes())
    return digest.hexdigest()


def _chunked(rows: Sized, row_bytes: int) -> Iterator[slice]:
    """Slices of the rows with about CHUNK_BYTES each."""
    step = max(CHUNK_BYTES // max(row_bytes, 1), 1)
    for start in range(0, len(rows), step):
        yield slice(start, start + step)
