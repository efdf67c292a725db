"""A study as it is asked for: from studies/NAME.toml to a frozen, checked value, and back from the database."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from data.config import AugmentConfig, DataConfig
from models.config import ModelConfig, TrainConfig
from search.database_url import has_password
from search.errors import SpecError, UsageError
from search.spec.domains import Choice, Domain, TrialProtocol, Value
from search.spec.parameters import DEFAULTS, parse_value, read_space, to_configs
from search.spec.points import AblationRow, read_points, read_rows
from search.spec.search_space import (
    REPEAT,
    SearchSpace,
    grid,
    is_searched,
    sample,
    to_fixed_params,
    with_repeats,
)
from search.spec.settings import Budget, SearchSettings, read_budget, read_final, read_search
from search.spec.settings import FinalSettings as FinalTraining
from search.spec.toml_table import check_keys, did_you_mean, read_model, to_toml

ROW: Final = "row"
"""The Optuna parameter that says which row of a comparison a trial belongs to."""

STUDY_DIRS: Final = (Path("studies"), Path(__file__).resolve().parents[2] / "studies")
"""Where a study's name is looked up: the working folder's studies, then those that came with the service."""

TABLES: Final = ("question", "checkpoints", "data", "budget", "search", "space", "try", "compare", "final")

MAX_BYTES: Final = 100_000
"""Size limit of a study file. Real ones have some thousand bytes; tomllib takes quadratic time for dotted keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySpec:
    """A whole study, checked."""

    question: str
    data: DataConfig
    budget: Budget
    search: SearchSettings
    space: SearchSpace
    """Every key of a configuration; what the file does not say is fixed at its default."""
    points: tuple[Mapping[str, Value], ...] = ()
    """[[try]]: points, of some searched keys each, that the first trials take."""
    rows: tuple[AblationRow, ...] = ()
    """[[compare]]: a designed comparison in place of a search; the first row is the base."""
    final: FinalTraining | None = None
    """[final]: the training after the search."""
    checkpoints: str | None = None
    """A folder or object store for a second copy of each checkpoint, that every machine can reach."""
    has_trials: bool = field(default=True, compare=False)
    """Whether the file says how many trials; else what is stored stays."""
    verdict_on: str | None = None
    """The uid of the study whose leading trials this one trains for the last time and tests; no file says it."""


def find(name_or_path: str, folders: Sequence[Path] = STUDY_DIRS) -> Path:
    """The study file of that name, or at that path.

    Raises UsageError if there is none, with the nearest names.
    """
    path = Path(name_or_path)
    candidates = [path] if path.suffix == ".toml" else [folder / f"{name_or_path}.toml" for folder in folders]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path.suffix == ".toml":
        folders = [path.parent]
    known = sorted({each.stem for folder in folders for each in folder.glob("*.toml")})
    if not known:
        raise UsageError(f"there is no study {to_toml(name_or_path)}, nor any other beside it")
    listed = f"there is no study {to_toml(name_or_path)}; there are {', '.join(known)}"
    raise UsageError("; ".join(filter(None, [listed, did_you_mean(path.stem, known)])))


def load(path: Path, overrides: Mapping[str, str] | None = None, *, timed: bool = False) -> StudySpec:
    """The study that a file describes. `overrides` are dotted keys and the text of their values: budget.epochs -> "4".
    `timed`: hours are given elsewhere.

    Raises SpecError, with the file, the table, the rule and the value, for everything that cannot be.
    """
    overrides = overrides or {}
    source = " ".join([str(path), *(f"--set {key}={text}" for key, text in overrides.items())])
    try:
        raw = tomllib.loads(_text(path))
        for key, text in overrides.items():
            _override(raw, key, parse_value(text))
        return build(raw, timed=timed)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, no Unicode, a number without end
        raise SpecError(f"{path} cannot be read as TOML: {error}") from error


