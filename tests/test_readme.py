"""The Python blocks of the README and of docs/python.md run as they stand, wherever they are pasted."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.paths import ROOT


def run_python_block(document: str, folder: Path) -> None:
    """Run the one Python block of a document in a folder of its own."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert len(blocks) == 1
    done = subprocess.run([sys.executable, "-c", blocks[0]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


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
