"""From the command of a training to a user's image: own LR–HR pairs at ×2.5, and a scale for each axis."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr

import linf
from helpers.commands import Command, Linf, assert_in_words
from helpers.runs import SMOKE, column
from linf.data.sources import bundled

QUICK = (*SMOKE, "trainer.max_epochs=1", "callbacks.panels=null")


def reduced(image: np.ndarray, axis: int) -> np.ndarray:
    """An image whose axis is 2 / 5 as long, by area: 5 pixels make 2, the third of them half of each."""
    five = np.moveaxis(image.astype(float), axis, 0).reshape(-1, 5, *np.delete(image.shape, axis))
    two = np.stack(
        [five[:, 0] + five[:, 1] + five[:, 2] / 2, five[:, 2] / 2 + five[:, 3] + five[:, 4]], axis=1
    )
    return np.moveaxis(two.reshape(-1, *two.shape[2:]) / 2.5, 0, axis)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with two pairs, 100×150 and 40×60 pixels."""
    root = tmp_path / "pairs"
    for path in bundled("heldout").hr:
        hr = np.asarray(Image.open(path))[100:200, 150:300]
        for folder, image in (("HR", hr), ("LR", np.rint(reduced(reduced(hr, 0), 1)).astype(np.uint8))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / folder / f"{path.stem}.png")
    return root


def psnr_y(sr: np.ndarray, hr: np.ndarray, border: int) -> float:
    """By scikit-image's luma; images (H,W,3), sr in [0, 1] and hr of 8 bits."""
    inside = (slice(border, -border), slice(border, -border), 0)
    error = (rgb2ycbcr(sr.clip(0, 1)) - rgb2ycbcr(hr))[inside]
    return 10 * math.log10(255**2 / np.mean(error**2))


def mean_image(model: Path, lr: Path, size: tuple[int, int]) -> np.ndarray:
    """The image (H,W,3) at τ = 0."""
    given = torch.from_numpy(np.array(Image.open(lr))).permute(2, 0, 1)[None] / 255
    return linf.load(model).sample(given, size, temperature=0)[0].permute(1, 2, 0).numpy()


@pytest.mark.slow
def test_own_pairs_train_validate_evaluate_and_upscale(
    pairs: Path, tmp_path: Path, command: Command, run: Linf
) -> None:
    data = (*QUICK, "data=folder", f"data.root={pairs}", "data.pairs=true")
    of_pairs = f"{{_target_: linf.data.sources.image_folder, root: {pairs}}}"
    validation = (f"data.val={of_pairs}", "data.val_crop=null", "data.val_scales=[2.5]")
    done = command("train", *data, *validation, "hydra.run.dir=one")
    assert done.status == 0, done.err
    assert "trained on: 2 LR–HR pairs of pairs, in" in done.out
    assert "3 steps of" in done.out
    assert len(column(tmp_path / "one", "train/loss")) == 3
    model = tmp_path / "one" / "model.safetensors"
    expected = [
        psnr_y(mean_image(model, pairs / "LR" / hr.name, (100, 150)), np.array(Image.open(hr)), 3)
        for hr in sorted((pairs / "HR").iterdir())
    ]
    assert column(tmp_path / "one", "val/psnr_x2.5")[-1] == pytest.approx(np.mean(expected), abs=0.01)
    # Stage 2 takes contiguous windows of the same pairs.
    stage2 = ("task=finetune", "task.loss.perceptual=0", "data.window=true", "data.queries=null")
    done = command("train", *data, *stage2, f"init_from={model}", "hydra.run.dir=two")
    assert done.status == 0, done.err
    assert len(column(tmp_path / "two", "train/loss")) == 3
    evaluation = (f"ckpt_path={model}", "data=folder", f"data.root={pairs}", "data.test_scales=[2.5]")
    done = command(
        "eval", *evaluation, "temperatures=[0]", "metrics=fidelity", "data.num_workers=0", "run_dir=seen"
    )
    assert done.status == 0, done.err
    table = pd.read_csv(tmp_path / "seen" / "metrics.csv").set_index("system")
    assert (table.loc["τ=0", "lr"], table.loc["τ=0", "scale"]) == ("given", 2.5)
    assert table.loc["τ=0", "psnr_y"] == pytest.approx(np.mean(expected), abs=0.01)
    lr = pairs / "LR" / "coffee.png"
    given = ("--scale", "2.5", "--temperature", "0", "--model", model, "--out", "sr.png")
    assert run("upscale", lr, *given).status == 0
    made = np.array(Image.open(tmp_path / "sr.png"))
    assert np.abs(made - 255 * mean_image(model, lr, (100, 150)).clip(0, 1)).max() < 0.52


