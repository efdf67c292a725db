"""The README.md of a model folder."""

import re
import textwrap

from data.preprocessing import Preprocessing
from models.export import Card
from search.analysis import test_report
from search.display_names import isolated, visible
from search.export.reading_code import reading_code
from search.tables import format_duration, format_number, format_value


def page(card: Card, name: str) -> str:
    """The README.md of a model folder."""
    origin, worst = card.provenance, ", ".join((card.verdict or {}).get("worst", ()))
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
    """The measured quality of the network, one sentence per line."""
    verdict = card.verdict
    if verdict is None:
        value = card.provenance["validation"]
        lines = () if value is None else (f"{format_number(value)} on the validation images that it was chosen by.",)
        return (*lines, "How good it is on other images is not known: `convsearch final` finds out.")
    interval = verdict["interval"]
    spread = "" if interval is None else f", 95 % interval {interval[0]:.4f} to {interval[1]:.4f}"
    seeds = f"mean of {verdict['runs']} trainings" if verdict["runs"] > 1 else "one training"
    return (
        f"{verdict['objective']} {verdict['test']:.4f} on {verdict['images']:,} test images ({seeds}{spread}); "
        f"this network: {'not tested' if verdict['this_run'] is None else format_number(verdict['this_run'])}.",
        *(f"{line}." for line in test_report.seen_lines(verdict.get("seen_in_training", 0), verdict["images"])),
        f"Lowest recall: {', '.join(verdict['worst'])}.",
        *(f"{line}." for line in verdict["others"]),
    )


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
and gives probabilities, (N, {count}), in the order above:

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

{parameters:,} parameters, {macs:.1f} million multiply-accumulates per image. Trained for {epochs:g} epochs, {seconds}.
Question: {question}
Trial {trial} of the study {study}; images: {source}, fingerprint {fingerprint}. Exported {exported}; {versions}.

{settings}
"""