def build(raw: Mapping[str, Any], *, verdict_on: str | None = None, timed: bool = False) -> StudySpec:
    """The study that the tables describe.

    Raises SpecError for the first thing that cannot be, and UnknownKey for a key that is none.
    """
    check_keys("", raw, known=TABLES)
    question = raw.get("question", "")
    if not isinstance(question, str):
        raise SpecError(f"question must be a string, but got {to_toml(question)}")
    checkpoints = _checkpoints(raw.get("checkpoints"))
    space = read_space(raw.get("space", {}))
    rows = read_rows(raw.get("compare", []), space, least=2 if verdict_on is None else 1)
    search = read_search(raw.get("search", {}), compares=bool(rows), has_point=bool(raw.get("try")))
    listed = search.sampler == "grid"
    points = read_points(raw.get("try", []), space, listed=listed)
    cells = len(grid(_with_rows(space, rows), search.repeats)) if listed else None
    budget = read_budget(raw.get("budget", {}), cells=cells, search=search, timed=timed)
    if not listed and budget.trials > 1 and not is_searched(space):
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
    )


def fixed_trials(spec: StudySpec) -> tuple[dict[str, Value], ...]:
    """What the trials 0, 1, 2, ... are given, as Optuna name -> value: the points to try, or the cells."""
    if spec.search.sampler == "grid":
        return grid(_with_rows(spec.space, spec.rows), spec.search.repeats)
    return tuple(to_fixed_params(spec.space, point) for point in spec.points)


def start_point(spec: StudySpec) -> dict[str, Value]:
    """Where evolution begins, key -> value: at the first point of [[try]], and what it leaves open at the defaults."""
    return {**DEFAULTS, **(spec.points[0] if spec.points else {})}


def baseline(spec: StudySpec) -> int | None:
    """The number of the trial that all others are compared with; None where there is none."""
    is_search = spec.search.sampler != "grid" and len(spec.search.objectives) == 1
    return 0 if spec.search.baseline and is_search else None


def with_stored_settings(spec: StudySpec, known: StudySpec) -> StudySpec:
    """The same study, where it leaves open what was settled when it was stored as `known`: that stays."""
    data: dict[str, object] = {}
    budget: dict[str, object] = {} if spec.has_trials else {"trials": known.budget.trials}
    if spec.data.validation is None:
        data["validation"] = known.data.validation
    if spec.budget.epochs is None:
        budget |= {key: getattr(known.budget, key) for key in ("epochs", "steps_per_epoch")}
        if spec.budget.evaluations is None:
            budget["evaluations"] = known.budget.evaluations
    return replace(spec, data=spec.data.model_copy(update=data), budget=spec.budget.model_copy(update=budget))


def sample_config(spec: StudySpec, trial: TrialProtocol) -> dict[str, Value]:
    """The whole flat configuration of a trial: every key, and in a grid or comparison its `repeat` and `row`.

    Parameters without a meaning beside the others have their defaults.
    """
    space = _with_rows(spec.space, spec.rows)
    drawn = with_repeats(space, spec.search.repeats) if spec.search.sampler == "grid" else space
    return with_defaults(spec, sample(drawn, trial))


def with_defaults(spec: StudySpec, values: Mapping[str, Value]) -> dict[str, Value]:
    """Flat values with what their row of a comparison changes, and with the defaults of what they leave out."""
    changed = {row.name: row.values for row in spec.rows}.get(str(values.get(ROW)), {})
    return {**DEFAULTS, **values, **changed}


def to_model_configs(spec: StudySpec, values: Mapping[str, Value]) -> tuple[ModelConfig, TrainConfig, AugmentConfig]:
    """Flat values, as drawn or as stored, as the three configs."""
    return to_configs({key: value for key, value in with_defaults(spec, values).items() if key not in (ROW, REPEAT)})


def _checkpoints(raw: object) -> str | None:
    """Where checkpoints are kept, too: a path means the same on all machines, and a secret would be read by all."""
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


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(f"a study file has at most {MAX_BYTES // 1000} kB; is this one?")
    return content.decode()


def _with_rows(space: SearchSpace, rows: Sequence[AblationRow]) -> SearchSpace:
    """The space of a comparison, which asks for the row first; any other is as it is."""
    if not rows:
        return space
    choice: dict[str, Domain] = {ROW: Choice(tuple(row.name for row in rows))}
    return SearchSpace(parameters={**choice, **space.parameters}, when=space.when, conditions=space.conditions)


def _override(raw: dict[str, Any], key: str, value: object) -> None:
    *tables, last = key.split(".")
    for name in tables:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise SpecError(f"{key} cannot be set, because {name} is no table")
    raw[last] = value
