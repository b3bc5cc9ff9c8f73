"""`linf upscale --consistent`: the result, downscaled, is the given image; noisy images are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import linf
from helpers.commands import Linf, assert_in_words
from helpers.images import noisy, photograph
from linf.images.resize import matlab_bicubic
from linf.models.linf import LINF
from linf.upscale.enlarge import Ask, enlarge
from linf.upscale.guard import removed_noise


def unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).movedim(-1, 0)


def lr_psnr(made: np.ndarray, lr: np.ndarray) -> float:
    error = matlab_bicubic(unit(made), lr.shape[:2]).clamp(0, 1) - unit(lr)
    return float(-10 * error.square().mean().log10())


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "samples"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("tile", [None, 16])
def test_files_get_the_consistent_samples_in_any_tiles(
    checkpoint: Path, kind: type, channels: int, samples: int, tile: int | None
) -> None:
    model = linf.load(checkpoint)
    pixels = photograph(70, 33)[:, :, :channels].astype(kind) * (1 if kind is np.uint8 else 257)
    size, peak = (154, 80), np.iinfo(kind).max
    made = enlarge(model, pixels, size, Ask(0.5, samples, seed=4, tile=tile, consistency=3)).images
    for n, image in enumerate(made):
        lr = unit(pixels).expand(3, -1, -1)[None]
        whole = model.sample(lr, size, temperature=0.5, seed=4 + n, consistency=3)[0]
        if channels == 1:
            whole = torch.tensordot(torch.tensor([0.299, 0.587, 0.114]), whole, 1)[None]
        expected = (whole.clamp(0, 1) * peak).round().movedim(0, -1).numpy()
        assert np.abs(image.astype(float) - expected).max() <= (1 if kind is np.uint8 else 3)


def test_the_result_downscaled_is_the_given_image(run: Linf, tmp_path: Path, clean: np.ndarray) -> None:
    Image.fromarray(clean).save(tmp_path / "a.png")
    given = ("--scale", "2.7", "--model", "default", "--temperature", "0.6")
    for name, options in (("plain", ()), ("made", ("--consistent",))):
        done = run("upscale", "a.png", *given, *options, "--out", f"{name}.png")
        assert done.status == 0, done.err
    plain, made = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "made"))
    assert lr_psnr(plain, clean) < 48
    assert lr_psnr(made, clean) > 56


@pytest.mark.parametrize("model", ["default", "photo"])
def test_a_noisy_image_is_refused_in_one_line(
    run: Linf, tmp_path: Path, clean: np.ndarray, model: str
) -> None:
    Image.fromarray(noisy(clean, 8)).save(tmp_path / "grainy.png")
    Image.fromarray(clean).save(tmp_path / "fine.png")
    done = run(
        "upscale", "grainy.png", "fine.png", "--scale", "2", "--model", model, "--consistent", "--out", "out"
    )
    assert done.status == 1
    line, count = done.err.splitlines()
    assert line.startswith("grainy.png: it is noisy")
    assert line.endswith("--consistent would put into the result: leave --consistent out")
    assert count == "1 of 2 images failed"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fine_x2.png"]


def test_removed_noise_is_that_of_the_quiet_parts(clean: np.ndarray) -> None:
    model = linf.load("photo")
    assert isinstance(model, LINF)
    flat = np.full((32, 32, 3), 128, np.uint8)
    flat[:, :16] = photograph(32, 16)
    amounts = [removed_noise(model, unit(noisy(flat, sigma))[None], (70, 64)) for sigma in (0, 4, 8)]
    assert amounts[0][0] < 1 < amounts[1][0] < amounts[2][0] < 8
    assert amounts[0][1] > 2 * amounts[0][0]  # Of the whole image, the detailed half included.
    for shape in ((1, 1), (1, 40), (33, 5)):
        size = (shape[0] * 900, shape[1] * 900)
        assert np.isfinite(removed_noise(model, torch.rand(1, 3, *shape), size)).all()


def test_uncertainty_is_not_that_of_consistent_samples(run: Linf, tmp_path: Path, clean: np.ndarray) -> None:
    Image.fromarray(clean).save(tmp_path / "a.png")
    done = run("upscale", "a.png", "--scale", "2", "--consistent", "--uncertainty")
    assert_in_words(done.status, done.out, done.err, "--uncertainty", "--consistent", "give one of them")
