"""Configurations that all families share: changes to the recipe, in its own coordinates.

Configuration 0 is the recipe, the next ones have one change each, and the others two to four at random.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from search.spec import auto
from search.spec.domains import Value
from search.spec.parameters import CONFIG_CLASS_OF
from search.spec.recipe import Recipe, RecipeInputs, make_recipe

Change = Mapping[str, Any]

CHANGES: Final[tuple[Change, ...]] = (
    {"bias_rate": 8.0},
    {"learning_rate": "auto * 2"},
    {"learning_rate": "auto / 2"},
    {"batch_size": "auto / 2", "learning_rate": "auto / 1.4"},
    {"batch_size": "auto * 2", "learning_rate": "auto * 1.4"},
    {"init": "dirac"},
    {"kernel_size": 5},
    {"width": "auto * 1.5"},
    {"width": "auto / 1.5"},
    {"crop": "auto * 2"},
    {"crop": 0},
    {"cutout": "image_size / 4"},
    {"label_smoothing": 0.0},
    {"label_smoothing": 0.2},
    {"momentum": 0.85},
    {"weight_decay": "auto * 10"},
    {"dropout_conv": 0.1},
    {"logit_scale": 0.2},
    {"head": "max"},
    {"growth": 1.5},
    {"conv_layers": "auto - 2"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"optimizer": "adamw"},
    {"class_weights": 0.5},
    {"residual": True},
    {"pool_first": False},
    {"activation": "silu"},
    {"warmup": 0.25},
    {"scheduler": "cosine"},
    {"pool": "avg"},
    {"ema": 0.9},
    {"stem": "none"},
    {"cutout": "image_size / 2"},
    {"activation": "relu"},
    {"dense_layers": 1, "dropout_dense": 0.3},
    {"clip": 1.0},
    {"norm": "group"},
    {"learning_rate": "auto * 2", "momentum": 0.85},
    {"learning_rate": "auto * 1.5", "momentum": 0.85},
    {"learning_rate": "auto * 3"},
    {"learning_rate": "auto * 3", "momentum": 0.85},
    {"momentum": 0.95},
    {"learning_rate": "auto * 2", "momentum": 0.95},
    {"learning_rate": "auto * 4", "momentum": 0.95},
    {"learning_rate": "auto * 2", "momentum": 0.75},
)
"""Single changes, those that seem to matter most first."""

COMBINED: Final = (2, 3, 4)
"""Numbers of changes of the other configurations, in turn."""


def changes_of(number: int) -> tuple[int, ...]:
    """The indices in CHANGES of a configuration."""
    if number == 0:
        return ()
    if number <= len(CHANGES):
        return (number - 1,)
    rng = random.Random(number)
    order = rng.sample(range(len(CHANGES)), len(CHANGES))
    chosen: list[int] = []
    for index in order:
        keys = {key for other in chosen for key in CHANGES[other]}
        if not keys & CHANGES[index].keys():
            chosen.append(index)
        if len(chosen) == COMBINED[number % len(COMBINED)]:
            break
    return tuple(sorted(chosen))


def configuration(inputs: RecipeInputs, number: int) -> dict[str, Value]:
    """The values of a configuration for a family; parameters that are not changed go with the changed ones."""
    change = {key: value for index in changes_of(number) for key, value in CHANGES[index].items()}

    def recipe_of(given: Mapping[str, Value]) -> Recipe:
        return make_recipe(inputs, given)

    evaluated = _filled(change, recipe_of)
    settings = make_recipe(inputs, evaluated)
    return {key: setting.value for key, setting in settings.items() if key in CONFIG_CLASS_OF} | evaluated


def _filled(change: Change, recipe_of: Callable[[Mapping[str, Value]], Recipe]) -> dict[str, Value]:
    return dict(auto.fill({"space": dict(change), "try": []}, recipe_of)["space"])
