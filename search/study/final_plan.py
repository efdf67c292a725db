"""From a finished search to the study `NAME.final`, which trains the best configurations once more and tests them.

It is a separate study: a comparison with one row per configuration and one trial per seed. It therefore has leases,
checkpoints, resuming and the dashboard without further code.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from search.seeds import derive
from search.spec.derived_specs import ablation_spec
from search.spec.domains import Value
from search.spec.settings import FinalSettings
from search.spec.study_spec import StudySpec, with_defaults
from search.storage.records import FINAL, TrialRecord
from search.study.strategy import known_point

#: Steps per epoch: the first of these for which a batch fits into a step. Each step ends with a checkpoint and a check
#: of the time. Halves and quarters are exact floats: every number of steps is an exact number of epochs.
STEPS_PER_EPOCH = (4, 2, 1)
#: Upper limit of the planned epochs, as a multiple of the estimate: the speed is that of the last step of the trial,
#: which may have been slow.
AT_MOST = 1.5
#: Maximum number of planned epochs, even without a time limit.
MOST_EPOCHS = 300.0
#: Name of the row of a verdict that does not come from the search.
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A configuration for a final training."""

    name: str
    config: Mapping[str, Value]
    images_per_second: float | None = None
    """Training speed in the search; None if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceLayout:
    """The number of concurrent trainings, and the threads of each."""

    workers: int
    threads: int

    def rounds(self, trainings: int) -> int:
        """The number of consecutive rounds."""
        return math.ceil(trainings / self.workers)


def layout(*, cores: int, trainings: int) -> ResourceLayout:
    """The layout of min(cores, trainings) workers with cores // workers threads each."""
    workers = min(cores, trainings)
    return ResourceLayout(workers=workers, threads=cores // workers)


def name_of(study: str, place: int = 1) -> str:
    """The name of the verdict on a study; further verdicts with other settings have numbers from 2."""
    return f"{study}{FINAL}" if place == 1 else f"{study}{FINAL}-{place}"


def candidates(
    spec: StudySpec,
    leading: Sequence[TrialRecord],
    *,
    selected: TrialRecord | None = None,
    known: Mapping[str, Value] | None = None,
) -> tuple[Candidate, ...]:
    """The candidates of a final: the selected trial, the leading trials up to `[final] top`, and the baseline.

    No configuration appears twice.

    Args:
        spec: The study.
        leading: The best trials, the best first.
        selected: The trial that goes before the leading ones.
        known: The configuration of the baseline, as trial 0 was trained. Without it (older searches): the first point
            of [[try]] with the defaults for its open keys, or the defaults alone.
    """
    settings = spec.final or FinalSettings()
    chosen: list[Candidate] = []
    for trial in (*(() if selected is None else (selected,)), *leading):
        complete = with_defaults(spec, trial.config)  # trials of older versions lack some keys
        config = {key: complete[key] for key in spec.space.parameters}
        if len(chosen) < settings.top and config not in [candidate.config for candidate in chosen]:
            speed = trial.images_per_second
            chosen.append(Candidate(name=f"trial {trial.number}", config=config, images_per_second=speed))
    if not chosen or not settings.baseline:
        return tuple(chosen)
    base = with_defaults(spec, known) if known else known_point(spec)
    base = {key: base[key] for key in spec.space.parameters}
    if base not in [candidate.config for candidate in chosen]:
        return (*chosen, Candidate(name=BASELINE, config=base))
    return tuple(
        replace(candidate, name=f"{candidate.name} ({BASELINE})") if candidate.config == base else candidate
        for candidate in chosen
    )


def affordable_epochs(
    spec: StudySpec, chosen: Sequence[Candidate], *, hours: float | None, images: int, layout: ResourceLayout
) -> float:
    """The epochs of the fastest candidate that fit into `hours`, if all trainings have equal time.

    This assumes that n threads train as fast as n workers, and that speed is proportional to 1 / pixels if the images
    of the search are smaller.

    Args:
        spec: The study of the search.
        chosen: The candidates.
        hours: Wall-clock hours of the final; None is no limit.
        images: Training images per epoch.
        layout: Concurrent trainings and threads.

    Returns:
        Epochs; infinity without a time limit, or if no speed is known.
    """
    speeds = [candidate.images_per_second for candidate in chosen if candidate.images_per_second is not None]
    if hours is None or not speeds:
        return math.inf
    training_s = 3600 * hours / layout.rounds(len(chosen) * (spec.final or FinalSettings()).seeds)
    pixels = ((spec.data.search_size or spec.data.side) / spec.data.side) ** 2
    return training_s * max(speeds) * pixels * layout.threads / images


def final_spec(
    spec: StudySpec, chosen: Sequence[Candidate], *, uid: str, hours: float | None, images: int, layout: ResourceLayout
) -> StudySpec:
    """The study of the final trainings: one row per candidate, one trial per seed of [final].

    It plans the epochs of the study file, at most `AT_MOST` times those that fit into `hours`. Each training adapts its
    epochs to the time while it runs (`search.trial.final_training`).

    Args:
        spec: The study of the search.
        chosen: The candidates.
        uid: The uid of the search.
        hours: Wall-clock hours of the final; None is no limit.
        images: Training images per epoch.
        layout: Concurrent trainings and threads.
    """
    settings = spec.final or FinalSettings()
    largest = max(int(candidate.config["batch_size"]) for candidate in chosen)
    per_epoch = next((steps for steps in STEPS_PER_EPOCH if largest <= images // steps), 1)
    fits = affordable_epochs(spec, chosen, hours=hours, images=images, layout=layout)
    steps = max(1, round(min(settings.epochs or MOST_EPOCHS, AT_MOST * fits) * per_epoch))
    cells = ablation_spec(
        spec,
        {candidate.name: candidate.config for candidate in chosen},
        question=question_of(chosen),
        seed=derive(spec.search.seed, "final"),
        repeats=settings.seeds,
        epochs=steps / per_epoch,
        steps_per_epoch=per_epoch,
        evaluations=None,
        hours=hours,
        trial_macs=None,
        max_parameters=None,
        max_macs=None,
        max_latency_ms=None,
    )
    return replace(
        cells,
        verdict_on=uid,
        test_time_augmentation=settings.test_time_augmentation,
        data=spec.data.model_copy(update={"search_images": None, "search_size": None}),
    )


def question_of(chosen: Sequence[Candidate]) -> str:
    """The question that the final trainings answer."""
    names = [candidate.name for candidate in chosen]
    if len(names) == 1:
        return f"How good is {names[0]} on images that it was not chosen by?"
    return f"Which of {', '.join(names[:-1])} and {names[-1]} is best on images that none was chosen by?"
