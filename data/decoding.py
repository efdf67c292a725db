"""Decodes many image files in threads."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from data.errors import DataError
from data.image import Decoded, decode
from data.preprocessing import Preprocessing

File: TypeAlias = tuple[str, bytes | DataError]
Result: TypeAlias = tuple[str, Decoded | DataError]

BUNDLE = 32  # files per task of the pool: submitting one small image costs as much as decoding it
BUNDLE_BYTES = 2**23  # upper limit of a bundle, to bound memory
WAITING_BYTES = 2**28  # of files queued for decoding; small images stay far below


def decode_many(files: Iterator[File], preprocessing: Preprocessing, *, sample: bool = False) -> Iterator[list[Result]]:
    """Decode files in threads; Pillow releases the GIL while it decodes. A few bundles are in memory at a time.

    Args:
        files: pairs of a name and the content, or the reason why the file cannot be read.
        preprocessing: the size and the steps.
        sample: whether samples of 16-bit and float images are wanted.

    Yields:
        A bundle of (name, image) in order, with a DataError instead of a broken image.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bundles = _bundles(files)
    queue: list[tuple[int, Future[list[Result]]]] = []

    def decode_bundle(bundle: list[File]) -> list[Result]:
        return [(name, _decode_or_error(content, preprocessing, name=name, sample=sample)) for name, content in bundle]

    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(queue) <= threads and sum(size for size, _ in queue) < WAITING_BYTES:
                if (bundle := next(bundles, None)) is None:
                    break
                queue.append((sum(_size(content) for _, content in bundle), pool.submit(decode_bundle, bundle)))
            if not queue:
                return
            yield queue.pop(0)[1].result()


def _bundles(files: Iterator[File]) -> Iterator[list[File]]:
    bundle: list[File] = []
    size = 0
    for name, content in files:
        bundle.append((name, content))
        size += _size(content)
        if len(bundle) == BUNDLE or size >= BUNDLE_BYTES:
            yield bundle
            bundle, size = [], 0
    if bundle:
        yield bundle


def _size(content: bytes | DataError) -> int:
    return 0 if isinstance(content, DataError) else len(content)


def _decode_or_error(
    content: bytes | DataError, preprocessing: Preprocessing, *, name: str, sample: bool
) -> Decoded | DataError:
    if isinstance(content, DataError):
        return content
    try:
        return decode(content, preprocessing, name=name, sample=sample)
    except DataError as error:
        return error
