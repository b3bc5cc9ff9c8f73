"""The default model is there, small, and as good as its card says."""

import re
from pathlib import Path

import pandas as pd
import pytest

import linf
from helpers.commands import Command, Linf
from helpers.paths import DATA, ROOT
from linf.checkpoints.shipped import shipped_file

CARD = ROOT / "docs" / "model-card.md"


def test_default_model_loads_by_name() -> None:
    model = linf.load("default")
    assert model.patch_size == 3
    assert model.flow.initialised
    assert {value.dtype.itemsize for value in model.state_dict().values() if value.is_floating_point()} == {4}
    assert shipped_file("default").stat().st_size < 6e6


def test_commands_take_the_default_model_by_name(run: Linf) -> None:
    told = run("info", "default").out
    assert "FourierConditioner" in told
    assert "width 256" in told


# What was measured


def rows(system: str | None = None, run: str = "LINF") -> pd.DataFrame:
    """Of docs/model-card/metrics.csv, by data set and scale; of LINF's own temperatures without a system."""
    table = pd.read_csv(CARD.with_suffix("") / "metrics.csv")
    table = table[table["run"] == run]
    table = table[table["temperature"].notna()] if system is None else table[table["system"] == system]
    return table.set_index(["dataset", "scale"]).sort_index()


def best(dataset: str, scale: float) -> pd.Series:
    """Least LPIPS up to τ = 0.8 where PSNR is not below bicubic's."""
    over = rows().loc[[(dataset, scale)]]
    bicubic = rows("bicubic").loc[(dataset, scale), "psnr_y"]
    allowed = over[(over["temperature"] <= 0.8) & (over["psnr_y"] >= bicubic)]
    return allowed.sort_values("lpips_alex").iloc[0]


@pytest.mark.parametrize("dataset", ["Set5", "Set14", "B100"])
@pytest.mark.parametrize("scale", [2, 3, 3.3, 4, 6])
def test_model_card_says_what_was_measured(dataset: str, scale: float) -> None:
    line = re.search(rf"^\| {dataset} \| ×{scale:g} \|(.*)\|$", CARD.read_text(), re.MULTILINE)
    assert line
    bicubic, liif, mean, textured, more = line[1].split("|")
    top = best(dataset, scale)
    at = dataset, scale
    for cell, row in (
        (bicubic, rows("bicubic").loc[at]),
        (liif, rows("LIIF", "LIIF, official").loc[at]),
        (mean, rows("τ=0").loc[at]),
        (textured.split(":")[1], top),
    ):
        assert cell.strip() == f"{row['psnr_y']:.2f}, {row['lpips_alex']:.3f}"
    assert textured.split(":")[0].strip() == f"τ = {top['temperature']:g}"
    assert more.strip() == f"{top['ssim']:.3f}, {top['lr_psnr']:.1f}, {top['diversity']:.2f}"


@pytest.mark.parametrize(
    ("line", "temperatures"),
    [
        (r"(?P<dataset>Set5|Set14|B100) ×(?P<scale>[24])", (0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1)),
        (r"(?P<dataset>Set5|Set14|B100), plain", (0.5, 0.6, 0.7, 0.8)),
        (r"the mean of 14 and its start, the default model", (0, 0.5, 0.6, 0.8)),
    ],
    ids=["all", "plain", "training"],
)
def test_model_card_says_what_was_measured_over_temperatures(
    line: str, temperatures: tuple[float, ...]
) -> None:
    found = list(re.finditer(rf"^\| {line} \| (?P<cells>.*) \|$", CARD.read_text(), re.MULTILINE))
    assert found
    table = rows().set_index("temperature", append=True)
    for row in found:
        named = {"dataset": "Set5", "scale": "4"} | row.groupdict()
        measured = [table.loc[(named["dataset"], float(named["scale"]), tau)] for tau in temperatures]
        expected = [f"{of['psnr_y']:.2f} / {of['lpips_alex']:.3f}" for of in measured]
        assert named["cells"].split(" | ") == expected


def test_readme_says_what_was_measured() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, system, run in (
        ("bicubic", "bicubic", "LINF"),
        ("LIIF, official", "LIIF", "LIIF, official"),
        ("LINF, τ = 0", "τ=0", "LINF"),
        ("LINF, τ = 0.5", "τ=0.5", "LINF"),
        ("LINF, τ = 0.7", "τ=0.7", "LINF"),
    ):
        found = (rows(system, run).loc[("B100", scale)] for scale in (2, 4))
        cells = (f"{row['psnr_y']:.2f}, {row['lpips_alex']:.3f}" for row in found)
        assert f"| {name} | {' | '.join(cells)} |" in readme


def test_psnr_of_the_mean_is_near_that_of_regression() -> None:
    for dataset, gap in (("Set5", 0.25), ("Set14", 0.2), ("B100", 0.1)):
        for scale in (2, 3, 4):
            liif = rows("LIIF", "LIIF, official").loc[(dataset, scale), "psnr_y"]
            assert rows("τ=0").loc[(dataset, scale), "psnr_y"] >= liif - gap


@pytest.mark.parametrize("dataset", ["Set5", "B100"])
def test_lpips_of_samples_beats_regression(dataset: str) -> None:
    for scale, share in ((2, 0.6), (4, 0.7)):
        liif = rows("LIIF", "LIIF, official").loc[(dataset, scale), "lpips_alex"]
        assert best(dataset, scale)["lpips_alex"] <= share * liif
    assert best(dataset, 4)["lr_psnr"] >= 38


def test_temperature_trades_psnr_for_lpips() -> None:
    for _, over in rows().groupby(level=[0, 1]):
        over = over.sort_values("temperature")
        lowest = over["lpips_alex"].argmin()
        assert lowest > 0
        assert over["psnr_y"].is_monotonic_decreasing
        assert over["lpips_alex"][: lowest + 1].is_monotonic_decreasing


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "Set5").is_dir(), reason=f"no Set5 in {DATA}: set LINF_TEST_DATA")
def test_default_model_is_as_good_as_was_measured(command: Command, tmp_path: Path) -> None:
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
    for name in ("bicubic", "τ=0", "τ=0.5"):
        for scale in (2, 3, 4):
            wanted = rows(name).loc[("Set5", scale), "psnr_y"]
            assert table.loc[(name, scale), "psnr_y"] == pytest.approx(wanted, abs=0.02)
