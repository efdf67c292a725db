"""The example notebook runs from top to bottom on a real study and does not change the study."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.harness import PATIENCE_S, Harness

NOTEBOOK = Path(__file__).parent.parent / "studies" / "explore.ipynb"


def test_the_notebook_runs_and_changes_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    file = harness.write(
        budget={"trials": 6, "epochs": 2}, search={"pruner": "asha"}, space={"optimizer": ["sgd", "adam"]}
    )
    assert harness.run("run", file, "--workers", "1").code == 0
    database = Path(harness.url.removeprefix("sqlite:///"))
    before = database.read_bytes()
    monkeypatch.setenv("CONVSEARCH_STORAGE", harness.url)
    monkeypatch.setenv("STUDY", "s")
    notebook: Any = nbformat.reads(NOTEBOOK.read_text(), as_version=4)  # type: ignore[no-untyped-call]

    NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs)
    assert database.read_bytes() == before


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook: Any = nbformat.reads(NOTEBOOK.read_text(), as_version=4)  # type: ignore[no-untyped-call]

    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
