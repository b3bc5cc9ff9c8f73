"""From TIFF through training, evaluation and `linf upscale` to TIFF: 16-bit grey, five channels, floats."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

import linf
from helpers import bicubic
from helpers.commands import Command, Linf, assert_in_words
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF

SCALE = 2
ONE_RUN = ("trainer.max_epochs=1", "callbacks.progress.refresh_rate=0", "data.val_limit=1")


def phantom(height: int, width: int, seed: int, channels: int = 1) -> np.ndarray:
    """A slice of CT as numpy draws it, (H,W,C) in [0, 1]: smooth ellipses of several densities, and faint noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / min(height, width)
    image = np.zeros((height, width, channels))
    for _ in range(12):
        cy, cx, ry, rx = *rng.uniform(0.1, 0.9, 2), *rng.uniform(0.05, 0.4, 2)
        inside = 1 / (1 + np.exp(np.clip(20 * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 - 1), -50, 50)))
        image += inside[..., None] * rng.uniform(-0.2, 0.5, channels)
    image += rng.normal(0, 0.002, image.shape)
    return (image - image.min()) / (image.max() - image.min())


def psnr(sr: np.ndarray, hr: np.ndarray, peak: int) -> float:
    """Of whole numbers or fractions of them (H,W,C), without a border of the scale."""
    inner = slice(SCALE, -SCALE)
    error = (sr.clip(0, peak) - hr)[inner, inner] / peak
    return float(-10 * np.log10(np.square(error).mean()))


