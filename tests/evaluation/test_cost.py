"""Seconds, memory, multiplications and parameters of each system, against counts worked out by hand."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from helpers.commands import Compose
from linf import load
from linf.errors import UsageError
from linf.evaluation.cost import MeasureCosts, costs
from linf.models.baselines import LIIF, LIIFConditioner
from linf.models.encoders import EDSR
from linf.models.fixed_scale import FixedScale
from linf.report import read_run

CPU = torch.device("cpu")


def measured(model: torch.nn.Module, *temperatures: float, scale: float = 2, side: int = 8) -> pd.DataFrame:
    lines = costs(model, temperatures or (0.0,), scale, side, channels=3, device=CPU)  # type: ignore[arg-type]
    return pd.DataFrame(lines).set_index("system")


def test_macs_of_liif_are_those_of_its_layers() -> None:
    torch.manual_seed(0)
    model = LIIF(EDSR(2, 4), partial(LIIFConditioner, width=8, depth=2)).eval()
    found = measured(model, side=10, scale=3)
    pixels, queries = 100, 4 * 900  # Each query asks four neighbours.
    encoder = pixels * 9 * (3 * 4 + (2 * 2 + 1) * 4 * 4)
    # What the first layer makes of features is the same for all queries of a pixel; one pixel is asked for its width.
    decoder = (pixels + 1) * 9 * 4 * 8 + queries * (4 * 8 + 8 * 8 + 8 * 3)
    assert found.loc["LIIF", "gmacs"] * 1e9 == encoder + decoder
    assert found.loc["LIIF", "parameters"] * 1e6 == pytest.approx(sum(p.numel() for p in model.parameters()))


def test_memory_is_the_most_that_is_held_at_once() -> None:
    class Staircase(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            for _ in range(5):  # One after the other, not together.
                torch.empty(10_000_000, dtype=torch.uint8)
            return image.repeat_interleave(2, -1).repeat_interleave(2, -2)

    assert measured(FixedScale(Staircase(), 2, title="x")).loc["x", "memory"] == pytest.approx(10, rel=0.01)


def test_seconds_are_those_of_one_image() -> None:
    class Slow(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            torch.ones(()).item()
            __import__("time").sleep(0.05)
            return image.repeat_interleave(2, -1).repeat_interleave(2, -2)

    assert 0.05 <= measured(FixedScale(Slow(), 2, title="x")).loc["x", "seconds"] < 0.2


def test_the_self_ensemble_costs_eight_times_as_much() -> None:
    model = LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1)).eval()
    lines = costs(model, (0.0,), 2, 8, channels=3, device=CPU, ensemble=True)
    table = pd.DataFrame(lines).set_index("system")
    assert list(table.index) == ["bicubic", "LIIF", "self-ensemble"]
    assert table.loc["self-ensemble", "gmacs"] == 8 * table.loc["LIIF", "gmacs"]
    assert table.loc["self-ensemble", "parameters"] == table.loc["LIIF", "parameters"]
    assert table.loc["self-ensemble", "seconds"] > table.loc["LIIF", "seconds"]


def test_consistency_with_lr_and_correlated_latents_are_counted() -> None:
    """The first round reduces and the last enlarges, by a matrix for each axis; between them both do, axis by axis."""
    model = LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1)).eval()
    plain, consistent = (
        pd.DataFrame(costs(model, (0.0,), 2, 8, channels=3, device=CPU, consistency=n)).set_index("system")
        for n in (0, 3)
    )
    assert consistent.loc["bicubic", "gmacs"] == plain.loc["bicubic", "gmacs"]
    more = consistent.loc["LIIF", "gmacs"] - plain.loc["LIIF", "gmacs"]
    assert more * 1e9 == pytest.approx(3 * (2 * (8 * 16 * 16 + 8 * 8 * 16) + 2 * 4 * 8 * 8 * 16))
    correlated = load("default")
    independent, filtered = (
        costs(correlated, (0.5,), 2, 8, channels=3, device=CPU, latents=latents)[1]["gmacs"]
        for latents in ("independent", "correlated")
    )
    assert filtered > independent


def test_an_evaluation_writes_its_costs_once(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    given = (f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", f"run_dir={tmp_path}")
    before = ""
    for limit in (1, 2):
        config = composed(
            *("eval", *given, "data.num_workers=0", "data.test_scales=[2,3]", "callbacks.cost.side=16"),
            *(f"data.test_limit={limit}", "metrics=fidelity"),
        )
        pl.seed_everything(0, workers=True)
        data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
        trainer.test(task, data, verbose=False)
        text = (tmp_path / "cost.csv").read_text()
        assert limit == 1 or text == before
        before = text
    cost = read_run(tmp_path).cost
    assert cost["system"].tolist() == ["bicubic", "τ=0", "τ=0.5", "τ=0.8"]
    assert set(cost["scale"]) == {3}
    assert cost["parameters"].iloc[0] == 0
    assert set(cost["lr_size"]) == {"16×16"}
    assert cost["gmacs"].iloc[2] == cost["gmacs"].iloc[3] > cost["gmacs"].iloc[1] > cost["gmacs"].iloc[0] > 0
    assert (cost[["seconds", "memory"]] > 0).all(axis=None)


def test_a_tiny_lr_image_is_refused() -> None:
    with pytest.raises(UsageError, match=r"callbacks\.cost\.side is 4: give at least 8"):
        MeasureCosts(4)
