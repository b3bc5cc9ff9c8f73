"""The model that comes with the package is there, small, and as good as its card says."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import linf
from conftest import ROOT, Command
from linf.checkpoints import SHIPPED

DATA = ROOT.parent / "shared" / "data"


def test_it_loads_by_name() -> None:
    model = linf.load("default")
    assert model.patch_size == 3
    assert model.flow.initialised
    assert {value.dtype.itemsize for value in model.state_dict().values() if value.is_floating_point()} == {4}
    assert SHIPPED.stat().st_size < 6e6


def test_commands_take_it_by_name(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "linf", "info", "default"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "FourierConditioner" in told
    assert "width 256" in told


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "Set5").is_dir(), reason="needs Set5")
def test_it_is_as_good_as_its_card_says(command: Command, tmp_path: Path) -> None:
    done = command(
        "eval",
        "ckpt_path=default",
        "metrics=fidelity",
        "data=benchmark",
        f"data.root={DATA}",
        "data.test.names=[Set5]",
        "data.test_resize=matlab",
        "temperatures=[0,0.5]",
        "hydra.run.dir=scores",
    )
    assert done.status == 0, done.err
    table = pd.read_csv(tmp_path / "scores" / "metrics.csv").set_index(["system", "scale"])
    card = (ROOT / "docs" / "model-card.md").read_text()
    for name in ("bicubic", "τ=0", "τ=0.5"):
        label = name if name == "bicubic" else f"LINF, {name.replace('=', ' = ')}"
        line = next(line for line in card.splitlines() if line.startswith(f"| {label} |"))
        for scale, cell in zip((2, 3, 4), line.split("|")[2:5], strict=True):
            assert float(cell.split(",")[0]) == pytest.approx(table.loc[(name, scale), "psnr_y"], abs=0.02)
    for scale, bar in ((2, 37.4), (3, 33.9), (4, 31.7)):
        assert table.loc[("τ=0", scale), "psnr_y"] >= bar
