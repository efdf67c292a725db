"""The images of a set among the decoded ones: without broken ones, and with copies of a picture in one part."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from data import duplicates
from data.contents import Contents, DecodingResult, Indices, Pixels
from data.duplicates import Duplicates
from data.errors import DataError
from data.preprocessing import Preprocessing
from data.text import counted

CHECK_DEPTH: Final = "if they use few of 16 bits, set [data] depth, such as 12 or [0, 4095]"
SHOWN: Final = 3  # examples of a kind of copies
CHANNELS: Final = ("red", "green", "blue")
LEAST_CONTRAST: Final = 0.5 / 255  # standard deviation of the pixels: half of the smallest step


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Rows of the decoded images, train images first, that make up a set."""

    train: Indices
    test: Indices
    groups: Indices | None
    """For each training image a number, equal for images that stay together; None if all are by themselves."""

    validation_folder: int
    """Number of training images, the last ones, that are those of a validation folder."""

    seen_test_images: int
    """Number of test images that are training images, too, with equal pixels."""

    notes: tuple[str, ...]


def select(contents: Contents, filled: DecodingResult, images: Pixels, *, name: str) -> Selection:
    """Choose the images of a set.

    Args:
        contents: the source.
        filled: the result of its decoding.
        images: (N, S, S, 3), train images first.
        name: the name of the source, for errors.

    Raises:
        DataError: a class has no readable image, or the same picture is in train and test.
    """
    count = len(contents.train_labels)
    is_whole = np.ones(len(images), dtype=np.bool_)
    is_whole[list(filled.broken)] = False
    train, test = np.flatnonzero(is_whole[:count]), count + np.flatnonzero(is_whole[count:])
    _check_classes(contents, train, test, name=name)
    groups = np.arange(count) if contents.groups is None else contents.groups
    found = duplicates.find(images, np.flatnonzero(is_whole)) if contents.paths else None
    if found and len(np.unique(found.first[train])) == 1:
        raise DataError(f"{name}: all training images have the same pixels; {CHECK_DEPTH}")
    if found and contents.keeps_copies_together:
        groups = duplicates.joined(groups, found.first[:count])
    notes: list[str] = []
    if contents.set_aside:
        train, test = contents.set_aside(train, groups)
        notes.append(f"there is no test/: {counted(len(test), 'image')} set aside as test images")
    seen = np.empty(0, dtype=np.int64)
    if found:
        seen = test[np.isin(found.first[test], found.first[train])]
        if len(seen) and contents.duplicates == "refuse":
            raise DataError(_refusal(seen, len(test), found, contents.paths, name=name))
        notes += _notes(contents, found, train, test)
    kept_groups = groups[train]
    return Selection(
        train=train,
        test=test,
        groups=kept_groups if len(np.unique(kept_groups)) < len(train) else None,
        validation_folder=contents.count_validation(train),
        seen_test_images=len(seen),
        notes=tuple(notes),
    )


def check_contrast(
    mean: tuple[float, float, float], std: tuple[float, float, float], steps: Preprocessing, *, name: str
) -> None:
    """Check that pixels differ: in every channel of images whose values were scaled, and in any channel of others.

    Args:
        mean: of each channel over the training images, in [0, 1].
        std: likewise.
        steps: the steps from an image file to the pixels.
        name: the name of the source, for errors.

    Raises:
        DataError: there is no contrast.
    """
    flat = [index for index, deviation in enumerate(std) if deviation < LEAST_CONTRAST]
    if len(flat) == len(std):
        raise DataError(
            f"{name}: the training images have no contrast: every pixel is {255 * mean[0]:.0f} of 255; {CHECK_DEPTH}"
        )
    if flat and steps.depth is not None:
        low, high = steps.depth
        channels = " and ".join(CHANNELS[index] for index in flat)
        raise DataError(
            f"{name}: {channels} of the training images has no contrast where values from {low:g} to {high:g} are read "
            "as black to white; set another [data] depth, or scale the channels alike"
        )


def _check_classes(contents: Contents, train: Indices, test: Indices, *, name: str) -> None:
    if len(train) == len(contents.train_labels) and len(test) == len(contents.test_labels):
        return
    counts = np.bincount(contents.train_labels[train], minlength=len(contents.classes))
    lost = [
        f"training image of class '{name}'" for name, count in zip(contents.classes, counts, strict=True) if not count
    ]
    if contents.validation_folder and not contents.count_validation(train):
        lost.append("validation image")
    if len(contents.test_labels) and not len(test):
        lost.append("test image")
    if lost:
        raise DataError(f"{name}: no {lost[0]} can be read; replace them, or take out their folder")


def _refusal(seen: Indices, total: int, found: Duplicates, paths: tuple[str, ...], *, name: str) -> str:
    pairs = np.stack((found.first[seen], seen), axis=1)
    return (
        f"{name}: {len(seen)} of {total} test images are training images, too: {_examples(pairs, paths)}; a result on "
        'them proves nothing: take them out of one part, or set [data] duplicates = "allow"'
    )


def _notes(contents: Contents, found: Duplicates, train: Indices, test: Indices) -> list[str]:
    """Sentences on pictures that are in two parts or classes, or twice in one class."""
    labels = np.concatenate((contents.train_labels, contents.test_labels))
    parts = np.full(len(labels), 2)
    parts[train] = np.where(train >= len(contents.train_labels) - contents.validation_folder, 1, 0)
    copies = np.flatnonzero(found.first != np.arange(len(labels)))
    exact = np.stack((found.first[copies], copies), axis=1)
    notes = []
    for pairs, kind in ((exact, "the same picture"), (found.near, "nearly the same picture")):
        is_in_two_parts = parts[pairs[:, 0]] != parts[pairs[:, 1]]
        is_in_two_classes = labels[pairs[:, 0]] != labels[pairs[:, 1]]
        for chosen, where in ((is_in_two_parts, "in two parts"), (is_in_two_classes, "in two classes")):
            if chosen.any():
                least = "at least " if pairs is found.near and not found.is_complete else ""
                times = counted(int(chosen.sum()), "time")
                notes.append(f"{kind} is {where} {least}{times}: {_examples(pairs[chosen], contents.paths)}")
    is_within = (parts[exact[:, 0]] == parts[exact[:, 1]]) & (labels[exact[:, 0]] == labels[exact[:, 1]])
    if is_within.any():
        notes.append(f"images with the same pixels as another one of their class: {is_within.sum()}")
    return notes


def _examples(pairs: Indices, paths: tuple[str, ...]) -> str:
    examples = [f"{paths[one]} = {paths[other]}" for one, other in pairs[:SHOWN]]
    return ", ".join(examples) + (f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else "")
