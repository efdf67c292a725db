"""Makes the recipe of a study from its images and from the speed of this machine."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from data.progress import Say
from data.sample import measure
from data.statistics import ImageStatistics
from data.text import counted
from search.service.session import searching
from search.spec import study_spec
from search.spec.recipe import Compute, RecipeInputs
from search.spec.study_spec import StudySpec
from search.spec.trial_length import FULL_TRIALS
from search.study.inputs import writing_to
from search.tables import format_duration
from search.workers import local

#: Hours of the example for more time, as a multiple of those of the study.
MORE_TIME: Final = 6


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
        images = measure(spec.data, cache, say)
    macs_per_second = local.call(partial(_macs_per_second, devices[0]))
    inputs = RecipeInputs(images=images, compute=compute_of(spec, hours, len(devices), macs_per_second))
    filled = study_spec.with_recipe(spec, inputs)
    for line in (images_line(images), *plan_lines(filled, hours)):
        say(line)
    return filled


def compute_of(spec: StudySpec, hours: float | None, workers: int, macs_per_second: float) -> Compute:
    """The time of a last training and of a trial, of `hours` for the study."""
    search_hours = searching(spec, hours)
    search_s = None if search_hours is None else 3600 * search_hours
    final_s = None if hours is None or search_s is None else 3600 * hours - (search_s if spec.final else 0.0)
    return Compute(
        macs_per_second=macs_per_second,
        workers=workers,
        final_s=final_s,
        trial_s=None if search_s is None else search_s * workers / FULL_TRIALS,
    )


def images_line(images: ImageStatistics) -> str:
    """The summary of images in a line."""
    low, high = min(images.counts), max(images.counts)
    each = f"{low} each" if low == high else f"{low} to {high} each"
    mirror = "keep" if images.mirror.keeps_class else "do not keep"
    return (
        f"{counted(images.images, 'training image')} in {len(images.classes)} classes ({each}), "
        f"of {images.side} pixels, {'grey' if images.is_grey else 'in colour'}; in a mirror they {mirror} their class"
    )


def plan_lines(spec: StudySpec, hours: float | None) -> Iterator[str]:
    """The plan of a study with a recipe, and the use of more time."""
    recipe = study_spec.settings(spec)
    if spec.recipe is None or not recipe:
        return
    compute = spec.recipe.compute
    text = (
        f"the recipe: {recipe['image_size'].value} pixels, {recipe['conv_layers'].value} convolutions from "
        f"{recipe['width'].value} channels on, batches of {recipe['batch_size'].value}"
    )
    if compute.trial_s is not None and compute.final_s is not None:
        text += f"; a full trial takes about {format_duration(compute.trial_s)}"
        text += f", the last training {format_duration(compute.final_s)} and more" if spec.final else ""
    yield text
    if hours is None or spec.template is None:
        return
    more = hours * MORE_TIME
    longer = spec.recipe.model_copy(
        update={"compute": compute_of(spec, more, compute.workers, compute.macs_per_second)}
    )
    larger = study_spec.settings(study_spec.with_recipe(spec, longer))
    changes = [
        f"{name} {larger[key].value} in place of {recipe[key].value}"
        for key, name in (("image_size", "an image size of"), ("width", "a width of"))
        if larger[key].value != recipe[key].value
    ]
    use = " and ".join(changes) or "longer trainings and more trials"
    yield f"it takes {format_duration(3600 * hours)}; --hours {more:.2g} would be used for {use}"


def _macs_per_second(device: str) -> float:
    from search.trial import speed  # loads torch

    return speed.macs_per_second(device)
