"""Decodes the images of a folder, with the steps that fit all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from data.atomic import replacing
from data.config import DataConfig
from data.contents import DecodingResult, ImageSample, Labels, Pixels
from data.decoding import decode_many
from data.errors import DataError
from data.preprocessing import Preprocessing, depth_of, fit_for, kept_by_crop
from data.progress import Advance
from data.store import Store
from data.text import counted, some

PERCENTILES: Final = (0.1, 99.9)  # of the values of 16-bit and float images: a few hot or dead pixels set no range
WORTH_TELLING: Final = 0.05  # share of the pixels of the median image that is cut off or added
MOST_TOLD: Final = 10  # unreadable images in the message; all are in the file that it names


class _Decoding:
    """One decoding of images into their target arrays, and the facts that it finds."""

    def __init__(self, steps: Preprocessing, *, sample: bool) -> None:
        self.steps = steps
        self.sizes: dict[str, tuple[int, int]] = {}
        self.samples: dict[str, NDArray[np.float32]] = {}
        self.errors: dict[str, DataError] = {}
        self._sample = sample

    def run(self, store: Store, targets: Mapping[str, Pixels], advance: Advance) -> None:
        for decoded in decode_many(store.read(frozenset(targets)), self.steps, sample=self._sample):
            for path, result in decoded:
                if isinstance(result, DataError):
                    self.errors[path] = result
                    continue
                targets[path][:] = result.pixels
                self.sizes[path] = result.size
                if result.samples is not None:
                    self.samples[path] = result.samples
            advance(len(decoded))


def decode_images(
    store: Store,
    config: DataConfig,
    targets: Mapping[str, Pixels],
    *,
    train: Sequence[str],
    unreadable: Mapping[str, DataError],
    error_file: Path,
    advance: Advance,
) -> DecodingResult:
    """Decode every image into its target array.

    Steps that "auto" leaves open are chosen from a first decoding of the training images. Images that need other steps
    are decoded again.

    Args:
        store: the files.
        config: the table [data].
        targets: path -> (S, S, 3), to be written.
        train: the paths of the training images.
        unreadable: path -> error of images that are not read.
        error_file: receives the list of all images that cannot be read.
        advance: receives the number of images done.

    Raises:
        DataError: more images than `max_errors` cannot be read, or the images have no contrast.
    """
    first = _Decoding(_first_steps(config), sample=True)
    first.run(store, {path: target for path, target in targets.items() if path not in unreadable}, advance)
    errors = {**unreadable, **first.errors}
    notes = _report_errors(errors, len(targets), config, error_file, name=str(store.path)) if errors else []
    known = [path for path in train if path in first.sizes]
    steps = _chosen_steps(config, first, known)
    _decode_again(store, steps, first, targets)
    sizes = [first.sizes[path] for path in known]
    notes += _fit_notes(config, steps, sizes) + _depth_notes(
        config, steps, sum(path in first.samples for path in known)
    )
    rows = frozenset(row for row, path in enumerate(targets) if path in errors)
    return DecodingResult(preprocessing=steps, broken=rows, notes=tuple(notes))


def decode_sample(store: Store, config: DataConfig, paths: Sequence[str], labels: Labels) -> ImageSample:
    """Decode some training images; those that cannot be read are left out.

    Args:
        store: the files.
        config: the table [data], with the side of the result.
        paths: the images.
        labels: (N,) their classes.
    """
    images = np.zeros((len(paths), config.side, config.side, 3), np.uint8)
    targets = dict(zip(paths, images, strict=True))
    first = _Decoding(_first_steps(config), sample=True)
    first.run(store, targets, lambda done: None)
    known = [row for row, path in enumerate(paths) if path in first.sizes]
    steps = _chosen_steps(config, first, [paths[row] for row in known])
    _decode_again(store, steps, first, targets)
    sizes = tuple(first.sizes[paths[row]] for row in known)
    reasons = tuple(str(first.errors[path]) for path in paths if path in first.errors)
    return ImageSample(images=images[known], labels=labels[known], sizes=sizes, fit=steps.fit, unreadable=reasons)


def _decode_again(store: Store, steps: Preprocessing, first: _Decoding, targets: Mapping[str, Pixels]) -> None:
    """Decode the images again that need other steps than those of the first decoding."""
    if steps == first.steps:
        return
    second = _Decoding(steps, sample=False)
    second.run(store, {path: targets[path] for path in _to_decode_again(steps, first)}, lambda done: None)
    if second.errors:
        raise next(iter(second.errors.values()))


def _first_steps(config: DataConfig) -> Preprocessing:
    fit = "crop" if config.fit == "auto" else config.fit
    match config.depth:
        case "auto":
            return Preprocessing(side=config.side, fit=fit)
        case int():
            return Preprocessing(side=config.side, fit=fit, depth=depth_of(config.depth))
        case (_, _):
            return Preprocessing(side=config.side, fit=fit, depth=config.depth)
        case _:
            assert_never(config.depth)


def _chosen_steps(config: DataConfig, first: _Decoding, train: Sequence[str]) -> Preprocessing:
    chosen: dict[str, object] = {}
    if config.fit == "auto" and train:
        chosen["fit"] = fit_for([first.sizes[path] for path in train])
    samples = [first.samples[path] for path in train if path in first.samples]
    if config.depth == "auto" and samples:
        chosen["depth"] = _range(np.concatenate(samples))
    return first.steps.model_copy(update=chosen)


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values, PERCENTILES) if len(values) else (0.0, 0.0)
    if low == high:
        low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    if low == high:
        raise DataError(
            f"the 16-bit or float training images have no contrast: every value is {low:g}; check how they were saved"
        )
    return float(low), float(high)


def _to_decode_again(steps: Preprocessing, first: _Decoding) -> set[str]:
    other_fit = {path for path, size in first.sizes.items() if steps.fit != first.steps.fit and size[0] != size[1]}
    return other_fit | (first.samples.keys() if steps.depth != first.steps.depth else set())


def _report_errors(
    errors: Mapping[str, DataError], total: int, config: DataConfig, error_file: Path, *, name: str
) -> list[str]:
    """Write the list of all unreadable images. Raises DataError if there are more than may be left out."""
    lines = [str(errors[path]) for path in sorted(errors)]
    error_file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(error_file) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
    if len(errors) <= config.max_errors:
        return [f"left out, as they cannot be read: {len(errors)} of {counted(total, 'image')}, {some(errors, 3)}"]
    shown = "".join(f"\n  {line}" for line in lines[:MOST_TOLD])
    rest = f"\n  and {len(lines) - MOST_TOLD} more" if len(lines) > MOST_TOLD else ""
    raise DataError(
        f"{name}: {len(errors)} of {total} images cannot be read, but [data] max_errors is {config.max_errors}:"
        f"{shown}{rest}\n"
        f"{error_file} lists all of them; replace them or take them out, or leave them out of the study with [data] "
        f'on_error = "skip" and max_errors = {len(errors)}'
    )


def _fit_notes(config: DataConfig, steps: Preprocessing, sizes: Sequence[tuple[int, int]]) -> list[str]:
    lost = 1 - kept_by_crop(sizes) if sizes else 0.0
    if lost < WORTH_TELLING:
        return []
    way = f'fit = "{steps.fit}"' + (" (chosen)" if config.fit == "auto" else "")
    match steps.fit:
        case "crop":
            return [f'{way} cuts {lost:.0%} of the pixels of the median image off; "pad" and "squash" keep all']
        case "pad":
            return [f"{way} adds black bars, {lost:.0%} of the median image; a crop would cut as much off"]
        case "squash":
            return [f"{way} changes the proportions; a crop would cut {lost:.0%} of the median image off"]
        case _:
            assert_never(steps.fit)


def _depth_notes(config: DataConfig, steps: Preprocessing, count: int) -> list[str]:
    if not count or steps.depth is None:
        return []
    low, high = steps.depth
    return [
        f"{count} training images have 16 bits or more: values from {low:g} to {high:g} are read as black to white "
        f"({'their 0.1 and 99.9 percentiles; ' if config.depth == 'auto' else ''}[data] depth)"
    ]
