"""The notebook runs from top to bottom as it stands, but for its parameters."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_run import write_spaces

from ensemble_tune.tune.ledger import LEDGER, Ledger

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "two_stage_search.ipynb"
PARAMETERS = """
DATA, RUN, SIZE = "synthetic", "runs/notebook", "32x32"
BASE_SPACE, BASE_TRIALS, BASE_EPOCHS = "spaces/base.toml", 2, 2
META_SPACE, META_TRIALS, META_EPOCHS = "spaces/meta.toml", 1, 2
"""


def _read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def _assigned(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def test_the_notebook_is_kept_without_outputs() -> None:
    nbformat.validate(_read())
    for cell in _read().cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


def test_every_cell_runs_and_shows_what_it_says(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    write_spaces(tmp_path / "spaces")
    notebook = _read()
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert _assigned(PARAMETERS) == _assigned(parameters.source)
    parameters.source = PARAMETERS
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.id: [kind for output in cell.outputs for kind in output.get("data", {})] for cell in cells}
    assert shown["frames"].count("image/png") == shown["predictions"].count("image/png") == 2
    for name in ("base-curves", "search-meta"):
        assert "application/vnd.plotly.v1+json" in shown[name]
    assert shown["segment"].count("image/jpeg") == 3
    run = tmp_path / "runs" / "notebook"
    assert {trial.stage for trial in Ledger(run / LEDGER).trials()} >= {"base", "fold", "meta"}
    assert (run / "best.toml").exists() and (run / "final" / "ensemble" / "ensemble.toml").exists()
    assert len(list((run / "masks").glob("*.png"))) == 3
