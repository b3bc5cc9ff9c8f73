"""The house: who imports whom, what files are called, and that the README's table is the tree."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import linf

HOME = Path(linf.__file__).parent
README = (Path(__file__).parents[1] / "README.md").read_text()
FILES = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*.py"))
MODULES = [file for file in FILES if not file.endswith("__.py")]
READING_ORDER = re.findall(r"^\| `([\w/]+\.py)` \|", README, re.MULTILINE)


def imports(file: str) -> Iterator[str]:
    """Every module that a file imports, wherever in it, as ``package.module``."""
    for node in ast.walk(ast.parse((HOME / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: str) -> set[str]:
    """Those files of the package that a file imports."""
    names = {
        name.removeprefix("linf.").replace(".", "/") for name in imports(file) if name.startswith("linf.")
    }
    return {f"{name}.py" for name in names} & set(FILES) | {
        f"{name}/__init__.py" for name in names if f"{name}/__init__.py" in FILES
    }


def others_imported(file: str) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


def test_the_readme_lists_every_file_once() -> None:
    assert sorted(READING_ORDER) == MODULES


def test_the_docstring_lists_every_box_in_the_readmes_order() -> None:
    named = re.search(r"In reading order:(.*?);", linf.__doc__ or "", re.DOTALL)
    assert named
    boxes = list(dict.fromkeys(Path(file).parts[0].removesuffix(".py") for file in READING_ORDER))
    assert re.findall(r"`(\w+)`", named[1]) == boxes


@pytest.mark.parametrize("file", [file for file in READING_ORDER if file in MODULES])
def test_a_module_imports_only_what_stands_before_it(file: str) -> None:
    above = {*READING_ORDER[: READING_ORDER.index(file)], "errors.py"}
    # A package's front stands where its last file does.
    closed = {f"{Path(f).parent}/__init__.py" for f in READING_ORDER if f not in above}
    fronts = {f for f in FILES if f.endswith("/__init__.py")} - closed
    assert own_imports(file) <= {*above, *fronts}


def test_errors_import_nothing_of_ours() -> None:
    assert not own_imports("errors.py")


def test_importing_the_package_needs_no_lightning() -> None:
    reached, waiting = set(), {"__init__.py"}
    while waiting:
        file = waiting.pop()
        reached.add(file)
        waiting |= own_imports(file) - reached
    assert {"checkpoints.py", "flow.py", "conditioner.py"} <= reached
    assert not {"pytorch_lightning", "hydra"} & {name for file in reached for name in others_imported(file)}


@pytest.mark.parametrize("file", FILES)
def test_the_core_knows_no_framework(file: str) -> None:
    found = others_imported(file)
    assert "lightning" not in found, "never mixed with pytorch_lightning"
    shell = file.startswith(("task/", "callbacks/")) or file in {"loggers.py", "data/datamodule.py"}
    assert shell or "pytorch_lightning" not in found
    assert not found & {"hydra", "omegaconf"} or file in {"mistakes.py", "entry.py"}
    assert "wandb" not in found, "Lightning's loggers speak to it"


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_named_after_a_thing(file: str) -> None:
    assert not set(Path(file).with_suffix("").parts) & {
        "utils",
        "util",
        "common",
        "helpers",
        "base",
        "registry",
    }


@pytest.mark.parametrize("file", MODULES)
def test_a_file_says_first_what_it_is(file: str) -> None:
    assert ast.get_docstring(ast.parse((HOME / file).read_text()))


def test_hydras_plugins_are_light() -> None:
    # Hydra imports them at the start of every program of its own.
    for path in (HOME.parent / "hydra_plugins").glob("*.py"):
        top = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & {"linf", "torch", "optuna", "pytorch_lightning"}
