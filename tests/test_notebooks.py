"""Notebooks: stories that run from top to bottom, kept without what they printed."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[str]:
    return [cell.source for cell in notebook(path).cells if cell.cell_type == "code"]


def test_there_are_the_four_stories() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["01_data_and_coordinates", "02_flow_by_hand", "03_temperature", "04_claims"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_traces(path: Path) -> None:
    found = notebook(path)
    nbformat.validate(found)
    assert (found.nbformat, found.nbformat_minor) == (4, 5)
    assert found.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    assert len({cell.id for cell in found.cells}) == len(found.cells)
    for cell in found.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert not re.search(r"/(?:work|root|home|tmp|Users)/", path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_story_with_facts(path: Path) -> None:
    cells = notebook(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(cells) / 3
    assert sum(source.count("assert ") for source in code(path)) >= 5
    for section in re.findall(r"METHOD §(\d+)", path.read_text()):
        assert f"## {section}. " in (ROOT / "docs" / "method.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_what_comes_with_the_project(path: Path) -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for node in ast.walk(ast.parse("\n".join(code(path)))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"linf", "PIL"}:
            assert f'"{name}>=' in declared, name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    found = notebook(path)
    found.cells.insert(
        0, nbformat.v4.new_code_cell(f"import sys\n\nassert sys.executable == {sys.executable!r}")
    )
    NotebookClient(
        found, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        kind for cell in found.cells for output in cell.get("outputs", []) for kind in output.get("data", {})
    ]
    assert shown.count("image/png") >= 2
    assert not list(tmp_path.iterdir()), "it writes nothing"
