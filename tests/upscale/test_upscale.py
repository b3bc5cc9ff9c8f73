"""`linf upscale`: what comes out is what the model gives for the whole image, and what came in comes with it."""

import io
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_png

import linf
from helpers.commands import Outcome, assert_in_words
from linf import cli
from linf.errors import UsageError
from linf.images.find import FoundImages
from linf.images.luma import PILLOW_GREY
from linf.images.read import read_photo
from linf.images.resize import bicubic, matlab_bicubic
from linf.models.baselines import LIIF, LTE, Bicubic, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import EDSR, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.upscale import outputs
from linf.upscale import run as command
from linf.upscale import tile_size as tiling
from linf.upscale.enlarge import Ask, enlarge
from linf.upscale.inputs import Input, Size, parse_size, planned
from linf.upscale.tile_size import best_tile, encoding_bytes

CPU = torch.device("cpu")
Linf = Callable[..., Outcome]


@pytest.fixture
def upscale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], checkpoint: Path
) -> Linf:
    """``upscale("a.png", …)`` is ``linf upscale a.png …`` by a tiny LINF in this process, from ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, model: str | Path = checkpoint) -> Outcome:
        capfd.readouterr()
        status = 0
        try:
            cli.main(["upscale", *map(str, arguments), "--model", str(model)])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run


def photograph(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Smooth noise (height, width, channels) over the whole range of a type."""
    coarse = np.random.default_rng(0).random((height // 4 + 2, width // 4 + 2, channels))
    fine = F.interpolate(torch.from_numpy(coarse).permute(2, 0, 1)[None], (height, width), mode="bicubic")[0]
    peak = np.iinfo(dtype).max
    return (fine.permute(1, 2, 0) * peak).round().clamp(0, peak).numpy().astype(dtype)


def image(path: Path, *size: int, mode: str = "RGB", **settings: object) -> Path:
    """An image file of ``(height, width)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(*size)).convert(mode).save(path, **settings)
    return path


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of (h,w,1–4) uint16, without filters."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 0, 4, 2, 6)[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def as_lr(pixels: np.ndarray) -> Tensor:
    lr = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / np.iinfo(pixels.dtype).max
    return lr.expand(-1, 3, -1, -1)


def as_pixels(sr: Tensor, like: np.ndarray) -> np.ndarray:
    """(3,H,W) in [0, 1] as whole numbers, of the type of an image; grey by BT.601."""
    peak = np.iinfo(like.dtype).max
    if like.shape[2] == 1:
        sr = (0.299 * sr[0] + 0.587 * sr[1] + 0.114 * sr[2])[None]
    return (sr * peak).round().clamp(0, peak).permute(1, 2, 0).numpy().astype(like.dtype)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal but for roundings that fall the other way."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    apart = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
    assert apart.max() <= (1 if ours.dtype == np.uint8 else 3)
    assert ours.dtype != np.uint8 or (apart > 0).mean() < 0.01


# A scale for each axis


def test_a_scale_for_each_axis_is_vertical_first(upscale: Linf, tmp_path: Path, checkpoint: Path) -> None:
    image(tmp_path / "a.png", 20, 30)
    done = upscale("a.png", "--scale", "1.5x4", "--uncertainty", "--samples", "2", "--tile", "16")
    assert (done.status, done.out.splitlines()[0]) == (0, "a_x1.5x4_1.png, 120×30"), done.err
    pixels = np.array(Image.open(tmp_path / "a.png"))
    expected = linf.load(checkpoint).sample(as_lr(pixels), (30, 120), seed=0)[0]
    assert_same(np.array(Image.open(tmp_path / "a_x1.5x4_1.png")), as_pixels(expected, pixels))
    # Bicubic is that of each axis by itself, the one that grows less first, as in MATLAB.
    assert upscale("a.png", "--scale", "1.5×4", "--out", "b.png", model="bicubic").status == 0
    halfway = matlab_bicubic(torch.tensor(pixels).permute(2, 0, 1), (30, 30))
    assert np.array_equal(
        np.array(Image.open(tmp_path / "b.png")), matlab_bicubic(halfway, (30, 120)).permute(1, 2, 0)
    )
    by_pillow = np.asarray(Image.fromarray(pixels).resize((120, 30), Image.Resampling.BICUBIC)).astype(int)
    inside = (slice(3, -3), slice(8, -8))
    apart = np.abs(by_pillow - np.array(Image.open(tmp_path / "b.png")))[inside]
    assert (apart.max() <= 4, apart.mean() < 0.5) == (True, True), "they round after other axes"


def test_equal_scales_are_one(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "a.png", 20, 30)
    assert upscale("a.png", "--scale", "2").out == "a_x2.png, 60×40\n"
    one = (tmp_path / "a_x2.png").read_bytes()
    assert upscale("a.png", "--scale", "2x2.0", "--force").out == "a_x2.png, 60×40\n"
    assert (tmp_path / "a_x2.png").read_bytes() == one


# The image is the model's


def small_linf(patch_size: int) -> LINF:
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, steps=2)
    model = LINF(EDSR(blocks=1, channels=4), partial(FourierConditioner, width=8, depth=1), flow)
    model.flow.whiten(0.1 * torch.randn(flow.dim, 500))
    return model.eval()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    ("patch_size", "channels", "dtype"),
    [(3, 3, np.uint8), (1, 3, np.uint8), (3, 1, np.uint8), (3, 3, np.uint16)],
)
@pytest.mark.parametrize("size", [(59, 81), (23, 31), (1, 90)])
def test_the_image_is_what_the_model_samples_of_the_whole(
    patch_size: int, channels: int, dtype: type, size: tuple[int, int], temperature: float
) -> None:
    model, pixels = small_linf(patch_size), photograph(23, 31, channels, dtype)
    done: list[int] = []
    ask = Ask(temperature=temperature, seed=5, tile=9)
    made = enlarge(model, pixels, size, ask, done.append)
    whole = model.sample(as_lr(pixels), size, temperature=temperature, seed=5)[0]
    assert_same(made.images[0], as_pixels(whole, pixels))
    assert sum(done) == math.prod(size)


def test_samples_have_the_seeds_that_follow_and_do_not_depend_on_tiles() -> None:
    model, pixels = small_linf(3), photograph(40, 30)
    many = enlarge(model, pixels, (100, 75), Ask(0.8, samples=3, seed=7, tile=16)).images
    assert len(many) == 3
    for k, one in enumerate(many):
        assert_same(one, enlarge(model, pixels, (100, 75), Ask(0.8, seed=7 + k, tile=33)).images[0])
    assert np.abs(many[0].astype(int) - many[1]).mean() > 1


def test_correlated_latents_do_not_depend_on_tiles(upscale: Linf, tmp_path: Path) -> None:
    model, pixels = small_linf(3), photograph(40, 30)
    model.correlation = LatentCorrelation(27, [2, 4], reach=2)
    model.correlation.taps += 0.1 * torch.randn(model.correlation.taps.shape)
    ask = Ask(0.8, seed=7, latents="correlated")
    whole = model.sample(as_lr(pixels), (100, 75), temperature=0.8, seed=7, latents="correlated")[0]
    for tile in (16, 33, 64):
        assert_same(
            enlarge(model, pixels, (100, 75), ask._replace(tile=tile)).images[0], as_pixels(whole, pixels)
        )
    Image.fromarray(pixels).save("a.png")
    linf.save(model, tmp_path / "known.safetensors")
    options = ("a.png", "--size", "75x100", "--temperature", "0.8", "--seed", "7", "--latents", "correlated")
    assert upscale(*options, model="known.safetensors").status == 0
    assert_same(np.asarray(Image.open("a_75x100.png")), as_pixels(whole, pixels))
    done = upscale(*options, "--force")
    assert (done.status, "linf latents" in done.err) == (2, True), done.err


@pytest.mark.parametrize("channels", [1, 3])
def test_the_deviation_is_the_closed_form_of_luma(channels: int) -> None:
    model, pixels = small_linf(3), photograph(20, 17, channels)
    made = enlarge(model, pixels, (50, 41), Ask(0.0, uncertainty=True, tile=8))
    luma = torch.tensor([[0.299, 0.587, 0.114]])
    known = model.distribution(as_lr(pixels), (50, 41), mix=luma)
    assert known is not None
    assert known.deviation is not None
    assert made.deviation is not None
    wanted = known.deviation[0, 0].numpy()
    np.testing.assert_allclose(made.deviation, wanted, rtol=2e-3)


@pytest.mark.parametrize("kind", ["LIIF", "LTE"])
def test_regressions_are_what_they_give_of_the_whole(kind: str) -> None:
    torch.manual_seed(0)
    encoder = EDSR(blocks=1, channels=4)
    if kind == "LIIF":
        model: LIIF | LTE = LIIF(encoder, partial(LIIFConditioner, width=8, depth=1))
    else:
        model = LTE(encoder, partial(FourierConditioner, width=8, depth=1, ensemble="local"))
    pixels = photograph(20, 33)
    made = enlarge(model.eval(), pixels, (47, 71), Ask(0.0, tile=12)).images[0]
    assert_same(made, as_pixels(model.sample(as_lr(pixels), (47, 71), temperature=0)[0], pixels))


@pytest.mark.parametrize("size", [(700, 41), (37, 701), (40, 34), (20, 33)])
def test_bicubic_in_strips_is_bicubic(size: tuple[int, int]) -> None:
    pixels = photograph(20, 33)
    made = enlarge(Bicubic(), pixels, size, Ask()).images[0]
    np.testing.assert_array_equal(made, as_pixels(bicubic(as_lr(pixels), size)[0], pixels))


def test_bicubic_of_16_bits_keeps_them() -> None:
    pixels = photograph(8, 9, 1, np.uint16)
    same = enlarge(Bicubic(), pixels, (8, 9), Ask()).images[0]
    np.testing.assert_array_equal(same, pixels)


# Tiles


def test_a_tile_fits_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_linf(3)
    monkeypatch.setattr(tiling, "free_memory", lambda device: 1e12)
    assert best_tile(model, 3000, 4000, CPU) == 256
    # A GPU has room for larger ones, which encode less than a fifth twice.
    default = linf.load("default")
    assert best_tile(default, 3000, 4000, torch.device("cuda")) == 768
    assert best_tile(default, 3000, 4000, CPU) == 256
    chosen = []
    for free in (1e8, 2e7, 4e6):
        monkeypatch.setattr(tiling, "free_memory", lambda device, free=free: free)
        chosen.append(best_tile(model, 3000, 4000, CPU))
        assert (
            encoding_bytes(model.encoder, model.conditioner, (chosen[-1] + 12,) * 2, chosen[-1] + 4)
            <= free / 2
        )
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[-1] < 256
    monkeypatch.setattr(tiling, "free_memory", lambda device: 1e4)
    with pytest.raises(UsageError, match=r"a tile of 32 pixels .* needs .*B on cpu"):
        best_tile(model, 3000, 4000, CPU)


def test_what_a_tile_takes_grows_with_its_pixels_and_covers_its_maps() -> None:
    model = small_linf(3)
    one, four = (encoding_bytes(model.encoder, model.conditioner, (n, n), n) for n in (100, 200))
    assert four == pytest.approx(4 * one, rel=0.05)
    assert one >= 100 * 100 * 4 * 2 * 8


def test_an_encoder_without_a_halo_sees_the_whole_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = SwinIR(channels=12, depths=(2,), heads=(2,), window=4, out_channels=4)
    model = LINF(encoder, partial(FourierConditioner, width=8, depth=1), ConditionalFlow(3, steps=2)).eval()
    model.flow.whiten(0.1 * torch.randn(27, 500))
    pixels = photograph(100, 220)
    assert best_tile(model, 100, 220, CPU) == 220
    whole = as_pixels(model.sample(as_lr(pixels), (200, 440), temperature=0)[0], pixels)
    assert_same(enlarge(model, pixels, (200, 440), Ask(0.0)).images[0], whole)
    tiled = enlarge(model, pixels, (200, 440), Ask(0.0, tile=64)).images[0]
    assert np.abs(tiled.astype(int) - whole).max() <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_single_precision(dtype: torch.dtype) -> None:
    model, pixels = small_linf(3), photograph(20, 20)
    single, half = (enlarge(model, pixels, (50, 50), Ask(0.0, dtype=of)).images[0] for of in (None, dtype))
    assert 0 <= np.abs(single.astype(int) - half).mean() < 1


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_grey_under_autocast_is_that_of_its_colours(dtype: torch.dtype, depth: type) -> None:
    model, pixels = small_linf(3), photograph(20, 20, 1, depth)
    ask = Ask(0.6, uncertainty=True, dtype=dtype)
    colours = enlarge(model, np.repeat(pixels, 3, axis=2), (50, 50), ask).images[0]
    grey = enlarge(model, pixels, (50, 50), ask).images[0]
    assert grey.dtype == depth
    inside = ((colours > 0) & (colours < np.iinfo(depth).max)).all(2)  # Neither black nor white is clamped.
    assert inside.mean() > 0.5
    assert np.abs(colours @ np.array(PILLOW_GREY) - grey[..., 0])[inside].max() <= 1.1


# Files


def test_a_file_beside_itself(upscale: Linf, tmp_path: Path, checkpoint: Path) -> None:
    image(tmp_path / "in" / "photo.png", 20, 30)
    done = upscale("in/photo.png", "--scale", "3.7", "--temperature", "0.8", "--seed", "4")
    assert done == Outcome(0, "in/photo_x3.7.png, 111×74\n", "")
    lr = np.asarray(Image.open(tmp_path / "in" / "photo.png"))
    model = linf.load(checkpoint)
    assert isinstance(model, LINF)
    whole = model.sample(as_lr(lr), (74, 111), temperature=0.8, seed=4)
    assert_same(np.asarray(Image.open(tmp_path / "in" / "photo_x3.7.png")), as_pixels(whole[0], lr))


@pytest.mark.parametrize(
    ("asked", "size", "word"),
    [
        ("60x", (60, 40), "60x40"),
        ("x50", (75, 50), "75x50"),
        ("64x41", (64, 41), "64x41"),
        ("60X", (60, 40), "60x40"),
    ],
)
def test_a_size(upscale: Linf, tmp_path: Path, asked: str, size: tuple[int, int], word: str) -> None:
    image(tmp_path / "a.png", 20, 30)
    assert upscale("a.png", "--size", asked).status == 0
    assert Image.open(tmp_path / f"a_{word}.png").size == size


def test_a_folder_is_mirrored_and_one_bad_file_does_not_stop_it(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.jpg", 8, 9)
    image(tmp_path / "in" / "deep" / "er" / "b.TIF", 8, 9)
    image(tmp_path / "in" / ".hidden.png", 8, 9)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "notes.txt").write_text("no image, but not called one either")
    done = upscale("in", "--scale", "2")
    assert done.status == 1
    note, bad, total = done.err.splitlines()
    assert note == "note: in: left out: hidden files and folders of copies or thumbnails (.hidden.png)"
    assert bad.startswith("in/bad.png: it is no PNG, JPEG")
    assert total == "1 of 3 images failed"
    found = sorted(
        path.relative_to(tmp_path / "in_x2").as_posix() for path in (tmp_path / "in_x2").rglob("*.*")
    )
    assert found == ["a_x2.jpg", "deep/er/b_x2.TIF"]
    assert Image.open(tmp_path / "in_x2" / "deep" / "er" / "b_x2.TIF").size == (18, 16)


def test_a_second_call_takes_no_output_for_an_input(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.png", 8, 9)
    for _ in range(2):
        assert upscale("in", "--scale", "2", "--out", "in/big", "--force").status == 0
    assert [path.name for path in (tmp_path / "in" / "big").iterdir()] == ["a_x2.png"]


def test_no_output_replaces_an_image_before_it_is_enlarged(upscale: Linf, tmp_path: Path) -> None:
    for name in ("a.png", "a_x2.png"):
        image(tmp_path / name, 8, 9)
    before = (tmp_path / "a_x2.png").read_bytes()
    done = upscale("a.png", "a_x2.png", "--scale", "2", "--force")
    assert done.status == 1
    assert done.err.splitlines()[0].startswith("a.png: a_x2.png is an image of this call that is still to be")
    assert (tmp_path / "a_x2.png").read_bytes() == before
    assert Image.open(tmp_path / "a_x2_x2.png").size == (18, 16)
    assert upscale("a_x2.png", "--scale", "2", "--out", "a_x2.png", "--force").status == 0


def test_a_second_call_takes_no_output_beside_its_input_for_one(upscale: Linf, tmp_path: Path) -> None:
    for name in (
        "a.jpg",
        "deep/b.png",
        "c_x2.png",
        "1_20x30.png",
    ):  # The last two are no outputs: no c, no 1.
        image(tmp_path / "in" / name, 8, 9)
    asked = ("--scale", "2", "--out", "in", "--samples", "2", "--uncertainty", "--force")
    assert upscale("in", *asked).status == 0
    first = sorted((tmp_path / "in").rglob("*.*"))
    assert len(first) == 4 * 4
    done = upscale("in", *asked)
    assert (done.status, sorted((tmp_path / "in").rglob("*.*"))) == (0, first)
    assert done.err == "note: in: left out: 12 named as outputs of an earlier call\n"


@pytest.mark.parametrize(
    ("asked", "folder"),
    [
        (("--size", "4000x"), "in_4000x"),
        (("--size", "x40"), "in_x40"),
        (("--size", "40x50"), "in_40x50"),
        (("--scale", "3.70"), "in_x3.7"),
        (("--scale", "2", "--out", "."), "."),
        (("--scale", "2", "--out", "in"), "in"),
    ],
)
def test_where_a_folder_goes(upscale: Linf, tmp_path: Path, asked: tuple[str, ...], folder: str) -> None:
    image(tmp_path / "in" / "a.png", 8, 8)
    done = upscale("in", *asked, model="bicubic")
    assert (done.status, done.err) == (0, "")
    assert len(list((tmp_path / folder).glob("a_*.png"))) == 1


def test_images_in_the_folder_of_the_outputs_are_left_out_in_words(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.png", 8, 8)
    image(tmp_path / "in" / "new" / "b.png", 8, 8)
    done = upscale("in", "--scale", "2", "--out", "in/new", model="bicubic")
    assert (done.status, done.err) == (0, "note: in: left out: 1 in in/new, the folder of the outputs\n")
    assert {path.name for path in (tmp_path / "in" / "new").iterdir()} == {"a_x2.png", "b.png"}


def test_what_is_no_file_is_refused_at_once(upscale: Linf, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")  # Opened, it would wait for somebody who writes to it.
    done = upscale("a.png", "--scale", "2")
    assert_in_words(done.status, done.out, done.err, "a.png is neither a file nor a folder")


def test_the_root_has_a_folder_of_outputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linf.upscale.inputs.find_images", lambda folder: FoundImages([Path("/a.png")]))
    for out, folder in ((None, "/_x2"), ("/new", "/new")):
        assert planned(["/"], out, Size(scale=2.0)) == ([Input(Path("/a.png"), Path(folder))], None)


def test_a_glob_and_several_files(upscale: Linf, tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png", "c.jpg"):
        image(tmp_path / name, 6, 6)
    done = upscale("a*.png", "c.jpg", "--scale", "2", "--out", "new")
    assert (done.status, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "a1_x2.png",
        "a2_x2.png",
        "c_x2.jpg",
    ]


def test_a_file_whose_name_is_a_pattern(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "a[1].png", 6, 6)
    assert upscale("a[1].png", "--scale", "2").status == 0
    assert (tmp_path / "a[1]_x2.png").is_file()


def test_samples_and_the_map(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "a.jpg", 30, 40)
    done = upscale("a.jpg", "--scale", "2", "--samples", "2", "--uncertainty", "--out", "new/b.webp")
    assert (done.status, done.err) == (0, "")
    names = ["b_1.webp", "b_2.webp", "b_uncertainty.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    one, two, heat = (Image.open(tmp_path / "new" / name).convert("RGB") for name in names)
    assert one.size == two.size == (80, 60)
    assert np.abs(np.asarray(one, int) - np.asarray(two)).mean() > 1
    assert heat.width >= 80
    assert heat.height > 60
    scale = np.asarray(heat)[60:]
    assert len(np.unique(scale.reshape(-1, 3), axis=0)) > 50


def test_the_map_shows_where_the_model_does_not_know() -> None:
    deviation = np.zeros((40, 300), np.float16)
    deviation[:, 150:] = 0.02
    heat = np.asarray(command.heat_map(deviation).convert("L"), int)
    assert heat[:40, 160:300].min() > heat[:40, :140].max() + 100


@pytest.mark.parametrize("exploded", [math.inf, math.nan])
@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
@pytest.mark.filterwarnings("error")
def test_where_the_flow_explodes_the_map_is_brightest(exploded: float, share: float) -> None:
    deviation = np.linspace(0, 0.02, 40 * 300).astype(np.float16)
    deviation[: round(share * len(deviation))] = exploded
    deviation = deviation.reshape(40, 300)
    heat = np.asarray(command.heat_map(deviation).convert("L"), int)[:40, :300]
    assert heat[~np.isfinite(deviation)].min() == heat.max() > 200


def test_an_output_that_is_there_stays(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "a.png", 6, 6)
    (tmp_path / "a_x2.png").write_text("precious")
    done = upscale("a.png", "--scale", "2")
    assert done == Outcome(1, "", "a.png: a_x2.png exists; --force overwrites it\n")
    assert (tmp_path / "a_x2.png").read_text() == "precious"
    (tmp_path / "a_x2_1.png").touch()  # As after a kill.
    done = upscale("a.png", "--scale", "2", "--samples", "2", "--uncertainty")
    missing = "a_x2_2.png, a_x2_uncertainty.png"
    assert done.err == f"a.png: a_x2_1.png exists, but not {missing}; --force overwrites it\n"
    assert upscale("a.png", "--scale", "2", "--force").status == 0
    assert Image.open(tmp_path / "a_x2.png").size == (12, 12)


def test_two_images_do_not_become_one(upscale: Linf, tmp_path: Path) -> None:
    image(tmp_path / "a.png", 6, 6)
    image(tmp_path / "a.jpg", 6, 6)
    done = upscale("a.png", "a.jpg", "--scale", "2", "--format", "png", "--force")
    assert done.status == 1
    assert "a.jpg: another image of this call was written to a_x2.png" in done.err


def test_what_fails_in_the_middle_leaves_nothing(
    upscale: Linf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "a.png", 6, 6)

    def full(out: io.BufferedWriter, *_: object) -> None:
        out.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_photo", full)
    done = upscale("a.png", "--scale", "2")
    assert done.status == 1
    assert done.err.startswith("a.png: cannot write a_x2.png: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_defect_of_ours_keeps_its_traceback(
    upscale: Linf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "a.png", 6, 6)

    def defect(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(command, "enlarge", defect)
    with pytest.raises(RuntimeError, match="shapes differ"):
        upscale("a.png", "--scale", "2")


def test_memory_that_ran_out_costs_one_image(
    upscale: Linf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "a.png", 6, 6)
    image(tmp_path / "b.png", 6, 6)
    real, calls = command.enlarge, []

    def short(*given: object) -> object:
        calls.append(given)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried …")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "enlarge", short)
    done = upscale("a.png", "b.png", "--scale", "2")
    assert (done.status, done.err.splitlines()[0][:32]) == (1, "a.png: memory is too small for i")
    assert (tmp_path / "b_x2.png").is_file()


# Kinds of images


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_stays_grey_and_alpha_is_kept(upscale: Linf, tmp_path: Path, suffix: str, mode: str) -> None:
    source = Image.fromarray(photograph(12, 14)).convert(mode)
    alpha = Image.fromarray(photograph(12, 14, 1)[..., 0])
    if mode.endswith("A"):
        source.putalpha(alpha)
    source.save(tmp_path / "a.png")
    done = upscale("a.png", "--scale", "2", "--format", suffix)
    assert done.status == 0
    made = Image.open(tmp_path / f"a_x2.{suffix}")
    if mode.endswith("A") and suffix == "jpg":
        assert done.err == (
            "note: a.png: its transparency is laid over white: jpg holds none; --format png, webp or tiff does\n"
        )
        assert made.mode == mode[:-1]
        return
    assert done.err == ""
    wanted = {"L": "RGB", "LA": "RGBA"}.get(mode, mode) if suffix == "webp" else mode
    assert made.mode == wanted
    if mode.startswith("L") and suffix == "webp":
        red, _, blue = made.convert("RGB").split()
        assert np.abs(np.asarray(red, int) - np.asarray(blue)).max() <= 3
    if mode.endswith("A"):
        theirs = alpha.resize((28, 24), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(made.getchannel("A")), np.asarray(theirs))


def test_transparent_white_shows_where_jpg_holds_none(upscale: Linf, tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert upscale("a.png", "--scale", "2", "--out", "b.jpg").status == 0
    assert np.asarray(Image.open(tmp_path / "b.jpg")).min() > 250


# Pillow reads no TIFF of 16-bit grey with alpha.
@pytest.mark.parametrize(
    ("read", "channels"),
    [("png", 1), ("png", 2), ("png", 3), ("png", 4), ("tiff", 1), ("tiff", 3), ("tiff", 4)],
)
@pytest.mark.parametrize("written", ["png", "tiff"])
@pytest.mark.filterwarnings("ignore:The image decoding")
def test_16_bits_stay_16_bits(upscale: Linf, tmp_path: Path, channels: int, read: str, written: str) -> None:
    deep = photograph(10, 12, channels, np.uint16)
    if read == "tiff":
        kind = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        kind |= {"photometric": "rgb" if channels > 2 else "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(tmp_path / "a.tiff", deep[..., 0] if channels == 1 else deep, **kind)
    else:
        (tmp_path / "a.png").write_bytes(deep_png(deep))
    done = upscale(f"a.{read}", "--scale", "1", "--out", f"c.{written}", model="bicubic")
    assert done.status == 0
    if written == "tiff":
        made = tifffile.imread(tmp_path / "c.tiff").reshape(10, 12, -1)
        if channels == 2:
            assert "16-bit grey with transparency" in done.err
            deep = deep[..., [0, 0, 0, 1]]
    else:
        assert done.err == ""
        content = torch.frombuffer(bytearray((tmp_path / "c.png").read_bytes()), dtype=torch.uint8)
        made = decode_png(content, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(made, deep)
    assert Image.open(tmp_path / f"c.{written}").size == (12, 10)


def test_16_bits_as_8_are_told(upscale: Linf, tmp_path: Path) -> None:
    deep = photograph(10, 12, 3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tiff", deep, photometric="rgb")
    done = upscale("a.tiff", "--scale", "1", "--format", "webp", "--quality", "100", model="bicubic")
    assert done.status == 0
    assert "16 bits are written as 8" in done.err
    made = np.asarray(Image.open(tmp_path / "a_x1.webp"), int)
    assert np.abs(made - deep / 257).mean() < 25


@pytest.mark.parametrize("form", ["jpg", "webp", "tiff"])
def test_8_bits_of_a_range_are_not_called_16(upscale: Linf, tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x829A: 0.01}
    image(tmp_path / "a.jpg", 20, 30, exif=exif.tobytes())
    done = upscale("a.jpg", "--scale", "1", "--format", form, "--range", "0", "200", model="bicubic")
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_a_image_comes_out_upright(upscale: Linf, tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = orientation, "Leica", "© me"
    exif[0x8769] = {0x829A: 0.01, 0xA002: 30, 0xA003: 20}
    source = image(tmp_path / f"a.{suffix}", 20, 30, exif=exif.tobytes(), quality=95)
    done = upscale(source.name, "--scale", "2", "--quality", "95", model="bicubic")
    assert (done.status, done.err) == (0, "")
    made = Image.open(tmp_path / f"a_x2.{suffix}")
    assert made.size == ((60, 40) if orientation < 5 else (40, 60))
    stored = Image.fromarray(photograph(20, 30)).resize((60, 40), Image.Resampling.BICUBIC)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    upright = stored if turn is None else stored.transpose(Image.Transpose(turn))
    assert np.abs(np.asarray(made, int) - np.asarray(upright)).mean() < 20
    kept = made.getexif()
    assert kept.get(0x0112, 1) == 1
    assert kept[0x010F] == "Leica"
    inner = kept.get_ifd(0x8769)
    assert float(inner[0x829A]) == 0.01
    assert (inner[0xA002], inner[0xA003]) == made.size


@pytest.mark.parametrize("orientation", [3, 6])
def test_16_bits_come_out_upright(upscale: Linf, tmp_path: Path, orientation: int) -> None:
    deep = photograph(10, 12, 3, np.uint16)
    tags = [(0x0112, "H", 1, orientation, True), (0x010F, "s", 0, "Leica", True)]
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extratags=tags)
    assert upscale("a.tif", "--scale", "1", model="bicubic").status == 0
    turned = deep[::-1, ::-1] if orientation == 3 else np.rot90(deep, -1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a_x1.tif"), turned)
    assert Image.open(tmp_path / "a_x1.tif").getexif()[0x010F] == "Leica"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_a_colour_profile_is_kept(upscale: Linf, tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image(tmp_path / f"a.{suffix}", 8, 9, icc_profile=profile)
    done = upscale(f"a.{suffix}", "--scale", "2")
    assert (done.status, done.err) == (0, "")
    assert Image.open(tmp_path / f"a_x2.{suffix}").info["icc_profile"] == profile


def test_a_colour_profile_is_kept_with_16_bits(upscale: Linf, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tifffile.imwrite(
        tmp_path / "a.tif", photograph(8, 9, 3, np.uint16), photometric="rgb", iccprofile=profile
    )
    for suffix in ("tiff", "png"):
        assert upscale("a.tif", "--scale", "2", "--format", suffix).status == 0
        made = tmp_path / f"a_x2.{'tif' if suffix == 'tiff' else suffix}"
        assert Image.open(made).info["icc_profile"] == profile


def test_a_profile_of_other_pixels_is_left_out(upscale: Linf, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image(tmp_path / "a.png", 8, 9, mode="L", icc_profile=profile)
    done = upscale("a.png", "--scale", "2")
    assert done.status == 0
    assert done.err.startswith("note: a.png: its colour profile is not one for its kind of pixels")
    assert "icc_profile" not in Image.open(tmp_path / "a_x2.png").info


def test_exif_that_a_format_cannot_hold_is_told(upscale: Linf, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "long" * 20_000
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image(tmp_path / "a.png", 8, 9, exif=exif.tobytes(), icc_profile=profile)
    done = upscale("a.png", "--scale", "2", "--format", "jpg")
    assert (done.status, done.err) == (0, "note: a.png: its EXIF cannot be written to jpg\n")
    assert Image.open(tmp_path / "a_x2.jpg").info["icc_profile"] == profile
    assert upscale("a.png", "--scale", "2").err == ""
    assert Image.open(tmp_path / "a_x2.png").getexif()[0x010E] == "long" * 20_000


def test_palettes(tmp_path: Path) -> None:
    grey = Image.fromarray(photograph(8, 9)).convert("L").convert("P")
    grey.save(tmp_path / "grey.gif")
    assert read_photo(tmp_path / "grey.gif").pixels.shape == (8, 9, 1)
    grey.save(tmp_path / "veil.png", transparency=bytes(range(256)))
    veil = read_photo(tmp_path / "veil.png")
    assert veil.alpha is not None
    np.testing.assert_array_equal(veil.pixels[..., 0], grey.convert("L"))
    np.testing.assert_array_equal(veil.alpha, np.asarray(grey))
    colour = Image.fromarray(photograph(8, 9)).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    colour.info["transparency"] = 3
    colour.save(tmp_path / "clear.png")
    found = read_photo(tmp_path / "clear.png")
    assert found.pixels.shape == (8, 9, 3)
    assert found.alpha is not None
    np.testing.assert_array_equal(found.alpha == 0, np.asarray(colour) == 3)


# Mistakes

MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no size": (("a.png",), ("--scale", "--size")),
    "both sizes": (("a.png", "--scale", "2", "--size", "9x"), ("--size", "--scale")),
    "nothing": (("--scale", "2"), ("IN",)),
    "empty": (("", "--scale", "2"), ("an argument is empty", "variable")),
    "scale 0": (("a.png", "--scale", "0"), ("--scale 0 is not", "1 to 1000")),
    "scale below 0": (("a.png", "--scale", "-2"), ("--scale -2 is not", "1 to 1000")),
    "scale below 1": (("a.png", "--scale", "0.5"), ("--scale 0.5 is not", "1 to 1000")),
    "scale 1e9": (("a.png", "--scale", "1e9"), ("--scale 1e9 is not", "1 to 1000")),
    "scale nan": (("a.png", "--scale", "nan"), ("--scale nan is not", "1 to 1000")),
    "scale in words": (("a.png", "--scale", "two"), ("--scale two is not", "vertical first, as in 2x3")),
    "one scale of two": (("a.png", "--scale", "2xx"), ("--scale 2xx is not", "vertical first, as in 2x3")),
    "one scale below 1": (("a.png", "--scale", "2x0.5"), ("--scale 2x0.5 is not", "1 to 1000")),
    "no side": (("a.png", "--size", "x"), ("--size x is not a size", "4096x", "x2160")),
    "one number": (("a.png", "--size", "4096"), ("--size 4096 is not a size", "4096x")),
    "side 0": (("a.png", "--size", "0x5"), ("--size 0x5 is not a size",)),
    "side below 0": (("a.png", "--size=-4x5"), ("--size -4x5 is not a size",)),
    "no file": (("gone.png", "--scale", "2"), ("there is no file or folder gone.png",)),
    "no match": (("gone*.png", "--scale", "2"), ("no file matches gone*.png",)),
    "empty folder": (("empty", "--scale", "2"), ("no image in empty", ".png")),
    "temperature": (
        ("a.png", "--scale", "2", "--temperature", "-1"),
        ("temperature -1.0", "0 to 1 is usual"),
    ),
    "temperature nan": (("a.png", "--scale", "2", "--temperature", "nan"), ("temperature nan",)),
    "no samples": (("a.png", "--scale", "2", "--samples", "0"), ("--samples 0",)),
    "same samples": (
        ("a.png", "--scale", "2", "--samples", "2", "--temperature", "0"),
        ("all samples are the same",),
    ),
    "seed": (("a.png", "--scale", "2", "--seed", "-1"), ("--seed -1", "0 to")),
    "tile": (("a.png", "--scale", "2", "--tile", "3"), ("--tile 3", "auto", "16")),
    "device": (("a.png", "--scale", "2", "--device", "abacus"), ("--device abacus", "cpu")),
    "device number": (("a.png", "--scale", "2", "--device", "cuda:99"), ("--device cuda:99", "cpu")),
    "dtype": (("a.png", "--scale", "2", "--dtype", "int8"), ("int8", "bfloat16")),
    "quality": (("a.png", "--scale", "2", "--quality", "0"), ("--quality 0", "1 to 100")),
    "format": (("a.png", "--scale", "2", "--format", "bmp"), ("bmp", "png", "webp")),
    "out and format": (("a.png", "--scale", "2", "--format", "jpg", "--out", "b.png"), ("contradict",)),
    "suffix": (("a.png", "--scale", "2", "--out", "b.bmp"), ("--out b.bmp", ".tiff")),
    "many to one": (("a.png", "b.png", "--scale", "2", "--out", "c.png"), ("is one file", "2 images")),
    "folder to one": (("in", "--scale", "2", "--out", "c.png"), ("is one file",)),
    "pipe and file": (("-", "a.png", "--scale", "2"), ("stdin",)),
    "samples to stdout": (
        ("a.png", "--scale", "2", "--samples", "2", "--out", "-"),
        ("stdout", "--out FOLDER"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(upscale: Linf, tmp_path: Path, mistake: str) -> None:
    for name in ("a.png", "b.png", "in/c.png"):
        image(tmp_path / name, 6, 6)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments, words = MISTAKES[mistake]
    done = upscale(*arguments)
    assert_in_words(done.status, done.out, done.err, *words)
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_models(upscale: Linf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    image(tmp_path / "a.png", 6, 6)
    done = upscale("a.png", "--scale", "2", model="gone.ckpt")
    assert_in_words(done.status, done.out, done.err, "no checkpoint at gone.ckpt")
    for extra in (
        ("--temperature", "0.5"),
        ("--samples", "2"),
        ("--latents=correlated",),
        ("--uncertainty",),
    ):
        done = upscale("a.png", "--scale", "2", *extra, model="bicubic")
        assert_in_words(done.status, done.out, done.err, "Bicubic has nothing random")
    assert upscale("a.png", "--scale", "2", model="default").status == 0


def test_sizes_that_a_image_cannot_have(
    upscale: Linf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "a.png", 20, 80)
    cases = {
        "80×20 pixels, and 40×10 are asked for: a side may grow 1 to 1000 times": ("--size", "40x"),
        "webp holds at most 16383 pixels a side, 80000 are asked for": (
            "--size",
            "x20000",
            "--format",
            "webp",
        ),
        "jpg holds at most 65500 pixels a side": ("--size", "66000x400", "--format", "jpg"),
        "output size 20000×80000 needs": ("--scale", "1000", "--samples", "9000"),
    }
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**18))
    for words, arguments in cases.items():
        done = upscale("a.png", *arguments)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith("a.png: ")
        assert words in done.err
        assert done.err.count("\n") == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    done = upscale("a.png", "--scale", "2")
    assert (done.status, done.out) == (1, "")
    assert "160×40 pixels need at least" in done.err


def test_sizes_of_images() -> None:
    assert parse_size(3.7, None).of(100, 10) == (370, 37)
    assert parse_size(None, "4096x").of(3000, 4000) == (3072, 4096)
    assert parse_size(None, "x4320").of(2160, 3840) == (4320, 7680)
    assert parse_size(None, "50×40").of(20, 20) == (40, 50)


# Pipes and progress


def shell(tmp_path: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "linf", "upscale", *arguments],
        cwd=tmp_path,
        input=given,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.slow
def test_stdin_to_stdout(tmp_path: Path, checkpoint: Path) -> None:
    source = image(tmp_path / "a.jpg", 8, 9)
    done = shell(tmp_path, "-", "--scale", "2", "--model", str(checkpoint), given=source.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    made = Image.open(io.BytesIO(done.stdout))
    assert (made.format, made.size) == ("PNG", (18, 16))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_broken_stdin_is_a_line(upscale: Linf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    done = upscale("-", "--scale", "2", model="bicubic")
    assert done == Outcome(1, "", "stdin: the file is empty\n")


def test_a_file_to_stdout_and_stdin_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "a.png", 8, 9)
    cli.main(["upscale", "a.png", "--scale", "2", "--model", "bicubic", "--out", "-", "--format", "webp"])
    out, err = capfdbinary.readouterr()
    assert Image.open(io.BytesIO(out)).format == "WEBP"
    assert err == b""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out)))
    cli.main(["upscale", "-", "--scale", "2", "--model", "bicubic", "--out", "new"])
    assert Image.open(tmp_path / "new" / "stdin_x2.png").size == (36, 32)


def test_progress_is_for_terminals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for name in ("a.png", "b.png"):
        image(tmp_path / name, 60, 80)
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        cli.main(["upscale", "a.png", "b.png", "c.png", "--scale", "3", "--model", str(checkpoint)])
    err = capfd.readouterr().err
    assert "1/3 a.png" in err
    assert re.search(r"\d%.*/86\.4k.*\d\d:\d\d<\d\d:\d\d", err)
    assert "c.png: it is no PNG" in err


@pytest.mark.slow
def test_many_tiles_need_no_more_memory_than_few(tmp_path: Path) -> None:
    """By a LINF of published size, 0.75 megapixels; most of it are the libraries."""
    torch.manual_seed(0)
    model = LINF(EDSR(), FourierConditioner, ConditionalFlow(3))
    model.flow.whiten(0.1 * torch.randn(27, 500))
    linf.save(model, tmp_path / "m.safetensors")
    image(tmp_path / "a.jpg", 354, 530)
    # The peak that `resource` tells of is at least that of the process that started this one.
    script = (
        "import sys; from linf import cli; cli.main(sys.argv[1:]);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "upscale", "a.jpg", "--scale", "2", "--model", "m.safetensors"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # Two take 0.3 more.
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stderr) < 1.2e6  # 1.10 of three megapixels, 1.03 of half as many, 0.94 of these


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_the_shape_of_the_input_is_not_that_of_the_output(upscale: Linf, tmp_path: Path, suffix: str) -> None:
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "a.tif", photograph(8, 8, 3, dtype), photometric="rgb")
        done = upscale("a.tif", "--scale", "2", "--out", f"b.{suffix}", "--force", model="bicubic")
        assert done.status == 0, done.err
        assert b'"shape"' in (tmp_path / "a.tif").read_bytes()
        assert b'"shape"' not in (tmp_path / f"b.{suffix}").read_bytes()
