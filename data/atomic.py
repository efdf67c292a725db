"""Files that others see whole or not at all: written aside, then renamed; and the hash of a file."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; at the end of the block that file is renamed to `path`.

    Where the block raises, `path` stays as it was and the other file is removed. `durable`: the content and the name
    are flushed to the disk, so that they outlast a power cut; that takes milliseconds.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield aside
        if durable:
            flush(aside)
        aside.replace(path)
        if durable:
            flush(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
