"""From a study to a model folder: which network it is, where its weights lie, and what is said of it."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from torch import Tensor

from data.batches import scale
from data.dataset import DataInfo, prepare
from data.errors import DataError
from data.parts import load_train
from data.progress import Say
from models.build import build
from models.export import Card, Deployed, write
from models.plan import plan
from search.analysis import selection, test_report, test_results
from search.analysis.test_results import FinalResult
from search.artifacts import checkpoint, remote_checkpoints, study_dir
from search.artifacts.remote_store import RemoteStoreError
from search.errors import DiskError, UsageError
from search.spec import study_spec
from search.storage import queries, ranking
from search.storage.rdb import Storage
from search.storage.records import TrialRecord, is_verdict
from search.study import stored_study
from search.study.provenance import environment
from search.study.stored_study import StoredStudy
from search.tables import format_duration, format_number, format_value

#: Validation images on which the ONNX file must agree with PyTorch; all of them if they are fewer.
CHECKED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedTrial:
    """Which trained network is exported, and what was found out about it."""

    trial: TrialRecord
    verdict: FinalResult | None = None
    """With a standing of this trial's configuration."""


def export(url: str, cache: Path, name: str, *, trial: int | None, folder: Path, say: Say) -> tuple[Card, float]:
    """Write the model folder of a trial, or of the best one: what it says, and how far its ONNX file is from PyTorch.

    Raises:
        UsageError: there is no such trial, or its weights are not here, or the folder is something else.
        DiskError: the folder cannot be written.
        DataError: the images cannot be read.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise UsageError("the folder that you are in would be replaced; name another one with --to")
    storage = Storage(url)
    choice = chosen(storage.engine, name, trial)
    stored = stored_study.load(storage, choice.trial.study)
    info = prepare(stored.spec.data, cache, say)
    if info.fingerprint != stored.data["fingerprint"]:
        raise DataError(
            f"the images of {stored.name!r} are not those it was trained on, so that they name its classes wrongly"
        )
    model, card = build_model_and_card(url, stored, choice, info)
    try:
        return write(folder, model, card, page=page(card, folder.name), images=real_images(stored, cache))
    except FileExistsError as error:
        raise UsageError(f"{error} with --to") from error
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror or error}; name another one with --to") from error


def chosen(engine: sa.Engine, name: str, trial: int | None = None) -> SelectedTrial:
    """The trial that is meant: the given one; else the first run of what the newest verdict delivers; else what the
    search would deliver. (The best run would be chosen by test images, and look better than it is.)

    Raises UsageError where there is none.
    """
    verdicts = (name,) if is_verdict(name) else queries.verdicts(engine, name)[::-1]
    if trial is not None:
        row = queries.trial(engine, name, trial)
        if row.state != "COMPLETE":
            raise UsageError(f"trial {trial} of {name!r} is {row.state.lower()}, and only complete ones are exported")
        return SelectedTrial(trial=row, verdict=test_results.load(engine, name) if is_verdict(name) else None)
    for each in verdicts:
        found = test_results.load(engine, each)
        if found.standings:
            best = selection.of_verdict(engine, found).name
            runs = [row for row in queries.trials(engine, each) if row.config.get("row", best) == best and row.values]
            return SelectedTrial(trial=min(runs, key=lambda row: row.repeat or 0), verdict=found)
    shown = ranking.best(engine, name)
    if not shown.trials:
        raise UsageError(f"no trial of {name!r} is complete, so that it has no model; `convsearch resume {name}`")
    number = selection.select(engine, shown.study).trial
    selected = shown.trials[0] if number is None else queries.trial(engine, name, number)
    if selected.state == "COMPLETE":
        return SelectedTrial(trial=selected)
    if number == shown.study.baseline:
        raise UsageError(
            f"trial {number}, the baseline of {name!r}, is not trained to its end; `convsearch resume {name}` goes on "
            "with it, and --trial exports another one"
        )
    return SelectedTrial(trial=shown.trials[0])


def build_model_and_card(url: str, stored: StoredStudy, choice: SelectedTrial, info: DataInfo) -> tuple[Deployed, Card]:
    """The network with its last weights, on the CPU in float32, and what is said of it. `info`: of its images."""
    trial = choice.trial
    folder = study_dir.of(url).trial(stored.name, trial.number)
    place = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
    if place is not None:
        with suppress(RemoteStoreError):  # then what is here must do
            place.get(folder, trial.number)
    found = checkpoint.latest(folder, study=stored.uid, trial=trial.number)
    if found is None:
        again = (
            "" if is_verdict(stored.name) else f"; `convsearch run {stored.name} --again {trial.number}` trains it anew"
        )
        raise UsageError(f"the weights of trial {trial.number} of {stored.name!r} are not in {folder}{again}")
    header, state = found
    config, _, _ = study_spec.to_model_configs(stored.spec, trial.config)
    side = stored.spec.data.search_size or info.image_size
    shape = plan(config, image_size=side, classes=len(info.classes))
    network = build(config, image_size=side, classes=len(info.classes))
    network.load_state_dict(state["average"]["model"] if state["average"] else state["model"])
    factor, shift = scale(info)
    card = Card(
        network=config,
        image_size=side,
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        parameters=shape.parameters,
        macs=shape.macs,
        training={**trial.config, "epochs": trial.epochs, "seed": trial.seed, "seconds": trial.seconds},
        provenance={
            "study": stored.name,
            "trial": trial.number,
            "question": stored.spec.question,
            "source": stored.spec.data.source,
            "fingerprint": info.fingerprint,
            "validation": None if is_verdict(stored.name) else header.curve[-1][1] if header.curve else None,
            "versions": environment(),
            "exported": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        },
        verdict=None if choice.verdict is None else judgement(choice.verdict, trial),
    )
    return Deployed(network, factor=factor, shift=shift), card


def judgement(found: FinalResult, trial: TrialRecord) -> dict[str, Any] | None:
    """What a verdict says of the configuration of one of its trials; None if it was not tested."""
    own = next((each for each in found.standings if each.name == trial.config.get("row", each.name)), None)
    if own is None:
        return None
    return {
        "study": found.study,
        "objective": found.objective,
        "images": found.images,
        "configuration": own.name,
        "runs": own.runs,
        "test": own.test,
        "interval": own.interval,
        "this_run": trial.values[0] if trial.values else None,
        "latency_ms": own.latency_ms,
        "worst": test_report.worst(own, found.classes),
        "others": [
            test_report.comparison_sentence(duel) for duel in found.duels if own.name in (duel.first, duel.second)
        ],
    }


def real_images(stored: StoredStudy, cache: Path) -> Tensor:
    """(N, side, side, 3) uint8 validation images, of the size that the network takes."""
    part = load_train(stored.spec.data, cache).validation
    return part.images[part.indices[torch.linspace(0, len(part) - 1, min(CHECKED, len(part))).long()]]


def page(card: Card, name: str) -> str:
    """The README.md of a model folder."""
    origin = card.provenance
    return PAGE.format(
        name=name,
        classes=", ".join(card.classes),
        count=len(card.classes),
        question=origin["question"] or "-",
        good="\n".join(quality_lines(card)),
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
    """How good the network is, as far as that is known."""
    found = card.verdict
    if found is None:
        value = card.provenance["validation"]
        known = () if value is None else (f"{format_number(value)} on the validation images that it was chosen by.",)
        return (*known, "How good it is on other images is not known: `convsearch final` finds out.")
    interval = found["interval"]
    spread = "" if interval is None else f", 95 % interval {interval[0]:.4f} to {interval[1]:.4f}"
    seeds = f"mean of {found['runs']} trainings" if found["runs"] > 1 else "one training"
    return (
        f"{found['objective']} {found['test']:.4f} on {found['images']:,} test images ({seeds}{spread}); "
        f"this network: {'not tested' if found['this_run'] is None else format_number(found['this_run'])}.",
        f"It recognises least: {', '.join(found['worst'])}.",
        *(f"{line}." for line in found["others"]),
    )


PAGE = """\
# {name}

A convolutional network that tells {count} classes apart: {classes}.

## How good it is

{good}

## How to use it

    convsearch predict {name} photo.jpg

Without convsearch, by any program that reads ONNX. `model.onnx` takes bytes, (N, {side}, {side}, 3), red, green, blue,
and gives probabilities, (N, {count}), in the order above:

    import numpy, onnxruntime
    from PIL import Image, ImageOps
    photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
    image = ImageOps.fit(photo, ({side}, {side}), Image.Resampling.BICUBIC)
    session = onnxruntime.InferenceSession("{name}/model.onnx")
    (probabilities,) = session.run(None, {{"images": numpy.asarray(image)[None]}})

It knows no other classes: whatever it is shown, it takes for one of these.

## What it is

{parameters:,} parameters, {macs:.1f} million multiply-accumulates an image. Trained for {epochs:g} epochs, {seconds}.
Question: {question}
Trial {trial} of the study {study}; images: {source}, fingerprint {fingerprint}. Exported {exported}; {versions}.

{settings}
"""
