"""The README.md of a model folder."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from data.preprocessing import Preprocessing
from models.export import Card
from search.analysis import test_report
from search.analysis.averaged import copies, cost
from search.display_names import isolated, visible
from search.export.reading_code import reading_code
from search.tables import format_duration, format_number, format_value


def page(card: Card, name: str) -> str:
    """The README.md of a model folder."""
    origin, worst = card.provenance, ", ".join(_worst(card))
    augmentation = card.test_time_augmentation
    averages = f", which average over {copies(augmentation)},"
    return PAGE.format(
        name=name,
        classes=", ".join(_markdown(isolated(name)) for name in card.classes),
        count=len(card.classes),
        question=origin["question"] or "-",
        read=textwrap.indent(reading_code(Preprocessing(side=card.image_size, fit=card.fit, depth=card.depth)), "    "),
        good="\n".join(line.replace(worst, _markdown(visible(worst))) for line in quality_lines(card)),
        side=card.image_size,
        parameters=card.parameters,
        macs=card.macs / 1e6,
        averages="," if augmentation == "none" else averages,
        passes="" if augmentation == "none" else f", in {cost(augmentation)}",
        study=origin["study"],
        trial=origin["trial"],
        source=origin["source"],
        fingerprint=origin["fingerprint"][:16],
        epochs=card.training["epochs"],
        seconds=format_duration(card.training["seconds"]),
        exported=origin["exported"],
        versions=", ".join(f"{key} {value}" for key, value in origin["versions"].items()),
        settings="\n".join(f"    {key} = {format_value(value)}" for key, value in sorted(card.training.items())),
    )


def quality_lines(card: Card) -> tuple[str, ...]:
    """The measured quality of the model, one sentence per line."""
    verdict = card.verdict
    if verdict is None:
        return _untested_lines(card)
    compared = "" if card.test_time_augmentation == "none" else "Without averages, "
    return (
        *_test_lines(card, verdict),
        *(f"{line}." for line in test_report.seen_lines(verdict.get("seen_in_training", 0), verdict["images"])),
        f"Lowest recall: {', '.join(_worst(card))}.",
        *(f"{compared}{line}." for line in verdict["others"]),
    )


def _untested_lines(card: Card) -> tuple[str, ...]:
    value, augmentation = card.provenance["validation"], card.test_time_augmentation
    plain, option = ("", "") if augmentation == "none" else (", without averages", f" --tta {augmentation}")
    lines = () if value is None else (f"{format_number(value)} on the validation images that it was chosen by{plain}.",)
    return (*lines, f"How good it is on other images is not known: `convsearch final{option}` finds out.")


def _test_lines(card: Card, verdict: Mapping[str, Any]) -> tuple[str, ...]:
    """The results on the test images, with and without averages. The result of what the model does comes first."""
    augmentation, averaged = card.test_time_augmentation, _averaged(card)
    objective, images = verdict["objective"], f" on {verdict['images']:,} test images"
    if averaged is not None:
        over = f", averaged over {copies(augmentation)}"
        return (
            f"{objective} {_score(averaged, verdict, where=images + over)}",
            f"Without averages {_score(verdict, verdict)}",
        )
    if augmentation != "none":
        return (
            f"{objective} {_score(verdict, verdict, where=f'{images}, without averages')}",
            f"The model averages over {copies(augmentation)}, which was not tested: "
            f"`convsearch final --tta {augmentation}` does that.",
        )
    other = verdict.get("averaged")
    if other is None:
        return (f"{objective} {_score(verdict, verdict, where=images)}",)
    kind = other["test_time_augmentation"]
    return (
        f"{objective} {_score(verdict, verdict, where=images)}",
        f"Averaged over {copies(kind)} {_score(other, verdict)}",
        f"`convsearch export --tta {kind}` writes a model that averages: {cost(kind)}.",
    )


def _score(result: Mapping[str, Any], verdict: Mapping[str, Any], *, where: str = "") -> str:
    """`0.8840 on 40 test images (one training, 95 % interval 0.8 to 0.9); this network: 0.8840.`"""
    interval, own = result["interval"], result["this_run"]
    spread = "" if interval is None else f", 95 % interval {interval[0]:.4f} to {interval[1]:.4f}"
    seeds = f"mean of {verdict['runs']} trainings" if verdict["runs"] > 1 else "one training"
    this = "not tested" if own is None else format_number(own)
    return f"{result['test']:.4f}{where} ({seeds}{spread}); this network: {this}."


def _averaged(card: Card) -> Mapping[str, Any] | None:
    """The test results with the test-time augmentation of the model, if it was tested."""
    averaged: Mapping[str, Any] | None = (card.verdict or {}).get("averaged")
    is_of_model = averaged is not None and averaged["test_time_augmentation"] == card.test_time_augmentation
    return averaged if is_of_model else None


def _worst(card: Card) -> Sequence[str]:
    """The classes with the lowest recall, of the predictions of the model if they were tested."""
    worst: Sequence[str] = (_averaged(card) or card.verdict or {}).get("worst", ())
    return worst


def _markdown(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"[\\`*<\[&~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


PAGE = """\
# {name}

A convolutional network that distinguishes {count} classes: {classes}.

## How good it is

{good}

## How to use it

    convsearch predict {name} photo.jpg

Without convsearch, by any program that reads ONNX. `model.onnx` takes bytes, (N, {side}, {side}, 3), red, green, blue,
and gives probabilities{averages} (N, {count}), in the order above:

    import os
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the next line
    import numpy, onnxruntime
    from PIL import Image, ImageOps

{read}
    session = onnxruntime.InferenceSession("{name}/model.onnx")
    (probabilities,) = session.run(None, {{"images": read("photo.jpg")[None]}})

Without `ORT_DISABLE_TELEMETRY=1` in the environment when it is imported, onnxruntime stores a device ID in the cache
folder of the user, and sends events about its use to Microsoft (`Privacy.md` in its package).

It knows no other classes: every image is assigned to one of these.

## What it is

{parameters:,} parameters, {macs:.1f} million multiply-accumulates per image{passes}.
Trained for {epochs:g} epochs, {seconds}.
Question: {question}
Trial {trial} of the study {study}; images: {source}, fingerprint {fingerprint}. Exported {exported}; {versions}.

{settings}
"""
