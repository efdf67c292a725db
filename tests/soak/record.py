"""The record that is kept of a soak, as that of a benchmark is: table, figures, command, commit, versions."""

import json
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from search.study.provenance import commit, hardware
from tests.bench import measure
from tests.service.postgres import binaries, missing
from tests.soak.results import FaultResult

COLUMNS = ("fault", "injected", "survived", "lost", "doubled", "stuck", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """What is to be told of one."""

    name: str
    command: str
    scale: float
    seed: int
    seconds: float
    rows: Sequence[FaultResult]
    versions: dict[str, str]


def versions(*, postgres: bool) -> dict[str, str]:
    """What it ran on; with `postgres` also the server and its driver."""
    found = {name: version(name) for name in measure.PACKAGES} | {"python": platform.python_version()}
    return found | ({"psycopg": version("psycopg"), "postgresql": _server_version()} if postgres else {})


def keep(soak: Soak) -> Path:
    """Write the table and all figures into a folder of their own under studies/records/; returns it."""
    folder = measure.folder(soak.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(page(soak))
    (folder / "result.json").write_text(json.dumps(as_json(soak), indent=1) + "\n")
    return folder


def page(soak: Soak) -> str:
    """The table as Markdown."""
    known = ", ".join(f"{name} {number}" for name, number in soak.versions.items())
    rows = [tuple(str(asdict(row)[column]) for column in COLUMNS[:-1]) for row in soak.rows]
    lines = [f"# {soak.name}", "", f"`{soak.command}` at commit {commit()}, {time.strftime('%Y-%m-%d')}.", ""]
    lines += [f"{hardware()}; {known}.", "", f"Scale {soak.scale:g}, seed {soak.seed}, {soak.seconds:.0f} s.", ""]
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


def _server_version() -> str:
    folder = binaries()
    assert folder is not None, missing()
    said = subprocess.run((folder / "postgres", "--version"), capture_output=True, text=True, check=True).stdout
    return said.split()[2]
