"""`make gpu` where there is no GPU: it says so and runs nothing, its bars are those documented, and it rehearses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.paths import ROOT

NUMBERS = {"parity", "evaluation", "fp16", "resume", "ranks", "shortage"}
"""Sections whose bars are not of speed or memory."""
DOCUMENT = ROOT / "docs" / "gpu.md"


def acceptance(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``python -m benchmarks.gpu …``."""
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def bars() -> dict[str, dict[str, str]]:
    """Every bar by section and figure, as `benchmarks.gpu.bars` has them."""
    show = "{s: {w: str(b) for w, b in section.bars.items()} for s, section in SECTIONS.items()}"
    code = f"import json; from benchmarks.gpu.bars import SECTIONS; print(json.dumps({show}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path: Path) -> None:
    done = acceptance("--json", tmp_path / "figures.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no GPU here, so nothing is run; --tiny rehearses on the CPU\n"
    assert not (tmp_path / "figures.json").exists()


def test_make_gpu_does_not_fail_without_a_gpu() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\ngpu: ")[1].split("\n\n")[0]
    assert recipe.rstrip().endswith("|| [ $$? -eq 2 ]")


def test_an_unknown_section_is_refused() -> None:
    done = acceptance("speed")
    assert done.returncode == 2
    assert "no section 'speed'; choose from machine, parity, waits" in done.stderr


def test_sections_and_bars_are_those_of_the_documentation() -> None:
    table = DOCUMENT.read_text().split("\n### Bars\n")[1].split("\n## ")[0]
    listed = [line for line in table.splitlines() if line.startswith("| `")]
    found: dict[str, dict[str, str]] = {}
    for line in listed:
        section, what, bar = (cell.strip() for cell in line.strip("|").split("|")[:3])
        found.setdefault(section.strip("`"), {})[what] = bar
    assert found == bars()


def test_what_bounds_more_gpus_is_as_documented() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.scaling"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(table in DOCUMENT.read_text() for table in printed.split("\n\n"))


@pytest.mark.thorough
@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal is for machines without a GPU")
def test_every_section_is_rehearsed_on_a_cpu(tmp_path: Path, fetched: Callable[[str], Path]) -> None:
    fetched("alexnet")
    done = acceptance("--tiny", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [json.loads(line) for line in (tmp_path / "figures.json").read_text().splitlines()]
    assert [run["section"] for run in runs] == list(bars())
    for run in runs:
        measured = {figure["what"] for figure in run["figures"]}
        assert set(bars()[run["section"]]) <= measured
        for figure in run["figures"]:
            assert figure["met"] is None, "not judged"
            if run["section"] in NUMBERS and figure["bar"]:  # They hold on any device.
                sign, bar = figure["bar"].split()[:2]
                met = figure["value"] <= float(bar) if sign == "≤" else figure["value"] >= float(bar)
                assert met, figure
    assert done.stdout.splitlines()[-1].startswith("rehearsed on a CPU in")
