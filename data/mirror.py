"""A test whether mirrored images keep their class, for the choice of flips as augmentation.

Letters and traffic signs lose their class in a mirror, photos keep it. A small classifier is trained on images as they
are, and evaluated on others, as they are and mirrored. Its features are responses to random whitened patches, averaged
over the image (Coates, Lee and Ng 2011, https://proceedings.mlr.press/v15/coates11a.html), under a ridge regression. It
takes seconds of CPU time, and needs no network.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data.contents import Labels, Pixels
from data.statistics import MirrorTest

#: Side in pixels of the patches, and their number. Coates et al. (figure 4) find 6 pixels best on CIFAR-10.
PATCH: Final = 6
FILTERS: Final = 96
#: Patches from which the whitening and the filters are taken.
PATCHES: Final = 10_000
#: Added to the variances before whitening, as a share of the largest.
REGULARISER: Final = 0.01
#: Ridge penalty, as a share of the mean squared norm of the features.
PENALTY: Final = 0.1
FOLDS: Final = 3
#: Images whose patches are in memory at once: 80 MB.
CHUNK: Final = 256
Floats = NDArray[np.float32]


def mirror_test(images: Pixels, labels: Labels) -> MirrorTest:
    """Test whether mirrored images keep their class.

    Args:
        images: (N, S, S, 3) training images, S at least `PATCH`.
        labels: (N,) their classes.
    """
    rng = np.random.Generator(np.random.PCG64(0))
    scaled = _normalised(images)
    filters = _filters(scaled, rng)
    features, mirrored = (_features(part, filters) for part in (scaled, scaled[:, :, ::-1]))
    is_right, is_right_mirrored = np.zeros(len(labels), np.bool_), np.zeros(len(labels), np.bool_)
    for held in np.array_split(rng.permutation(len(labels)), min(FOLDS, len(labels))):
        rest = np.setdiff1d(np.arange(len(labels)), held)
        if not len(rest):
            continue
        classify = _ridge(features[rest], labels[rest])
        is_right[held] = classify(features[held]) == labels[held]
        is_right_mirrored[held] = classify(mirrored[held]) == labels[held]
    return MirrorTest(
        recognised=int(is_right.sum()),
        mirrored=int(is_right_mirrored.sum()),
        lost=int((is_right & ~is_right_mirrored).sum()),
    )


def _normalised(images: Pixels) -> Floats:
    """Images with mean 0 in each channel, and a common contrast."""
    scaled: Floats = images.astype(np.float32) / np.float32(255)
    scaled -= scaled.mean(axis=(1, 2), keepdims=True)
    scaled /= scaled.std(axis=(1, 2, 3), keepdims=True) + np.float32(0.05)  # flat images stay flat
    return scaled


def _patches(images: Floats) -> Floats:
    """All patches of each image, (N, positions, 3 * PATCH**2)."""
    windows = sliding_window_view(images, (PATCH, PATCH), axis=(1, 2))  # (N, H, W, 3, PATCH, PATCH)
    count, height, width = windows.shape[:3]
    return windows.reshape(count, height * width, -1)


def _filters(images: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Filters that respond to whitened random patches, (3 * PATCH**2, FILTERS), and the mean patch."""
    some = _patches(images[rng.permutation(len(images))[:CHUNK]])
    some = some.reshape(-1, some.shape[-1])
    some = some[rng.permutation(len(some))[:PATCHES]]
    mean = some.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov((some - mean).T))
    scale = 1 / np.sqrt(np.maximum(variances, 0) + REGULARISER * variances.max() + np.finfo(np.float32).tiny)
    whitening = (directions * scale) @ directions.T
    chosen = (some[rng.integers(len(some), size=FILTERS)] - mean) @ whitening
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True) + np.finfo(np.float32).tiny
    return (whitening @ chosen.T).astype(np.float32), mean


def _features(images: Floats, filters: tuple[Floats, Floats]) -> Floats:
    """Responses above their mean size, of both signs, averaged over each image: (N, 2 * FILTERS)."""
    weights, mean = filters
    bias, features = None, []
    for first in range(0, len(images), CHUNK):
        responses = (_patches(images[first : first + CHUNK]) - mean) @ weights
        bias = np.abs(responses).mean() if bias is None else bias
        both = (np.maximum(responses - bias, 0), np.maximum(-responses - bias, 0))
        features.append(np.concatenate([part.mean(axis=1) for part in both], axis=1))
    whole: Floats = np.concatenate(features).astype(np.float32)
    return whole


def _ridge(features: Floats, labels: Labels) -> Callable[[Floats], Labels]:
    """A linear classifier."""
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = (features - mean) / deviation
    targets = np.eye(labels.max() + 1, dtype=np.float32)[labels]
    kernel = inputs @ inputs.T
    penalty = PENALTY * np.trace(kernel) / len(kernel)
    offset = targets.mean(axis=0)
    kernel[np.diag_indices_from(kernel)] += penalty + 1e-3  # equal images have a kernel of zeros
    weights = inputs.T @ np.linalg.solve(kernel, targets - offset)
    return lambda others: np.argmax((others - mean) / deviation @ weights + offset, axis=1)
