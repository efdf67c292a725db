"""Makes the recipe of a study from its images and from the speed of this machine."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from data import home
from data.config import DataConfig
from data.dataset import find
from data.errors import DataError
from data.progress import Say
from data.sample import measure
from data.statistics import ImageStatistics
from data.text import counted
from models.config import Impossible, ModelConfig, TrainConfig
from search.service.final import layout_of
from search.service.session import searching
from search.spec import auto, study_spec
from search.spec.recipe import IMAGE_SIZE, USUAL, Compute, RecipeInputs
from search.spec.study_spec import StudySpec
from search.study.inputs import writing_to
from search.study.strategy import known_point
from search.tables import format_duration, format_value
from search.workers import local

#: Hours of the example for more time, as a multiple of those of the study.
MORE_TIME: Final = 6
#: Full trials that fit into the search. With 0.7 of the hours for the last training a trial is about a ninth as long.
#: At this length the effects of rates, momentum and batches correlate with those at the end by 0.66 to 0.98 on six of
#: seven image sets (studies/LOG.md, 2026-11-30).
FULL_TRIALS: Final = 4
#: Measurements of the speed of a recipe; each one changes its width, and with it the speed.
CALIBRATIONS: Final = 2


def with_recipe(spec: StudySpec, cache: Path, *, devices: tuple[str, ...], hours: float | None, say: Say) -> StudySpec:
    """The study with the values of its recipe.

    Args:
        spec: A study whose file refers to a recipe.
        cache: Folder of the decoded images.
        devices: The device of each worker.
        hours: Hours of the study, its last training included; None for no limit.
        say: Prints progress.

    Raises:
        DataError: The images cannot be used.
        SpecError: The values of the recipe do not go with those of the file.
    """
    local.start_server()  # it loads torch while the images are looked at
    with writing_to(cache):
        images = measure(_unsized(spec), cache, say)
    compute = _times(spec, hours, USUAL.compute.model_copy(update={"workers": len(devices)}))
    filled = _calibrated(spec, RecipeInputs(images=images, compute=compute), devices)
    for line in (images_line(images), *plan_lines(filled, hours)):
        say(line)
    return filled


def with_recipe_if_here(
    spec: StudySpec, cache: Path, *, devices: tuple[str, ...], hours: float | None, say: Say
) -> StudySpec:
    """The study with the values of its recipe, if it refers to one and its images are on this machine.

    Otherwise, after a message, the values stand for those of usual images. Nothing is downloaded. See `with_recipe`.
    """
    if not spec.is_provisional:
        return spec
    if _are_here(spec, cache):
        return with_recipe(spec, cache, devices=devices, hours=hours, say=say)
    where = "" if spec.data.path is None else f" at {spec.data.path}"
    say(f"there are no images{where} yet, so the values of the recipe are those for usual images; --data names others")
    return spec


def _calibrated(spec: StudySpec, inputs: RecipeInputs, devices: tuple[str, ...]) -> StudySpec:
    """The study with its recipe, after the speed of a training of this recipe was measured.

    The speed depends on the network: on two cores of an AMD EPYC (Zen 4) 13 to 27 billion multiply-accumulates per
    second and core, and 1.2 to 2 times as many with both (studies/LOG.md, 2026-11-30).
    """
    threads = layout_of(devices, trainings=1).threads
    for _ in range(CALIBRATIONS):
        filled = study_spec.with_recipe(spec, inputs)
        model, train, _ = study_spec.to_model_configs(filled, known_point(filled))
        measured = local.call(
            partial(
                _macs_per_second,
                devices[0],
                model,
                train,
                side=filled.data.side,
                classes=len(inputs.images.classes),
                threads=tuple(dict.fromkeys((1, threads))),
            )
        )
        if not measured:
            break
        compute = inputs.compute.model_copy(
            update={"macs_per_second": measured[0], "final_macs_per_second": max(measured)}
        )
        inputs = inputs.model_copy(update={"compute": compute})
    return study_spec.with_recipe(spec, inputs)


def _times(spec: StudySpec, hours: float | None, compute: Compute) -> Compute:
    """The computing power with the time of a last training and of a trial, of `hours` for the study."""
    search_hours = searching(spec, hours)
    search_s = None if search_hours is None else 3600 * search_hours
    final_s = None if hours is None or search_s is None else 3600 * hours - (search_s if spec.final else 0.0)
    trial_s = None if search_s is None else search_s * compute.workers / FULL_TRIALS
    return compute.model_copy(update={"final_s": final_s, "trial_s": trial_s})


def images_line(images: ImageStatistics) -> str:
    """The summary of images in a line."""
    low, high = min(images.counts), max(images.counts)
    each = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
    return (
        f"{counted(images.images, 'training image')} in {len(images.classes)} classes ({each}), {images.side:,} pixels "
        f"wide, {'grey' if images.is_grey else 'in colour'}"
    )


def plan_lines(spec: StudySpec, hours: float | None) -> Iterator[str]:
    """The plan of a study with a recipe, and the use of more time."""
    recipe = study_spec.settings(spec)
    if spec.recipe is None or not recipe:
        return
    compute = spec.recipe.compute
    verb = "keep" if spec.recipe.images.mirror.keeps_class else "lose"
    yield f"in a mirror they {verb} their class: flip = {format_value(recipe['flip'].value)}"
    yield (
        f"recipe: {recipe['image_size'].value} pixels, {recipe['conv_layers'].value} convolutions from "
        f"{recipe['width'].value} channels on, batches of {recipe['batch_size'].value}"
    )
    if compute.trial_s is not None and compute.final_s is not None:
        final = f", then a last training of at least {_about(compute.final_s)}" if spec.final else ""
        yield f"plan: full trials of about {_about(compute.trial_s)}{final}"
    if hours is None or spec.template is None:
        return
    more = float(f"{hours * MORE_TIME:.1g}")
    longer = spec.recipe.model_copy(update={"compute": _times(spec, more, compute)})
    larger = study_spec.settings(study_spec.with_recipe(spec, longer))
    changes = [
        text.format(larger[key].value)
        for key, text in (("image_size", "{} pixels"), ("width", "a width of {}"))
        if larger[key].value != recipe[key].value
    ]
    use = " and ".join(changes) or "longer trainings and more trials"
    yield f"this takes {_about(3600 * hours)}; --hours {more:g} would give {use}"


def _about(seconds: float) -> str:
    """A planned duration: `6.8 s`, `75 s`, `3 min 20 s`."""
    return f"{seconds:.0f} s" if 10 <= seconds < 99.5 else format_duration(seconds)


def _unsized(spec: StudySpec) -> DataConfig:
    """The images at their own size, unless the study file gives one."""
    is_given = spec.template is None or IMAGE_SIZE in auto.given_values(spec.template.tables)
    return spec.data if is_given else spec.data.model_copy(update={"image_size": None})


def _are_here(spec: StudySpec, cache: Path) -> bool:
    """Whether the images can be measured without a download."""
    if spec.data.path is not None:
        return home.expand(spec.data.path).exists()
    try:
        find(_unsized(spec), cache)
    except DataError:
        return spec.data.source == "shapes"
    return True


def _macs_per_second(device: str, model: ModelConfig, train: TrainConfig, **sizes: Any) -> tuple[float, ...]:
    """The speeds of `speed.macs_per_second`; empty if the network cannot be trained, as its trials then report."""
    from models.train import Diverged  # loads torch
    from search.trial import speed

    try:
        return speed.macs_per_second(device, model, train, **sizes)
    except (Diverged, Impossible, MemoryError, RuntimeError):
        return ()
