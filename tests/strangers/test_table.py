"""README.md of this folder names tests that exist."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TESTS = re.compile(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`")


def test_every_test_in_the_table_exists() -> None:
    rows = [
        line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| ") and "`test" in line
    ]

    assert len(rows) >= 20
    for row in rows:
        named = TESTS.findall(row.rpartition(" | ")[2])
        assert named, row
        for path, name in named:
            file = ROOT / path if path else FOLDER / "test_images.py"
            assert re.search(rf"^def {name}\(", file.read_text(), re.MULTILINE), f"{file.name}::{name}"
