"""A configuration that cannot be trained, and the nearest configuration that can."""

import re
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from data.augment import cutout as cutout_of
from models.config import Impossible
from search.spec import study_spec
from search.spec.domains import Value
from search.spec.fit import ImageLimits, check_fit, describe_changes, fitted, is_in_space
from search.spec.parameters import DEFAULTS
from search.spec.study_spec import StudySpec

#: 300 images of ten classes.
LIMITS = ImageLimits(side=16, classes=10, images=300)


def study(space: dict[str, Any], **budget: Any) -> StudySpec:
    return study_spec.build({"budget": {"trials": 1, "epochs": 6, "evaluations": 3, **budget}, "space": space})


def nearest(
    space: dict[str, Any], asked: dict[str, Value], *, limits: ImageLimits = LIMITS, **budget: Any
) -> tuple[str, ...]:
    """The changes that `fitted` makes to a configuration."""
    config = {**DEFAULTS, "width": 8, **asked}
    result = fitted(study(space, **budget), config, limits)
    check_fit(study(space, **budget), result, limits)
    return describe_changes(config, result)


@pytest.mark.parametrize(
    ("space", "asked", "changed"),
    [
        pytest.param(
            {"batch_size": [64, 128, 512]}, {"batch_size": 512}, "batch_size 512 -> 128", id="largest that fits"
        ),
        pytest.param({"batch_size": [400, 512]}, {"batch_size": 512}, "batch_size 512 -> 300", id="all images"),
        pytest.param({"conv_layers": {"low": 2, "high": 6}}, {"conv_layers": 6}, "conv_layers 6 -> 4", id="poolings"),
        pytest.param(
            {"pool_every": [1, 2], "conv_layers": 6}, {"conv_layers": 6}, "pool_every 1 -> 2", id="fixed layers"
        ),
        pytest.param(
            {"stem": "whiten", "conv_layers": [2, 3, 4]},
            {"stem": "whiten", "conv_layers": 4},
            "conv_layers 4 -> 3",
            id="poolings behind a stem",
        ),
        pytest.param(
            {"input_channels": [1, 3], "backbone": ["none", "resnet18"]},
            {"input_channels": 1, "backbone": "resnet18"},
            "input_channels 1 -> 3",
            id="channels of a backbone",
        ),
        pytest.param({"batch_size": 128}, {}, "", id="a fitting value stays"),
        pytest.param(
            {"batch_size": [512, {"low": 64, "high": 384}, 16]},
            {"batch_size": 512},
            "batch_size 512 -> 280",
            id="a range of a list",
        ),
        pytest.param(
            {"batch_size": [{"low": 320, "high": 512}, 16]},
            {"batch_size": 350},
            "batch_size 350 -> 16",
            id="a value of a list",
        ),
    ],
)
def test_the_nearest_value_that_fits_the_images_is_taken(
    space: dict[str, Any], asked: dict[str, Value], changed: str
) -> None:
    assert ", ".join(nearest(space, asked)) == changed


def test_the_range_of_the_active_choice_applies() -> None:
    space = {
        "pool_every": [1, 2],
        "conv_layers": {"low": 2, "high": 8},
        "when": {"pool_every": {"1": {"conv_layers": {"low": 3, "high": 5}}}},
    }

    assert nearest(space, {"conv_layers": 5}) == ("conv_layers 5 -> 4",)


@pytest.mark.parametrize(
    ("space", "asked", "budget", "changed"),
    [
        pytest.param(
            {"width": {"low": 8, "high": 64, "step": 8}},
            {"width": 64},
            {"max_macs": 1_000_000},
            "width 64 -> 16",
            id="macs",
        ),
        pytest.param(
            {"width": [8, 16, 64]}, {"width": 64}, {"max_parameters": 60_000}, "width 64 -> 16", id="parameters"
        ),
    ],
)
def test_a_network_is_made_as_narrow_as_the_limits_require_and_no_narrower(
    space: dict[str, Any], asked: dict[str, Value], budget: dict[str, Any], changed: str
) -> None:
    assert ", ".join(nearest(space, asked, **budget)) == changed
    wider = {"max_macs": 24, "max_parameters": 64}[next(iter(budget))]
    with pytest.raises(Impossible, match="are more than"):
        check_fit(study(space, **budget), {**DEFAULTS, "width": wider}, LIMITS)


def test_an_implicit_default_is_changed_and_a_fixed_value_is_not() -> None:
    tiny = ImageLimits(side=8, classes=2, images=300)

    assert nearest({"stem": ["none", "whiten"]}, {"stem": "whiten"}, limits=tiny) == ("conv_layers 3 -> 2",)
    with pytest.raises(Impossible, match="an image of 8 x 8 pixels allows 3 poolings"):
        nearest({"conv_layers": 8, "pool_every": 2}, {"conv_layers": 8, "pool_every": 2}, limits=tiny)


