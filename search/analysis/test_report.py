"""Test results as text: table and JSON value of `final`, and sentences for reports, dashboard and model cards."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from search.analysis.intervals import CONFIDENCE
from search.analysis.test_results import ConfigResult, FinalResult, PairedComparison
from search.storage.records import TestSetAccess
from search.tables import Table, format_duration, format_number

#: Maximum number of classes to list, lowest recall first.
WORST = 3
#: Maximum number of classes in a confusion matrix of 80 columns.
WIDEST = 11


def final_result_table(result: FinalResult, looks: Sequence[str]) -> Table:
    """Table of the test results.

    Args:
        result: Test results of all configurations.
        looks: Lines to print below the table: the selection, and accesses to the same test images.
    """
    if not result.standings:
        return Table(
            columns=(),
            rows=(),
            before=(result.question, *result.missing, "the test images have not been evaluated yet"),
        )
    return Table(
        columns=("network", "runs", "test", "95 % interval", "search", "parameters", "latency", "trained"),
        fixed=("runs", "test", "95 % interval", "search", "latency"),
        rows=tuple(_line(standing) for standing in result.standings),
        before=(result.question, f"{result.study}: {result.objective} on {result.images:,} test images", ""),
        after=("", *_foot(result), *looks),
    )


def final_result_json(result: FinalResult, looks: Sequence[TestSetAccess]) -> dict[str, Any]:
    """JSON value of `final --json`.

    Args:
        result: Test results of all configurations.
        looks: All accesses to the same test images.
    """
    return {
        "study": result.study,
        "question": result.question,
        "objective": result.objective,
        "confidence": CONFIDENCE,
        "images": result.images,
        "classes": result.classes,
        "standings": [_standing_json(standing) for standing in result.standings],
        "duels": [_duel_json(duel) for duel in result.duels],
        "missing": result.missing,
        "looks": [asdict(look) for look in looks],
    }


def worst(standing: ConfigResult, classes: Sequence[str]) -> tuple[str, ...]:
    """Classes with the lowest recall, each with its most frequent confusion: `cat 0.71 (0.15 as dog)`.

    Classes without a test image are left out.

    Args:
        standing: Test results of a configuration.
        classes: Names of the classes.
    """
    images = standing.confusion.sum(axis=1)
    shares = standing.confusion / np.maximum(1, images)[:, None]
    descriptions = []
    tested = (label for label in np.argsort(shares.diagonal(), kind="stable") if images[label])
    for label in islice(tested, WORST):
        others = np.where(np.arange(len(shares)) == label, -1.0, shares[label])
        predicted = int(others.argmax())
        descriptions.append(
            f"{classes[label]} {shares[label, label]:.2f} ({others[predicted]:.2f} as {classes[predicted]})"
        )
    return tuple(descriptions)


def comparison_sentence(duel: PairedComparison) -> str:
    """Sentence about the comparison of two configurations, without a full stop."""
    if math.isnan(duel.difference):
        return f"{duel.first} and {duel.second} have no run in common"
    if not duel.is_enough:
        return f"{duel.first} and {duel.second} have one run in common, too few for a comparison"
    if duel.interval is None:
        return f"{duel.first} is {duel.difference:.4f} ahead of {duel.second} on every image: no spread, so no interval"
    difference = f"{duel.difference:.4f} ({duel.interval.low:+.4f} to {duel.interval.high:+.4f})"
    if duel.is_significant:
        return f"{duel.first} beats {duel.second} by {difference}"
    return f"no clear difference between {duel.first} and {duel.second}: {difference}"


def _line(standing: ConfigResult) -> tuple[str, ...]:
    return (
        standing.name,
        str(standing.runs),
        format_number(standing.test),
        "-" if standing.interval is None else f"{standing.interval[0]:.4f} {standing.interval[1]:.4f}",
        "-" if standing.search is None else format_number(standing.search),
        "-" if standing.parameters is None else f"{standing.parameters:,}",
        "-" if standing.latency_ms is None else f"{standing.latency_ms:.2f} ms",
        f"{standing.epochs:.1f} epochs, {format_duration(standing.seconds)}",
    )


def _foot(result: FinalResult) -> tuple[str, ...]:
    best = result.standings[0]
    lines = [comparison_sentence(duel) for duel in result.duels if best.name in (duel.first, duel.second)]
    lines += [_promise(result)] if _promise(result) else []
    lines += [_gap(standing) for standing in result.standings if standing.gap is not None]
    lines.append(f"lowest recall of {best.name}: {', '.join(worst(best, result.classes))}")
    if len(result.classes) <= WIDEST:
        lines += ["", "Of each class (a row), per cent predicted as each class (columns):"]
        lines += [*_matrix(best, result.classes), ""]
    lines.append(f"The intervals are over {_chances([standing.runs for standing in result.standings])}.")
    if len(result.duels) > 1:
        lines.append(f"A lead is clear if it holds among all {len(result.duels)} pairs (Holm, p < 0.05).")
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
    searched = [standing for standing in result.standings if standing.search is not None]
    if len(searched) < 2:
        return ""
    chosen, other = max(searched, key=lambda row: row.search or 0.0), min(searched, key=lambda row: row.search or 0.0)
    promised = (chosen.search or 0.0) - (other.search or 0.0)
    if promised == 0.0:
        return f"The search's validation images had {' and '.join(standing.name for standing in searched)} level"
    return (
        f"The search's validation images had {chosen.name} {promised:.4f} ahead of {other.name}; "
        f"on the test images it is {chosen.test - other.test:+.4f}"
    )


def _gap(standing: ConfigResult) -> str:
    """Validation score beside test score; the validation score is of another, often shorter, training."""
    work = "" if standing.macs is None else f"; {standing.macs / 1e6:.1f} million multiply-accumulates per image"
    search, test = format_number(standing.search or 0.0), format_number(standing.test)
    return (
        f"{standing.name}: {search} on validation images in the search, {test} on test images "
        f"({-(standing.gap or 0.0):+.4f}){work}"
    )


def _matrix(standing: ConfigResult, classes: Sequence[str]) -> tuple[str, ...]:
    """Confusion matrix in per cent of the true class (rows)."""
    shares = 100 * standing.confusion / np.maximum(1, standing.confusion.sum(axis=1, keepdims=True))
    head = " " * 12 + "".join(f"{name[:5]:>6}" for name in classes)
    return head, *(
        f"{name[:12]:<12}" + "".join(f"{share:6.1f}" for share in row)
        for name, row in zip(classes, shares, strict=True)
    )


def _standing_json(standing: ConfigResult) -> dict[str, Any]:
    return {
        "name": standing.name,
        "runs": standing.runs,
        "test": standing.test,
        "interval": standing.interval,
        "search": standing.search,
        "gap": standing.gap,
        "confusion": standing.confusion.tolist(),
        "parameters": standing.parameters,
        "macs": standing.macs,
        "latency_ms": standing.latency_ms,
        "epochs": standing.epochs,
        "seconds": standing.seconds,
    }


def _duel_json(duel: PairedComparison) -> dict[str, Any]:
    interval = duel.interval
    return {
        "first": duel.first,
        "second": duel.second,
        "difference": duel.difference,
        "interval": None if interval is None else [interval.low, interval.high],
        "p": None if interval is None else interval.p,
        "p_holm": duel.p_holm,
        "is_clear": duel.is_significant,
    }


def test_set_access_lines(looks: Sequence[TestSetAccess], own: str) -> tuple[str, ...]:
    """Sentences about accesses to the test images.

    Args:
        looks: All accesses to the same test images.
        own: Name of the final study that the sentences are for.
    """
    others = [look for look in looks if look.study != own]
    sentences = [f"These test images were used {_look(look)}." for look in looks if look.study == own]
    sentences += [f"{look.study} has used them, too: {_look(look)}." for look in others]
    if not others:
        sentences.append("No other stored study has used this test set at this size (deleted studies are not counted).")
    return tuple(sentences)


def _look(look: TestSetAccess) -> str:
    count = "once" if look.networks == 1 else f"{look.networks} times"
    when = f"at {look.first}" if look.first == look.last else f"from {look.first} to {look.last}"
    return f"{count}, {when} UTC"
