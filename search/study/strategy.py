"""How the trials of a study are chosen, seeded, pruned and promoted."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import assert_never

import optuna
from optuna.trial import FrozenTrial

from data.dataset import count_search_images
from models.config import Impossible
from search.optuna_internals import CachedStorage, FilteredStudy, SubsetStudy
from search.pruners.asha import MIN_TRIALS, Asha
from search.pruners.asha import build as build_pruner
from search.pruners.promotion import AshaPromotion, BarrierPromotion
from search.samplers.evolution import EvolutionSampler, FixedSampler, default_point, default_values
from search.samplers.tpe import build as build_sampler
from search.seeds import derive, is_audited
from search.spec import study_spec
from search.spec.domains import Value
from search.spec.fit import ImageLimits, fitted
from search.spec.search_space import one_of_domains
from search.spec.settings import SamplerName
from search.spec.study_spec import StudySpec, start_point
from search.study.stored_study import StoredStudy

#: Block size in trials for which the audited numbers are computed at once.
AHEAD = 1000


def limits_of(study: StoredStudy) -> ImageLimits | None:
    """The limits that the training images of a study set; a final training uses all images.

    Returns:
        None if the study has no record of its images.
    """
    if not {"classes", "train_counts", "image_size"} <= study.data.keys():
        return None
    data, classes = study.spec.data, len(study.data["classes"])
    images = sum(study.data["train_counts"])
    if study.spec.verdict_on is None:
        images = study.data.get("train_count") or count_search_images(data, images, classes=classes)
    return ImageLimits(side=data.search_size or study.data["image_size"], classes=classes, images=images)


def known_point(spec: StudySpec) -> dict[str, Value]:
    """The flat configuration that a search begins with: the first point of [[try]].

    Keys that this point leaves open have their defaults, or the nearest value of the space.
    """
    return study_spec.with_defaults(spec, default_values(spec.space, start_point(spec)))


def asked(spec: StudySpec, number: int) -> dict[str, Value] | None:
    """The requested values of a trial by key: all drawn ones of the baseline, those that a point of [[try]] names."""
    if number == study_spec.baseline(spec):
        return default_values(spec.space, start_point(spec))
    return dict(spec.points[number]) if number < len(spec.points) else None


def queue(study: StoredStudy) -> tuple[dict[str, Value], ...]:
    """The fixed parameters of the trials 0, 1, 2, ...

    Returns:
        Optuna name -> value for each trial: the cells of a grid; otherwise the baseline, changed to the nearest
        configuration that can be trained, and the other points of [[try]].
    """
    fixed = study_spec.fixed_trials(study.spec)
    if study_spec.baseline(study.spec) is None:
        return fixed
    config, limits = known_point(study.spec), limits_of(study)
    if limits is not None:
        with suppress(Impossible):
            config = fitted(study.spec, config, limits)
    return (dict(default_point(study.spec.space, config).params), *fixed[1:])


def for_trial(
    cached: CachedStorage,
    study: StoredStudy,
    number: int,
    seen: Sequence[FrozenTrial],
    *,
    draw: int = 0,
    at_random: bool = False,
    given: Mapping[str, Value] | None = None,
) -> optuna.Study:
    """The study as an `optuna.Study`, with the sampler and the pruner of one trial.

    Args:
        cached: Storage with the read cache.
        study: The study.
        number: The number of the trial.
        seen: Trials that the sampler learns from.
        draw: Number of earlier draws of this trial.
        at_random: Draw at random, whatever the sampler of the study is.
        given: Values by key, used instead of drawn ones.
    """
    search, steps = study.spec.search, study.spec.budget.steps
    if given is not None:
        sampler: optuna.samplers.BaseSampler = FixedSampler(given, one_of_domains(study.spec.space))
    else:
        sampler = _sampler(cached, study, number, seen, draw, name="random" if at_random else search.sampler)
    pruner = build_pruner(search.pruner, first_rung=search.first_rung, reduction=search.reduction, steps=steps)
    return FilteredStudy(study.name, cached, sampler, pruner, left_out=audited(study.spec, number))


def _sampler(
    cached: CachedStorage, study: StoredStudy, number: int, seen: Sequence[FrozenTrial], draw: int, *, name: SamplerName
) -> optuna.samplers.BaseSampler:
    search = study.spec.search
    redraw = (draw,) if draw else ()
    match name:
        case "evolution":
            defaults = start_point(study.spec)
            return EvolutionSampler(
                seen,
                number=number,
                start=default_point(study.spec.space, defaults),
                defaults=defaults,
                seed=derive(search.seed, number, "sampler", *redraw),
                one_ofs=one_of_domains(study.spec.space),
            )
        case "tpe" | "nsga2" | "random" | "grid":
            return build_sampler(
                name,
                study_seed=search.seed,
                number=number,
                draw=draw,
                startup_trials=search.startup_trials,
                seen=SubsetStudy(study.name, cached, seen),
            )
        case _:
            assert_never(name)


def asha(spec: StudySpec) -> Asha:
    """The rungs of a study."""
    search = spec.search
    return Asha(
        first_rung=search.first_rung,
        reduction=search.reduction,
        steps=spec.budget.steps,
        updates=search.rung_updates,
        least=MIN_TRIALS if search.rung_updates else 1,  # studies of older versions have neither
    )


def audited(spec: StudySpec, number: int) -> frozenset[int]:
    """The numbers of the trials that the pruner may not stop, up to the budget and beyond `number`."""
    search = spec.search
    if search.pruner == "none" or search.audit == 0.0:
        return frozenset()
    return _audited(search.seed, search.audit, max(number, spec.budget.trials) // AHEAD + 2, study_spec.baseline(spec))


@lru_cache(maxsize=8)
def _audited(seed: int, share: float, blocks: int, baseline: int | None) -> frozenset[int]:
    return frozenset(
        number for number in range(blocks * AHEAD) if number != baseline and is_audited(seed, number, share)
    )


def promotion_policy(spec: StudySpec) -> AshaPromotion | BarrierPromotion | None:
    """The rule by which paused trials go on; None for a study whose trials never pause."""
    if spec.verdict_on is not None and spec.budget.trials > 1:
        return BarrierPromotion(trials=spec.budget.trials)
    if spec.search.pruner != "promote":
        return None
    rungs = asha(spec)
    return AshaPromotion(
        rungs=rungs.rungs(),
        reduction=rungs.reduction,
        steps=rungs.steps,
        least=rungs.least,
        audited=audited(spec, 0),
        baseline=study_spec.baseline(spec),
    )
