"""Configurations that all families share, in the coordinates of the recipe.

Configuration 0 is the recipe. The others have single changes, several changes, or are drawn from a wide space around
the recipe. Ranges of that space begin and end at multiples of the recipe, and a random configuration has the same place
in the ranges of every family.
"""

import random
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.samplers.evolution import DefaultsTrial, from_unit
from search.spec import auto, study_spec
from search.spec.domains import Value
from search.spec.parameters import CONFIG_CLASS_OF
from search.spec.recipe import Recipe, RecipeInputs, make_recipe
from search.spec.search_space import sample
from search.spec.study_spec import StudySpec
from tests.bench.measure import ROOT

Changes = Mapping[str, Any]
"""Key -> value as a study file writes it: a plain value, or an expression such as "auto * 2"."""

OPTIMIZATION: Final[tuple[Changes, ...]] = (
    {"learning_rate": "auto * 2"},
    {"learning_rate": "auto / 2"},
    {"batch_size": "auto / 2", "learning_rate": "auto / 1.4"},
    {"batch_size": "auto * 2", "learning_rate": "auto * 1.4"},
    {"bias_rate": 8.0},
    {"init": "dirac"},
    {"momentum": 0.7},
    {"momentum": 0.95},
    {"weight_decay": "auto * 10"},
    {"optimizer": "sgd"},
    {"optimizer": "adamw"},
    {"class_weights": 0.5},
    {"residual": True},
    {"activation": "silu"},
    {"activation": "relu"},
    {"warmup": 0.25},
    {"scheduler": "cosine"},
    {"pool": "avg"},
    {"head": "max"},
    {"norm": "group"},
    {"clip": 1.0},
    {"logit_scale": 0.2},
)
"""Changes of rates, schedules, initial weights and layers that leave size and regularisation as they are."""

SIZE_AND_REGULARISATION: Final[tuple[Changes, ...]] = (
    {"width": "auto * 1.5"},
    {"width": "auto / 1.5"},
    {"kernel_size": 5},
    {"growth": 1.5},
    {"conv_layers": "auto - 2"},
    {"pool_first": False},
    {"dense_layers": 1, "dropout_dense": 0.3},
    {"crop": "auto * 2"},
    {"crop": 0},
    {"cutout": "image_size / 4"},
    {"label_smoothing": 0.0},
    {"label_smoothing": 0.2},
    {"dropout_conv": 0.1},
    {"ema": 0.9},
)

SINGLE: Final = (*OPTIMIZATION, *SIZE_AND_REGULARISATION)

COMBINED: Final = 40
"""Configurations with two to four changes of OPTIMIZATION."""

RANDOM: Final = 48
"""Configurations drawn from the wide space."""

NUMBERS: Final = range(1 + len(SINGLE) + COMBINED + RANDOM)
"""The recipe, single changes, combined ones, random configurations."""

FIRST_RANDOM: Final = 1 + len(SINGLE) + COMBINED


def changes_of(number: int) -> Changes:
    """The changes of a configuration; empty for the recipe and for random ones."""
    if number == 0 or number >= FIRST_RANDOM:
        return {}
    if number <= len(SINGLE):
        return SINGLE[number - 1]
    rng = random.Random(number)
    changes: dict[str, Any] = {}
    wanted = rng.randint(2, 4)
    for change in rng.sample(OPTIMIZATION, len(OPTIMIZATION)):
        if wanted and not changes.keys() & change.keys():
            changes |= change
            wanted -= 1
    return changes


def configuration(inputs: RecipeInputs, number: int) -> dict[str, Value]:
    """The values of a configuration for a family; parameters that are not changed go with the changed ones."""
    if number >= FIRST_RANDOM:
        return sample(wide_study(inputs).space, RandomTrial(number))
    return changed_recipe(inputs, changes_of(number))


def changed_recipe(inputs: RecipeInputs, changes: Changes) -> dict[str, Value]:
    """The values of the recipe with changes."""

    def recipe_of(given: Mapping[str, Value]) -> Recipe:
        return make_recipe(inputs, given)

    changed = dict(auto.fill({"space": dict(changes), "try": []}, recipe_of)["space"])
    values = {key: setting.value for key, setting in recipe_of(changed).items() if key in CONFIG_CLASS_OF}
    return values | changed


@cache
def wide_study(inputs: RecipeInputs) -> StudySpec:
    """A study whose space has everything that this project would search without a recipe."""
    return study_spec.with_recipe(study_spec.load(ROOT / "tests" / "bench" / "families" / "wide.toml"), inputs)


class RandomTrial(DefaultsTrial):
    """A trial with random values; a parameter draws the same place in the range of every family."""

    def __init__(self, number: int) -> None:
        super().__init__({})
        self._number = number

    def _default(self, name: str, distribution: BaseDistribution) -> Any:
        place = random.Random(f"{self._number} {name}").random()
        self.distributions[name] = distribution
        self.params[name] = at(distribution, place)
        return self.params[name]


def at(distribution: BaseDistribution, place: float) -> Any:
    """The value at a place from 0 to 1 of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(place * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return from_unit(distribution, place)
