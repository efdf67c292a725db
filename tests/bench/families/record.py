"""Records learning curves of configurations on image families: `python -m tests.bench.families.record --help`.

A training costs what the recipe costs, in multiply-accumulates: a smaller network sees the images more often. Its
learning-rate schedule ends at each rung. Seconds are CPU time of one thread, so that other work changes them little.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import torch

from data.batches import Batches, evaluation
from data.dataset import prepare
from data.parts import Split, TrainData, load_train
from data.sample import measure
from data.split import stratified_split
from models.config import Impossible
from models.evaluate import evaluate
from models.plan import plan
from models.train import Diverged, start
from search.pruners.asha import Asha
from search.seeds import derive
from search.spec.fit import ImageLimits, fitted
from search.spec.recipe import Compute, RecipeInputs
from search.spec.study_spec import StudySpec, to_model_configs
from search.trial.trial_training import sample, step_boundaries
from tests.bench.families.changes import NUMBERS, changes_of, configuration, wide_study
from tests.bench.families.curves import Recording, add, bits, packed, read
from tests.bench.families.image_families import FAMILIES, ImageFamily, config_of

STEPS: Final = 9
RUNGS: Final = (*Asha(first_rung=1, reduction=3, steps=STEPS).rungs(), STEPS)
#: Multiply-accumulates of forward passes per second on one core of an AMD EPYC (Zen 4), about: a constant, because the
#: recipe and the length of a training depend on it.
MACS_PER_SECOND: Final = 2e10
#: Most passes over the images.
MAX_EPOCHS: Final = 200
#: Configurations of one family before the next family.
BLOCK: Final = 19
#: Seeds of the recipe; each other configuration has one.
RECIPE_SEEDS: Final = 3


@dataclass(frozen=True, kw_only=True)
class PreparedFamily:
    """A family in memory."""

    images: ImageFamily
    inputs: RecipeInputs
    spec: StudySpec
    data: TrainData
    test: Split
    trial_macs: float


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.families.record", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10-jpeg.tar.xz and sets/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recordings; recorded ones are left out")
    parser.add_argument("--cache", type=Path, required=True, help="folder of decoded images")
    parser.add_argument("--numbers", type=int, nargs="*", default=[*NUMBERS], help="configurations, by default all")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every N-th training from the I-th on")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    args = parser.parse_args(words)
    index, parts = map(int, args.part.split("/"))
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    done = {recording.key for recording in read(args.out.glob("*.jsonl"))}
    prepared: PreparedFamily | None = None
    for name, number, seed in list(trainings(args.families, args.numbers))[index::parts]:
        if (name, number, seed) in done:
            continue
        if prepared is None or prepared.images.name != name:
            prepared = prepare_family(FAMILIES[name], data=args.data, cache=args.cache)
        recording = record(prepared, number, seed)
        add(args.out / f"{name}.jsonl", recording)
        print(name, number, seed, recording.failure or summary(recording, prepared))
    return 0


def trainings(families: Sequence[str], numbers: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """(family, number, seed) of all trainings: some configurations on all families, then the next ones."""
    for first in range(0, len(numbers), BLOCK):
        for name in families:
            for number in numbers[first : first + BLOCK]:
                yield from ((name, number, seed) for seed in range(1 if number else RECIPE_SEEDS))


def prepare_family(images: ImageFamily, *, data: Path, cache: Path) -> PreparedFamily:
    """Decode a family, and make its recipe."""
    config = config_of(images, data, cache / "made")
    statistics = measure(config, cache, print)
    total = statistics.images if images.train is None else images.train + images.validation + images.test
    share = (total - images.test) / statistics.images
    counts = tuple(max(1, round(count * share)) for count in statistics.counts)
    compute = Compute(macs_per_second=MACS_PER_SECOND, workers=1, final_s=images.core_s, trial_s=None)
    inputs = RecipeInputs(images=statistics.model_copy(update={"counts": counts}), compute=compute)
    spec = wide_study(inputs)
    budget = spec.budget.model_copy(update={"epochs": float(MAX_EPOCHS), "evaluations": STEPS})
    config = config.model_copy(update={"image_size": spec.data.side if config.source == "folder" else None})
    prepare(config, cache, print)
    loaded = load_train(config, cache)
    held = loaded.validation
    labels = held.labels[held.indices].numpy()
    kept, test = stratified_split(labels, images.test, seed=0, key="test", classes=loaded.info.classes)
    info = replace(loaded.info, validation_count=len(kept))
    return PreparedFamily(
        images=images,
        inputs=inputs,
        spec=replace(spec, data=config, budget=budget),
        data=replace(loaded, validation=_rows(held, kept), info=info),
        test=_rows(held, test),
        trial_macs=MACS_PER_SECOND * images.core_s,
    )


def record(family: PreparedFamily, number: int, seed: int) -> Recording:
    """Train a configuration, and evaluate it at each rung."""
    data, spec = family.data, family.spec
    info, count = data.info, len(data.train)
    classes = len(info.classes)
    limits = ImageLimits(side=info.image_size, classes=classes, images=count)
    values = configuration(family.inputs, number)
    try:
        values = fitted(spec, values, limits)
        model, train, augment = to_model_configs(spec, values)
        shape = plan(model, image_size=info.image_size, classes=classes)
        epochs = min(family.trial_macs / (shape.macs * count), float(MAX_EPOCHS))
        step_images = Fraction(epochs) * count / STEPS
        ends = step_boundaries(step_images=step_images, batch_size=train.batch_size, steps=STEPS)
        trial_seed = derive(0, number, "family", seed)
        training = start(
            model,
            train,
            image_size=info.image_size,
            classes=classes,
            total_batches=ends[-1],
            seed=trial_seed,
            device="cpu",
            images=sample(data, trial_seed) if model.stem == "whiten" else None,
            class_counts=data.train.class_counts(classes),
        )
    except Impossible as error:
        return Recording(
            images=family.images.name,
            number=number,
            seed=seed,
            changes=changes_of(number),
            config=values,
            failure=str(error),
        )
    batches = Batches(data.train, info, batch_size=train.batch_size, seed=trial_seed, augment=augment)
    began, seconds, validation, test, failure = time.process_time(), [], [], [], ""
    try:
        for rung in RUNGS:
            training.stretch(ends[rung - 1])
            for _ in training.run(batches, ends[:rung]):
                pass
            seconds.append(round(time.process_time() - began, 3))
            validation.append(_right(training.eval_model(), data.validation, data, classes))
            test.append(_right(training.eval_model(), family.test, data, classes))
    except Diverged as error:
        failure = f"diverged: {error}"
    return Recording(
        images=family.images.name,
        number=number,
        seed=seed,
        changes=changes_of(number),
        config=values,
        macs=shape.macs,
        parameters=shape.parameters,
        epochs=round(epochs, 3),
        seconds=tuple(seconds),
        validation=tuple(validation),
        test=tuple(test),
        failure=failure,
    )


def summary(recording: Recording, family: PreparedFamily) -> str:
    shares = [float(np.mean(bits(text, len(family.test)))) for text in recording.test]
    at_rungs = " ".join(f"{share:.3f}" for share in shares)
    return f"{at_rungs}, {recording.epochs:.1f} epochs, {recording.seconds[-1]:.1f} CPU s"


def _right(model: torch.nn.Module, part: Split, data: TrainData, classes: int) -> str:
    result = evaluate(model, evaluation(part, data.info), classes)
    return packed((result.predicted == part.labels[part.indices]).numpy())


def _rows(part: Split, rows: np.ndarray) -> Split:
    return Split(images=part.images, labels=part.labels, indices=part.indices[torch.from_numpy(rows)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