@pytest.mark.parametrize(
    ("space", "drawn", "is_redrawn"),
    [
        pytest.param({"conv_layers": {"low": 2, "high": 6}}, {"conv_layers": 6}, True, id="another value is drawn"),
        pytest.param({"batch_size": 512, "width": [8, 16]}, {"batch_size": 512}, False, id="a fixed value"),
        pytest.param({"batch_size": [400, 512]}, {"batch_size": 512}, False, id="no value of the space fits"),
    ],
)
def test_another_draw_is_made_only_if_a_value_of_the_space_fits(
    space: dict[str, Any], drawn: dict[str, Value], is_redrawn: bool
) -> None:
    spec, config = study(space), {**DEFAULTS, "width": 8, **drawn}

    assert is_in_space(spec, config, fitted(spec, config, LIMITS)) is is_redrawn


def test_a_wide_range_is_searched_in_large_steps() -> None:
    assert nearest({"width": {"low": 8, "high": 1024}}, {"width": 1024}, max_macs=1_000_000)


def test_a_space_without_a_fitting_value_is_refused_with_the_violated_limit() -> None:
    with pytest.raises(Impossible, match=r"parameters are more than \[budget\] max_parameters = 10"):
        nearest({"width": {"low": 8, "high": 64}}, {"width": 64}, max_parameters=10)


def test_a_batch_larger_than_the_images_of_a_step_is_refused() -> None:
    with pytest.raises(Impossible, match="a batch of 128 is more than the 100 images of a step"):
        check_fit(study({}, epochs=1), {**DEFAULTS, "batch_size": 128}, LIMITS)
    check_fit(study({}, epochs=2), {**DEFAULTS, "batch_size": 128}, LIMITS)


@pytest.mark.parametrize(
    ("tables", "way"),
    [
        pytest.param({}, "lower [data] validation, which leaves more images", id="all images"),
        pytest.param(
            {"data": {"train_images": 2000}},
            "lower [data] validation, which leaves more images, or raise [data] train_images",
            id="some images",
        ),
        pytest.param({"data": {"search_images": 300}}, "raise [data] search_images", id="a search on fewer images"),
        pytest.param(
            {"budget": {"trials": 1, "epochs": 1, "steps_per_epoch": 4}},
            "lower [budget] steps_per_epoch",
            id="short steps",
        ),
        pytest.param(
            {"budget": {"trials": 1, "epochs": 1, "evaluations": 9}}, "lower [budget] evaluations", id="evaluations"
        ),
        pytest.param(
            {"budget": {"trials": 1, "epochs": 9, "trial_macs": 1e9}}, "raise [budget] trial_macs", id="costly networks"
        ),
    ],
)
def test_a_batch_larger_than_a_step_names_the_setting_that_gives_it_more_images(
    tables: dict[str, Any], way: str
) -> None:
    spec = study_spec.build({"budget": {"trials": 1, "epochs": 1}, **tables})

    with pytest.raises(Impossible, match=re.escape(f"images of a step; lower [space] batch_size, or {way}")):
        check_fit(spec, {**DEFAULTS, "batch_size": 512}, LIMITS)


@pytest.mark.parametrize(
    ("cutout", "side", "is_possible"),
    [(30, 16, True), (31, 16, False), (32, 16, False), (32, 32, True)],
    ids=["one pixel stays", "nothing stays", "more than the image", "a larger image"],
)
def test_a_cutout_that_leaves_nothing_of_an_image_is_refused(cutout: int, side: int, is_possible: bool) -> None:
    spec = study_spec.build({"data": {"image_size": side}, "budget": {"trials": 1, "epochs": 6}})
    config: dict[str, Value] = {**DEFAULTS, "width": 8, "cutout": cutout}
    masks = cutout_of(torch.ones(2000, 1, side, side), cutout, torch.Generator().manual_seed(0))

    with nullcontext() if is_possible else pytest.raises(Impossible, match=r"lower \[space\] cutout"):
        check_fit(spec, config, replace(LIMITS, side=side))
    assert bool(masks.sum(dim=(1, 2, 3)).any()) is is_possible


def test_a_cutout_shrinks_with_the_images_of_the_search() -> None:
    spec = study_spec.build({"data": {"image_size": 32, "search_size": 16}, "budget": {"trials": 1, "epochs": 6}})

    check_fit(spec, {**DEFAULTS, "width": 8, "cutout": 32}, LIMITS)