@pytest.mark.slow
def test_pairs_that_cannot_train_are_told_in_one_line(pairs: Path, command: Command) -> None:
    data = (*QUICK, "data=folder", f"data.root={pairs}", "data.pairs=true")
    failed = command("train", *data, "data/degradation=mild")
    assert_in_words(failed.status, failed.out, failed.err, "data.pairs", "degradation")
    Image.new("RGB", (60, 50)).save(pairs / "LR" / "coffee.png")
    failed = command("train", *data)
    assert_in_words(failed.status, failed.out, failed.err, "LR/coffee.png", "50×60", "100×150")
    (pairs / "LR" / "coffee.png").unlink()
    failed = command("train", *data)
    assert_in_words(failed.status, failed.out, failed.err, "LR missing for coffee.png")


@pytest.mark.slow
def test_a_scale_for_each_axis_trains_validates_evaluates_and_upscales(
    photos: Path, tmp_path: Path, command: Command, run: Linf
) -> None:
    scales = ("data.scale=[2,4]", "data.scale_y=[1,2]", "data.val_scales=[2,[1.5,4]]")
    done = command("train", *QUICK, *scales, "hydra.run.dir=one")
    assert done.status == 0, done.err
    assert len(column(tmp_path / "one", "train/loss")) == 3
    values = [column(tmp_path / "one", f"val/psnr{name}")[-1] for name in ("", "_x2", "_x1.5x4")]
    assert values[0] == pytest.approx((values[1] + values[2]) / 2)
    model = tmp_path / "one" / "model.safetensors"
    evaluation = (f"ckpt_path={model}", "data=folder", f"data.root={photos}", "data.test_scales=[2,[1.5,4]]")
    done = command(
        "eval", *evaluation, "temperatures=[0]", "metrics=fidelity", "data.num_workers=0", "run_dir=seen"
    )
    assert done.status == 0, done.err
    table = pd.read_csv(tmp_path / "seen" / "metrics.csv").set_index(["scale", "system"])
    expected = []
    for path in photos.iterdir():
        hr = np.array(Image.open(path))
        h, w = int(hr.shape[0] / 1.5), hr.shape[1] // 4
        hr = hr[: round(1.5 * h), : 4 * w]
        Image.fromarray(hr).resize((w, h), Image.Resampling.BICUBIC).save(tmp_path / path.name)
        sr = mean_image(model, tmp_path / path.name, (hr.shape[0], hr.shape[1]))
        expected.append(psnr_y(sr, hr, 4))
    assert table.loc[("1.5x4", "τ=0"), "psnr_y"] == pytest.approx(np.mean(expected), abs=0.01)
    assert set(table.index.get_level_values("scale")) == {"2.0", "1.5x4"}
    done = run("upscale", tmp_path / path.name, "--scale", "1.5x4", "--temperature", "0", "--model", model)
    assert f"{path.stem}_x1.5x4.png, {hr.shape[1]}×{hr.shape[0]}" in done.out
    assert (
        np.abs(np.array(Image.open(tmp_path / f"{path.stem}_x1.5x4.png")) - 255 * sr.clip(0, 1)).max() < 0.52
    )
