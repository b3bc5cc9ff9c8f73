"""The plan of the house: storeys, unique names, short files and light imports."""

import ast
import gc
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.paths import ROOT

PACKAGE = ROOT / "src" / "linf"
MODULES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = {"torch", "pandas", "matplotlib", "pytorch_lightning", "hydra", "wandb", "optuna"}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "src").as_posix()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.fixture(autouse=True)
def _without_garbage() -> Iterator[None]:
    """Leave no garbage of other tests whose end could interrupt the parser: Python 3.11 takes that for an error."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def public_names(path: Path) -> set[str]:
    """The functions, classes and constants that a module defines at its top level."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = (child for target in targets for child in ast.walk(target))
            names |= {child.id for child in stored if isinstance(child, ast.Name)}
    return {each for each in names if not each.startswith("_")}


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_few_modules_and_packages_stand_at_the_top() -> None:
    modules = [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert len(modules) <= 6, modules
    assert len(packages) <= 15, packages


def test_import_contracts_are_kept() -> None:
    """The storeys and the four bans, as ``[tool.importlinter]`` in ``pyproject.toml`` has them."""
    done = python("from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_public_name_is_defined_in_two_modules() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for each in public_names(path):
            places[each].append(name(path))
    places.pop("log", None)  # Each module's logger.
    assert {each: found for each, found in places.items() if len(found) > 1} == {}


def test_every_module_begins_with_a_docstring() -> None:
    files = [*MODULES, ROOT / "train.py", ROOT / "eval.py"]
    assert [str(path) for path in files if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_images_are_called_images() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    files += [path for folder in ("src", "conf") for path in (ROOT / folder).rglob("*")]
    texts = (path.read_text() for path in files if path.suffix in {".py", ".yaml", ".md", ".html"})
    assert sum(len(re.findall("picture", text, re.IGNORECASE)) for text in texts) <= 20


def test_files_are_short() -> None:
    assert lines(PACKAGE / "models" / "linf.py") <= 250
    assert [name(path) for path in MODULES if lines(path) > 250] == []


@pytest.mark.parametrize("code", ["import linf", "import linf.cli; linf.cli.main(['--help'])"])
def test_import_and_help_load_no_heavy_library(code: str) -> None:
    report = (
        f"import atexit, sys; atexit.register(lambda: print(*{HEAVY} & set(sys.modules), file=sys.stderr))"
    )
    done = python(f"{report}\n{code}")
    assert (done.returncode, done.stderr.split()) == (0, [])
