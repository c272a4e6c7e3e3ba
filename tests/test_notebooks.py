"""The notebooks run from top to bottom, and hold no function definitions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
QUICK = {"01_first_hunt"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=[] if p.stem in QUICK else pytest.mark.slow)
        for p in NOTEBOOKS
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs(path):
    """From top to bottom, and nothing is said on the way that a reader must ignore."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_written_for_readers(path):
    """No function definitions; committed with its outputs; no machine paths."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [c for c in code if "def " in c.source or "lambda" in c.source]
    assert sum(bool(c.outputs) for c in code) >= len(code) - 1
    text = path.read_text(encoding="utf-8")
    folders = {Path.home(), Path(tempfile.gettempdir()), path.parents[1]}
    assert not [str(f) for f in folders - {Path("/")} if f"{f}/" in text]
