"""search/spec/recipe.py: values that fit images and time. The tests hold relations, not the constants of the rules."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import DataConfig
from data.statistics import ImageStatistics, MirrorTest
from models.config import ModelConfig
from models.plan import plan
from search.spec import fit, study_spec
from search.spec.domains import Value
from search.spec.fit import ImageLimits
from search.spec.parameters import CONFIG_CLASS_OF, to_configs
from search.spec.recipe import IMAGE_SIZE, Compute, Recipe, RecipeInputs, make_recipe

KEPT = MirrorTest(recognised=100, mirrored=100, lost=0)
LOST = MirrorTest(recognised=100, mirrored=20, lost=85)
NOTHING: dict[str, Value] = {}
DATA_KEYS = {IMAGE_SIZE, "search_images"}
BUDGET_KEYS = {"trial_macs"}


def inputs(
    *,
    classes: int = 10,
    images: int = 10_000,
    side: int = 64,
    seconds: float | None = 300.0,
    speed: float = 2e10,
    is_grey: bool = False,
    mirror: MirrorTest = KEPT,
    largest: int = 1,
) -> RecipeInputs:
    """Inputs of a recipe.

    Args:
        classes: Number of classes.
        images: Number of training images.
        side: Their side in pixels.
        seconds: Time of the last training, and of the search.
        speed: Multiply-accumulates per second.
        is_grey: Whether they are grey.
        mirror: Result of the mirror test.
        largest: Images of the first class, as a multiple of those of the others.
    """
    each = max(1, images // (classes - 1 + largest))
    counts = [each] * classes
    counts[0] = each * largest
    return RecipeInputs(
        images=ImageStatistics(
            classes=tuple(f"c{number}" for number in range(classes)),
            counts=tuple(counts),
            side=side,
            fit="crop",
            is_grey=is_grey,
            mirror=mirror,
        ),
        compute=Compute(
            macs_per_second=speed, workers=2, final_s=seconds, trial_s=None if seconds is None else seconds / 4
        ),
    )


def some_inputs() -> st.SearchStrategy[RecipeInputs]:
    return st.builds(
        inputs,
        classes=st.integers(2, 1_000),
        images=st.integers(2, 1_000_000),
        side=st.integers(8, 10_000),
        seconds=st.none() | st.floats(1, 1e6),
        speed=st.floats(1e6, 1e14),
        is_grey=st.booleans(),
        mirror=st.sampled_from([KEPT, LOST]),
        largest=st.integers(1, 50),
    )


def values_of(recipe: Recipe) -> dict[str, Any]:
    return {key: setting.value for key, setting in recipe.items()}


def flat(recipe: Recipe) -> dict[str, Value]:
    """The values that are keys of [space]."""
    return {key: value for key, value in values_of(recipe).items() if key in CONFIG_CLASS_OF}


def macs(recipe: Recipe, classes: int) -> int:
    model, _, _ = to_configs(flat(recipe))
    return plan(model, image_size=recipe[IMAGE_SIZE].value, classes=classes).macs  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(some_inputs())
def test_every_value_is_within_the_limits_of_its_key(made_for: RecipeInputs) -> None:
    recipe = make_recipe(made_for, NOTHING)
    to_configs(flat(recipe))
    data = {key: value for key, value in values_of(recipe).items() if key in DataConfig.model_fields}
    config = DataConfig(source="folder", path="photos", **data)
    assert config.search_images is None or config.search_images < made_for.images.images
    assert set(recipe) <= {*CONFIG_CLASS_OF, *DATA_KEYS, *BUDGET_KEYS, "test_time_augmentation"}


@settings(max_examples=60, deadline=None)
@given(some_inputs())
def test_every_value_has_a_short_reason(made_for: RecipeInputs) -> None:
    for key, setting in make_recipe(made_for, NOTHING).items():
        assert 0 < len(f"{key:22}  {setting.value!s:11}  {setting.reason}") <= 80, key


@settings(max_examples=60, deadline=None)
@given(some_inputs())
def test_the_recipe_can_be_trained(made_for: RecipeInputs) -> None:
    recipe = make_recipe(made_for, NOTHING)
    spec = study_spec.build(
        {
            "data": {"source": "folder", "path": "photos", "image_size": recipe[IMAGE_SIZE].value},
            "space": {"width": [8, 16]},
            "budget": {"epochs": 1},
        }
    )
    images = max(2, made_for.images.images)
    limits = ImageLimits(side=spec.data.side, classes=len(made_for.images.classes), images=images)
    fit.check_fit(spec, flat(recipe), limits)


@settings(max_examples=40, deadline=None)
@given(some_inputs(), st.floats(1, 100))
def test_more_time_never_gives_a_smaller_image_or_network(made_for: RecipeInputs, factor: float) -> None:
    compute = made_for.compute
    if compute.final_s is None or compute.trial_s is None:
        longer = compute
    else:
        longer = compute.model_copy(update={"final_s": compute.final_s * factor, "trial_s": compute.trial_s * factor})
    short = make_recipe(made_for, NOTHING)
    long = make_recipe(made_for.model_copy(update={"compute": longer}), NOTHING)
    classes = len(made_for.images.classes)
    assert values_of(long)[IMAGE_SIZE] >= values_of(short)[IMAGE_SIZE]
    assert macs(long, classes) >= macs(short, classes)


def test_without_a_time_limit_all_but_sizes_is_as_with_much_time() -> None:
    unlimited, much = (values_of(make_recipe(inputs(seconds=seconds), NOTHING)) for seconds in (None, 1e9))
    for key in ("width", "trial_macs"):
        assert unlimited.pop(key) <= much.pop(key)
    assert unlimited.pop("learning_rate") >= much.pop("learning_rate")
    assert unlimited == much


def test_a_slow_machine_has_a_smaller_network_than_a_fast_one() -> None:
    slow, fast = (make_recipe(inputs(speed=speed), NOTHING) for speed in (1e9, 1e12))
    assert macs(slow, 10) < macs(fast, 10)


@pytest.mark.parametrize("side", [8, 16, 20, 32, 50, 64, 100, 512, 4_000])
def test_images_are_not_enlarged_beyond_the_least_side_and_fit_the_poolings(side: int) -> None:
    made = values_of(make_recipe(inputs(side=side, seconds=None), NOTHING))
    assert made[IMAGE_SIZE] <= max(side, 16)
    last = made[IMAGE_SIZE] / 2 ** (made["conv_layers"] / made["pool_every"])
    assert 2 <= last <= 8


def test_batches_grow_with_the_images_up_to_a_limit_and_never_beyond_them() -> None:
    sizes = [
        values_of(make_recipe(inputs(images=count), NOTHING))["batch_size"] for count in (40, 1_000, 10_000, 10**6)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert all(
        values_of(make_recipe(inputs(classes=2, images=count), NOTHING))["batch_size"] <= count
        for count in range(2, 40)
    )


def test_the_learning_rate_grows_with_the_batch_slower_than_in_proportion() -> None:
    small, large = (values_of(make_recipe(inputs(), {"batch_size": size}))["learning_rate"] for size in (32, 256))
    assert small < large < 8 * small


def test_few_images_have_no_wider_network_than_many() -> None:
    few, many = (values_of(make_recipe(inputs(images=count, seconds=None), NOTHING)) for count in (500, 500_000))
    assert few["width"] <= many["width"]


def test_images_that_lose_their_class_in_a_mirror_are_not_flipped() -> None:
    kept, lost = (make_recipe(inputs(mirror=test), NOTHING) for test in (KEPT, LOST))
    assert kept["flip"].value is not False
    assert lost["flip"].value is False
    assert kept["test_time_augmentation"].value == "flip"
    assert lost["test_time_augmentation"].value == "none"


def test_grey_images_have_one_channel() -> None:
    assert values_of(make_recipe(inputs(is_grey=True), NOTHING))["input_channels"] == 1
    assert values_of(make_recipe(inputs(), NOTHING))["input_channels"] == 3


def test_values_of_the_file_are_taken_over_and_others_go_with_them() -> None:
    usual = values_of(make_recipe(inputs(), NOTHING))
    own = make_recipe(inputs(), {"optimizer": "adam", "batch_size": 8, IMAGE_SIZE: 24})
    made = values_of(own)
    assert (made["optimizer"], made["batch_size"], made[IMAGE_SIZE]) == ("adam", 8, 24)
    assert {own[key].reason for key in ("optimizer", "batch_size", IMAGE_SIZE)} == {"given"}
    assert made["learning_rate"] < usual["learning_rate"]
    assert made["conv_layers"] < usual["conv_layers"]


def test_more_pixels_leave_a_narrower_network_in_the_same_time() -> None:
    widths = [values_of(make_recipe(inputs(), {IMAGE_SIZE: side}))["width"] for side in (16, 32, 64, 128)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]


def test_a_search_on_very_many_images_uses_some_of_them() -> None:
    made = values_of(make_recipe(inputs(images=1_000_000, seconds=60), NOTHING))
    assert 0 < made["search_images"] < 1_000_000
    assert "search_images" not in make_recipe(inputs(images=500), NOTHING)


def test_the_same_inputs_give_the_same_recipe_after_a_copy_as_json() -> None:
    original = inputs(classes=3, images=77)
    copy = RecipeInputs.model_validate(original.model_dump(mode="json"))
    assert make_recipe(copy, NOTHING) == make_recipe(original, NOTHING)


def test_every_key_of_a_network_but_backbones_has_a_value() -> None:
    recipe = make_recipe(inputs(), NOTHING)
    missing = set(CONFIG_CLASS_OF) - set(recipe)
    assert missing <= {"logit_scale", "backbone", "backbone_side", "tuned_stages", "backbone_rate"}
    assert all(math.isfinite(setting.value) for setting in recipe.values() if isinstance(setting.value, float))
    assert ModelConfig.model_fields.keys() & set(recipe)


def test_the_width_follows_from_the_speed_of_the_last_training() -> None:
    usual = inputs(images=20_000, side=24, seconds=60)
    fast = usual.compute.model_copy(update={"final_macs_per_second": 4 * usual.compute.macs_per_second})

    wider = make_recipe(usual.model_copy(update={"compute": fast}), NOTHING)

    assert values_of(wider)["width"] > values_of(make_recipe(usual, NOTHING))["width"]


def test_a_narrow_network_learns_at_a_higher_rate_with_muon_alone() -> None:
    narrow, wide = (values_of(make_recipe(inputs(), {"width": width})) for width in (16, 64))
    sgd = [values_of(make_recipe(inputs(), {"width": width, "optimizer": "sgd"})) for width in (16, 64)]

    assert narrow["learning_rate"] > wide["learning_rate"]
    assert sgd[0]["learning_rate"] == sgd[1]["learning_rate"]
