"""Sizes and listings of files and folders that may be missing, or that other processes may remove meanwhile."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(bytes_of(file) for file in files_below(path))


def files_below(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Iterate over all files below a folder. Skips files that are removed meanwhile, and does not follow links."""
    for entry in entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry


def nearest_existing(folder: Path) -> Path:
    """Return a folder if it exists, otherwise its nearest existing parent. A hidden one counts as missing."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def bytes_of(file: os.DirEntry[str]) -> int:
    """Return the size of a file in bytes; 0 if the file no longer exists."""
    with suppress(FileNotFoundError):
        return file.stat(follow_symlinks=False).st_size
    return 0


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; empty if the folder is missing or not readable."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folder) as entries:
        return list(entries)
    return []
