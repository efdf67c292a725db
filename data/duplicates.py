"""Finds pictures that are in a set twice: with equal pixels, or as near copies by a perceptual hash."""

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.contents import Indices, Pixels

#: The perceptual hash: the signs, against their median, of the 8 x 8 lowest frequencies of the grey image
#: (https://phash.org, Zauner 2010, section 3.2.1).
FREQUENCIES: Final = 8
#: Hashes of copies differ in at most this number of 64 bits. One of four bands of 16 bits is then equal.
MOST_BITS: Final = 3
BANDS: Final = 4
#: Copies correlate at least this much. Measured on 240 photos of each of three sets (studies/LOG.md, 2026-11-30): 82 to
#: 100 % of copies of another JPEG quality or brightness are found, and 14 pairs in 55,000 CIFAR-10 images.
LEAST_CORRELATION: Final = 0.98
#: Rows with an equal band that are compared; of images that are all alike, not all pairs are compared.
MOST_EQUAL: Final = 100
MOST_PAIRS: Final = 50_000
#: Images are compared at this side, as the correlation was measured.
COMPARED_SIDE: Final = 32
LEAST_CONTRAST: Final = 1.0  # of a frequency; flat images have rounding errors only, and resemble one another
LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
CHUNK: Final = 2000


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Pictures that are in a set twice."""

    first: Indices
    """(N,) for each image, the row of the first image with equal pixels: its own row if there is none before it."""

    near: Indices
    """(P, 2) rows of near copies."""

    is_complete: bool
    """Whether all pairs were compared that an equal hash suggests."""


def find(images: Pixels, rows: Indices) -> Duplicates:
    """Find the pictures that are in a set twice.

    Args:
        images: (N, S, S, 3).
        rows: those that are compared; the others have no copies.
    """
    first = _first(images, rows)
    near, is_complete = _near(images, rows[first[rows] == rows])
    return Duplicates(first, near, is_complete)


def joined(groups: Indices, first: Indices) -> Indices:
    """Join the groups that share a picture.

    Args:
        groups: (N,), equal for images of one group.
        first: (N,), see `Duplicates`.

    Returns:
        (N,), equal for images of one group or of a chain of groups with common pictures.
    """
    count = int(groups.max(initial=-1)) + 1
    links = coo_array((np.ones(len(groups)), (groups, groups[first])), shape=(count, count))
    return connected_components(links, directed=False)[1][groups].astype(np.int64)


def _first(images: Pixels, rows: Indices) -> Indices:
    first = np.arange(len(images))
    known: dict[int, list[int]] = {}
    for row in rows.tolist():
        others = known.setdefault(zlib.crc32(images[row]), [])
        first[row] = next((other for other in others if np.array_equal(images[other], images[row])), row)
        if first[row] == row:
            others.append(row)
    return first


def _near(images: Pixels, rows: Indices) -> tuple[Indices, bool]:
    """The near copies among some rows, and whether all candidates were compared."""
    small = _small(images, rows)
    chunks = [small[start : start + CHUNK] for start in range(0, len(small), CHUNK)]
    low = np.concatenate([np.empty((0, FREQUENCIES**2), np.float32), *map(_low, chunks)])
    has_contrast = np.abs(low[:, 1:]).max(axis=1, initial=0) > LEAST_CONTRAST
    rows, small, low = rows[has_contrast], small[has_contrast], low[has_contrast]
    hashes = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1).view(np.uint64)[:, 0]
    bits = 64 // BANDS
    bands = [hashes >> np.uint64(bits * band) & np.uint64(2**bits - 1) for band in range(BANDS)]
    pairs = np.unique(np.concatenate([_pairs(hashes, band) for band in bands]), axis=0)[:MOST_PAIRS]
    kept = [
        chunk[_correlation(small[chunk[:, 0]], small[chunk[:, 1]]) >= LEAST_CORRELATION]
        for chunk in np.split(pairs, range(CHUNK, len(pairs), CHUNK))
    ]
    found: Indices = rows[np.concatenate(kept)]
    return found, len(pairs) < MOST_PAIRS


def _small(images: Pixels, rows: Indices) -> Pixels:
    """Some rows as images of about COMPARED_SIDE pixels, by means over blocks."""
    block = max(1, images.shape[1] // COMPARED_SIDE)
    side = images.shape[1] // block
    small = np.empty((len(rows), side, side, 3), dtype=np.uint8)
    step = max(1, CHUNK // block**2)
    for start in range(0, len(rows), step):
        chunk = images[rows[start : start + step], : side * block, : side * block]
        blocks = chunk.reshape(len(chunk), side, block, side, block, 3)
        small[start : start + step] = chunk if block == 1 else blocks.mean(axis=(2, 4))
    return small


def _low(images: Pixels) -> NDArray[np.float32]:
    """The lowest frequencies of the grey images, (N, 64)."""
    basis = dct(np.eye(images.shape[1], dtype=np.float32), axis=0, norm="ortho")[:FREQUENCIES]
    low = basis @ (images.astype(np.float32) @ LUMA) @ basis.T
    return low.reshape(len(images), -1).astype(np.float32)


def _pairs(hashes: NDArray[np.uint64], band: NDArray[np.uint64]) -> Indices:
    """Pairs of rows with an equal band and at most MOST_BITS different bits, (P, 2), the smaller row first."""
    order = np.argsort(band, kind="stable")
    sorted_band, found = band[order], [np.empty((0, 2), dtype=np.int64)]
    for shift in range(1, min(MOST_EQUAL, len(order))):
        equal = np.flatnonzero(sorted_band[shift:] == sorted_band[:-shift])
        if not len(equal):
            break
        rows = np.stack((order[equal], order[equal + shift]), axis=1)
        found.append(rows[np.bitwise_count(hashes[rows[:, 0]] ^ hashes[rows[:, 1]]) <= MOST_BITS])
    return np.sort(np.concatenate(found), axis=1)


def _correlation(first: Pixels, second: Pixels) -> NDArray[np.float32]:
    """Of the pixels of each image of one array with those of the same row of another one, without the mean colour."""
    one, other = first.astype(np.float32), second.astype(np.float32)
    one -= one.mean(axis=(1, 2), keepdims=True)
    other -= other.mean(axis=(1, 2), keepdims=True)
    scale = np.sqrt((one**2).sum(axis=(1, 2, 3)) * (other**2).sum(axis=(1, 2, 3)))
    correlation: NDArray[np.float32] = (one * other).sum(axis=(1, 2, 3)) / scale
    return correlation
