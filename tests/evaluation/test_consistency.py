"""Evaluation of consistent images, against the images that it keeps and its LR."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

import linf
from helpers.commands import Compose
from linf.data.pairs import ScaledImages
from linf.errors import UsageError
from linf.evaluation.evaluation import Evaluation
from linf.evaluation.measure import check_consistency
from linf.images.degrade import blur
from linf.images.reduction import Reduction
from linf.models.baselines import Bicubic
from linf.models.consistency import Projection
from linf.report.evaluations import find_runs

BLURRED = (
    "data/degradation@data.test_degradation=severity",
    "data.test_degradation.first.blur={sigma: 0.5, elongation: 1.5}",
    "data.test_degradation.first.kernel={bicubic: 0, area: 1}",
)


def evaluate(composed: Compose, model: Path, images: Path, folder: Path, *overrides: str) -> Evaluation:
    given = (f"ckpt_path={model}", "data=folder", f"data.root={images}", f"run_dir={folder}")
    settings = ("data.num_workers=0", "metrics=fidelity", "temperatures=[0,0.8]", "save_images=true")
    config = composed("eval", *given, *settings, *overrides)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    trainer.test(task, data, verbose=False)
    return task


@pytest.mark.parametrize("lr_from", [(), ("data.test_resize=matlab",), BLURRED], ids=["pil", "matlab", "blurred"])
def test_images_of_an_evaluation_are_consistent_with_how_lr_was_made(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, lr_from: tuple[str, ...]
) -> None:
    scales = "data.test_scales=[3.3]"
    plain = evaluate(composed, checkpoint, photos, tmp_path / "plain", scales, *lr_from)
    task = evaluate(composed, checkpoint, photos, tmp_path / "made", scales, "consistency=8", *lr_from)
    tables = [each.tables["metrics"].set_index("system") for each in (plain, task)]
    assert tables[0].loc["bicubic"].equals(tables[1].loc["bicubic"])
    for part in ("distribution", "calibration"):
        assert plain.tables[part].equals(task.tables[part]), "they are of the model itself"
    for before, after in zip(plain.trainer.datamodule.test_pairs, task.trainer.datamodule.test_pairs, strict=True):
        for pair, same in zip(before, after, strict=True):
            assert torch.equal(pair.lr, same.lr)
            kept = {
                name: tmp_path / name / "images" / photos.name / "x3.3" / pair.name / "τ=0.8.png"
                for name in ("plain", "made")
            }
            read = {name: np.array(Image.open(path)) for name, path in kept.items()}
            sr = {name: torch.from_numpy(image).permute(2, 0, 1) / 255 for name, image in read.items()}
            assert pair.reduction is not None
            project = Projection((pair.lr.shape[-2], pair.lr.shape[-1]), (pair.hr.shape[-2], pair.hr.shape[-1]),
                                 8, pair.reduction)
            assert (project(sr["plain"], pair.lr).clamp(0, 1) - sr["made"]).abs().mean() < 2 / 255
    if lr_from == ("data.test_resize=matlab",):  # Which is that of the metric.
        assert tables[1].loc["τ=0.8", "lr_psnr"] > 50 > tables[0].loc["τ=0.8", "lr_psnr"]
