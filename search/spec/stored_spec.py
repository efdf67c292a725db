"""A study as JSON in the database: written whole, read again, and compared."""

from collections.abc import Container, Mapping
from typing import Any, Final

from search.errors import SpecError
from search.spec.parameters import write_space
from search.spec.study_spec import StudySpec, build
from search.spec.toml_table import UnknownKey, to_toml

SCHEMA: Final = 1
"""Of what `dump` makes; raised when an older version could no longer read it."""


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
    }
)
"""What a stored study may be continued with; images are compared by their content, not by where they lie."""


def dump(spec: StudySpec) -> dict[str, Any]:
    """The study as JSON can hold it, with every default written out, so that a later version changes nothing in it."""
    return {
        "schema": SCHEMA,
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
    }


def restore(stored: Mapping[str, Any]) -> StudySpec:
    """The study that `dump` made the mapping of; what an older version did not know takes its default.

    Raises SpecError if a newer version wrote it.
    """
    schema = stored.get("schema")
    if schema != SCHEMA:
        raise SpecError(f"the stored study has schema {schema}, but this convsearch reads {SCHEMA}; upgrade convsearch")
    try:
        tables = {key: value for key, value in stored.items() if key not in ("schema", "verdict_on")}
        older = {"audit": 0.0, "baseline": False, "rung_updates": 0}  # which had none of them
        tables["search"] = {**older, **tables["search"]}
        return build(tables, verdict_on=stored.get("verdict_on"))
    except UnknownKey as error:
        raise SpecError(f"a newer convsearch wrote the stored study ({error}); upgrade convsearch") from error
    except SpecError as error:
        raise SpecError(f"the stored study: {error}") from error


def difference(stored: StudySpec, new: StudySpec, *, but: Container[tuple[str, str]] = MAY_CHANGE) -> list[str]:
    """The settings that need a new study, one line each: `[search] seed: 0 -> 1`; `but` for these keys."""
    before, after = _entries(stored), _entries(new)
    return [
        f"{place} {key}: {to_toml(before.get((place, key)))} -> {to_toml(after.get((place, key)))}"
        for place, key in {**before, **after}
        if (place, key) not in but and before.get((place, key)) != after.get((place, key))
    ]


def _entries(spec: StudySpec) -> dict[tuple[str, str], object]:
    """All that a study is made of, by place and key, but for its question and where checkpoints are kept, too."""
    raw = dump(spec)
    when = raw["space"].pop("when", {})
    tables = {f"[{name}]": raw[name] for name in ("data", "budget", "search", "space")}
    tables["[final]"] = raw["final"] or {}
    tables |= {f"[space.when.{key}.{value}]": table for key, under in when.items() for value, table in under.items()}
    tables |= {
        f"[[{name}]]": {str(number): row for number, row in enumerate(raw[name], 1)} for name in ("try", "compare")
    }
    return {(place, key): value for place, table in tables.items() for key, value in table.items()}
