"""Export of a trial to a model folder: select the trial, load its weights, and describe the network."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
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
from models.config import TestTimeAugmentation
from models.export import Card, Deployed, write
from models.plan import plan
from search.analysis import obstacles, selection, test_report, test_results
from search.analysis.test_results import AveragedResult, FinalResult
from search.artifacts import checkpoint, remote_checkpoints, study_dir
from search.artifacts.remote_store import RemoteStoreError
from search.errors import DiskError, UsageError
from search.export.page import page
from search.spec import study_spec
from search.storage import queries, ranking
from search.storage.rdb import Storage
from search.storage.records import TrialRecord, is_verdict
from search.study import stored_study
from search.study.provenance import environment
from search.study.stored_study import StoredStudy

#: Maximum number of validation images on which the ONNX file is compared with PyTorch.
CHECKED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedTrial:
    """The trial to export, and its test results."""

    trial: TrialRecord
    verdict: FinalResult | None = None
    """The verdict that tested the configuration of this trial."""


def export(
    url: str,
    cache: Path,
    name: str,
    *,
    trial: int | None,
    folder: Path,
    say: Say,
    images: str | None = None,
    augmentation: TestTimeAugmentation = "none",
) -> tuple[Card, float]:
    """Write the model folder of a trial.

    Args:
        url: The URL of the database.
        cache: The folder of the prepared data sets.
        name: The name of the study.
        trial: The trial number; None for the best one.
        folder: The model folder to write.
        say: Prints progress messages.
        images: Path of the images, if they have moved.
        augmentation: The copies of an image over which the model averages its predictions.

    Returns:
        The model card, and the difference between the ONNX file and PyTorch.

    Raises:
        UsageError: There is no such trial, its weights are missing, or the folder is not a model folder.
        DiskError: The folder cannot be written.
        DataError: The images cannot be read.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise UsageError("the folder that you are in would be replaced; name another one with --to")
    storage = Storage(url)
    choice = chosen(storage.engine, name, trial)
    stored = stored_study.load(storage, choice.trial.study)
    if images is not None:
        stored = replace(stored, spec=stored_study.with_data_path(stored.spec, images))
    info = prepare(stored.spec.data, cache, say, fingerprint=stored.data["fingerprint"] if images is None else None)
    if info.fingerprint != stored.data["fingerprint"]:
        raise DataError(
            f"the images of {stored.name!r} are not those it was trained on, so the class names may be wrong"
        )
    model, card = build_model_and_card(url, stored, choice, info, augmentation)
    try:
        return write(folder, model, card, page=page(card, folder.name), images=real_images(stored, cache))
    except FileExistsError as error:
        raise UsageError(f"{error} with --to") from error
    except OSError as error:
        raise DiskError(f"cannot write to {folder}: {error.strerror or error}; name another one with --to") from error


def chosen(engine: sa.Engine, name: str, trial: int | None = None) -> SelectedTrial:
    """Select the trial to export.

    Without a number it is the first run of the configuration that the newest verdict selects; without a verdict it is
    the result of the search. (The best run would be chosen by test images, and look better than it is.)

    Args:
        engine: The database.
        name: The name of a study or verdict.
        trial: The trial number, if given.

    Raises:
        UsageError: There is no such trial, or it is not complete.
    """
    verdicts = (name,) if is_verdict(name) else queries.verdicts(engine, name)[::-1]
    if trial is not None:
        row = queries.trial(engine, name, trial)
        if row.state != "COMPLETE":
            raise UsageError(f"trial {trial} of {name!r} is {row.state.lower()}, and only complete ones are exported")
        return SelectedTrial(trial=row, verdict=test_results.load(engine, name) if is_verdict(name) else None)
    for verdict_name in verdicts:
        verdict = test_results.load(engine, verdict_name)
        if verdict.configs:
            best = selection.of_verdict(engine, verdict).name
            runs = [
                row
                for row in queries.trials(engine, verdict_name)
                if row.config.get("row", best) == best and row.values
            ]
            return SelectedTrial(trial=min(runs, key=lambda row: row.repeat or 0), verdict=verdict)
    ranked = ranking.best(engine, name)
    if not ranked.trials:
        why = obstacles.report(ranked.study, ranked.obstructed) or (f"`convsearch resume {name}`",)
        raise UsageError(f"no trial of {name!r} is complete, so there is no model; " + "\n".join(why))
    number = selection.select(engine, ranked.study).trial
    selected = ranked.trials[0] if number is None else queries.trial(engine, name, number)
    if selected.state == "COMPLETE":
        return SelectedTrial(trial=selected)
    if number == ranked.study.baseline:
        raise UsageError(
            f"trial {number}, the baseline of {name!r}, is not trained to its end; `convsearch resume {name}` goes on "
            "with it, and --trial exports another one"
        )
    return SelectedTrial(trial=ranked.trials[0])


