"""The Python blocks of the README and of docs/python.md run as they stand, wherever they are pasted."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import ListConfig, OmegaConf
from PIL import Image

from helpers.paths import ROOT
from linf.cli import linf_parser
from linf.models import DEFAULT_TEMPERATURE


def run_python_block(document: str, folder: Path) -> None:
    """Run the one Python block of a document in a folder of its own."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert len(blocks) == 1
    done = subprocess.run([sys.executable, "-c", blocks[0]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.slow
def test_the_python_block_of_the_readme_writes_an_image(tmp_path: Path) -> None:
    run_python_block("README.md", tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "cat.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


@pytest.mark.slow
def test_the_python_block_of_the_docs_runs(tmp_path: Path) -> None:
    run_python_block("docs/python.md", tmp_path)


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_to_files_are_whole(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def shown_commands() -> list[str]:
    """Every line of the documents' blocks that begins with `linf`, without its comment and redirections."""
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = "".join(
        block for path in documents for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    )
    found = re.findall(r"^linf .*", blocks.replace("\\\n", " "), re.MULTILINE)
    return sorted({re.split(r" [#<>|] ?| #", line)[0].strip() for line in found})


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_in_the_docs_is_one(line: str) -> None:
    linf_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("document", ["README.md", "docs/upscale.md", "docs/python.md", "docs/train.md"])
def test_documents_say_the_default_temperature(document: str) -> None:
    assert f"τ = {DEFAULT_TEMPERATURE}" in (ROOT / document).read_text()


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("callbacks/default.yaml", "panels.temperatures"),
        ("eval.yaml", "temperatures"),
        ("sweep/search.yaml", "callbacks.lpips.temperature"),
    ],
)
def test_configs_spell_the_default_temperature(file: str, setting: str) -> None:
    value = OmegaConf.select(OmegaConf.load(ROOT / "conf" / file), setting)
    assert DEFAULT_TEMPERATURE in (value if isinstance(value, ListConfig) else [value])


def test_commands_in_the_docs_are_found() -> None:
    assert {line.split()[1] for line in shown_commands()} >= {"upscale", "demo", "report", "compare", "sweep"}


def test_no_command_in_the_docs_is_kept_in_a_variable() -> None:
    """In zsh a variable of several words is one argument."""
    for path in (ROOT / "docs").glob("*.md"):
        blocks = "".join(re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL))
        for name in re.findall(r"""^\s*(\w+)=["'][^"'\n]* .*["']$""", blocks, re.MULTILINE):
            assert not re.search(rf"(?<!\")\${name}\b", blocks), (path.name, name)
