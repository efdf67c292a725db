"""The recipe of a stored study: what its file said, the inputs of the recipe, and its settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from search.spec import stored_spec, study_spec
from search.spec.auto import AUTO
from search.spec.recipe import RecipeInputs
from search.spec.study_spec import StudySpec
from search.storage import attr_keys


def with_stored_recipe(spec: StudySpec, begun: StudySpec, recipe: Mapping[str, Any] | None) -> StudySpec:
    """Fill a study file that refers to a recipe with the values that the study was begun with.

    The same file means the same study, even if this version would make another recipe. A changed file is filled anew,
    from the same inputs. A study that was begun before its file referred to a recipe goes on as it was begun.
    """
    if spec.template is None:
        return spec
    if recipe is None:
        return _with_budget(replace(begun, data=begun.data.model_copy(update={"path": spec.data.path})), spec)
    filled = study_spec.with_recipe(spec, RecipeInputs.model_validate(recipe["inputs"]))
    if spec.template.tables.get("question") == AUTO:
        filled = replace(filled, question=begun.question)
    if _comparable(spec.template.tables) != _comparable(recipe["tables"]):
        return filled
    data = begun.data.model_copy(update={"path": spec.data.path})
    return replace(filled, data=data, space=begun.space, points=begun.points, rows=begun.rows)


def _with_budget(begun: StudySpec, spec: StudySpec) -> StudySpec:
    """The study as it was begun, with the hours and trials of its file, which may change."""
    budget: dict[str, object] = {"hours": spec.budget.hours}
    if spec.has_trials:
        budget["trials"] = spec.budget.trials
    return replace(begun, budget=begun.budget.model_copy(update=budget), has_trials=spec.has_trials)


def _comparable(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a study file, as JSON restores them, without the question and the settings that may change."""
    kept = {name: dict(table) if isinstance(table, Mapping) else table for name, table in tables.items()}
    kept.pop("question", None)
    for table_name, key in stored_spec.MAY_CHANGE:
        table = kept.get(table_name.strip("[]"))
        if isinstance(table, dict):
            table.pop(key, None)
    restored: dict[str, Any] = json.loads(json.dumps({name: table for name, table in kept.items() if table != {}}))
    return restored


def recipe_attrs(spec: StudySpec) -> dict[str, Any]:
    """The attribute of a new study with a recipe; none without one."""
    if spec.template is None or spec.recipe is None:
        return {}
    return {
        attr_keys.RECIPE: {
            "tables": _comparable(spec.template.tables),
            "inputs": spec.recipe.model_dump(mode="json"),
            "settings": {key: asdict(setting) for key, setting in study_spec.settings(spec).items()},
        }
    }
