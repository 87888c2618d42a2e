from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    """The kind of each output by its cell: ``{"guess-jax": ["execute_result"], ...}``, cells without any left out."""
    return {cell.id: [each.output_type for each in cell.outputs] for cell in notebook.cells if cell.get("outputs")}


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_a_fresh_kernel_and_is_stored_with_its_outputs(path, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="runs the notebooks")
    pytest.importorskip("ipykernel", reason="runs the notebooks")
    pytest.importorskip("torch", reason="needs torch, run live")
    import nbformat  # comes with nbclient

    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.from_dict(stored)
    # A directory of its own: what the notebook imports is the installed package, what it writes is not kept.
    client = nbclient.NotebookClient(
        fresh,
        timeout=300,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()

    assert not any("error" in kinds for kinds in outputs(fresh).values())
    assert outputs(stored) == outputs(fresh)
    last_cell = [cell for cell in stored.cells if cell.cell_type == "code"][-1]
    assert last_cell.id in outputs(stored)
