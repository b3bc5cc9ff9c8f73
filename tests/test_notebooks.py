"""Notebooks: of declared packages only, with outputs that are their own, and true from top to bottom."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbformat import NotebookNode

from helpers.paths import ROOT
from notebooks.execute import digest, execute

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

COUNT_FIGURES = """
from matplotlib.figure import Figure
_figures, _make = [], Figure.__init__
def _counted(self, *given, **named):
    _figures.append(1)
    _make(self, *given, **named)
Figure.__init__ = _counted
"""
# A first cell of the test's own: how many figures the others draw.

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: NotebookNode) -> Iterator[str]:
    """The code cells, without IPython's own commands."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)


@each
def test_notebook_is_valid_and_begins_with_a_title(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    # nbformat mends what it reads.
    ids = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert len(set(ids)) == len(ids)
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# \S", notebook.cells[0].source)


@cache
def installed() -> Mapping[str, list[str]]:
    """The packages that hold each module."""
    return packages_distributions()


def images(cell: NotebookNode) -> int:
    """How many images are among a cell's outputs."""
    return sum(
        bool({"image/png", "image/jpeg"} & set(output.get("data", {}))) for output in cell.get("outputs", ())
    )


@each
def test_notebook_holds_the_outputs_of_its_own_cells_and_nothing_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    assert set(notebook.metadata) == {"executed", "kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.executed == digest(notebook), "make notebooks executes what was changed"
    assert sum(map(images, notebook.cells)) > 0
    assert path.stat().st_size < 320_000
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("attachments")
        if cell.cell_type == "code":
            assert cell.execution_count is None
            for output in cell.outputs:
                # Not in the images, in which any letters may stand.
                output.data = {k: v for k, v in output.get("data", {}).items() if k.startswith("text/")}
    text = json.dumps(notebook, ensure_ascii=False)
    assert str(ROOT) not in text
    assert not re.search(r"(?<![\w.])/(home|root|Users|work|tmp|mnt|opt)/|\b[A-Z]:\\\\", text)


@each
def test_notebook_imports_declared_packages_only(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    declared = {re.match(r"[\w-]+", entry)[0].lower() for entry in requirements} | {"linf"}  # type: ignore[index]
    imported = set()
    source = "\n".join(code(nbformat.read(path, nbformat.NO_CONVERT)))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    distributions = installed()
    undeclared = {
        name
        for name in imported - sys.stdlib_module_names
        if not declared & {d.lower().replace("_", "-") for d in distributions.get(name, ())}
    }
    assert "linf" in imported or '"-m", "linf"' in source
    assert not undeclared


# The tests of the flow cover all of notebook 2 but its figures; notebook 5 trains for a minute.
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.thorough if path.stem[:2] in ("02", "05") else ())
        for path in NOTEBOOKS
    ],
)
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
    stored = [images(cell) for cell in notebook.cells]
    notebook.cells.insert(0, nbformat.v4.new_code_cell(COUNT_FIGURES))
    notebook.cells.append(nbformat.v4.new_code_cell("import sys\nlen(_figures), sys.executable"))
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    execute(notebook, cwd)

    _, *cells, last = notebook.cells
    drawn, interpreter = ast.literal_eval(last.outputs[0].data["text/plain"])
    assert interpreter == sys.executable
    assert [images(cell) for cell in cells] == stored
    assert sum(stored) == drawn > 0
    for output in [output for cell in cells for output in cell.get("outputs", ())]:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
