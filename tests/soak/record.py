"""The record of a soak, in the format of a benchmark record: table, figures, command, commit, versions."""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from search.study.provenance import commit, hardware
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
    packages = {name: version(name) for name in measure.PACKAGES} | {"python": platform.python_version()}
    return packages | ({"psycopg": version("psycopg"), "postgresql": server_version()} if postgres else {})


def keep(soak: Soak) -> Path:
    """Write the table and all figures into a new folder under studies/records/; returns the folder."""
    folder = measure.folder(soak.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(page(soak))
    (folder / "result.json").write_text(json.dumps(as_json(soak), indent=1) + "\n")
    return folder


def page(soak: Soak) -> str:
    """The table as Markdown."""
    numbers = ", ".join(f"{name} {number}" for name, number in soak.versions.items())
    rows = [tuple(str(asdict(row)[column]) for column in COLUMNS[:-1]) for row in soak.rows]
    lines = [f"# {soak.name}", "", f"`{soak.command}` at commit {commit()}, {time.strftime('%Y-%m-%d')}.", ""]
    lines += [f"{hardware()}; {numbers}.", "", f"Scale {soak.scale:g}, seed {soak.seed}, {soak.seconds:.0f} s.", ""]
    lines += measure.table(
        COLUMNS, [(*cells, f"{row.seconds:.0f}") for cells, row in zip(rows, soak.rows, strict=True)]
    )
    return "\n".join([*lines, "", *(f"- {row.fault}: {row.note}" for row in soak.rows if row.note), ""])


def as_json(soak: Soak) -> dict[str, object]:
    return {
        "name": soak.name,
        "command": soak.command,
        "commit": commit(),
        "hardware": hardware(),
        "versions": soak.versions,
        "scale": soak.scale,
        "seed": soak.seed,
        "seconds": soak.seconds,
        "rows": [asdict(row) for row in soak.rows],
    }
