"""Evaluation from a model file to its tables, against figures worked out apart from it."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from scipy.stats import multivariate_t, norm, t
from skimage.color import rgb2ycbcr

import linf
from helpers.commands import Command, Compose, finish, start
from helpers.evaluations import evaluation_settings, kill_between_images
from linf.errors import UsageError
from linf.evaluation.assumptions import Assumptions
from linf.evaluation.evaluation import Evaluation
from linf.evaluation.schema import TABLES
from linf.evaluation.systems import systems_in_words
from linf.images.read import read_image
from linf.images.resize import matlab_bicubic, pil_bicubic
from linf.metrics.functional import psnr, ssim
from linf.models.baselines import Bicubic
from linf.models.correlation import LatentCorrelation
from linf.models.self_ensemble import self_ensemble
from linf.models.tails import Tails
from linf.report import write_report
from linf.report.details import shown_images
from linf.report.evaluations import read_run

SCALES = (2, 3.3)
SYSTEMS = ("bicubic", "τ=0", "τ=0.5", "τ=0.8")
METRICS = ["psnr_y", "psnr_rgb", "ssim", "lr_psnr"]


def evaluate(
    composed: Compose, model: Path, images: Path, folder: Path, *overrides: str, sheet: bool = False
) -> Evaluation:
    """What ``eval.py`` does, over a folder of images; draws the contact sheet if asked to."""
    given = (f"ckpt_path={model}", "data=folder", f"data.root={images}", f"run_dir={folder}")
    given = (*given, "data.num_workers=0", f"data.test_scales={list(SCALES)}")
    config = composed("eval", *given, *(() if sheet else ("~callbacks.publish",)), *overrides)
    pl.seed_everything(config.seed, workers=True)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    trainer.test(task, data, verbose=False)
    return task


def strict_json(file: Path) -> list[dict[str, Any]]:
    """JSON as its standard has it, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {file}")

    return json.loads(file.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def evaluated(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Evaluation]:
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, evaluate(composed, checkpoint, photos, folder, "save_images=true", sheet=True)


def test_tables_agree(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    folder, _ = evaluated
    records = strict_json(folder / "metrics.json")
    table, images = (pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "images"))
    assert [(r["dataset"], r["scale"], r["system"]) for r in records] == [
        (photos.name, scale, system) for scale in SCALES for system in SYSTEMS
    ]
    assert np.allclose(pd.DataFrame(records)[METRICS], table[METRICS], rtol=1e-12)
    assert len(images) == 2 * len(SCALES) * len(SYSTEMS)
    assert sorted(set(images["image"])) == sorted(path.stem for path in photos.iterdir())
    for record in records:
        rows = images[(images["scale"] == record["scale"]) & (images["system"] == record["system"])]
        assert len(rows) == 2
        assert [record[name] for name in METRICS] == pytest.approx(rows[METRICS].mean().tolist(), rel=1e-6)


def test_bicubic_psnr_agrees_with_scikit_image(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    images = pd.read_csv(evaluated[0] / "images.csv").set_index(["image", "scale", "system"])
    for path in photos.iterdir():
        for scale in SCALES:
            hr = Image.open(path)
            h, w = (int(n / scale) for n in (hr.height, hr.width))
            hr = hr.crop((0, 0, round(w * scale), round(h * scale)))
            lr = torch.from_numpy(np.array(hr.resize((w, h), Image.Resampling.BICUBIC))).permute(2, 0, 1)
            sr = matlab_bicubic(lr, (hr.height, hr.width)).permute(1, 2, 0).numpy()
            shave = slice(math.ceil(scale), -math.ceil(scale))
            error = (rgb2ycbcr(np.array(hr)) - rgb2ycbcr(sr))[shave, shave, 0]
            expected = 10 * math.log10(255**2 / np.mean(error**2))
            assert images.loc[(path.stem, scale, "bicubic"), "psnr_y"] == pytest.approx(expected, abs=2e-3)


def keys_weights(n_in: int, n_out: int) -> np.ndarray:
    """Bicubic enlargement of one axis as a matrix (n_out, n_in), a = -0.5 and the border mirrored."""
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        centre = (i + 0.5) * n_in / n_out - 0.5
        for k in range(math.floor(centre) - 1, math.floor(centre) + 3):
            x = abs(centre - k)
            weight = 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            matrix[i, -k - 1 if k < 0 else 2 * n_in - 1 - k if k >= n_in else k] += weight
    return matrix


@pytest.mark.slow
def test_a_scale_for_each_axis_is_evaluated_kept_and_resumed(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    scales = "data.test_scales=[2,[1.5,4]]"
    task = evaluate(composed, checkpoint, photos, tmp_path, "save_images=true", scales, sheet=True)
    table, images = (
        pd.read_csv(tmp_path / f"{name}.csv", dtype={"scale": str}) for name in TABLES if name[0] in "mi"
    )
    assert [*table["scale"]] == ["2.0"] * len(SYSTEMS) + ["1.5x4"] * len(SYSTEMS)
    assert [r["scale"] for r in strict_json(tmp_path / "metrics.json")] == [2.0] * 4 + ["1.5x4"] * 4
    assert f"{photos.name} ×1.5x4: τ=0" in task.report()
    for path in photos.iterdir():
        kept = tmp_path / "images" / photos.name / "x1.5x4" / path.stem
        hr = np.array(Image.open(path))
        h, w = int(hr.shape[0] / 1.5), hr.shape[1] // 4
        hr = hr[: round(1.5 * h), : 4 * w]
        assert np.array_equal(np.array(Image.open(kept / "HR.png")), hr)
        lr = np.array(Image.fromarray(hr).resize((w, h), Image.Resampling.BICUBIC))
        assert np.array_equal(np.array(Image.open(kept / "LR.png")), lr)
        halfway = np.einsum("ih,hwc->iwc", keys_weights(h, len(hr)), lr.astype(float))
        halfway = np.floor(halfway + 0.5).clip(0, 255)  # MATLAB rounds between the axes.
        sr = np.einsum("jw,iwc->ijc", keys_weights(w, hr.shape[1]), halfway).clip(0, 255)
        assert np.abs(np.array(Image.open(kept / "bicubic.png")) - sr).max() < 0.51
        # Of the two factors the larger decides the border.
        error = (rgb2ycbcr(hr) - rgb2ycbcr(np.array(Image.open(kept / "bicubic.png"))))[4:-4, 4:-4, 0]
        of = images[(images["image"] == path.stem) & (images["scale"] == "1.5x4")].set_index("system")
        assert of.loc["bicubic", "psnr_y"] == pytest.approx(
            10 * math.log10(255**2 / np.mean(error**2)), abs=2e-3
        )
        model = linf.load(checkpoint)
        mean = model.sample(torch.from_numpy(lr).permute(2, 0, 1)[None] / 255, hr.shape[:2], temperature=0)[
            0
        ].permute(1, 2, 0)
        seen = np.array(Image.open(kept / "τ=0.png"))
        assert np.abs(mean.clamp(0, 1).mul(255).numpy() - seen).max() < 0.51
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*.png")}
    again = evaluate(composed, checkpoint, photos, tmp_path, "save_images=true", scales)
    assert again.tables["metrics"].equals(task.tables["metrics"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "images").rglob("*.png")} == before
    run = read_run(tmp_path)
    page = write_report([run], tmp_path / "report").read_text()
    assert "×1.5x4" in page
    assert "Only ×2 was evaluated that is the same on both axes" in page
    assert len(list((tmp_path / "report" / "figures").glob("*1.5x4*.png"))) == 2


def test_psnr_agrees_with_the_saved_images(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    folder, _ = evaluated
    images = pd.read_csv(folder / "images.csv").set_index(["image", "scale", "system"])
    written = list((folder / "images").rglob("*.png"))
    assert len(written) == len(images) + 2 * 2 * len(SCALES), "LR and HR stand beside the systems"
    for (name, scale, system), row in images.iterrows():  # type: ignore[misc]
        sr = np.array(Image.open(folder / "images" / photos.name / f"x{scale:g}" / name / f"{system}.png"))
        hr = np.array(Image.open(photos / f"{name}.png"))
        size = tuple(round(int(n / scale) * scale) for n in hr.shape[:2])
        assert sr.shape == (*size, 3)
        border = slice(math.ceil(scale), -math.ceil(scale))
        error = (sr / 255 - hr[: size[0], : size[1]] / 255)[border, border]
        # Rounded to 8 bits they are nearly as good.
        assert row["psnr_rgb"] == pytest.approx(-10 * math.log10(np.mean(error**2)), abs=0.02)


def test_psnr_falls_with_the_temperature(evaluated: tuple[Path, Evaluation]) -> None:
    table = pd.read_csv(evaluated[0] / "metrics.csv").set_index(["scale", "system"])["psnr_y"]
    for scale in SCALES:
        assert table[scale, "τ=0"] > table[scale, "τ=0.5"] > table[scale, "τ=0.8"]


def test_contact_sheet_shows_all_systems(evaluated: tuple[Path, Evaluation]) -> None:
    sheet = np.asarray(Image.open(evaluated[0] / "contact_sheet.png").convert("RGB"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000
    # A column each for LR, the systems and HR; a row each for the two images, with figures below.
    assert sheet.shape[1] / sheet.shape[0] == pytest.approx(6 / (2 * 1.17), rel=0.1)


def test_report_text_agrees_with_the_table(evaluated: tuple[Path, Evaluation]) -> None:
    folder, task = evaluated
    report = task.report()
    table = pd.read_csv(folder / "metrics.csv").set_index(["scale", "system"])["psnr_y"]
    for scale in SCALES:
        mean, bicubic = table[scale, "τ=0"], table[scale, "bicubic"]
        assert f"×{scale:g}: τ=0 {mean:.2f} dB on Y, {mean - bicubic:+.2f} dB against bicubic" in report
    assert str(folder) in report


def test_each_image_and_scale_is_encoded_once(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    given = (f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", f"run_dir={tmp_path}")
    config = composed("eval", *given, "data.num_workers=0", f"data.test_scales={list(SCALES)}")
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    sizes = []
    task.model.encoder.register_forward_hook(lambda module, args, out: sizes.append(tuple(args[0].shape)))
    trainer.test(task, data, verbose=False)
    expected = [(1, 3, int(h / s), int(w / s)) for s in SCALES for h, w in ((44, 52), (40, 48))]
    assert sorted(sizes) == sorted(expected)


def test_seed_changes_only_samples(composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    tables = []
    for run, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(run)
        evaluate(composed, checkpoint, photos, folder, f"seed={seed}")
        tables.append(pd.read_csv(folder / "images.csv"))
    first, again, other = tables
    assert first.equals(again)
    random = first["temperature"] > 0
    assert first[~random].equals(other[~random])
    assert (first[random][METRICS] != other[random][METRICS]).all(axis=None)


def test_samples_of_an_image_do_not_depend_on_other_images(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    evaluate(composed, checkpoint, photos, both)
    evaluate(composed, checkpoint, photos, one, "data.test_limit=1", "data.test_scales=[3.3]")
    table, alone = (pd.read_csv(folder / "images.csv") for folder in (both, one))
    row = table[(table["scale"] == 3.3) & (table["image"] == alone["image"][0])]
    assert row.reset_index(drop=True).equals(alone)


def test_images_of_every_mode(composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    image = Image.open(next(iter(sorted(photos.iterdir()))))
    grey = image.convert("L")
    grey.save(folder / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "deep.png")
    image.convert("P").save(folder / "palette.png")
    veiled = image.convert("RGBA")
    veiled.putalpha(255)
    veiled.save(folder / "alpha.png")
    image.save(folder / "plain.jpg", quality=95)
    evaluate(composed, checkpoint, folder, tmp_path / "out", "data.test_scales=[2]", "temperatures=[0]")
    table = pd.read_csv(tmp_path / "out" / "images.csv").set_index(["image", "system"])
    assert len(table) == 5 * 2
    assert np.isfinite(table[METRICS]).all(axis=None)
    assert table.loc[("grey", "τ=0"), METRICS].equals(table.loc[("deep", "τ=0"), METRICS])


def test_infinite_and_missing_figures_are_null_in_json(
    composed: Compose, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.new("RGB", (40, 40), (90, 140, 20)).save(folder / "flat.png")
    evaluate(composed, checkpoint, folder, tmp_path / "flat", "data.test_scales=[2]")
    flat = {row["system"]: row for row in strict_json(tmp_path / "flat" / "metrics.json")}
    assert flat["bicubic"]["psnr_y"] is None
    assert flat["bicubic"]["ssim"] == pytest.approx(1, abs=2e-4)  # float32, where no variance is left
    assert flat["τ=0.8"]["psnr_y"] < 60
    (folder / "flat.png").unlink()
    Image.effect_noise((12, 9), 50).save(folder / "small.png")
    evaluate(composed, checkpoint, folder, tmp_path / "small", "data.test_scales=[2]")
    for row in strict_json(tmp_path / "small" / "metrics.json"):
        assert row["ssim"] is None
        assert row["psnr_y"] > 0


def test_images_with_equal_names_are_kept_apart(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    for folder, path in zip(("a", "b"), sorted(photos.iterdir()), strict=True):
        (tmp_path / "nested" / folder).mkdir(parents=True)
        (tmp_path / "nested" / folder / "0001.png").write_bytes(path.read_bytes())
    out = tmp_path / "out"
    evaluate(composed, checkpoint, tmp_path / "nested", out, "data.test_scales=[2]", "save_images=true")
    table = pd.read_csv(out / "images.csv")
    written = [path for path in out.glob("images/**/*.png") if path.stem not in ("LR", "HR")]
    assert len(written) == len(table) == 2 * len(SYSTEMS)
    assert table["image"].nunique() == 2


def test_eval_command_prints_the_table(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "without_weights"))
    done = command(
        "eval", f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", "data.test_scales=[2]"
    )
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "outputs" / "eval").iterdir()
    made = {path.name for path in folder.iterdir()}
    assert {"metrics.json", "metrics.csv", "images.csv", "contact_sheet.png", "run.json", ".hydra"} <= made
    assert {"distribution.csv", "calibration.csv"} <= made
    assert "psnr_y" in done.out
    assert "lpips_alex skipped: " in done.out
    assert "linf weights fetch alexnet" in done.out
    assert done.out.strip().endswith(f"tables, contact sheet and metrics.json: {folder}")


@pytest.mark.thorough  # test_every_metric.py has two ranks, too.
def test_two_ranks_give_the_tables_of_one(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluate(composed, checkpoint, photos, tmp_path / "one", "save_images=true")
    command = evaluation_settings(
        checkpoint,
        photos,
        f"data.test_scales=[{','.join(map(str, SCALES))}]",
        "save_images=true",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        f"hydra.run.dir={tmp_path / 'two'}",
    )
    done = finish(*command, cwd=tmp_path, script="eval")
    assert done.status == 0, done.err
    assert len(list((tmp_path / "two" / "units").iterdir())) == 2
    for table in ("metrics", "images", "distribution", "calibration"):
        one, two = (pd.read_csv(tmp_path / folder / f"{table}.csv") for folder in ("one", "two"))
        pd.testing.assert_frame_equal(two, one, rtol=0, atol=1e-6)
    of_one, of_two = (
        sorted(p.relative_to(tmp_path / folder) for p in (tmp_path / folder / "images").rglob("*.*"))
        for folder in ("one", "two")
    )
    assert of_one == of_two
    # A rank that has nothing left to do stops nobody.
    units = tmp_path / "two" / "units" / "rank_1.jsonl"
    lines = units.read_text().splitlines()
    units.write_text("\n".join(lines[:-1]))
    done = finish(*command, cwd=tmp_path, script="eval")
    assert done.status == 0, done.err
    assert "3 of 4 images, counting each scale, are finished" in done.out
    again = pd.read_csv(tmp_path / "two" / "images.csv")
    pd.testing.assert_frame_equal(again, pd.read_csv(tmp_path / "one" / "images.csv"), rtol=0, atol=1e-6)


def tables_of(folder: Path) -> dict[str, bytes]:
    """Every table that an evaluation left."""
    tables = (*folder.glob("*.csv"), folder / "metrics.json")
    return {path.name: path.read_bytes() for path in tables if path.name != "cost.csv"}  # It holds times.


@pytest.mark.slow
def test_killed_evaluation_resumes_to_the_same_tables(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluate(composed, checkpoint, photos, tmp_path / "whole", sheet=True)
    folder = tmp_path / "killed"
    command = evaluation_settings(
        checkpoint, photos, f"data.test_scales=[{','.join(map(str, SCALES))}]", f"hydra.run.dir={folder}"
    )
    kill_between_images(folder, *command, cwd=tmp_path)
    done = finish(*command, cwd=tmp_path, script="eval")
    assert done.status == 0, done.err
    assert "1 of 4 images, counting each scale, are finished in" in done.out
    assert tables_of(folder) == tables_of(tmp_path / "whole")
    assert (folder / "contact_sheet.png").read_bytes() == (
        tmp_path / "whole" / "contact_sheet.png"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_evaluation_says_how_to_resume(
    checkpoint: Path, photos: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    folder = tmp_path / "run"
    scales = [1 + i / 50 for i in range(1, 400)]
    more = (f"data.test_scales={scales}", "data.num_workers=1", f"hydra.run.dir={folder}")
    command = evaluation_settings(checkpoint, photos, *more)
    units = folder / "units" / "rank_0.jsonl"
    run = start(*command, cwd=tmp_path, script="eval")
    while run.poll() is None and not (units.exists() and units.stat().st_size):
        time.sleep(0.01)
    run.signal_all(stop)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 128 + stop
    assert "Traceback" not in err
    assert err.rstrip().endswith(f"the same command with hydra.run.dir={folder} goes on from there")
    assert 0 < len([line for line in units.read_text().splitlines() if line]) < 2 * len(scales)


@pytest.mark.slow
def test_finished_evaluation_measures_only_new_scales(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluate(composed, checkpoint, photos, tmp_path)
    before = tables_of(tmp_path)
    encoded = []

    def again(*overrides: str) -> None:
        given = (f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", f"run_dir={tmp_path}")
        config = composed("eval", *given, "data.num_workers=0", *overrides)
        data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
        task.model.encoder.register_forward_hook(lambda module, args, out: encoded.append(args[0].shape))
        trainer.test(task, data, verbose=False)

    again(f"data.test_scales={list(SCALES)}")
    assert not encoded
    assert tables_of(tmp_path) == before
    again("data.test_scales=[2,3.3,4]")
    assert len(encoded) == 2
    assert set(pd.read_csv(tmp_path / "metrics.csv")["scale"]) == {2, 3.3, 4}
    again("data.test_scales=[2]")  # Its images were not kept at the time.
    assert len(encoded) == 2
    assert set(pd.read_csv(tmp_path / "metrics.csv")["scale"]) == {2}
    with pytest.raises(UsageError, match=r"temperatures is \[0, 0\.5, 0\.8\] there and \[0\] here"):
        again(f"data.test_scales={list(SCALES)}", "temperatures=[0]")


@pytest.mark.slow
def test_other_images_of_the_same_names_are_measured_again(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, folder = (tmp_path / name for name in ("a/set", "b/set", "run"))
    shutil.copytree(photos, first)
    shutil.copytree(photos, second)
    name = min(path.stem for path in photos.iterdir())
    Image.effect_noise((52, 44), 50).convert("RGB").save(second / f"{name}.png")
    scale = "data.test_scales=[2]"
    before = evaluate(composed, checkpoint, first, folder, scale).tables["images"]
    other = evaluate(composed, checkpoint, second, tmp_path / "other", scale).tables["images"]

    again = evaluate(composed, checkpoint, second, folder, scale)
    line = f"measured again, for {folder} holds figures of other images of these names: {name} ×2"
    assert caplog.text.count(line) == 1
    assert again.tables["images"].equals(other)
    written = pd.read_csv(folder / "images.csv")
    pd.testing.assert_frame_equal(written, pd.read_csv(tmp_path / "other" / "images.csv"))
    images = {path.relative_to(tmp_path / "other") for path in (tmp_path / "other" / "images").rglob("*.*")}
    assert {path.relative_to(folder) for path in (folder / "images").rglob("*.*")} == images
    evaluate(composed, checkpoint, second, folder, scale)
    assert caplog.text.count(line) == 1, "once"

    evaluate(composed, checkpoint, first, folder, scale)  # Its kept images are those of the second.
    assert caplog.text.count(line) == 2
    pd.testing.assert_frame_equal(pd.read_csv(folder / "images.csv"), before)


def test_a_metric_with_other_weights_is_another_evaluation(
    composed: Compose, checkpoint: Path, photos: Path, alexnet: Path, tmp_path: Path
) -> None:
    def again(weights: Path, *overrides: str) -> Evaluation:
        given = ("data.test_scales=[2]", "temperatures=[0]", f"metrics.lpips_alex.weights={weights}")
        return evaluate(composed, checkpoint, photos, tmp_path / "run", *given, *overrides)

    first = again(alexnet).tables["images"]
    state = torch.load(alexnet, weights_only=True)
    torch.save({name: value * 1.1 for name, value in state.items()}, other := tmp_path / "alexnet-other.pth")
    with pytest.raises(UsageError, match=r"lpips_alex is measured by LPIPS .* there and by LPIPS .* here"):
        again(other)
    with pytest.raises(UsageError, match=r"psnr_y is measured by PSNR \(psnr_y\) there .*psnr_rgb"):
        again(alexnet, "metrics.psnr_y.luma=false")
    assert again(alexnet).tables["images"].equals(first)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    del about["measured_by"]  # As an earlier version left it.
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    again(other)


def test_images_that_are_to_be_saved_are_made_again(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    before = evaluate(composed, checkpoint, photos, tmp_path, "task.shown=0").tables["images"]
    assert not list(tmp_path.rglob("*.png"))
    after = evaluate(composed, checkpoint, photos, tmp_path, "task.shown=0", "save_images=true")
    names = {"LR", "HR", "deviation", *SYSTEMS}
    kept = [path for path in tmp_path.rglob("images/*/*/*") if {of.stem for of in path.iterdir()} >= names]
    assert len(kept) == len(SCALES) * len(list(photos.iterdir()))
    assert after.tables["images"].equals(before)


@pytest.mark.parametrize("lost", ["HR", "τ=0.5"])
def test_an_image_that_was_deleted_is_made_again(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, lost: str
) -> None:
    given = ("shown=1", "metrics=fidelity", "temperatures=[0,0.5]")
    evaluate(composed, checkpoint, photos, tmp_path, *given, sheet=True)
    (path,) = tmp_path.rglob(f"{lost}.png")
    before = path.read_bytes()
    path.unlink()
    task = evaluate(composed, checkpoint, photos, tmp_path, *given, sheet=True)
    assert path.read_bytes() == before
    assert len(task.record.units) == len(task.keys) - 1


def test_a_finished_evaluation_says_nothing_of_its_loader(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    settings = evaluation_settings(checkpoint, photos, "data.test_scales=[2]", "hydra.run.dir=run")
    for _ in range(2):
        done = command("eval", *settings)
        assert done.status == 0, done.err
    assert "2 of 2 images, counting each scale, are finished in" in done.out
    assert "SteadyLoader" not in done.out + done.err


def test_units_without_a_digest_and_images_in_other_files_count_as_finished(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    moved, folder = tmp_path / photos.name, tmp_path / "run"
    moved.mkdir()
    for path in photos.iterdir():
        Image.open(path).save(moved / f"{path.stem}.bmp")
    evaluate(composed, checkpoint, photos, folder)
    units = folder / "units" / "rank_0.jsonl"
    content = units.read_text()
    evaluate(composed, checkpoint, moved, folder)
    assert units.read_text() == content
    lines = [json.loads(line) for line in content.splitlines() if line]
    units.write_text("".join(f"{json.dumps(line[:7])}\n" for line in lines))  # As earlier versions did.
    content = units.read_text()
    evaluate(composed, checkpoint, moved, folder)
    assert units.read_text() == content


def test_given_lr_that_changed_is_measured_again(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    images, folder = tmp_path / "set", tmp_path / "run"
    (images / "LR").mkdir(parents=True)
    shutil.copytree(photos, images / "HR")
    for path in photos.iterdir():
        hr = Image.open(path)
        hr.reduce(2).save(images / "LR" / path.name)
    before = evaluate(composed, checkpoint, images, folder, "data.test_scales=[2]").tables["images"]
    Image.new("RGB", (26, 22)).save(images / "LR" / min(path.name for path in photos.iterdir()))
    after = evaluate(composed, checkpoint, images, folder, "data.test_scales=[2]").tables["images"]
    other = before["psnr_y"] != after["psnr_y"]
    assert set(after[other]["image"]) == {min(path.stem for path in photos.iterdir())}


@pytest.mark.parametrize("other", ["data.test_degradation.first.blur.elongation=4", "data.seed=1"])
def test_lr_that_is_degraded_otherwise_is_measured_again(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, other: str
) -> None:
    given = ("data.test_scales=[2]", "data/degradation@data.test_degradation=severity", "metrics=fidelity")
    blur = [f"data.test_degradation.first.{part}" for part in ("blur.sigma=1", "noise.sigma=5")]
    before, after, again = (
        evaluate(composed, checkpoint, photos, tmp_path, *given, *blur, *more).tables["images"]
        for more in ((), (other,), (other,))
    )
    assert (before["psnr_y"] != after["psnr_y"]).all()
    assert after.equals(again)


def test_folder_of_an_earlier_version_is_resumed_and_read(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, evaluated: tuple[Path, Evaluation]
) -> None:
    def contents() -> dict[Path, Any]:
        found: dict[Path, Any] = {
            path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        about = json.loads(found[Path("run.json")])
        return found | {Path("run.json"): about | {"git": "of the moment"}}

    folder = shutil.copytree(evaluated[0], tmp_path / "earlier")
    before = contents()
    (folder / "images").rename(folder / "pictures")
    (folder / "images.csv").rename(folder / "pictures.csv")
    for path in folder.glob("*.csv"):
        header, rest = path.read_text().split("\n", 1)
        path.write_text(header.replace("image", "picture") + "\n" + rest)
    run = read_run(folder)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(run, name), getattr(read_run(evaluated[0]), name))
    assert {place.path(run, "HR.png").is_file() for place in shown_images([run])} == {True}

    task = evaluate(composed, checkpoint, photos, folder, "save_images=true", sheet=True)
    assert len(task.record.units) == len(task.keys), "nothing was measured again"
    assert tables_of(folder) == tables_of(evaluated[0])
    assert (folder / "contact_sheet.png").read_bytes() == before[Path("contact_sheet.png")]
    assert not (folder / "pictures.csv").exists()
    after = {Path(str(path).replace("pictures", "images")): content for path, content in contents().items()}
    assert after == before


def test_means_of_a_resumed_evaluation_agree_with_pandas(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluate(composed, checkpoint, photos, tmp_path, "data.test_limit=1")
    evaluate(composed, checkpoint, photos, tmp_path)
    images, metrics = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("images", "metrics"))
    assert list(images)[:5] == list(TABLES["images"])
    assert list(metrics)[:6] == list(TABLES["metrics"])
    for name in ("distribution", "calibration"):
        assert list(pd.read_csv(tmp_path / f"{name}.csv")) == list(TABLES[name])
    groups = images.groupby(["dataset", "scale", "system", "temperature"], sort=False, dropna=False)
    expected = groups.mean(numeric_only=True).reset_index()
    assert (metrics["images"] == 2).all()
    assert (metrics["lr"] == "Pillow's bicubic").all()
    pd.testing.assert_frame_equal(metrics.drop(columns=["images", "lr"]), expected, rtol=0, atol=1e-9)


def test_table_of_a_single_figure(composed: Compose, photos: Path, tmp_path: Path) -> None:
    given = (
        "model=bicubic",
        "data=folder",
        f"data.root={photos}",
        f"run_dir={tmp_path}",
        "data.num_workers=0",
    )
    one = ("data.test_scales=[2]", "data.test_limit=1", "metrics=fidelity")
    left_out = [f"~metrics.{name}" for name in ("psnr_rgb", "ssim", "lr_psnr", "nonfinite")]
    config = composed("eval", *given, *one, *left_out)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    trainer.test(task, data, verbose=False)
    (line,) = strict_json(tmp_path / "metrics.json")
    assert list(line) == [*TABLES["metrics"], "psnr_y"]
    assert (line["images"], line["system"], line["temperature"]) == (1, "bicubic", None)
    assert list(task.merits().values()) == [line["psnr_y"]]


def test_samples_and_temperatures_mean_nothing_where_nothing_is_random(
    composed: Compose, photos: Path, tmp_path: Path
) -> None:
    given = ("model=bicubic", "data=folder", f"data.root={photos}", f"run_dir={tmp_path}")
    few = ("data.num_workers=0", "data.test_scales=[2]", "data.test_limit=1", "metrics=fidelity")
    diversity = "+metrics.diversity={_target_:linf.metrics.metric.Diversity,_partial_:true}"
    config = composed("eval", *given, *few, diversity, "samples=1000000000")
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    trainer.test(task, data, verbose=False)
    assert task.tables["metrics"]["diversity"].tolist() == [0]
    assert systems_in_words(task.systems, task.samples) == "bicubic"
    assert "against bicubic" not in task.report()
    of_flow = {"bicubic": None, "τ=0": 0, "τ=0.5": 0.5}
    assert systems_in_words(of_flow, 1) == "bicubic, τ=0, τ=0.5"
    assert systems_in_words(of_flow, 1000) == "bicubic, τ=0, τ=0.5; 1,000 samples at each τ above 0"


@pytest.mark.slow
def test_evaluation_imports_neither_report_nor_wandb() -> None:
    code = (
        "import sys, pytorch_lightning; before = set(sys.modules); import linf.evaluation.evaluation;"
        "new = sys.modules.keys() - before;"
        "print([m for m in new if m.split('.')[0] in ('wandb', 'matplotlib', 'jinja2') or 'linf.report' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_distribution_table_agrees_with_the_model(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    folder, task = evaluated
    table = pd.read_csv(folder / "distribution.csv")
    psnr = pd.read_csv(folder / "images.csv").set_index(["image", "scale", "system"])
    assert len(table) == 2 * len(SCALES)
    for _, row in table.iterrows():
        of = psnr.loc[(row["image"], row["scale"])]
        for name in ("y", "rgb"):
            for tau in (0, 0.5, 0.8):
                exact = -10 * math.log10(row[f"error_{name}"] + tau**2 * row[f"variance_{name}"])
                # One sample of a small image, clamped.
                assert of.loc[f"τ={tau:g}", f"psnr_{name}"] == pytest.approx(exact, abs=0.5)
    path = photos / f"{table['image'][0]}.png"
    hr = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
    lr = torch.from_numpy(pil_bicubic(np.array(Image.open(path)), (hr.shape[2] // 2, hr.shape[3] // 2)))
    known = task.model.distribution(lr.permute(2, 0, 1)[None] / 255, (hr.shape[-2], hr.shape[-1]), hr=hr)
    nats = -known.log_prob.mean().item() / 27  # type: ignore[union-attr]
    assert table["bits_per_dim"][0] == pytest.approx(nats / math.log(2) + math.log2(127.5), abs=1e-4)
    assert table["whitened_var"][0] == pytest.approx(known.latents.var(correction=0).item(), rel=1e-4)  # type: ignore[union-attr]
    calibration = pd.read_csv(folder / "calibration.csv")
    assert len(calibration) == len(table) * 2 * 12
    assert calibration["covered"].between(0, 1).all()


def test_correlated_latents_are_sampled_and_their_joint_likelihood_is_told(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, evaluated: tuple[Path, Evaluation]
) -> None:
    model = linf.load(checkpoint)
    model.correlation = LatentCorrelation(27, [2, 4], reach=1)
    linf.save(model, tmp_path / "white.safetensors")
    model.correlation.taps += 0.1 * torch.randn(model.correlation.taps.shape)
    linf.save(model, tmp_path / "known.safetensors")
    given = ("data.test_scales=[2]", "temperatures=[0,0.8]", "metrics=fidelity", "data.test_limit=1")
    tables = {}
    for name, latents in (("white", "independent"), ("known", "independent"), ("known", "correlated")):
        folder = tmp_path / f"{name}_{latents}"
        task = evaluate(
            composed, tmp_path / f"{name}.safetensors", photos, folder, *given, f"latents={latents}"
        )
        assert ("correlated latents" in task.label) == (latents == "correlated")
        tables[folder.name] = [pd.read_csv(folder / f"{of}.csv") for of in ("images", "distribution")]
    (_, white), (alone, found), (joint, again) = tables.values()
    assert white["joint_bits_per_dim"].tolist() == pytest.approx(white["bits_per_dim"].tolist(), abs=1e-6)
    assert (found["joint_bits_per_dim"] - found["bits_per_dim"]).abs().min() > 1e-3
    pd.testing.assert_frame_equal(found, again)
    differ = alone["psnr_rgb"] != joint["psnr_rgb"]
    assert differ.tolist() == (alone["temperature"] == 0.8).tolist()
    assert pd.read_csv(evaluated[0] / "distribution.csv")["joint_bits_per_dim"].isna().all()
    with pytest.raises(UsageError, match="latents is None there and correlated here"):
        evaluate(
            composed,
            tmp_path / "known.safetensors",
            photos,
            tmp_path / "known_independent",
            *given,
            "latents=correlated",
        )


@pytest.mark.parametrize("assumed", [Assumptions(latents="correlated"), Assumptions(tails="student")])
def test_what_a_model_without_latents_cannot_be_asked_for(assumed: Assumptions) -> None:
    [(name, value)] = assumed.record().items()
    with pytest.raises(UsageError, match=f"Bicubic has no latents: leave out {name}={value}$"):
        assumed.check(Bicubic())
    Assumptions().check(Bicubic())


def test_students_tails_change_likelihood_and_calibration_only(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    model = linf.load(checkpoint)
    model.correlation = LatentCorrelation(27, [2, 4], reach=1)
    model.tails = {2.0: Tails(3.0, 2.0)}
    linf.save(model, tmp_path / "known.safetensors")
    given = ("data.test_scales=[2]", "temperatures=[0,0.8]", "metrics=fidelity", "data.test_limit=1")
    tables = []
    for tails in ("gaussian", "student"):
        folder = tmp_path / tails
        task = evaluate(composed, tmp_path / "known.safetensors", photos, folder, *given, f"tails={tails}")
        assert ("student tails" in task.label) == (tails == "student")
        names = ("images", "distribution", "calibration")
        tables.append([pd.read_csv(folder / f"{name}.csv") for name in names])
    (images, gaussian, covered), (same_images, student, tail_covered) = tables
    pd.testing.assert_frame_equal(images, same_images)
    same = ["error_y", "variance_y", "error_rgb", "variance_rgb"]
    pd.testing.assert_frame_equal(gaussian[same], student[same])
    hr = torch.from_numpy(read_image(next(iter(sorted(photos.iterdir()))))).permute(2, 0, 1)
    hr = hr[:, : hr.shape[1] // 2 * 2, : hr.shape[2] // 2 * 2]
    size = (hr.shape[1], hr.shape[2])
    lr = torch.from_numpy(pil_bicubic(hr.permute(1, 2, 0).numpy().copy(), (size[0] // 2, size[1] // 2)))
    known = model.distribution(lr.permute(2, 0, 1)[None] / 255, size, hr=hr[None] / 255, mix=torch.eye(3))
    z = known.latents[0].flatten(1).T.double().numpy()
    change = multivariate_t(shape=4 * np.eye(27), df=3).logpdf(z) - norm.logpdf(z).sum(1)
    bits = gaussian["bits_per_dim"][0] - change.mean() / 27 / math.log(2)
    assert student["bits_per_dim"][0] == pytest.approx(bits, abs=1e-4)
    assert student["joint_bits_per_dim"][0] == pytest.approx(bits, abs=1e-4), "the correlation is none"
    for table, quantile in ((covered, norm.ppf), (tail_covered, lambda p: 2 * t.ppf(p, df=3))):
        of = table[table["kind"] == "pixel"].set_index("nominal")["covered"]
        standardised = ((hr / 255 - known.mean) / known.deviation)[..., 2:-2, 2:-2].abs().numpy()
        assert of[0.5] == pytest.approx((standardised <= quantile(0.75)).mean(), abs=1e-4)


def test_figures_are_means_over_samples(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    one, five = tmp_path / "one", tmp_path / "five"
    evaluate(composed, checkpoint, photos, one, "data.test_scales=[4]")
    task = evaluate(composed, checkpoint, photos, five, "data.test_scales=[4]", "protocol=generative")
    assert task.samples == 5
    single, several = (pd.read_csv(f / "images.csv").set_index(["image", "system"]) for f in (one, five))
    fixed = several["temperature"].isna() | (several["temperature"] == 0)
    assert (several.loc[fixed, "diversity"] == 0).all()
    assert (several.loc[~fixed, "diversity"] > 1).all()
    assert single["diversity"].isna().all(), "one sample has none"
    pd.testing.assert_frame_equal(single.loc[fixed, METRICS], several.loc[fixed, METRICS])
    name = several.index[0][0]
    hr = read_image(photos / f"{name}.png")
    height, width = (n // 4 * 4 for n in hr.shape[:2])
    lr = torch.from_numpy(pil_bicubic(hr[:height, :width].copy(), (height // 4, width // 4))).permute(2, 0, 1)
    seed = zlib.crc32(f"0 {name} 4".encode())
    known = task.model.distribution(lr[None] / 255, (height, width), samples=5, seed=seed, highest=0.8)
    border = (slice(4, -4), slice(4, -4))
    truth = hr[:height, :width][border] / 255
    errors = [
        np.mean((sr[0].permute(1, 2, 0).clamp(0, 1).numpy()[border] - truth) ** 2) for sr in known.at(0.8)
    ]
    expected = np.mean(-10 * np.log10(errors))
    assert several.loc[(name, "τ=0.8"), "psnr_rgb"] == pytest.approx(expected, abs=1e-3)
    assert not (one / "deviations.csv").exists()
    spread = pd.read_csv(five / "deviations.csv").set_index(["image", "system"])
    assert set(spread.index) == set(several.index[~fixed]), "what is not random has one image"
    expected = np.std(-10 * np.log10(errors), ddof=1)
    assert spread.loc[(name, "τ=0.8"), "psnr_rgb"] == pytest.approx(expected, abs=1e-3)
    assert (spread["psnr_rgb"] > 0).all()
    assert spread["diversity"].isna().all(), "it is one figure of all samples"


def test_self_ssim_compares_the_same_sample_at_half_the_scale(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    metric = "+metrics.self_ssim={_target_:linf.metrics.metric.SelfSSIM,_partial_:true}"
    task = evaluate(
        composed,
        checkpoint,
        photos,
        tmp_path,
        metric,
        "samples=2",
        "metrics=fidelity",
        "data.test_scales=[4]",
    )
    table = pd.read_csv(tmp_path / "images.csv").set_index(["image", "system"])["self_ssim"]
    for path in photos.iterdir():
        hr = np.array(Image.open(path))
        h, w = (n // 4 for n in hr.shape[:2])
        lr = torch.from_numpy(pil_bicubic(hr[: 4 * h, : 4 * w].copy(), (h, w))).permute(2, 0, 1)[None] / 255
        seed, found = zlib.crc32(f"0 {path.stem} 4".encode()), []
        for k in range(2):
            large, small = (
                task.model.sample(lr, (n * h, n * w), temperature=0.8, seed=seed + k).clamp(0, 1)
                for n in (4, 2)
            )
            reduced = matlab_bicubic(large, (2 * h, 2 * w))
            found.append(ssim(reduced, small).item())
        assert table[path.stem, "τ=0.8"] == pytest.approx(np.mean(found), abs=1e-5)
        assert table[path.stem, "bicubic"] > table[path.stem, "τ=0"] > table[path.stem, "τ=0.8"]


def test_div2k_protocol_crops_the_border(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    given = ("data.test_scales=[3.3]", "protocol=div2k", "save_images=true")
    task = evaluate(composed, checkpoint, photos, tmp_path, *given)
    for (name, system), row in pd.read_csv(tmp_path / "images.csv").groupby(["image", "system"]):
        place = tmp_path / "images" / photos.name / "x3.3" / str(name)
        sr, hr = (read_image(place / f"{which}.png")[10:-10, 10:-10] / 255 for which in (system, "HR"))
        assert row["psnr_rgb"].item() == pytest.approx(-10 * math.log10(np.mean((sr - hr) ** 2)), abs=0.03)
    assert "dB on RGB" in task.report()


def test_lpips_is_measured_where_its_weights_are(
    composed: Compose,
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    alexnet: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(alexnet.parents[2]))
    task = evaluate(
        composed, checkpoint, photos, tmp_path, "data.test_scales=[4]", "temperatures=[0,0.4,0.8]"
    )
    assert not task.skipped
    table = pd.read_csv(tmp_path / "images.csv")
    for _, row in table.iterrows():
        place = tmp_path / "images" / photos.name / "x4" / row["image"]
        sr, hr = (
            torch.from_numpy(read_image(place / f"{which}.png")).permute(2, 0, 1)[None] / 255
            for which in (row["system"], "HR")
        )
        assert row["lpips_alex"] == pytest.approx(task.metrics["lpips_alex"].network(sr, hr).item(), rel=0.03)
    best = np.load(place / "best_temperature.npy")
    assert best.shape == tuple(hr.shape[-2:])
    assert set(np.unique(best.astype(np.float32).round(3))) <= {0, np.float32(0.4), np.float32(0.8)}
    assert len(np.unique(best)) > 1
    assert np.load(place / "deviation.npy").shape == best.shape


def test_of_many_temperatures_six_images_are_kept(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    taus = [i / 20 for i in range(21)]
    evaluate(composed, checkpoint, photos, tmp_path, f"temperatures={taus}", "shown=1", "metrics=fidelity")
    (place,) = (tmp_path / "images" / photos.name / "x3.3").iterdir()
    assert {path.stem for path in place.glob("τ*")} == {f"τ={t:g}" for t in (0, 0.2, 0.4, 0.6, 0.8, 1)}
    assert len(pd.read_csv(tmp_path / "images.csv")) == 2 * len(SCALES) * 22


def test_repeated_scale_is_an_error(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    # Before the work begins, where Hydra instantiates the data.
    with pytest.raises(InstantiationException, match="is given twice"):
        evaluate(composed, checkpoint, photos, tmp_path, "data.test_scales=[2,2.0]")


def test_run_json_has_label_and_digests(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluate(composed, checkpoint, photos, tmp_path / "a", "data.test_scales=[2]")
    evaluate(composed, checkpoint, photos, tmp_path / "b", "data.test_scales=[2]", "label=ours")
    about = [json.loads((tmp_path / run / "run.json").read_text()) for run in "ab"]
    assert [of["label"] for of in about] == ["LINF P=3, EDSR", "ours"]
    assert about[0]["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert about[0]["model"]["parameters"] == sum(p.numel() for p in linf.load(checkpoint).parameters())


@pytest.mark.slow
def test_wandb_offline_gets_tables_curves_and_images(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    command = evaluation_settings(
        checkpoint,
        photos,
        "data.test_scales=[2,[1.5,2]]",
        "logger=wandb",
        "logger.wandb.offline=true",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = finish(*command, cwd=tmp_path, script="eval", env=environment)
    assert done.status == 0, done.err
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    media = [path.name for path in (offline / "files" / "media").rglob("*") if path.is_file()]
    for table in ("metrics", "images", "distribution", "calibration"):
        assert [name for name in media if name.startswith(f"{table}_") and name.endswith(".table.json")]
    for figure in ("contact_sheet", f"temperature_{photos.name}", f"calibration_{photos.name}"):
        assert [name for name in media if name.startswith(f"{figure}_") and name.endswith(".png")]
    (record,) = offline.glob("run-*.wandb")
    said = record.read_bytes()
    assert f"curves/{photos.name}/x2/psnr_y".encode() in said
    assert f"{photos.name}/x2/psnr_y/bicubic".encode() in said
    assert f"{photos.name}/x1.5x2/psnr_y/bicubic".encode() in said
    assert b"test_scales" in said, "the config"


@pytest.mark.slow
def test_degraded_lr_is_evaluated_recorded_and_told(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    severity = "data/degradation@data.test_degradation=severity"
    noise = "data.test_degradation.first.noise.sigma="
    evaluate(composed, checkpoint, photos, tmp_path / "noisy", severity, noise + "10", "save_images=true")
    evaluate(composed, checkpoint, photos, tmp_path / "clean", severity, "save_images=true")
    noisy, clean = (read_run(tmp_path / name) for name in ("noisy", "clean"))
    assert noisy.severity == {"blur σ": 0, "noise σ": 10}
    assert set(noisy.metrics["lr"]) == {"bicubic, noise σ 10"}
    folders = [tmp_path / name / "images" / photos.name / "x2" for name in ("noisy", "clean")]
    for path in photos.iterdir():
        a, b = (np.array(Image.open(of / path.stem / "LR.png"), float) for of in folders)
        inside = (b > 40) & (b < 215)
        assert (a - b)[inside].std() == pytest.approx(10, rel=0.1)
    for scale in SCALES:
        values = [run.value(photos.name, scale, "bicubic", "psnr_y") for run in (noisy, clean)]
        assert values[0] < values[1] - 0.5
    with pytest.raises(UsageError, match=r"noise σ 10 there and .*bicubic, noise σ 3 here"):
        evaluate(composed, checkpoint, photos, tmp_path / "noisy", severity, noise + "3")


@pytest.mark.slow
def test_self_ensemble_is_a_line_of_its_own(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    given = ("data.test_scales=[2]", "temperatures=[0]", "metrics=fidelity")
    task = evaluate(composed, checkpoint, photos, tmp_path, "self_ensemble=true", *given, sheet=True)
    table = pd.read_csv(tmp_path / "images.csv").set_index(["image", "system"])
    assert list(task.tables["metrics"]["system"]) == ["bicubic", "τ=0", "self-ensemble"]
    for path in photos.iterdir():
        hr = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
        lr = pil_bicubic(np.array(Image.open(path)), (hr.shape[2] // 2, hr.shape[3] // 2))
        lr = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
        image = self_ensemble(task.model, lr, (hr.shape[2], hr.shape[3]))
        expected = psnr(image, hr, border=2).item()
        assert table.loc[(path.stem, "self-ensemble"), "psnr_rgb"] == pytest.approx(expected, abs=1e-4)
    assert "self-ensemble" in write_report([read_run(tmp_path)], tmp_path / "report").read_text()
    with pytest.raises(UsageError, match="self_ensemble is True there and None here"):
        evaluate(composed, checkpoint, photos, tmp_path, *given)


def test_every_line_of_a_model_is_made_consistent(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    metric = "+metrics.self_ssim={_target_:linf.metrics.metric.SelfSSIM,_partial_:true}"
    given = (metric, "data.test_scales=[2]", "temperatures=[0.8]", "metrics=fidelity", "self_ensemble=true")
    tables = []
    for rounds in (0, 3):
        evaluate(composed, checkpoint, photos, tmp_path / str(rounds), f"consistency={rounds}", *given)
        tables.append(pd.read_csv(tmp_path / str(rounds) / "metrics.csv").set_index("system"))
    plain, consistent = tables
    assert plain.loc["bicubic"].equals(consistent.loc["bicubic"])
    for system in ("τ=0.8", "self-ensemble"):
        assert consistent.loc[system, "lr_psnr"] > plain.loc[system, "lr_psnr"] + 5
        # At ×1, the lower scale of ×2, what is consistent is LR itself.
        assert consistent.loc[system, "self_ssim"] > 0.99
