"""Recorded learning curves: their configurations, their files, and the effects of changes."""

import math
from pathlib import Path

import numpy as np
import pytest

from data.statistics import ImageStatistics, MirrorTest
from search.spec.parameters import to_configs
from search.spec.recipe import Compute, RecipeInputs
from tests.bench.families.changes import FIRST_RANDOM, NUMBERS, SINGLE, changes_of, configuration
from tests.bench.families.curves import Recording, add, bits, packed, read
from tests.bench.families.effects import effects, percent, table
from tests.bench.families.image_families import FAMILIES

INPUTS = RecipeInputs(
    images=ImageStatistics(
        classes=("a", "b", "c"),
        counts=(300,) * 3,
        side=32,
        fit="crop",
        is_grey=False,
        mirror=MirrorTest(recognised=100, mirrored=100, lost=0),
    ),
    compute=Compute(macs_per_second=2e10, workers=1, final_s=20, trial_s=None),
)


def recording(number: int, *, wrong: int, seconds: float = 9.0, before: int | None = None, seed: int = 0) -> Recording:
    """A training on letters with some wrong test images at its end, and `before` at the rung before."""
    count = FAMILIES["glyphs"].test
    rungs = [np.arange(count) >= errors for errors in (wrong, wrong if before is None else before, wrong)]
    return Recording(
        images="glyphs",
        number=number,
        seed=seed,
        changes=changes_of(number),
        config={},
        macs=1,
        parameters=1,
        epochs=1.0,
        seconds=(seconds / 9, seconds / 3, seconds),
        validation=(),
        test=tuple(map(packed, rungs)),
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_every_configuration_can_be_built_and_differs_from_the_recipe(number: int) -> None:
    values = configuration(INPUTS, number)

    to_configs(values)
    assert (values == configuration(INPUTS, 0)) == (number == 0 or _is_without_effect(number))


def _is_without_effect(number: int) -> bool:
    """Whether the recipe of these images has the changed values already."""
    recipe, changes = configuration(INPUTS, 0), changes_of(number)
    return bool(changes) and all(recipe.get(key) == value for key, value in changes.items())


def test_random_configurations_have_the_same_place_in_the_ranges_of_every_family() -> None:
    compute = INPUTS.compute.model_copy(update={"final_s": 400.0})
    other = INPUTS.model_copy(update={"compute": compute})
    number = FIRST_RANDOM + 1

    here, there = configuration(INPUTS, number), configuration(other, number)

    assert here["width"] != there["width"]
    assert {key: here[key] for key in ("activation", "momentum", "pool")} == {
        key: there[key] for key in ("activation", "momentum", "pool")
    }


def test_combined_changes_have_two_keys_or_more() -> None:
    assert all(len(changes_of(number)) >= 2 for number in range(len(SINGLE) + 1, FIRST_RANDOM))


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = recording(3, wrong=10)
    add(tmp_path / "glyphs.jsonl", written)
    add(tmp_path / "glyphs.jsonl", written)

    first, second = read([tmp_path / "glyphs.jsonl"])

    assert first.key == second.key == ("glyphs", 3, 0)
    count = FAMILIES["glyphs"].test
    assert bits(first.test[2], count).sum() == count - 10


def test_an_effect_is_the_ratio_of_errors_to_those_of_the_recipe() -> None:
    (effect,) = effects([recording(0, wrong=100), recording(0, wrong=100, seed=1), recording(1, wrong=80)])

    assert effect.at_rungs[-1] == pytest.approx(math.log(0.8))
    assert percent(effect.at_rungs[-1]) == "-20 %"


def test_more_time_is_corrected_by_the_gain_of_the_recipe_from_time() -> None:
    recipe = recording(0, wrong=100, before=200)  # three times as long: half of the errors

    (effect,) = effects([recipe, recording(1, wrong=50, seconds=27.0, before=50)])

    assert effect.at_rungs[-1] == pytest.approx(0.0)


def test_the_table_begins_with_the_fewest_errors() -> None:
    shown = table(effects([recording(0, wrong=100), recording(1, wrong=120), recording(2, wrong=90)]))

    assert [row[0] for row in shown.rows] == ["2", "1"]
