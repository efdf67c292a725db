"""Test results as text: table and JSON value of `final`, and sentences for reports, dashboard and model cards."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.analysis.averaged import copies, cost
from search.analysis.intervals import CONFIDENCE
from search.analysis.test_results import AveragedResult, ConfigResult, FinalResult, PairedComparison
from search.storage.records import TestSetAccess
from search.tables import Table, format_duration, format_number

#: Maximum number of classes to list, lowest recall first.
WORST = 3
#: Maximum number of classes in a confusion matrix of 80 columns.
WIDEST = 11


def final_result_table(result: FinalResult, lines: Sequence[str]) -> Table:
    """Table of the test results.

    Args:
        result: Test results of all configurations.
        lines: Lines to print below the table: the selection, and accesses to the same test images.
    """
    if not result.configs:
        return Table(
            columns=(),
            rows=(),
            before=(result.question, *result.missing, "the test images have not been evaluated yet"),
        )
    extra = ("averaged",) if any(config.averaged for config in result.configs) else ()
    return Table(
        columns=("network", "runs", "test", "95 % interval", *extra, "search", "parameters", "latency", "trained"),
        fixed=("runs", "test", "95 % interval", *extra, "search", "latency"),
        rows=tuple(_line(config, has_averaged=bool(extra)) for config in result.configs),
        before=(result.question, f"{result.study}: {result.objective} on {result.images:,} test images", ""),
        after=("", *_foot(result), *lines),
    )


def final_result_json(result: FinalResult, accesses: Sequence[TestSetAccess]) -> dict[str, Any]:
    """JSON value of `final --json`.

    Args:
        result: Test results of all configurations.
        accesses: All accesses to the same test images.
    """
    return {
        "study": result.study,
        "question": result.question,
        "objective": result.objective,
        "confidence": CONFIDENCE,
        "images": result.images,
        "seen_in_training": result.seen_images,
        "classes": result.classes,
        "standings": [_config_json(config) for config in result.configs],
        "duels": [_comparison_json(comparison) for comparison in result.comparisons],
        "missing": result.missing,
        "looks": [asdict(access) for access in accesses],
    }


def worst(confusion: NDArray[np.int64], classes: Sequence[str]) -> tuple[str, ...]:
    """Classes with the lowest recall, each with its most frequent confusion: `cat 0.71 (0.15 as dog)`.

    Classes without a test image are left out.

    Args:
        confusion: (classes, classes) number of images by class (row) and predicted class (column).
        classes: Names of the classes.
    """
    images = confusion.sum(axis=1)
    shares = confusion / np.maximum(1, images)[:, None]
    descriptions = []
    tested = (label for label in np.argsort(shares.diagonal(), kind="stable") if images[label])
    for label in islice(tested, WORST):
        others = np.where(np.arange(len(shares)) == label, -1.0, shares[label])
        predicted = int(others.argmax())
        descriptions.append(
            f"{classes[label]} {shares[label, label]:.2f} ({others[predicted]:.2f} as {classes[predicted]})"
        )
    return tuple(descriptions)


def seen_lines(seen: int, images: int) -> list[str]:
    """A sentence about test images that are training images, too; none without such images."""
    if not seen:
        return []
    return [f"{seen} of the {images:,} test images were seen in training, so the results are too good"]


def comparison_sentence(comparison: PairedComparison) -> str:
    """Sentence about the comparison of two configurations, without a full stop."""
    if math.isnan(comparison.difference):
        return f"{comparison.first} and {comparison.second} have no run in common"
    if not comparison.is_enough:
        return f"{comparison.first} and {comparison.second} have one run in common, too few for a comparison"
    if comparison.interval is None:
        lead = f"{comparison.first} is {comparison.difference:.4f} ahead of {comparison.second}"
        return f"{lead} on every image: no spread, so no interval"
    difference = f"{comparison.difference:.4f} ({comparison.interval.low:+.4f} to {comparison.interval.high:+.4f})"
    if comparison.is_significant:
        return f"{comparison.first} beats {comparison.second} by {difference}"
    return f"no clear difference between {comparison.first} and {comparison.second}: {difference}"


def averaged_sentence(config: ConfigResult) -> str:
    """`averaged over mirrored images 0.8912 (95 % interval 0.88 to 0.90)`; empty without test-time augmentation."""
    result = config.averaged
    if result is None:
        return ""
    interval = (
        "" if result.interval is None else f" (95 % interval {result.interval[0]:.4f} to {result.interval[1]:.4f})"
    )
    return f"averaged over {copies(result.augmentation)} {format_number(result.test)}{interval}"


def _line(config: ConfigResult, *, has_averaged: bool) -> tuple[str, ...]:
    averaged = (("-" if config.averaged is None else format_number(config.averaged.test)),) if has_averaged else ()
    return (
        config.name,
        str(config.runs),
        format_number(config.test),
        "-" if config.interval is None else f"{config.interval[0]:.4f} {config.interval[1]:.4f}",
        *averaged,
        "-" if config.search is None else format_number(config.search),
        "-" if config.parameters is None else f"{config.parameters:,}",
        "-" if config.latency_ms is None else f"{config.latency_ms:.2f} ms",
        f"{config.epochs:.1f} epochs, {format_duration(config.seconds)}",
    )


def _foot(result: FinalResult) -> tuple[str, ...]:
    best = result.configs[0]
    lines = seen_lines(result.seen_images, result.images)
    lines += [
        comparison_sentence(comparison)
        for comparison in result.comparisons
        if best.name in (comparison.first, comparison.second)
    ]
    lines += [_gain(config) for config in result.configs if config.averaged is not None]
    lines += [
        f"Averaging costs {cost(config.averaged.augmentation)}; all other figures are of single images."
        for config in result.configs[:1]
        if config.averaged is not None
    ]
    lines += filter(None, [_promise(result)])
    lines += [_gap(config) for config in result.configs if config.gap is not None]
    lines.append(f"lowest recall of {best.name}: {', '.join(worst(best.confusion, result.classes))}")
    if len(result.classes) <= WIDEST:
        lines += ["", "Of each class (a row), per cent predicted as each class (columns, in the same order):"]
        lines += [*_matrix(best, result.classes), ""]
    lines.append(f"The intervals are over {_chances([config.runs for config in result.configs])}.")
    if len(result.comparisons) > 1:
        lines.append(f"A lead is clear if it holds among all {len(result.comparisons)} pairs (Holm, p < 0.05).")
    return (*lines, *result.missing)


def _chances(runs: Sequence[int]) -> str:
    """Sources of chance that the intervals cover, by the number of runs of each network."""
    if min(runs) > 1:
        return "seeds and test images"
    if max(runs) == 1:
        return "test images; with one seed, the spread over seeds is not known"
    return "seeds and test images, those of a network with one run over test images alone"


def _promise(result: FinalResult) -> str:
    """Lead on the validation images and on the test images; empty without two configurations of the search."""
    searched = [config for config in result.configs if config.search is not None]
    if len(searched) < 2:
        return ""
    chosen, other = max(searched, key=lambda row: row.search or 0.0), min(searched, key=lambda row: row.search or 0.0)
    promised = (chosen.search or 0.0) - (other.search or 0.0)
    if promised == 0.0:
        return f"On the validation images of the search, {' and '.join(config.name for config in searched)} are equal"
    return (
        f"On the validation images of the search, {chosen.name} is {promised:.4f} ahead of {other.name}; "
        f"on the test images it is {chosen.test - other.test:+.4f}"
    )


def _gain(config: ConfigResult) -> str:
    """Score with test-time augmentation, and its difference from that of single images."""
    assert config.averaged is not None
    interval = config.averaged.gain_interval
    spread = "" if interval is None else f" ({interval.low:+.4f} to {interval.high:+.4f})"
    return f"{config.name}: {averaged_sentence(config)}, {config.averaged.gain:+.4f}{spread} against single images"


def _gap(config: ConfigResult) -> str:
    """Validation score beside test score; the validation score is of another, often shorter, training."""
    work = "" if config.macs is None else f"; {config.macs / 1e6:.1f} million multiply-accumulates per image"
    search, test = format_number(config.search or 0.0), format_number(config.test)
    return (
        f"{config.name}: {search} on validation images in the search, {test} on test images "
        f"({-(config.gap or 0.0):+.4f}){work}"
    )


def _matrix(config: ConfigResult, classes: Sequence[str]) -> tuple[str, ...]:
    """Confusion matrix in per cent of the true class (rows). The names stand last: they may be long, or wide."""
    shares = 100 * config.confusion / np.maximum(1, config.confusion.sum(axis=1, keepdims=True))
    head = " " * 3 + "".join(f"{number:6}" for number in range(1, len(classes) + 1))
    return head, *(
        f"{number:3}" + "".join(f"{share:6.1f}" for share in row) + f"  {name}"
        for number, (name, row) in enumerate(zip(classes, shares, strict=True), 1)
    )


def _config_json(config: ConfigResult) -> dict[str, Any]:
    return {
        "name": config.name,
        "runs": config.runs,
        "test": config.test,
        "interval": config.interval,
        "search": config.search,
        "gap": config.gap,
        "confusion": config.confusion.tolist(),
        "parameters": config.parameters,
        "macs": config.macs,
        "latency_ms": config.latency_ms,
        "epochs": config.epochs,
        "seconds": config.seconds,
    } | ({} if config.averaged is None else {"averaged": _averaged_json(config.averaged)})


def _averaged_json(averaged: AveragedResult) -> dict[str, Any]:
    interval = averaged.gain_interval
    return {
        "augmentation": averaged.augmentation,
        "test": averaged.test,
        "interval": averaged.interval,
        "gain": averaged.gain,
        "gain_interval": None if interval is None else [interval.low, interval.high],
        "confusion": averaged.confusion.tolist(),
    }


def _comparison_json(comparison: PairedComparison) -> dict[str, Any]:
    interval = comparison.interval
    return {
        "first": comparison.first,
        "second": comparison.second,
        "difference": comparison.difference,
        "interval": None if interval is None else [interval.low, interval.high],
        "p": None if interval is None else interval.p,
        "p_holm": comparison.p_holm,
        "is_clear": comparison.is_significant,
    }


def test_set_access_lines(accesses: Sequence[TestSetAccess], own: str) -> tuple[str, ...]:
    """Sentences about accesses to the test images.

    Args:
        accesses: All accesses to the same test images.
        own: Name of the final study that the sentences are for.
    """
    others = [access for access in accesses if access.study != own]
    sentences = [f"These test images were used {_uses(access)}." for access in accesses if access.study == own]
    sentences += [f"{access.study} has used them, too: {_uses(access)}." for access in others]
    if not others:
        sentences.append("No other stored study has used this test set at this size (deleted studies are not counted).")
    return tuple(sentences)


def _uses(access: TestSetAccess) -> str:
    count = "once" if access.networks == 1 else f"{access.networks} times"
    when = f"at {access.first}" if access.first == access.last else f"from {access.first} to {access.last}"
    return f"{count}, {when} UTC"
