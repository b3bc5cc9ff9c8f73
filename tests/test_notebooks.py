"""Notebooks: clean in git, of declared packages only, and true from top to bottom."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from nbformat import NotebookNode

from helpers.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: NotebookNode) -> Iterator[str]:
    """The code cells, without IPython's own commands."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)


def test_notebook_is_valid_and_begins_with_a_title(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    # nbformat mends what it reads.
    ids = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert len(set(ids)) == len(ids)
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# \S", notebook.cells[0].source)


def test_notebook_holds_nothing_of_a_run_or_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    assert set(notebook.metadata) == {"kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("attachments")
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert not re.search(r"(?<![\w.])/(home|root|Users|work|tmp|mnt|opt)/|\b[A-Z]:\\\\", text)


def test_notebook_imports_declared_packages_only(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    declared = {re.match(r"[\w-]+", entry)[0].lower() for entry in requirements} | {"linf"}  # type: ignore[index]
    imported = set()
    for node in ast.walk(ast.parse("\n".join(code(nbformat.read(path, nbformat.NO_CONVERT))))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    distributions = packages_distributions()
    undeclared = {
        name
        for name in imported - sys.stdlib_module_names
        if not declared & {d.lower().replace("_", "-") for d in distributions.get(name, ())}
    }
    assert "linf" in imported
    assert not undeclared


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jupyter = tmp_path / "jupyter"
    # Before a kernel of the user's that has the same name.
    write_kernel_spec(jupyter / "kernels" / "python3")
    monkeypatch.setenv("JUPYTER_PATH", str(jupyter))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(jupyter / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    # Threads that wait for each other take ten times as long where other processes want the cores too.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys\nsys.executable"))
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(cwd)}}
    ).execute()

    *cells, last = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert last.outputs[0].data["text/plain"] == repr(sys.executable)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
