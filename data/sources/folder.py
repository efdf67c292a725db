"""User images: a directory or archive of train/CLASS/* or CLASS/*, and optionally val/CLASS/* and test/CLASS/*."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from data import home
from data.archive import open_store
from data.atomic import replacing
from data.config import DataConfig
from data.contents import Contents, DecodingResult, ImageSample, Indices, Pixels
from data.errors import DataError
from data.formats import READABLE
from data.progress import Advance, Say
from data.sources.images import decode_images, decode_sample
from data.sources.layout import list_images
from data.sources.listing import check_counts, group_numbers, in_order, split_test
from data.split import random_order, split_rows
from data.store import Store

VERSION = 2  # of the decoding; increase it when decode() returns other pixels


class Seen(BaseModel):
    """Cached facts about a store, valid while its stamp is unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamp: str
    digest: str
    has_validation: bool
    has_test: bool
    notes: tuple[str, ...]


class Folder:
    """A Source of the images in `config.path`, a directory or archive."""

    def __init__(self, config: DataConfig, cache: Path) -> None:
        self.path = home.expand(config.path or "")
        self.name = str(self.path)
        self.side = config.side
        self._config = config
        self._notes_folder = cache / "sources"

    def key(self) -> str:
        config, seen = self._config, self._inspect()
        split = None if seen.has_test else [config.seed, config.test_share]
        reading = [config.fit, config.depth, config.groups, config.duplicates, config.name_encoding]
        skipping = [config.max_errors, READABLE] if config.max_errors else []  # images of other formats are left out
        parts = [seen.digest, self.side, split, seen.has_validation, *reading, *skipping]
        return hashlib.sha256(json.dumps(["folder", VERSION, *parts]).encode()).hexdigest()

    def notes(self) -> tuple[str, ...]:
        return self._inspect().notes

    def open(self, say: Say) -> Contents:
        store = self._store()
        say(f"looking through {self.name}")
        stamp = store.stamp()
        listing = list_images(store, self._config)
        classes = tuple(listing.train)
        train, train_labels = in_order((listing.train, listing.validation), classes)
        test, test_labels = in_order((listing.test,), classes)
        groups = group_numbers(train, listing.groups)
        given = sum(map(len, listing.validation.values()))

        def set_aside(rows: Indices, groups: Indices) -> tuple[Indices, Indices]:
            left = count_from(rows, len(train) - given)
            kept, held = split_test(
                self._config, train_labels[rows], classes, groups=groups[rows], validation_folder=left
            )
            return rows[kept], rows[held]

        check_counts(listing)
        rows = np.arange(len(train))
        kept = rows if test else set_aside(rows, groups)[0]
        left = count_from(kept, len(train) - given)
        split_rows(self._config, train_labels[kept], classes, groups=groups[kept], validation_folder=left)
        # Images that are set aside tell nothing: copies may change the split a little, after the decoding.
        training = [train[row] for row in kept]

        def fill(train_images: Pixels, test_images: Pixels, advance: Advance) -> DecodingResult:
            targets = dict(zip((*train, *test), (*train_images, *test_images), strict=True))
            filled = decode_images(
                store,
                self._config,
                targets,
                train=training,
                unreadable=listing.unreadable,
                error_file=self._notes_folder / f"{store.path.stem[:50]}-{_hash(store.path)[:8]}-errors.txt",
                advance=advance,
            )
            if store.stamp() != stamp:
                raise DataError(f"{self.name} was changed while it was read; run again when nothing writes to it")
            return filled

        def sample(count: int) -> ImageSample:
            own = kept[kept < len(train) - given]
            rows = np.sort(own[random_order(len(own), seed=self._config.seed, key="sample")[:count]])
            return decode_sample(store, self._config, [train[row] for row in rows], train_labels[rows])

        return Contents(
            classes=classes,
            train_labels=train_labels,
            test_labels=test_labels,
            validation_folder=given,
            groups=groups,
            set_aside=None if test else set_aside,
            paths=(*train, *test),
            duplicates=self._config.duplicates,
            keeps_copies_together=self._config.groups != "none",
            fill=fill,
            sample=sample,
        )

    def _store(self) -> Store:
        return open_store(self.path, encoding=self._config.name_encoding)

    def _inspect(self) -> Seen:
        """The digest and the notes of the store, from the cache if its stamp is unchanged."""
        store = self._store()
        options = json.dumps([self._config.groups, self._config.name_encoding, self._config.validation])
        name = _hash(store.path, options)[:32]
        note_file = self._notes_folder / f"{name}.json"
        stamp = store.stamp()
        try:
            seen = Seen.model_validate_json(note_file.read_bytes())
        except (OSError, ValidationError):
            seen = None
        if seen and seen.stamp == stamp.text:
            return seen
        started_ns = time.time_ns()
        listing = list_images(store, self._config)
        content = store.digest(path for path in listing.paths() if path not in listing.unreadable)
        digest = hashlib.sha256(json.dumps([content, sorted(listing.unreadable)]).encode()).hexdigest()
        seen = Seen(
            stamp=stamp.text,
            digest=digest,
            has_validation=bool(listing.validation),
            has_test=bool(listing.test),
            notes=listing.notes,
        )
        if store.stamp() != stamp:
            raise DataError(f"{store.path} was changed while it was read; run again when nothing writes to it")
        if started_ns - stamp.changed_ns > _clock_step_ns(stamp.changed_ns):
            with suppress(OSError):  # a cache that cannot be written may hold the decoded images
                note_file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(note_file) as temporary:
                    temporary.write_text(seen.model_dump_json())
        return seen


def count_from(rows: Indices, first: int) -> int:
    """Number of rows from `first` on."""
    return int((rows >= first).sum())


def _hash(path: Path, options: str = "") -> str:
    return hashlib.sha256(os.fsencode(path.resolve()) + options.encode()).hexdigest()


def _clock_step_ns(changed_ns: int) -> int:
    """Clock resolution of the file system: another edit within it keeps the stamp, so a young stamp proves nothing."""
    return 100_000_000 if changed_ns % 1_000_000_000 else 2_500_000_000  # ext4, xfs: 10 ms; HFS+, FAT: 1-2 s
