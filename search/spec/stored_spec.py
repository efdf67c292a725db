"""A study as JSON in the database: dump, restore and compare."""

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any, Final

from search.errors import SpecError
from search.spec.parameters import write_space
from search.spec.search_space import one_of_domains
from search.spec.settings import FinalSettings
from search.spec.study_spec import StudySpec, build
from search.spec.toml_table import UnknownKey, read_model, to_toml

SCHEMA: Final = 2
"""Highest schema version of `dump`; it grows when an older version can no longer read the result."""
SCHEMA_OF_OLDER: Final = 1
"""Schema version of a study without a list of values and ranges, which older versions read."""

MAY_CHANGE: Final = frozenset(
    {
        ("[budget]", "trials"),
        ("[budget]", "hours"),
        ("[data]", "path"),
        ("[search]", "audit"),
        ("[search]", "baseline"),
        ("[search]", "patience"),
        ("[search]", "rung_updates"),
        ("[final]", "epochs"),
        ("[final]", "share"),
        ("[final]", "top"),
        ("[final]", "seeds"),
        ("[final]", "baseline"),
        ("[final]", "test_time_augmentation"),
    }
)
"""Settings that may change when a stored study continues. Images are compared by content, not by path."""

VERDICT_AUGMENTATION: Final = "test_time_augmentation"
"""Entry of a verdict, and key of [final]."""

OLDER_DATA: Final = {"fit": "crop", "depth": 16, "groups": "none", "duplicates": "allow"}
"""How versions read images that had no such settings; they did not read val/ either."""


def dump(spec: StudySpec) -> dict[str, Any]:
    """The study as JSON values. Every default is written out: a later version with other defaults changes nothing.

    A study that is no verdict has no entry of verdicts, and older versions can read it.
    """
    return {
        "schema": SCHEMA if one_of_domains(spec.space) else SCHEMA_OF_OLDER,
        "question": spec.question,
        "checkpoints": spec.checkpoints,
        "data": spec.data.model_dump(mode="json"),
        "budget": spec.budget.model_dump(mode="json"),
        "search": spec.search.model_dump(mode="json"),
        "space": write_space(spec.space),
        "try": [dict(point) for point in spec.points],
        "compare": [{"name": row.name, **row.values} for row in spec.rows],
        "final": None if spec.final is None else spec.final.model_dump(mode="json"),
        "verdict_on": spec.verdict_on,
    } | ({} if spec.verdict_on is None else {VERDICT_AUGMENTATION: spec.test_time_augmentation})


def restore(stored: Mapping[str, Any]) -> StudySpec:
    """Restore a study from the result of `dump`. Settings that an older version did not have take their defaults.

    Raises:
        SpecError: A newer version wrote it.
    """
    schema = stored.get("schema")
    if schema not in (SCHEMA_OF_OLDER, SCHEMA):
        raise SpecError(f"the stored study has schema {schema}, but this convsearch reads {SCHEMA}; upgrade convsearch")
    try:
        other = ("schema", "verdict_on", VERDICT_AUGMENTATION)
        tables = {key: value for key, value in stored.items() if key not in other}
        # Older versions had none of these settings, and worked as if they had these values.
        tables["search"] = {"audit": 0.0, "baseline": False, "rung_updates": 0, **tables["search"]}
        if "fit" not in tables["data"]:
            tables["data"] = {**OLDER_DATA, **tables["data"]}
            tables["data"]["validation"] = tables["data"].get("validation") or "split"
        evaluation = {VERDICT_AUGMENTATION: stored.get(VERDICT_AUGMENTATION, "none")}
        augmentation = read_model("[final]", FinalSettings, evaluation).test_time_augmentation
        return replace(build(tables, verdict_on=stored.get("verdict_on")), test_time_augmentation=augmentation)
    except UnknownKey as error:
        raise SpecError(f"a newer convsearch wrote the stored study ({error}); upgrade convsearch") from error
    except SpecError as error:
        raise SpecError(f"the stored study: {error}") from error


def difference(stored: StudySpec, new: StudySpec, *, but: Container[tuple[str, str]] = MAY_CHANGE) -> list[str]:
    """Describe the changed settings that need a new study.

    Args:
        stored: The study in the database.
        new: The study as it is now.
        but: (table_name, key) of settings to ignore.

    Returns:
        One line per setting, such as `[search] seed: 0 -> 1`.
    """
    before, after = _entries(stored), _entries(new)
    return [
        f"{table_name} {key}: {to_toml(before.get((table_name, key)))} -> {to_toml(after.get((table_name, key)))}"
        for table_name, key in {**before, **after}
        if (table_name, key) not in but and before.get((table_name, key)) != after.get((table_name, key))
    ]


def _entries(spec: StudySpec) -> dict[tuple[str, str], object]:
    """All settings of a study by (table_name, key), without its question and the location of checkpoint copies."""
    raw = dump(spec)
    when = raw["space"].pop("when", {})
    tables = {f"[{name}]": raw[name] for name in ("data", "budget", "search", "space")}
    tables["[final]"] = raw["final"] or {}
    tables |= {f"[space.when.{key}.{value}]": table for key, under in when.items() for value, table in under.items()}
    tables |= {
        f"[[{name}]]": {str(number): row for number, row in enumerate(raw[name], 1)} for name in ("try", "compare")
    }
    return {(table_name, key): value for table_name, table in tables.items() for key, value in table.items()}
