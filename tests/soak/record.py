"""The record of a soak, in the format of a benchmark record: table, figures, command, commit, versions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tests.bench import measure
from tests.service.postgres import version as server_version
from tests.soak.results import FaultResult

COLUMNS = ("fault", "injected", "survived", "lost", "doubled", "stuck", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """The data of one soak for its record."""

    name: str
    command: str
    scale: float
    seed: int
    seconds: float
    rows: Sequence[FaultResult]
    versions: dict[str, str]


def versions(*, postgres: bool) -> dict[str, str]:
    """Versions of Python and the packages; with `postgres` also of the server and its driver."""
    return measure.package_versions() | (
        {"psycopg": version("psycopg"), "postgresql": server_version()} if postgres else {}
    )


def keep(soak: Soak) -> Path:
    """Write the table and all figures into a new folder under studies/records/; returns the folder."""
    return measure.write_record(soak.name, page(soak), as_json(soak))


def page(soak: Soak) -> str:
    """The table as Markdown."""
    rows = [tuple(str(asdict(row)[column]) for column in COLUMNS[:-1]) for row in soak.rows]
    lines = [
        *measure.heading(soak.name, soak.command, soak.versions),
        f"Scale {soak.scale:g}, seed {soak.seed}, {soak.seconds:.0f} s.",
        "",
    ]
    lines += measure.table(
        COLUMNS, [(*cells, f"{row.seconds:.0f}") for cells, row in zip(rows, soak.rows, strict=True)]
    )
    return "\n".join([*lines, "", *(f"- {row.fault}: {row.note}" for row in soak.rows if row.note), ""])


def as_json(soak: Soak) -> dict[str, object]:
    return measure.origin(soak.name, soak.command, soak.versions) | {
        "scale": soak.scale,
        "seed": soak.seed,
        "seconds": soak.seconds,
        "rows": [asdict(row) for row in soak.rows],
    }
