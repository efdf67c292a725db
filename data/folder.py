"""Your own images: a directory or archive of train/CLASS/*, and optionally test/CLASS/*."""

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

VERSION = 1  # of the decoding: a change of what decode() returns must change it
LAYOUT = "it must hold train/CLASS/*, with one folder per class, and may hold test/CLASS/*"
MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a store: part -> class -> paths, all sorted."""

    train: dict[str, list[str]]
    test: dict[str, list[str]]
    notes: tuple[str, ...]


class Seen(BaseModel):
    """What was found out about a store, so that it need not be read again while its stamp is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamp: str
    digest: str
    has_test: bool


class Folder:
    """A Source: the images in `path`, a directory or archive."""

    def __init__(self, path: Path, *, side: int, seed: int, test_share: float, cache: Path) -> None:
        self.path = path.expanduser()
        self.name = str(path)
        self.side = side
        self._seed = seed
        self._test_share = test_share
        self._notes_folder = cache / "sources"

    def key(self) -> str:
        seen = _look(open_store(self.path), self._notes_folder)
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
            kept, held = stratified_split(
                train_labels, self._test_share, seed=self._seed, key="test_share", classes=classes
            )
            test, test_labels = [train[row] for row in held], train_labels[held]
            train, train_labels = [train[row] for row in kept], train_labels[kept]
            notes = (*notes, f"there is no test/: {len(test)} of the images were set aside as test images")

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> None:
            places = {path: train_images[row] for row, path in enumerate(train)}
            places.update((path, test_images[row]) for row, path in enumerate(test))
            _decode_all(store, places, side=self.side, advance=advance)
            if store.stamp() != stamp:
                raise DataError(f"{self.name} was changed while it was read; run again when nobody writes to it")

        return Contents(classes=classes, train_labels=train_labels, test_labels=test_labels, notes=notes, fill=fill)


def list_images(store: Store) -> Listing:
    """Find the classes and images of a store. Raises DataError where they are not laid out as they must be."""
    parts = _sort_out(store)
    if not parts.train:
        raise DataError(f"{store.path}: train/ has no class folder; {LAYOUT}")
    _check_classes(store.path, parts)
    untested = [name for name in parts.train if name not in parts.test] if parts.test else []
    notes = [f"class '{name}' has no test images" for name in untested]
    return Listing(parts.train, parts.test, (*parts.notes, *notes))


def _look(store: Store, notes_folder: Path) -> Seen:
    """Return the digest of a store: noted down before, if the stamp says that nothing has changed since."""
    note = notes_folder / f"{hashlib.sha256(os.fsencode(store.path.resolve())).hexdigest()[:32]}.json"
    stamp = store.stamp()
    try:
        seen = Seen.model_validate_json(note.read_bytes())
    except (OSError, ValidationError):
        seen = None
    if seen and seen.stamp == stamp.text:
        return seen
    started_ns = time.time_ns()
    listing = list_images(store)
    seen = Seen(stamp=stamp.text, digest=store.digest(), has_test=bool(listing.test))
    if store.stamp() != stamp:
        raise DataError(f"{store.path} was changed while it was read; run again when nobody writes to it")
    if started_ns - stamp.changed_ns > _clock_step_ns(stamp.changed_ns):
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as aside:
            aside.write_text(seen.model_dump_json())
    return seen


def _clock_step_ns(changed_ns: int) -> int:
    """Another edit within a tick of the file system's clock leaves the stamp as it is; so young, it proves nothing."""
    return 100_000_000 if changed_ns % 1_000_000_000 else 2_500_000_000  # ext4, xfs: 10 ms; HFS+, FAT: 1-2 s


def _sort_out(store: Store) -> Listing:
    """Put every entry into its part and class, and refuse what fits nowhere."""
    entries = list(store.entries())
    top = _top(entries)
    parts: dict[str, dict[str, list[str]]] = {name: {} for name in PARTS}
    others: set[str] = set()
    found: set[str] = set()
    for entry in entries:
        match PurePosixPath(entry.path).parts[top:]:
            case (part, *_) if part not in PARTS:
                others.add(part)
            case (part, name) if entry.is_folder:
                found.add(part)
                parts[part].setdefault(name, [])
            case (part, name, _) if not entry.is_folder:
                parts[part].setdefault(name, []).append(entry.path)
            case (part,) if entry.is_folder:
                found.add(part)
            case ():
                pass  # the folder in front
            case (_,) | (_, _):
                raise DataError(f"{store.path}: '{entry.path}' lies outside of the class folders; {LAYOUT}")
            case _:
                raise DataError(f"{store.path}: '{entry.path}' is too deep; images lie directly in their class folder")
    if "train" not in found and not parts["train"]:
        raise DataError(f"{store.path} has no folder train/, only {_some(others) or 'nothing'}; {LAYOUT}")
    if "test" in found and not parts["test"]:
        raise DataError(f"{store.path}: test/ is empty; fill it, or delete it: then a share of train/ is set aside")
    notes = (f"only train/ and test/ are read, not {_some(others)}",) if others else ()
    train, test = ({name: sorted(paths) for name, paths in sorted(parts[part].items())} for part in PARTS)
    return Listing(train, test, notes)


def _top(entries: Sequence[Entry]) -> int:
    """1 if a single folder stands in front of train/ and test/, else 0."""
    paths = [PurePosixPath(entry.path).parts for entry in entries]
    first = {parts[0] for parts in paths if parts}
    return int(len(first) == 1 and not first & set(PARTS) and any(parts[1:2] == ("train",) for parts in paths))


def _check_classes(path: Path, listing: Listing) -> None:
    for part, classes in (("train", listing.train), ("test", listing.test)):
        for name, files in classes.items():
            if not files:
                raise DataError(f"{path}: the class folder {part}/{name} is empty; add images or delete it")
            if not name.isprintable():  # also what is no Unicode
                raise DataError(
                    f"{path}: the class folder {part}/{name!r} has a name that cannot be printed; rename it"
                )
            if len(set(files)) < len(files):
                raise DataError(f"{path}: {part}/{name} holds two files of one name; pack it again")
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
    """Paths and labels, class by class: the same whatever the kind of store and the order inside."""
    pairs = [(path, label) for label, name in enumerate(classes) for path in images.get(name, [])]
    return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64)


def _decode_all(store: Store, places: dict[str, NDArray[np.uint8]], *, side: int, advance: Advance) -> None:
    """Decode every image into its place. Raises DataError that names the images that cannot be decoded."""
    broken: list[str] = []
    for decoded in decode_many(store.read(frozenset(places)), side=side):
        for path, result in decoded:
            if isinstance(result, DataError):
                broken.append(str(result))
            else:
                places[path][:] = result
        if len(broken) >= MOST_TOLD:
            break
        advance(len(decoded))
    if broken:
        raise DataError(f"{store.path} holds files that are no whole images:\n  " + "\n  ".join(broken[:MOST_TOLD]))
