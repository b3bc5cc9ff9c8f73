"""Evaluation from a model file to its tables, against figures worked out apart from it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from PIL import Image
from skimage.color import rgb2ycbcr

from conftest import ROOT, Command, Compose
from linf.data.resize import matlab_bicubic
from linf.task import Evaluation

SCALES = (2, 3.3)
SYSTEMS = ("bicubic", "τ=0", "τ=0.4", "τ=0.8")
METRICS = ["psnr_y", "psnr_rgb", "ssim"]


def evaluate(composed: Compose, model: Path, pictures: Path, folder: Path, *overrides: str) -> Evaluation:
    """What ``eval.py`` does, over a folder of pictures."""
    given = (f"ckpt_path={model}", "data=folder", f"data.root={pictures}", f"run_dir={folder}")
    config = composed("eval", *given, "data.num_workers=0", f"data.test_scales={list(SCALES)}", *overrides)
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
    return folder, evaluate(composed, checkpoint, photos, folder, "save_pictures=true")


def test_tables_agree(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    folder, _ = evaluated
    records = strict_json(folder / "metrics.json")
    table, pictures = (pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "pictures"))
    assert [(r["dataset"], r["scale"], r["system"]) for r in records] == [
        (photos.name, scale, system) for scale in SCALES for system in SYSTEMS
    ]
    assert np.allclose(pd.DataFrame(records)[METRICS], table[METRICS], rtol=1e-12)
    assert len(pictures) == 2 * len(SCALES) * len(SYSTEMS)
    assert sorted(set(pictures["picture"])) == sorted(path.stem for path in photos.iterdir())
    for record in records:
        rows = pictures[(pictures["scale"] == record["scale"]) & (pictures["system"] == record["system"])]
        assert len(rows) == 2
        assert [record[name] for name in METRICS] == pytest.approx(rows[METRICS].mean().tolist(), rel=1e-6)


def test_bicubic_is_what_it_is_elsewhere(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    pictures = pd.read_csv(evaluated[0] / "pictures.csv").set_index(["picture", "scale", "system"])
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
            assert pictures.loc[(path.stem, scale, "bicubic"), "psnr_y"] == pytest.approx(expected, abs=2e-3)


def test_figures_are_those_of_the_pictures_written(evaluated: tuple[Path, Evaluation], photos: Path) -> None:
    folder, _ = evaluated
    pictures = pd.read_csv(folder / "pictures.csv").set_index(["picture", "scale", "system"])
    written = list((folder / "pictures").rglob("*.png"))
    assert len(written) == len(pictures)
    for (name, scale, system), row in pictures.iterrows():  # type: ignore[misc]
        sr = np.array(Image.open(folder / "pictures" / photos.name / f"x{scale:g}" / name / f"{system}.png"))
        hr = np.array(Image.open(photos / f"{name}.png"))
        size = tuple(round(int(n / scale) * scale) for n in hr.shape[:2])
        assert sr.shape == (*size, 3)
        border = slice(math.ceil(scale), -math.ceil(scale))
        error = (sr / 255 - hr[: size[0], : size[1]] / 255)[border, border]
        # Rounded to 8 bits they are nearly as good.
        assert row["psnr_rgb"] == pytest.approx(-10 * math.log10(np.mean(error**2)), abs=0.02)


def test_mean_is_better_than_samples(evaluated: tuple[Path, Evaluation]) -> None:
    table = pd.read_csv(evaluated[0] / "metrics.csv").set_index(["scale", "system"])["psnr_y"]
    for scale in SCALES:
        assert table[scale, "τ=0"] > table[scale, "τ=0.4"] > table[scale, "τ=0.8"]


def test_contact_sheet_shows_something(evaluated: tuple[Path, Evaluation]) -> None:
    sheet = np.asarray(Image.open(evaluated[0] / "contact_sheet.png").convert("RGB"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000
    # A column each for LR, the systems and HR; a row each for the two pictures.
    assert sheet.shape[1] / sheet.shape[0] == pytest.approx(6 / 2, rel=0.15)


def test_the_report_says_what_the_table_says(evaluated: tuple[Path, Evaluation]) -> None:
    folder, task = evaluated
    report = task.report()
    table = pd.read_csv(folder / "metrics.csv").set_index(["scale", "system"])["psnr_y"]
    for scale in SCALES:
        mean, bicubic = table[scale, "τ=0"], table[scale, "bicubic"]
        assert f"×{scale:g}: τ=0 {mean:.2f} dB on Y, {mean - bicubic:+.2f} dB against bicubic" in report
    assert str(folder) in report


def test_each_picture_and_scale_is_encoded_once(
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


def test_the_seed_decides_the_samples_and_nothing_else(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    tables = []
    for run, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(run)
        evaluate(composed, checkpoint, photos, folder, f"seed={seed}")
        tables.append(pd.read_csv(folder / "pictures.csv"))
    first, again, other = tables
    assert first.equals(again)
    random = first["system"].isin(["τ=0.4", "τ=0.8"])
    assert first[~random].equals(other[~random])
    assert (first[random][METRICS] != other[random][METRICS]).all(axis=None)


def test_a_pictures_samples_do_not_depend_on_the_others(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    evaluate(composed, checkpoint, photos, both)
    evaluate(composed, checkpoint, photos, one, "data.test_limit=1", "data.test_scales=[3.3]")
    table, alone = (pd.read_csv(folder / "pictures.csv") for folder in (both, one))
    row = table[(table["scale"] == 3.3) & (table["picture"] == alone["picture"][0])]
    assert row.reset_index(drop=True).equals(alone)


def test_pictures_of_every_kind(composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    picture = Image.open(next(iter(sorted(photos.iterdir()))))
    grey = picture.convert("L")
    grey.save(folder / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("P").save(folder / "palette.png")
    veiled = picture.convert("RGBA")
    veiled.putalpha(255)
    veiled.save(folder / "alpha.png")
    picture.save(folder / "plain.jpg", quality=95)
    evaluate(composed, checkpoint, folder, tmp_path / "out", "data.test_scales=[2]", "temperatures=[0]")
    table = pd.read_csv(tmp_path / "out" / "pictures.csv").set_index(["picture", "system"])
    assert len(table) == 5 * 2
    assert np.isfinite(table[METRICS]).all(axis=None)
    assert table.loc[("grey", "τ=0"), METRICS].equals(table.loc[("deep", "τ=0"), METRICS])


def test_what_has_no_figure_is_null(composed: Compose, checkpoint: Path, tmp_path: Path) -> None:
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


def test_pictures_of_one_name_are_kept_apart(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    for folder, path in zip(("a", "b"), sorted(photos.iterdir()), strict=True):
        (tmp_path / "nested" / folder).mkdir(parents=True)
        (tmp_path / "nested" / folder / "0001.png").write_bytes(path.read_bytes())
    out = tmp_path / "out"
    evaluate(composed, checkpoint, tmp_path / "nested", out, "data.test_scales=[2]", "save_pictures=true")
    table = pd.read_csv(out / "pictures.csv")
    assert len(list(out.glob("pictures/**/*.png"))) == len(table) == 2 * len(SYSTEMS)
    assert table["picture"].nunique() == 2


def test_the_command_prints_the_table(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    done = command(
        "eval", f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", "data.test_scales=[2]"
    )
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "outputs" / "eval").iterdir()
    made = {path.name for path in folder.iterdir()}
    assert {"metrics.json", "metrics.csv", "pictures.csv", "contact_sheet.png", ".hydra"} <= made
    assert "psnr_y" in done.out
    assert done.out.strip().endswith(f"table, contact sheet and metrics.json: {folder}")


def test_two_processes_say_what_one_says(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    evaluate(composed, checkpoint, photos, tmp_path / "one", "save_pictures=true")
    command = [
        sys.executable,
        str(ROOT / "eval.py"),
        f"ckpt_path={checkpoint}",
        "data=folder",
        f"data.root={photos}",
        "data.num_workers=0",
        f"data.test_scales=[{','.join(map(str, SCALES))}]",
        "save_pictures=true",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        f"hydra.run.dir={tmp_path / 'two'}",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert strict_json(tmp_path / "two" / "metrics.json") == strict_json(tmp_path / "one" / "metrics.json")
    one, two = (
        pd.read_csv(tmp_path / folder / "pictures.csv").sort_values(
            ["scale", "picture", "system"], ignore_index=True
        )
        for folder in ("one", "two")
    )
    assert two.equals(one)
    assert len(list(tmp_path.glob("two/pictures/**/*.png"))) == len(one)
