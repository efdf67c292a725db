"""A verdict in words: the table of `final`, its JSON, and single sentences for the report, the dashboard, a model."""

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

#: Classes that are named, those recognised least.
WORST = 3
#: A confusion matrix of more classes does not fit into 80 columns.
WIDEST = 11


def final_result_table(found: FinalResult, looks: Sequence[str]) -> Table:
    """The verdict for people. `looks`: what is to be told of earlier looks at the test images."""
    if not found.standings:
        return Table(
            columns=(), rows=(), before=(found.question, *found.missing, "nobody has looked at the test images yet")
        )
    return Table(
        columns=("network", "runs", "test", "95 % interval", "search", "parameters", "latency", "trained"),
        fixed=("runs", "test", "95 % interval", "search", "latency"),
        rows=tuple(_line(each) for each in found.standings),
        before=(found.question, f"{found.study}: {found.objective} on {found.images:,} test images", ""),
        after=("", *_foot(found), *looks),
    )


def final_result_json(found: FinalResult, looks: Sequence[TestSetAccess]) -> dict[str, Any]:
    """`final --json`; `looks`: all at these test images."""
    return {
        "study": found.study,
        "question": found.question,
        "objective": found.objective,
        "confidence": CONFIDENCE,
        "images": found.images,
        "classes": found.classes,
        "standings": [_standing_json(each) for each in found.standings],
        "duels": [_duel_json(each) for each in found.duels],
        "missing": found.missing,
        "looks": [asdict(look) for look in looks],
    }


