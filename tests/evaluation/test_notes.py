"""Notes below a table, against counts by hand and through the entry point."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.commands import Command
from helpers.images import write
from linf.evaluation.notes import infinite_means, lr_sentences, partial_means
from linf.report import find_runs, write_report


def test_sources_are_grouped_by_data_set() -> None:
    lines = [
        ("Set5", 2, "given"),
        ("Set5", 2, "given"),
        ("Set5", 3, "Pillow's bicubic"),
        ("Set5", 4, "given"),
    ]
    lines += [("B100", 2, "not recorded")]
    assert lr_sentences(pd.DataFrame(lines, columns=["dataset", "scale", "lr"])) == [
        "LR of Set5: given at ×2, ×4; made by Pillow's bicubic at ×3",
        "LR of B100: not recorded at ×2",
    ]


def test_means_that_leave_images_out_are_named() -> None:
    nan = math.nan
    lines = [
        ("Set5", 4, system, ssim, psnr, nan)
        for system in ("bicubic", "τ=0.8")
        for ssim, psnr in ((0.9, 30), (nan, 31), (nan, nan if system == "τ=0.8" else 32))
    ]
    images = pd.DataFrame(lines, columns=["dataset", "scale", "system", "ssim", "psnr_y", "diversity"])
    assert partial_means(images, ["psnr_y", "ssim", "diversity"]) == [
        "PSNR (Y) of τ=0.8 on Set5 at ×4 is a mean over 2 of 3 images, it being no number for the others",
        "SSIM on Set5 at ×4 is a mean over 1 of 3 images, the others being too small for it",
    ]
    small = partial_means(images.assign(ssim=nan), ["ssim"])
    assert partial_means(images.assign(ntire_diversity=nan), ["ntire_diversity"]) == [], "of one sample each"
    assert small == ["SSIM on Set5 at ×4 is known of none of 3 images, all being too small for it"]


def test_infinite_means_are_explained(tmp_path: Path, command: Command) -> None:
    lines = [
        ("D", 2, system, f"{n}", math.inf if n else 30.0) for system in ("bicubic", "τ=0") for n in range(6)
    ]
    images = pd.DataFrame(lines, columns=["dataset", "scale", "system", "image", "psnr_y"])
    assert infinite_means(images, ["psnr_y"]) == [
        "PSNR (Y) on D at ×2 is infinite: there is no error in 1, 2, 3 and 2 more"
    ]
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "black.png")
    write(tmp_path / "in" / "photo.png", 40, 40)
    given = ("model=bicubic", "data=folder", "data.root=in", "data.test_scales=[2]", "data.num_workers=0")
    done = command("eval", *given, "metrics=fidelity", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert "PSNR (Y) on in at ×2 is infinite: there is no error in black" in done.out
    assert "nan dB" not in done.out
    page = write_report(find_runs([tmp_path / "run"]), tmp_path / "report").read_text(encoding="utf-8")
    assert "is infinite: there is no error in black" in page


@pytest.mark.parametrize("sides", [(40, 12), (12, 12)])
def test_images_too_small_for_ssim_are_counted(
    tmp_path: Path, command: Command, sides: tuple[int, int]
) -> None:
    for n, side in enumerate((*sides, 40 if 40 in sides else 12)):
        write(tmp_path / "in" / f"{n}.png", side, side)
    given = ("model=bicubic", "data=folder", "data.root=in", "data.test_scales=[2]", "data.num_workers=0")
    done = command("eval", *given, "metrics=fidelity", "hydra.run.dir=run")
    assert done.status == 0, done.err
    images = pd.read_csv(tmp_path / "run" / "images.csv")
    # Of 12 pixels, 2 are cropped on each side, and the window of SSIM has 11.
    known = int(np.isfinite(images["ssim"]).sum())
    assert known == sum(side == 40 for side in (*sides, 40 if 40 in sides else 12))
    expected = f"SSIM on in at ×2 is {f'a mean over {known}' if known else 'known of none'} of 3 images"
    assert expected in done.out
    page = write_report(find_runs([tmp_path / "run"]), tmp_path / "report").read_text()
    assert expected in page
