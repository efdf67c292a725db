"""A study specification: a frozen, checked value, built from studies/NAME.toml or from the database."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from data.config import AugmentConfig, DataConfig
from data.text import some
from models.config import ModelConfig, TestTimeAugmentation, TrainConfig
from search.database_url import has_password
from search.errors import SpecError
from search.spec import auto, search_space, study_file
from search.spec.domains import Choice, Domain, TrialProtocol, Value
from search.spec.parameters import DEFAULTS, parse_value, read_space, to_configs
from search.spec.points import AblationRow, read_points, read_rows
from search.spec.recipe import USUAL, Recipe, RecipeInputs, make_recipe
from search.spec.search_space import (
    REPEAT,
    SearchSpace,
    grid,
    is_searched,
    sample,
    to_fixed_params,
    with_repeats,
)
from search.spec.settings import Budget, FinalSettings, SearchSettings, read_budget, read_final, read_search
from search.spec.study_file import StudyFile
from search.spec.toml_table import check_keys, read_model, to_toml

QUESTION: Final = "Which CNN tells the classes of these images apart best?"
"""The question "auto" while the classes are not known."""

ROW: Final = "row"
"""The Optuna parameter that holds the comparison row of a trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """The tables of a study file with values that refer to a recipe."""

    tables: Mapping[str, Any]
    timed: bool
    """Whether the hours are given elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySpec:
    """A complete, checked study."""

    question: str
    data: DataConfig
    budget: Budget
    search: SearchSettings
    space: SearchSpace
    """Every key of a configuration. Keys that the file leaves out are fixed at their defaults."""
    points: tuple[Mapping[str, Value], ...] = ()
    """[[try]]: points for the first trials. Each sets some of the searched keys."""
    rows: tuple[AblationRow, ...] = ()
    """[[compare]]: the rows of a designed comparison, which replaces the search. The first row is the base."""
    final: FinalSettings | None = None
    """[final]: the training after the search."""
    checkpoints: str | None = None
    """A folder or object store that every machine can reach, for a second copy of each checkpoint."""
    has_trials: bool = field(default=True, compare=False)
    """Whether the file sets the number of trials. Otherwise the stored number stays."""
    verdict_on: str | None = None
    """The uid of the study whose leading trials this study trains a last time and tests. No file sets it."""
    test_time_augmentation: TestTimeAugmentation = "none"
    """Of a verdict: the second evaluation on the test images (`[final] test_time_augmentation` of the search)."""
    template: Template | None = field(default=None, compare=False)
    """The tables of a study file that refers to a recipe."""
    recipe: RecipeInputs | None = field(default=None, compare=False)
    """The inputs of the recipe that filled the template; None: its values stand for those of images not known yet."""

    @property
    def is_provisional(self) -> bool:
        """Whether the values of a recipe are missing."""
        return self.template is not None and self.recipe is None


def load(path: Path, overrides: Mapping[str, str] | None = None, *, timed: bool = False) -> StudySpec:
    """Load a study from its file and the bases of the file.

    Args:
        path: The TOML file.
        overrides: Values as text by dotted key, such as `{"budget.epochs": "4"}`; they replace those of the files.
        timed: Whether the hours are given elsewhere.

    Raises:
        SpecError: The file breaks a rule. The message has the file, the table, the rule and the value.
    """
    file, overrides = study_file.read(path), overrides or {}
    try:
        raw = deepcopy(dict(file.tables))
        for key, text in overrides.items():
            _override(raw, key, parse_value(text))
        if not raw:
            raise SpecError("the file is empty, or has nothing but comments")
        return build(raw, timed=timed)
    except SpecError as error:
        raise SpecError(_explain(file, str(error), overrides, timed=timed)) from error
    except (ValueError, RecursionError) as error:  # a huge integer, which has no text; tables without end
        raise SpecError(f"{path} cannot be read as TOML: {error}") from error


def with_recipe(spec: StudySpec, inputs: RecipeInputs) -> StudySpec:
    """Fill the template of a study.

    Args:
        spec: A study with a template.
        inputs: The inputs of the recipe.

    Raises:
        SpecError: The values of the recipe do not go with those of the file.
    """
    if spec.template is None:
        return spec
    return build(spec.template.tables, timed=spec.template.timed, recipe=inputs)


def settings(spec: StudySpec) -> Recipe:
    """The values of the recipe of a study with their reasons; empty without one."""
    if spec.template is None or spec.recipe is None:
        return {}
    return make_recipe(spec.recipe, auto.given_values(spec.template.tables))


def build(
    raw: Mapping[str, Any],
    *,
    verdict_on: str | None = None,
    timed: bool = False,
    recipe: RecipeInputs | None = None,
) -> StudySpec:
    """Build a study from its tables.

    Args:
        raw: The tables by name, as tomllib returns them.
        verdict_on: As in `StudySpec`.
        timed: Whether the hours are given elsewhere.
        recipe: The inputs of the recipe, if the tables refer to one and they are known.

    Raises:
        UnknownKey: A key does not exist.
        SpecError: A table breaks another rule; only the first fault is reported.
    """
    check_keys("", raw, known=study_file.TABLES)
    template = Template(tables=raw, timed=timed) if auto.needs_recipe(raw) else None
    if template is None:
        raw, recipe = auto.without_defaults(raw), None
    else:
        raw = auto.fill(raw, lambda given: make_recipe(recipe or USUAL, given))
    question = raw.get("question", "")
    if question == auto.AUTO:
        question = QUESTION if recipe is None else question_of(recipe.images.classes)
    if not isinstance(question, str):
        raise SpecError(f"question must be a string, but got {to_toml(question)}")
    checkpoints = _checkpoints(raw.get("checkpoints"))
    space = read_space(raw.get("space", {}))
    rows = read_rows(raw.get("compare", []), space, least=2 if verdict_on is None else 1)
    search = read_search(raw.get("search", {}), compares=bool(rows), has_point=bool(raw.get("try")))
    is_grid = search.sampler == "grid"
    points = read_points(raw.get("try", []), space, listed=is_grid)
    cells = len(grid(_with_rows(space, rows), search.repeats)) if is_grid else None
    budget = read_budget(raw.get("budget", {}), cells=cells, search=search, timed=timed)
    if not is_grid and budget.trials > 1 and not is_searched(space):
        raise SpecError("[space] leaves nothing to search; give at least one parameter a list or a range")
    data = read_model("[data]", DataConfig, raw.get("data", {}))
    final = read_final(raw.get("final"), budget=budget, compares=bool(rows))
    return StudySpec(
        question=question,
        data=data,
        budget=budget,
        search=search,
        space=space,
        points=points,
        rows=rows,
        final=final,
        checkpoints=checkpoints,
        has_trials="trials" in raw.get("budget", {}),
        verdict_on=verdict_on,
        template=template,
        recipe=recipe,
    )


def question_of(classes: Sequence[str]) -> str:
    """The question of a study about images of these classes."""
    if len(classes) == 2:
        return f"Which CNN tells '{classes[0]}' from '{classes[1]}' best?"
    return f"Which CNN tells {len(classes)} classes apart best: {some(classes)}?"


def fixed_trials(spec: StudySpec) -> tuple[dict[str, Value], ...]:
    """Parameters of the trials 0, 1, 2, ..., as Optuna name -> value: the grid cells, or the points of [[try]]."""
    if spec.search.sampler == "grid":
        return grid(_with_rows(spec.space, spec.rows), spec.search.repeats)
    return tuple(to_fixed_params(spec.space, point) for point in spec.points)


def count_configurations(spec: StudySpec) -> int | None:
    """The configurations of a search, untrainable ones included.

    Returns:
        None for infinitely many, or more than `MAX_CELLS`; and for a grid, or a study that searches nothing.
    """
    if spec.search.sampler == "grid" or not is_searched(spec.space):
        return None
    return search_space.count_configurations(spec.space)


def start_point(spec: StudySpec) -> dict[str, Value]:
    """The start of evolution, key -> value: the first point of [[try]], completed with the defaults."""
    return {**DEFAULTS, **(spec.points[0] if spec.points else {})}


def baseline(spec: StudySpec) -> int | None:
    """The number of the baseline trial, or None if the study has none."""
    is_search = spec.search.sampler != "grid" and len(spec.search.objectives) == 1
    return 0 if spec.search.baseline and is_search else None


#: Keys of [data] that choose or read the images, and may be left open.
IMAGE_KEYS = ("fit", "depth", "groups", "duplicates", "validation")


def with_stored_settings(spec: StudySpec, stored: StudySpec) -> StudySpec:
    """Fill the settings that a study leaves open with those that were settled when it was stored.

    Args:
        spec: The study as its file describes it.
        stored: The same study as the database has it.

    Returns:
        A copy of `spec` with the stored trials, images and steps where `spec` leaves them open, and with the stored
        evaluation of a verdict.
    """
    as_default = DataConfig()
    open_keys = [key for key in IMAGE_KEYS if getattr(spec.data, key) == getattr(as_default, key)]
    data: dict[str, object] = {key: getattr(stored.data, key) for key in open_keys}
    budget: dict[str, object] = {} if spec.has_trials else {"trials": stored.budget.trials}
    if spec.budget.epochs is None:
        budget |= {key: getattr(stored.budget, key) for key in ("epochs", "steps_per_epoch")}
        if spec.budget.evaluations is None:
            budget["evaluations"] = stored.budget.evaluations
    return replace(
        spec,
        data=spec.data.model_copy(update=data),
        budget=spec.budget.model_copy(update=budget),
        test_time_augmentation=stored.test_time_augmentation,
    )


def sample_config(spec: StudySpec, trial: TrialProtocol) -> dict[str, Value]:
    """Sample the flat configuration of a trial.

    Args:
        spec: The study of the trial.
        trial: Suggests the values.

    Returns:
        Every key -> value, and `repeat` and `row` in a grid or comparison. Parameters that have no meaning beside the
        others take their defaults.
    """
    space = _with_rows(spec.space, spec.rows)
    sampled_space = with_repeats(space, spec.search.repeats) if spec.search.sampler == "grid" else space
    return with_defaults(spec, sample(sampled_space, trial))


def with_defaults(spec: StudySpec, values: Mapping[str, Value]) -> dict[str, Value]:
    """Complete flat values: apply the changes of their comparison row, and add the defaults of missing keys."""
    changes = {row.name: row.values for row in spec.rows}.get(str(values.get(ROW)), {})
    return {**DEFAULTS, **values, **changes}


def to_model_configs(spec: StudySpec, values: Mapping[str, Value]) -> tuple[ModelConfig, TrainConfig, AugmentConfig]:
    """Convert flat values, sampled or stored, to the three configs."""
    return to_configs({key: value for key, value in with_defaults(spec, values).items() if key not in (ROW, REPEAT)})


def _checkpoints(raw: object) -> str | None:
    """Check the location of the checkpoint copies: it must be the same on all machines, and hold no secret."""
    if raw is None:
        return None
    if not isinstance(raw, str) or not (raw.startswith("/") or "://" in raw):
        raise SpecError(
            f"checkpoints must be a path from / on, or a URL such as s3://bucket/folder, but got {to_toml(raw)}"
        )
    if has_password(raw):
        raise SpecError(
            "checkpoints must not hold a password, because the study is stored; its package reads one itself"
        )
    return raw


def _with_rows(space: SearchSpace, rows: Sequence[AblationRow]) -> SearchSpace:
    """The space with the comparison row as its first parameter; unchanged if there are no rows."""
    if not rows:
        return space
    choice: dict[str, Domain] = {ROW: Choice(tuple(row.name for row in rows))}
    return SearchSpace(parameters={**choice, **space.parameters}, when=space.when, conditions=space.conditions)


def _explain(file: StudyFile, fault: str, overrides: Mapping[str, str], *, timed: bool) -> str:
    """The message for a fault: the file or the base that has it, or the file with its bases, and the way out."""
    if file.base is not None and _fault(file.base, timed=timed) == fault:
        return f"{file.path}: base {_explain(file.base, fault, {}, timed=timed)}"
    bases = [f"(with base {', '.join(map(str, file.bases))})"] if file.bases else []
    source = " ".join([str(file.path), *bases, *(f"--set {key}={text}" for key, text in overrides.items())])
    return f"{source}: {fault}{_way_out(file, fault, overrides)}"


def _fault(file: StudyFile, *, timed: bool) -> str | None:
    try:
        build(file.tables, timed=timed)
    except (SpecError, ValueError, RecursionError) as error:  # as in `load`
        return str(error)
    return None


def _way_out(file: StudyFile, fault: str, overrides: Mapping[str, str]) -> str:
    """The way out of a fault in the points or rows that a file inherits: its own [space] may not allow them."""
    for name in ("try", "compare"):
        is_own = file.base is None or name in overrides or file.tables.get(name) != file.base.tables.get(name)
        if not is_own and fault.startswith(f"[[{name}]]"):
            return f"; [[{name}]] is inherited: give its tables anew, or {name} = [] at the top of the file for none"
    return ""


def _override(raw: dict[str, Any], key: str, value: object) -> None:
    *tables, last = key.split(".")
    if key in study_file.INHERITANCE:
        raise SpecError(
            f"{key} cannot be set, because --set changes what a file and its base give; write it into a file"
        )
    for name in tables:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise SpecError(f"{key} cannot be set, because {name} is not a table")
    raw[last] = value
