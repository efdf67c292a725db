"""User images: a directory or archive of train/CLASS/*, and optionally test/CLASS/*."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data.archive import open_store
from data.atomic import replacing
from data.cache import Contents, Labels, Pixels
from data.errors import DataError
from data.image import decode_many
from data.progress import Advance, Say
from data.split import stratified_split
from data.store import PARTS, Entry, Store

VERSION = 1  # of the decoding; increase it when decode() returns other pixels
LAYOUT = "it must hold train/CLASS/*, with one folder per class, and may hold test/CLASS/*"
MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a store: part -> class -> paths, all sorted."""

    train: dict[str, list[str]]
    test: dict[str, list[str]]
    notes: tuple[str, ...]


class Seen(BaseModel):
    """Cached facts about a store, valid while its stamp is unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamp: str
    digest: str
    has_test: bool


class Folder:
    """A Source of the images in `path`, a directory or archive."""

    def __init__(self, path: Path, *, side: int, seed: int, test_share: float, cache: Path) -> None:
        self.path = path.expanduser()
        self.name = str(path)
        self.side = side
        self._seed = seed
        self._test_share = test_share
        self._notes_folder = cache / "sources"

    def key(self) -> str:
        seen = _inspect(open_store(self.path), self._notes_folder)
        split = None if seen.has_test else [self._seed, self._test_share]
        return hashlib.sha256(json.dumps(["folder", VERSION, seen.digest, self.side, split]).encode()).hexdigest()

    def open(self, say: Say) -> Contents:
        store = open_store(self.path)
        say(f"looking through {self.name}")
        stamp = store.stamp()
        listing = list_images(store)
        classes = tuple(listing.train)
        train, train_labels = _in_order(listing.train, classes)
        test, test_labels = _in_order(listing.test, classes)
        notes = listing.notes
        if not test:
            train_rows, test_rows = stratified_split(
                train_labels, self._test_share, seed=self._seed, key="test_share", classes=classes
            )
            test, test_labels = [train[row] for row in test_rows], train_labels[test_rows]
            train, train_labels = [train[row] for row in train_rows], train_labels[train_rows]
            notes = (*notes, f"there is no test/: {len(test)} of the images were set aside as test images")

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> None:
            targets = {path: train_images[row] for row, path in enumerate(train)}
            targets.update((path, test_images[row]) for row, path in enumerate(test))
            _decode_all(store, targets, side=self.side, advance=advance)
            if store.stamp() != stamp:
                raise DataError(f"{self.name} was changed while it was read; run again when nothing writes to it")

        return Contents(classes=classes, train_labels=train_labels, test_labels=test_labels, notes=notes, fill=fill)


def list_images(store: Store) -> Listing:
    """Find the classes and images of a store.

    Raises:
        DataError: the layout is wrong.
    """
    parts = _group_entries(store)
    if not parts.train:
        raise DataError(f"{store.path}: train/ has no class folder; {LAYOUT}")
    _check_classes(store.path, parts)
    untested = [name for name in parts.train if name not in parts.test] if parts.test else []
    notes = [f"class '{name}' has no test images" for name in untested]
    return Listing(parts.train, parts.test, (*parts.notes, *notes))


def _inspect(store: Store, notes_folder: Path) -> Seen:
    """Return the digest of a store, from its note if the stamp is unchanged."""
    note_file = notes_folder / f"{hashlib.sha256(os.fsencode(store.path.resolve())).hexdigest()[:32]}.json"
    stamp = store.stamp()
    try:
        seen = Seen.model_validate_json(note_file.read_bytes())
    except (OSError, ValidationError):
        seen = None
    if seen and seen.stamp == stamp.text:
        return seen
    started_ns = time.time_ns()
    listing = list_images(store)
    seen = Seen(stamp=stamp.text, digest=store.digest(), has_test=bool(listing.test))
    if store.stamp() != stamp:
        raise DataError(f"{store.path} was changed while it was read; run again when nothing writes to it")
    if started_ns - stamp.changed_ns > _clock_step_ns(stamp.changed_ns):
        note_file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note_file) as temporary:
            temporary.write_text(seen.model_dump_json())
    return seen


def _clock_step_ns(changed_ns: int) -> int:
    """Clock resolution of the file system: another edit within it keeps the stamp, so a young stamp proves nothing."""
    return 100_000_000 if changed_ns % 1_000_000_000 else 2_500_000_000  # ext4, xfs: 10 ms; HFS+, FAT: 1-2 s


def _group_entries(store: Store) -> Listing:
    """Group the entries by part and class, and refuse entries at any other place."""
    entries = list(store.entries())
    depth = _root_depth(entries)
    parts: dict[str, dict[str, list[str]]] = {name: {} for name in PARTS}
    others: set[str] = set()
    part_folders: set[str] = set()
    for entry in entries:
        match PurePosixPath(entry.path).parts[depth:]:
            case (part, *_) if part not in PARTS:
                others.add(part)
            case (part, name) if entry.is_folder:
                part_folders.add(part)
                parts[part].setdefault(name, [])
            case (part, name, _) if not entry.is_folder:
                parts[part].setdefault(name, []).append(entry.path)
            case (part,) if entry.is_folder:
                part_folders.add(part)
            case ():
                pass  # the parent folder of train/ and test/
            case (_,) | (_, _):
                raise DataError(f"{store.path}: '{entry.path}' lies outside of the class folders; {LAYOUT}")
            case _:
                raise DataError(f"{store.path}: '{entry.path}' is too deep; images lie directly in their class folder")
    if "train" not in part_folders and not parts["train"]:
        raise DataError(f"{store.path} has no folder train/, only {_some(others) or 'nothing'}; {LAYOUT}")
    if "test" in part_folders and not parts["test"]:
        raise DataError(f"{store.path}: test/ is empty; fill it, or delete it: then a share of train/ is set aside")
    notes = (f"only train/ and test/ are read, not {_some(others)}",) if others else ()
    train, test = ({name: sorted(paths) for name, paths in sorted(parts[part].items())} for part in PARTS)
    return Listing(train, test, notes)


def _root_depth(entries: Sequence[Entry]) -> int:
    """1 if a single folder contains train/ and test/, 0 otherwise."""
    paths = [PurePosixPath(entry.path).parts for entry in entries]
    first = {parts[0] for parts in paths if parts}
    return int(len(first) == 1 and not first & set(PARTS) and any(parts[1:2] == ("train",) for parts in paths))


def _check_classes(path: Path, listing: Listing) -> None:
    for part, classes in (("train", listing.train), ("test", listing.test)):
        for name, files in classes.items():
            if not files:
                raise DataError(f"{path}: the class folder {part}/{name} is empty; add images or delete it")
            if not name.isprintable():  # refuses invalid Unicode, too
                raise DataError(
                    f"{path}: the class folder {part}/{name!r} has a name that cannot be printed; rename it"
                )
            if len(set(files)) < len(files):
                raise DataError(f"{path}: {part}/{name} has two files of one name; pack it again")
    if only_test := [name for name in listing.test if name not in listing.train]:
        raise DataError(
            f"{path}: class '{only_test[0]}' is in test/ but not in train/ ({_some(listing.train)}); "
            "add its training images or take it out of test/"
        )
    if len(listing.train) < 2:
        raise DataError(f"{path}: train/ has only one class, {_some(listing.train)}; a classifier needs at least two")


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(f"'{name}'" for name in shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _in_order(images: dict[str, list[str]], classes: tuple[str, ...]) -> tuple[list[str], Labels]:
    """Paths and labels, class by class, independent of the kind of store and the order of its entries."""
    pairs = [(path, label) for label, name in enumerate(classes) for path in images.get(name, [])]
    return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64)


def _decode_all(store: Store, targets: dict[str, NDArray[np.uint8]], *, side: int, advance: Advance) -> None:
    """Decode every image into its target array. Raises DataError with the names of images that cannot be decoded."""
    broken: list[str] = []
    for decoded in decode_many(store.read(frozenset(targets)), side=side):
        for path, result in decoded:
            if isinstance(result, DataError):
                broken.append(str(result))
            else:
                targets[path][:] = result
        if len(broken) >= MOST_TOLD:
            break
        advance(len(decoded))
    if broken:
        raise DataError(f"{store.path} has files that are not complete images:\n  " + "\n  ".join(broken[:MOST_TOLD]))
