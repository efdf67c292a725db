"""The recipe of a study as a table and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from search.spec.recipe import Recipe
from search.storage.records import StudyRecord
from search.tables import Table, format_value


def to_json(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The settings of a recipe as they are stored."""
    return {key: asdict(setting) for key, setting in recipe.items()}


def recipe_json(study: StudyRecord) -> dict[str, Any]:
    """JSON value of `show STUDY --json`."""
    return {"study": study.name, "question": study.question, "recipe": study.recipe.get("settings", {})}


def recipe_table(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    """Table of the settings of a recipe with their reasons.

    Args:
        settings: Key -> value and reason.
    """
    rows = tuple((key, format_value(setting["value"]), setting["reason"]) for key, setting in settings.items())
    return Table(columns=("recipe", "value", "reason"), rows=rows)