def sampled(model: LINF, lr: np.ndarray, peak: int) -> np.ndarray:
    """The model's image at τ = 0 in levels, (H,W,C)."""
    image = torch.from_numpy(lr.astype(np.float32)).permute(2, 0, 1)[None] / peak
    made = model.sample(image, (SCALE * lr.shape[0], SCALE * lr.shape[1]), temperature=0)[0].permute(1, 2, 0)
    return made.double().numpy() * peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "depth", "layout"),
    [
        pytest.param(1, 16, "grey", marks=pytest.mark.thorough),
        pytest.param(5, 8, "planes", marks=pytest.mark.thorough),
        (5, 16, "side by side"),
    ],
)
def test_from_tiff_to_tiff(
    command: Command,
    run: Linf,
    alexnet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    depth: int,
    layout: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(alexnet.parents[2]))
    peak, dtype = 2**depth - 1, np.uint8 if depth == 8 else np.uint16
    folder = tmp_path / "ct"
    folder.mkdir()
    for i, (height, width) in enumerate([(52, 60), (48, 66)]):
        levels = np.rint(phantom(height, width, i, channels) * peak).astype(dtype)
        write(folder / f"slice{i}.tif", levels, layout)

    pixels = (f"data.channels={channels}", f"data.depth={depth}", "data=folder", "data.root=ct")
    own = "data.val={_target_: linf.data.sources.image_folder, root: ct}"
    trained = command("train", "experiment=smoke", *ONE_RUN, *pixels, own, "hydra.run.dir=run")
    assert trained.status == 0, trained.err
    model = linf.load(tmp_path / "run" / "model.safetensors")
    assert isinstance(model, LINF)
    assert model.image_channels == channels
    assert model.dim == 9 * channels
    assert list((tmp_path / "run" / "panels").glob("*.png"))

    # The number of channels is the model's; no setting says it again.
    evaluated = command(
        "eval",
        *("ckpt_path=run/model.safetensors", f"data.depth={depth}", "data=folder", "data.root=ct"),
        *(f"data.test_scales=[{SCALE}]", "temperatures=[0,0.5]", "data.num_workers=0", "hydra.run.dir=eval"),
    )
    assert evaluated.status == 0, evaluated.err
    about = json.loads((tmp_path / "eval" / "run.json").read_text())
    assert about["pixels"] == {"channels": channels} | ({} if depth == 8 else {"depth": depth})
    assert about["skipped"] == {"lpips_alex": f"it compares RGB images, and these have {channels} channels"}
    assert "lpips_alex skipped: it compares RGB images" in evaluated.out
    assert f"dB on {'grey' if channels == 1 else 'all 5 channels'}" in evaluated.out
    table = pd.read_csv(tmp_path / "eval" / "images.csv").set_index(["image", "system"])
    for i in range(2):
        hr = read(folder / f"slice{i}.tif", layout)
        small = (hr.shape[0] // 2, hr.shape[1] // 2)
        if depth > 8:
            lr = bicubic.pillow(hr, small, peak)
        else:  # Pillow itself, plane by plane.
            planes = [Image.fromarray(np.ascontiguousarray(hr[..., c])) for c in range(channels)]
            lr = np.stack([p.resize(small[::-1], Image.Resampling.BICUBIC) for p in planes], 2).astype(float)
        enlarged = bicubic.matlab(lr, hr.shape[:2], peak)
        for system, sr in (("bicubic", enlarged), ("τ=0", sampled(model, lr, peak))):
            row = table.loc[f"slice{i}", system]
            expected = psnr(sr, hr.astype(float), peak)
            # A level of 16 bits that rounds the other way is nothing; 8 bits would be 0.01 dB and more.
            assert row["psnr_y"] == pytest.approx(expected, abs=1e-3)
            assert row["psnr_rgb"] == row["psnr_y"]
    known = pd.read_csv(tmp_path / "eval" / "distribution.csv")
    assert known["error_y"].equals(known["error_rgb"])
    exact = -10 * np.log10(known["error_y"])
    assert np.allclose(exact, table.xs("τ=0", level="system")["psnr_y"], atol=0.02)
    kept = tmp_path / "eval" / "images" / "ct" / "x2" / "slice0" / "HR.tif"
    assert np.array_equal(as_layers(tifffile.imread(kept)), read(folder / "slice0.tif", layout))

    assert (
        run(
            "upscale",
            "ct/slice0.tif",
            "--scale",
            SCALE,
            "--temperature",
            0,
            "--model",
            "run/model.safetensors",
            "--out",
            "up.tif",
        ).status
        == 0
    )
    given = read(folder / "slice0.tif", layout)
    made = read(tmp_path / "up.tif", layout)
    assert made.dtype == dtype
    assert made.shape == (104, 120, channels)
    assert abs(made - sampled(model, given, peak).clip(0, peak)).max() <= 0.5 + peak * 1e-5


def write(path: Path, image: np.ndarray, layout: str) -> None:
    settings = {
        "grey": {},
        "planes": {"planarconfig": "separate", "compression": "zlib"},
        "side by side": {"planarconfig": "contig"},
    }[layout]
    values = {"grey": image[..., 0], "planes": image.transpose(2, 0, 1), "side by side": image}[layout]
    tifffile.imwrite(path, values, photometric="minisblack", **settings)  # type: ignore[arg-type]


def read(path: Path, layout: str) -> np.ndarray:
    values = tifffile.imread(path)
    return values.transpose(1, 2, 0) if layout == "planes" else as_layers(values)


def as_layers(values: np.ndarray) -> np.ndarray:
    return values[..., None] if values.ndim == 2 else values


def grey_model(path: Path) -> Path:
    """A small untrained model, in a file."""
    torch.manual_seed(0)
    flow = ConditionalFlow(3, 2, image_channels=1)
    model = LINF(EDSR(1, 4, image_channels=1), partial(FourierConditioner, width=8, depth=1), flow)
    flow.whiten(0.05 * torch.randn(flow.dim, 400))
    linf.save(model, path)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_values_with_a_stated_range_come_out_in_their_range(
    command: Command, run: Linf, tmp_path: Path, dtype: type
) -> None:
    model = linf.load(grey_model(tmp_path / "grey.safetensors"))
    assert isinstance(model, LINF)
    low, high = -1024, 3071
    (tmp_path / "ct").mkdir()
    hounsfield = (low + phantom(48, 50, 0)[..., 0] * (high - low)).astype(dtype)
    tifffile.imwrite(tmp_path / "ct" / "a.tif", hounsfield)
    levels = np.rint((hounsfield.astype(float) - low) / (high - low) * 65535)[..., None]

    done = command(
        "eval",
        *("ckpt_path=grey.safetensors", "data=folder", "data.root=ct", "data.depth=16", "metrics=fidelity"),
        *(f"data.value_range=[{low},{high}]", f"data.test_scales=[{SCALE}]", "temperatures=[0]"),
        *("data.num_workers=0", "hydra.run.dir=eval"),
    )
    assert done.status == 0, done.err
    row = pd.read_csv(tmp_path / "eval" / "images.csv").set_index("system").loc["bicubic"]
    lr = bicubic.pillow(levels, (24, 25), 65535)
    assert row["psnr_y"] == pytest.approx(psnr(bicubic.matlab(lr, (48, 50), 65535), levels, 65535), abs=1e-3)
    other = command(
        "eval",
        *("ckpt_path=grey.safetensors", "data=folder", "data.root=ct", "data.depth=12", "metrics=fidelity"),
        *(f"data.value_range=[{low},{high}]", f"data.test_scales=[{SCALE}]", "temperatures=[0]"),
        *("data.num_workers=0", "hydra.run.dir=eval"),
    )
    assert_in_words(other.status, other.out, other.err, "pixels is", "'depth': 16")

    asked = ("upscale", "ct/a.tif", "--scale", SCALE, "-t", 0, "--model", "grey.safetensors")
    made = run(*asked, "--out", "up.tif", "--range", low, high)
    assert made.status == 0, made.err
    up = tifffile.imread(tmp_path / "up.tif")
    assert up.dtype == dtype
    expected = low + sampled(model, levels, 65535).clip(0, 65535)[..., 0] / 65535 * (high - low)
    assert abs(up - expected).max() <= (0.1 if dtype == np.float32 else 0.6)
    refused = run(*asked, "--out", "up.png", "--range", low, high)
    assert refused.status == 1
    assert f"png holds no image of 1 channel of {np.dtype(dtype)}: --format tiff does" in refused.err


@pytest.mark.slow
def test_a_trained_model_remembers_black_and_white(command: Command, run: Linf, tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    for i in range(2):  # Twelve bits in sixteen.
        tifffile.imwrite(
            tmp_path / "ct" / f"{i}.tif", np.rint(phantom(48, 50, i)[..., 0] * 4095).astype(np.uint16)
        )
    ranged = ("data=folder", "data.root=ct", "data.depth=12", "data.num_workers=0")
    for task in ("nll", "regression"):
        done = command(
            "train",
            *(
                "experiment=smoke",
                f"task={task}",
                f"model={'liif' if task == 'regression' else 'linf_patch'}",
            ),
            *(
                *ranged,
                "data.channels=1",
                "data.value_range=[0,4095]",
                "data.val=null",
                "trainer.max_steps=1",
            ),
            *("callbacks=null", "logger=null", f"hydra.run.dir={task}"),
        )
        assert done.status == 0, done.err
        assert linf.load(f"{task}/model.safetensors").value_range == (0.0, 4095.0)
    model = "nll/model.safetensors"
    assert "0 is black, 4095 is white" in run("info", model).out

    found = run("latents", model, "latents.safetensors", "--data", "ct", "--scales", "1.5")
    assert found.status == 0, found.err
    refused = run("latents", model, "x.safetensors", "--data", "ct", "--degradation", "photo")
    assert_in_words(refused.status, refused.out, refused.err, "JPEG and WebP hold 8 bits")
    plain = linf.load(model)
    plain.value_range = None
    linf.save(plain, "plain.safetensors")
    dark = run("latents", "plain.safetensors", "dark.safetensors", "--data", "ct", "--scales", "1.5")
    assert dark.out.splitlines()[1:] != found.out.splitlines()[1:]

    tables = []
    for name, stated in (("stated", ("data.value_range=[0,4095]",)), ("known", ())):
        done = command(
            "eval",
            *(f"ckpt_path={model}", *ranged, "metrics=fidelity", f"data.test_scales=[{SCALE}]"),
            *("temperatures=[0]", f"hydra.run.dir={name}", *stated),
        )
        assert done.status == 0, done.err
        assert ("0 is black and 4095 white" in done.out) == (name == "known")
        tables.append(pd.read_csv(tmp_path / name / "metrics.csv"))
    pd.testing.assert_frame_equal(*tables)

    asked = ("--scale", SCALE, "-t", 0, "--model", model)
    known = run("upscale", "ct/0.tif", *asked, "--out", "known.tif")
    assert "0 is black and 4095 white, as in the model's training; --range says others" in known.err
    stated = run("upscale", "ct/0.tif", *asked, "--out", "stated.tif", "--range", 0, 4095)
    assert "--range" not in stated.err
    assert (tmp_path / "known.tif").read_bytes() == (tmp_path / "stated.tif").read_bytes()
    Image.fromarray(np.rint(phantom(20, 24, 0)[..., 0] * 255).astype(np.uint8)).save(tmp_path / "eight.png")
    assert run("upscale", "eight.png", *asked).err == ""
    with Image.open(tmp_path / "eight_x2.png") as image:
        assert np.asarray(image).max() > 128, "white of eight bits is 255"


def test_16_bit_grey_png_comes_out_as_such(run: Linf, tmp_path: Path) -> None:
    model = linf.load(grey_model(tmp_path / "grey.safetensors"))
    assert isinstance(model, LINF)
    levels = np.rint(phantom(20, 24, 0) * 65535).astype(np.uint16)
    Image.fromarray(levels[..., 0]).save(tmp_path / "a.png")
    assert (
        run("upscale", "a.png", "-s", SCALE, "-t", 0, "--model", "grey.safetensors", "--uncertainty").status
        == 0
    )
    with Image.open(tmp_path / "a_x2.png") as image:
        assert image.mode == "I;16"
        assert abs(np.asarray(image) - sampled(model, levels, 65535)[..., 0].clip(0, 65535)).max() <= 1.2
    assert (tmp_path / "a_x2_uncertainty.png").is_file()


def test_models_and_images_that_do_not_fit_are_told(
    command: Command, run: Linf, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "five.tif", np.rint(phantom(24, 26, 0, 5) * 255).astype(np.uint8), "side by side")
    Image.fromarray(np.rint(phantom(24, 26, 0, 3) * 255).astype(np.uint8)).save(tmp_path / "rgb.png")
    grey_model(tmp_path / "grey.safetensors")
    for image, model, words in (
        ("in/five.tif", checkpoint, "the image has 5 channels, and the model is for images of 3"),
        ("rgb.png", "grey.safetensors", "the image has 3 channels, and the model is for images of 1"),
    ):
        done = run("upscale", image, "--scale", 2, "--model", model, "--out", "out.tif")
        assert done.status == 1
        assert words in done.err
        assert "Traceback" not in done.err
    assert run("upscale", "in/five.tif", "--scale", 2, "--model", "bicubic", "--out", "five.tif").status == 0
    given = tifffile.imread(tmp_path / "in" / "five.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "five.tif"), bicubic.matlab(given, (48, 52), 255))
    assert (
        "is for images of 1 channels, and the page is for RGB"
        in run("demo", "--model", "grey.safetensors").err
    )

    five = ("data=folder", "data.root=in", "data.num_workers=0", "data.test_scales=[2]")
    done = command("eval", f"ckpt_path={checkpoint}", *five, "data.channels=5")
    assert_in_words(done.status, done.out, done.err, "data.channels is 5, and the model is for images of 3")
    done = command("eval", f"ckpt_path={checkpoint}", *five)
    assert_in_words(
        done.status, done.out, done.err, "five.tif: it has 5 channels, and 3 are asked for", "data.channels=5"
    )
    done = command("train", "experiment=smoke", *five, "data.channels=5", f"init_from={checkpoint}")
    assert_in_words(done.status, done.out, done.err, "image_channels is 3 there and 5 here")
