"""From a finished search to the study `NAME.final`, which trains the best configurations once more and tests them.

It is a study of its own, a comparison with a row for each configuration and a trial for each seed, so that leases,
checkpoints, resuming and the dashboard are there already.
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

#: Steps of an epoch, after each of which there is a checkpoint and a look at the clock: the first of these that a batch
#: fits into. Halves and quarters are exact numbers, so that any number of steps is one of epochs.
STEPS_PER_EPOCH = (4, 2, 1)
#: Planned epochs as a multiple of those that seem to fit: the trial's last step, which tells its speed, may have been a
#: slow one.
AT_MOST = 1.5
#: No training is planned longer, however much time there is.
MOST_EPOCHS = 300.0
#: What the row of a verdict is called that nobody searched for.
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A configuration that is trained for the last time."""

    name: str
    config: Mapping[str, Value]
    images_per_second: float | None = None
    """At which the search trained it; None: nobody knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceLayout:
    """How many trainings run at a time, and with how many threads each."""

    workers: int
    threads: int

    def rounds(self, trainings: int) -> int:
        """One after another."""
        return math.ceil(trainings / self.workers)


def layout(*, cores: int, trainings: int) -> ResourceLayout:
    """min(cores, trainings) workers with cores // workers threads each."""
    workers = min(cores, trainings)
    return ResourceLayout(workers=workers, threads=cores // workers)


def name_of(study: str, place: int = 1) -> str:
    """The study that gives a verdict on another one; further verdicts, on other terms, are counted from 2."""
    return f"{study}{FINAL}" if place == 1 else f"{study}{FINAL}-{place}"


def candidates(
    spec: StudySpec,
    leading: Sequence[TrialRecord],
    *,
    selected: TrialRecord | None = None,
    known: Mapping[str, Value] | None = None,
) -> tuple[Candidate, ...]:
    """The candidates: the selected trial and the leading ones, as many as [final] wants, no configuration twice, and
    the baseline.

    That is `known`, as trial 0 was trained; of an older search the first point of [[try]], with what it leaves open at
    the defaults, or these alone.
    """
    wanted = spec.final or FinalSettings()
    found: list[Candidate] = []
    for trial in (*(() if selected is None else (selected,)), *leading):
        whole = with_defaults(spec, trial.config)  # an older version did not know all keys
        config = {key: whole[key] for key in spec.space.parameters}
        if len(found) < wanted.top and config not in [each.config for each in found]:
            speed = trial.images_per_second
            found.append(Candidate(name=f"trial {trial.number}", config=config, images_per_second=speed))
    if not found or not wanted.baseline:
        return tuple(found)
    base = with_defaults(spec, known) if known else known_point(spec)
    base = {key: base[key] for key in spec.space.parameters}
    if base not in [each.config for each in found]:
        return (*found, Candidate(name=BASELINE, config=base))
    return tuple(replace(each, name=f"{each.name} ({BASELINE})") if each.config == base else each for each in found)


def affordable_epochs(
    spec: StudySpec, found: Sequence[Candidate], *, hours: float | None, images: int, layout: ResourceLayout
) -> float:
    """Epochs over `images` images that fit into `hours`, each training having the same time, for the fastest of them.

    Threads are assumed to train as fast as the same number of workers, and images of a search, where they are smaller,
    as much faster as they have fewer pixels. Where no speed is known, or there is no end, all that is asked for fits.
    """
    speeds = [each.images_per_second for each in found if each.images_per_second is not None]
    if hours is None or not speeds:
        return math.inf
    own_s = 3600 * hours / layout.rounds(len(found) * (spec.final or FinalSettings()).seeds)
    pixels = ((spec.data.search_size or spec.data.side) / spec.data.side) ** 2
    return own_s * max(speeds) * pixels * layout.threads / images


def final_spec(
    spec: StudySpec, found: Sequence[Candidate], *, uid: str, hours: float | None, images: int, layout: ResourceLayout
) -> StudySpec:
    """The study of the last trainings: of each of these configurations, on `images` images, with the seeds of [final].
    `uid`: of the study that they are of.

    It plans the epochs that the study file says, and no more than fit into `hours` with some to spare; how many do, it
    finds out while it runs (`search.trial.final_training`).
    """
    wanted = spec.final or FinalSettings()
    largest = max(int(each.config["batch_size"]) for each in found)
    per_epoch = next((steps for steps in STEPS_PER_EPOCH if largest <= images // steps), 1)
    fits = affordable_epochs(spec, found, hours=hours, images=images, layout=layout)
    steps = max(1, round(min(wanted.epochs or MOST_EPOCHS, AT_MOST * fits) * per_epoch))
    cells = ablation_spec(
        spec,
        {each.name: each.config for each in found},
        question=question_of(found),
        seed=derive(spec.search.seed, "final"),
        repeats=wanted.seeds,
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
        cells, verdict_on=uid, data=spec.data.model_copy(update={"search_images": None, "search_size": None})
    )


def question_of(found: Sequence[Candidate]) -> str:
    """What the last trainings answer."""
    names = [each.name for each in found]
    if len(names) == 1:
        return f"How good is {names[0]} on images that it was not chosen by?"
    return f"Which of {', '.join(names[:-1])} and {names[-1]} is best on images that none was chosen by?"
