"""The argument STUDY of a verb that reads study files: the name or path of a study file, or the path of images."""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from data import home
from data.errors import DataError
from search.errors import UsageError
from search.spec import study_file

AUTO_STUDY: Final = "auto"
"""The study that fits itself to images."""

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz")
"""Endings of archives of images; the content of the file counts, and not its ending."""

MAX_NAME: Final = 50
"""Length of a name made of a path; a study's name has up to 64 characters, and its verdicts have longer ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyArgument:
    """A study file, and images in place of its own."""

    file: Path
    name: str
    """The default name of the study."""
    images: str | None


def resolve(text: str, images: str | None) -> StudyArgument:
    """Find the study file and the images of a command.

    Args:
        text: The argument STUDY.
        images: The value of --data.

    Raises:
        UsageError: There is no such study, nor such images.
    """
    path = _images(text)
    if path is None:
        file = _find(text)
        return StudyArgument(file=file, name=file.stem, images=images)
    if images is not None:
        raise UsageError(f"{text!r} names images, and so does --data {images!r}; give one of them")
    return StudyArgument(file=study_file.find(AUTO_STUDY), name=name_of(path), images=str(path))


def name_of(path: Path) -> str:
    """The name of a study of images: that of their folder or archive, in letters, digits, - and _.

    A dot in a name would make it that of a last training or a repetition: `photos.final`, `photos.again-3`.
    """
    stem = path.resolve().name
    ending = next((ending for ending in ARCHIVES if stem.lower().endswith(ending)), "")
    plain = unicodedata.normalize("NFKD", stem[: len(stem) - len(ending)]).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_]+", "-", plain.replace("'", "")).strip("-_")[:MAX_NAME].strip("-_")
    return name or "images"


def _find(text: str) -> Path:
    try:
        return study_file.find(text)
    except UsageError as error:
        if text.lower().endswith(".toml"):
            raise
        if os.path.isfile(text):
            endings = ", ".join(ARCHIVES)
            raise UsageError(f"{error}; the name of an archive of images ends in {endings}") from error
        raise UsageError(f"{error}; there are no images at {text!r} either") from error


def _images(text: str) -> Path | None:
    """The path of images, if the argument is one and no study has its name."""
    is_name = not {"/", os.sep} & {*text}
    if text.lower().endswith(".toml") or (is_name and study_file.is_known(text)):
        return None
    try:
        path = home.expand(text)
        is_archive = path.is_file() and text.lower().endswith(ARCHIVES)
        return path if path.is_dir() or is_archive else None
    except (DataError, OSError, ValueError):  # a name that is too long, or has a NUL
        return None