def build_model_and_card(
    url: str, stored: StoredStudy, choice: SelectedTrial, info: DataInfo, augmentation: TestTimeAugmentation
) -> tuple[Deployed, Card]:
    """Build the network with its last weights, and its model card.

    Args:
        url: The URL of the database.
        stored: The study of the trial.
        choice: The trial, which must have a checkpoint.
        info: Information on the images.
        augmentation: The copies of an image over which the model averages its predictions.

    Returns:
        The network on the CPU in float32, and the card.

    Raises:
        UsageError: There are no weights of the trial.
    """
    trial = choice.trial
    folder = study_dir.of(url).trial(stored.name, trial.number)
    remote = remote_checkpoints.of(stored.spec.checkpoints, stored.remote_key)
    if remote is not None:
        with suppress(RemoteStoreError):  # then the local checkpoint is used
            remote.download(folder, trial.number)
    latest = checkpoint.latest(folder, study=stored.uid, trial=trial.number)
    if latest is None:
        remedy = (
            ""
            if is_verdict(stored.name)
            else f"; `convsearch run {stored.name} --again {trial.number}` trains it again"
        )
        raise UsageError(f"the weights of trial {trial.number} of {stored.name!r} are not in {folder}{remedy}")
    header, state = latest
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
        fit=info.preprocessing.fit,
        depth=info.preprocessing.depth,
        mean=info.mean,
        std=info.std,
        parameters=shape.parameters,
        macs=shape.macs,
        test_time_augmentation=augmentation,
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
        verdict=None if choice.verdict is None else verdict_fields(choice.verdict, trial),
    )
    return Deployed(network, factor=factor, shift=shift, test_time_augmentation=augmentation), card


def verdict_fields(result: FinalResult, trial: TrialRecord) -> dict[str, Any] | None:
    """The results of a verdict for the configuration of `trial`, as JSON values; None if it was not tested."""
    config = next((row for row in result.configs if row.name == trial.config.get("row", row.name)), None)
    if config is None:
        return None
    return {
        "study": result.study,
        "objective": result.objective,
        "images": result.images,
        "seen_in_training": result.seen_images,
        "configuration": config.name,
        "runs": config.runs,
        "test": config.test,
        "interval": config.interval,
        "this_run": trial.values[0] if trial.values else None,
        "latency_ms": config.latency_ms,
        "worst": test_report.worst(config.confusion, result.classes),
        "others": [
            test_report.comparison_sentence(comparison)
            for comparison in result.comparisons
            if config.name in (comparison.first, comparison.second)
        ],
        "averaged": None if config.averaged is None else averaged_fields(config.averaged, result.classes, trial),
    }


def averaged_fields(result: AveragedResult, classes: Sequence[str], trial: TrialRecord) -> dict[str, Any]:
    """The results with test-time augmentation for the configuration of `trial`, as JSON values."""
    return {
        "test_time_augmentation": result.augmentation,
        "test": result.test,
        "interval": result.interval,
        "this_run": None if trial.averaged is None else trial.averaged["value"],
        "worst": test_report.worst(result.confusion, classes),
    }


def real_images(stored: StoredStudy, cache: Path) -> Tensor:
    """Validation images of the network's input size, uint8 of shape (N, side, side, 3); N is at most `CHECKED`."""
    part = load_train(stored.spec.data, cache, fingerprint=stored.data["fingerprint"]).validation
    return part.images[part.indices[torch.linspace(0, len(part) - 1, min(CHECKED, len(part))).long()]]