def worst(standing: ConfigResult, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that are recognised least, each with its most frequent confusion: `cat 0.71 (0.15 as dog)`.

    A class without a test image is none of them.
    """
    images = standing.confusion.sum(axis=1)
    shares = standing.confusion / np.maximum(1, images)[:, None]
    told = []
    tested = (place for place in np.argsort(shares.diagonal(), kind="stable") if images[place])
    for place in islice(tested, WORST):
        others = np.where(np.arange(len(shares)) == place, -1.0, shares[place])
        taken = int(others.argmax())
        told.append(f"{classes[place]} {shares[place, place]:.2f} ({others[taken]:.2f} as {classes[taken]})")
    return tuple(told)


def comparison_sentence(duel: PairedComparison) -> str:
    """What there is to say of two configurations."""
    if math.isnan(duel.difference):
        return f"{duel.first} and {duel.second} have no run in common"
    if not duel.is_enough:
        return f"{duel.first} and {duel.second} have one run in common, which is too little to compare them by"
    if duel.interval is None:
        return f"{duel.first} is {duel.difference:.4f} ahead of {duel.second} on every image: no spread to judge by"
    by = f"{duel.difference:.4f} ({duel.interval.low:+.4f} to {duel.interval.high:+.4f})"
    if duel.is_significant:
        return f"{duel.first} beats {duel.second} by {by}"
    return f"no clear difference between {duel.first} and {duel.second}: {by}"


def _line(each: ConfigResult) -> tuple[str, ...]:
    return (
        each.name,
        str(each.runs),
        format_number(each.test),
        "-" if each.interval is None else f"{each.interval[0]:.4f} {each.interval[1]:.4f}",
        "-" if each.search is None else format_number(each.search),
        "-" if each.parameters is None else f"{each.parameters:,}",
        "-" if each.latency_ms is None else f"{each.latency_ms:.2f} ms",
        f"{each.epochs:.1f} epochs, {format_duration(each.seconds)}",
    )


def _foot(found: FinalResult) -> tuple[str, ...]:
    best = found.standings[0]
    lines = [comparison_sentence(duel) for duel in found.duels if best.name in (duel.first, duel.second)]
    lines += [_promise(found)] if _promise(found) else []
    lines += [_gap(each) for each in found.standings if each.gap is not None]
    lines.append(f"{best.name} recognises least: {', '.join(worst(best, found.classes))}")
    if len(found.classes) <= WIDEST:
        lines += ["", "Of each class (a row), per cent predicted as each class (columns):"]
        lines += [*_matrix(best, found.classes), ""]
    lines.append(f"The intervals are over {_chances([each.runs for each in found.standings])}.")
    if len(found.duels) > 1:
        lines.append(f"A lead is clear if it is so among all {len(found.duels)} pairs (Holm, p < 0.05).")
    return (*lines, *found.missing)


def _chances(runs: Sequence[int]) -> str:
    """What the intervals are over, of networks with `runs` runs each."""
    if min(runs) > 1:
        return "seeds and test images"
    if max(runs) == 1:
        return "test images; with one seed, nothing tells what another would do"
    return "seeds and test images, those of a network with one run over test images alone"


def _promise(found: FinalResult) -> str:
    """How much of the lead that the search saw is left, where both sides were in the search."""
    known = [each for each in found.standings if each.search is not None]
    if len(known) < 2:
        return ""
    chosen, other = max(known, key=lambda each: each.search or 0.0), min(known, key=lambda each: each.search or 0.0)
    promised = (chosen.search or 0.0) - (other.search or 0.0)
    if promised == 0.0:
        return f"The search's validation images had {' and '.join(each.name for each in known)} level"
    return (
        f"The search's validation images had {chosen.name} {promised:.4f} ahead of {other.name}; "
        f"on the test images it is {chosen.test - other.test:+.4f}"
    )


def _gap(each: ConfigResult) -> str:
    """What the validation images had said, which another, often shorter, training was judged by."""
    work = "" if each.macs is None else f"; {each.macs / 1e6:.1f} million multiply-accumulates an image"
    search, test = format_number(each.search or 0.0), format_number(each.test)
    return (
        f"{each.name}: {search} on validation images in the search, {test} on test images "
        f"({-(each.gap or 0.0):+.4f}){work}"
    )


def _matrix(standing: ConfigResult, classes: Sequence[str]) -> tuple[str, ...]:
    """The confusion matrix in per cent of the row's class."""
    shares = 100 * standing.confusion / np.maximum(1, standing.confusion.sum(axis=1, keepdims=True))
    head = " " * 12 + "".join(f"{name[:5]:>6}" for name in classes)
    return head, *(
        f"{name[:12]:<12}" + "".join(f"{share:6.1f}" for share in row)
        for name, row in zip(classes, shares, strict=True)
    )


def _standing_json(each: ConfigResult) -> dict[str, Any]:
    return {
        "name": each.name,
        "runs": each.runs,
        "test": each.test,
        "interval": each.interval,
        "search": each.search,
        "gap": each.gap,
        "confusion": each.confusion.tolist(),
        "parameters": each.parameters,
        "macs": each.macs,
        "latency_ms": each.latency_ms,
        "epochs": each.epochs,
        "seconds": each.seconds,
    }


def _duel_json(duel: PairedComparison) -> dict[str, Any]:
    found = duel.interval
    return {
        "first": duel.first,
        "second": duel.second,
        "difference": duel.difference,
        "interval": None if found is None else [found.low, found.high],
        "p": None if found is None else found.p,
        "p_holm": duel.p_holm,
        "is_clear": duel.is_significant,
    }


def test_set_access_lines(looks: Sequence[TestSetAccess], own: str) -> tuple[str, ...]:
    """What is to be told of looks at the same test images, by the verdict `own` and by others."""
    others = [look for look in looks if look.study != own]
    told = [f"These test images were looked at {_look(look)}." for look in looks if look.study == own]
    told += [f"{look.study} has looked at them, too: {_look(look)}." for look in others]
    if not others:
        told.append("No other stored study has used this test set at this size (deleted studies are not counted).")
    return tuple(told)


def _look(look: TestSetAccess) -> str:
    often = "once" if look.networks == 1 else f"{look.networks} times"
    when = f"at {look.first}" if look.first == look.last else f"from {look.first} to {look.last}"
    return f"{often}, {when} UTC"
