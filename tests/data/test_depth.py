"""The cache, crops, pairs and degradations of images with any number of channels and 8 to 16 bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from helpers import bicubic
from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops, SRBatch
from linf.data.datamodule import SRDataModule
from linf.data.degradation import Degradation
from linf.data.layouts import ImageSet
from linf.data.pairs import ScaledImages
from linf.data.rounds import Compression, Noise, Round
from linf.errors import UsageError
from linf.images.pixels import PixelFormat

RNG = np.random.default_rng(0)
CASES = [(1, 16), (5, 12), (5, 8), (1, 8), (3, 16)]


def images(root: Path, channels: int, depth: int, n: int = 2) -> tuple[list[np.ndarray], list[Path]]:
    """Images of all levels, and their files; of 12 bits in 16, whose range says so."""
    shape, dtype = (40, 44, channels), np.uint8 if depth == 8 else np.uint16
    made = [RNG.integers(0, 2**depth, shape).astype(dtype) for _ in range(n)]
    paths = [root / f"{i}.tif" for i in range(n)]
    for path, image in zip(paths, made, strict=True):
        rgb = channels == 3
        values = image[..., 0] if channels == 1 else image
        layout: dict[str, Any] = {"photometric": "rgb" if rgb else "minisblack"}
        tifffile.imwrite(path, values, **layout, **({} if channels == 1 else {"planarconfig": "contig"}))
    return made, paths


def pixel_format(channels: int, depth: int) -> PixelFormat:
    return PixelFormat(channels, depth, (0, 2**depth - 1) if depth not in (8, 16) else None)


@pytest.mark.parametrize(("channels", "depth"), CASES)
def test_the_cache_holds_every_level(tmp_path: Path, channels: int, depth: int) -> None:
    made, paths = images(tmp_path, channels, depth)
    cache = ImageCache(paths, cache_dir=tmp_path, pixels=pixel_format(channels, depth))
    for image, kept in zip(made, cache, strict=True):
        assert kept.dtype == (np.uint8 if depth == 8 else np.uint16)
        assert np.array_equal(kept, image)
    bits = sum(image.size for image in made) * (1 if depth == 8 else 2)
    assert bits < cache.file.stat().st_size < bits + 200


def test_every_format_has_a_cache_of_its_own_and_rgb_the_one_it_had(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8)).save(path)
    default = ImageCache([path], cache_dir=tmp_path)
    others = [PixelFormat(1), PixelFormat(3, 16), PixelFormat(3, 12), PixelFormat(3, 8, (0, 100))]
    names = {ImageCache([path], cache_dir=tmp_path, pixels=of).file.name for of in others}
    assert len(names | {default.file.name}) == 5
    assert ImageCache([path], cache_dir=tmp_path, pixels=PixelFormat()).file == default.file
    assert default[0].dtype == np.uint8


@pytest.mark.parametrize(("channels", "depth"), CASES)
def test_a_sample_is_patches_of_a_crop_and_its_lr(tmp_path: Path, channels: int, depth: int) -> None:
    _, paths = images(tmp_path, channels, depth)
    cache = ImageCache(paths, cache_dir=tmp_path, pixels=pixel_format(channels, depth))
    crops = RandomScaleCrops(cache, crop=12, scale=(2, 2), patch_size=3, queries=64, window=True)
    sample, peak = crops[1], 2**depth - 1
    assert isinstance(sample, SRBatch)
    crop = crops._hr_crop(cache[1], np.random.default_rng((0, 0, 1)))  # By the same draws.
    lr = sample.lr.permute(1, 2, 0).double().numpy() * peak
    assert abs(lr - lr.round()).max() < 0.01
    made = bicubic.pillow(crop, (12, 12), peak)
    # Of 8 bits Pillow rounds after each axis.
    assert abs(lr.round() - made).max() <= (1 if depth > 8 else 2)
    assert sample.hr.shape == (9 * channels, 8, 8)
    y, x = (((sample.coord[3, 5, i].item() + 1) * 24 - 1) / 2 for i in (0, 1))
    y, x = round(y), round(x)
    patch = sample.hr[:, 3, 5].double().numpy().reshape(channels, 3, 3) * peak
    assert np.array_equal(patch.round(), crop[y - 1 : y + 2, x - 1 : x + 2].transpose(2, 0, 1))


@pytest.mark.parametrize("resize", ["pil", "matlab"])
@pytest.mark.parametrize(("channels", "depth"), CASES)
def test_pairs_have_the_levels_of_the_depth(tmp_path: Path, channels: int, depth: int, resize: Any) -> None:
    made, paths = images(tmp_path, channels, depth)
    cache = ImageCache(paths, cache_dir=tmp_path, pixels=pixel_format(channels, depth))
    pair = ScaledImages(cache, [2], resize=resize)[0]
    assert pair.peak == 2**depth - 1
    hr, lr = (part.permute(1, 2, 0).double().numpy() * pair.peak for part in (pair.hr, pair.lr))
    assert np.array_equal(hr.round(), made[0])
    assert abs(lr - lr.round()).max() < 0.01
    assert lr.shape == (20, 22, channels)
    if depth > 8:
        assert (lr.round() % 257 != 0).mean() > 0.9


@pytest.mark.parametrize(("channels", "depth"), CASES)
def test_degraded_images_are_rounded_to_the_depth(channels: int, depth: int) -> None:
    peak, dtype = 2**depth - 1, np.uint8 if depth == 8 else np.uint16
    hr = RNG.integers(peak // 4, peak // 2, (60, 60, channels)).astype(dtype)
    noisy = Degradation(Round(noise=Noise(1.0, 5.0, 0.0)))
    clean = Degradation(Round())
    lr, plain = (each.degrade(hr, (30, 30), np.random.default_rng(3), peak) for each in (noisy, clean))
    assert lr.dtype == dtype
    assert lr.shape == (30, 30, channels)
    noise = (lr.astype(float) - plain) / peak * 255
    assert noise.std() == pytest.approx(5, rel=0.1), "σ is of 255 at every depth"
    assert abs(plain.astype(float) - bicubic.pillow(hr, (30, 30), peak)).max() <= (1 if depth > 8 else 2)
    if depth > 8:
        assert len(np.unique(lr)) > 500


def test_a_batch_is_degraded_in_its_own_levels(tmp_path: Path) -> None:
    _, paths = images(tmp_path, 5, 12)
    module = SRDataModule(
        ImageSet("a", tuple(paths)),
        **{"channels": 5, "depth": 12, "value_range": [0, 4095], "cache_dir": str(tmp_path)},
        **{"batch_size": 2, "crop": 10, "scale": (2, 3), "queries": 16},
        degradation=Degradation(Round(noise=Noise(1.0, 3.0))),
    )
    module.setup("fit")
    batch = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    lr = batch.lr * 4095
    assert lr.shape == (2, 5, 10, 10)
    assert (lr - lr.round()).abs().max() < 0.01
    clean = module.initial_batches(1)[0]
    assert clean.hr.shape == (2, 5, 4, 4)
    assert torch.isfinite(clean.lr).all()


@pytest.mark.parametrize(
    ("channels", "depth", "words"),
    [
        (5, 8, "JPEG and WebP hold 1 or 3 channels, not 5"),
        (1, 16, "JPEG and WebP hold 8 bits, and white is 65535"),
    ],
)
@pytest.mark.parametrize("codec", ["jpeg", "webp"])
@pytest.mark.parametrize("use", ["degradation", "val_degradation", "test_degradation"])
def test_compression_of_what_files_cannot_hold_is_refused_at_once(
    channels: int, depth: int, words: str, codec: str, use: str
) -> None:
    degradation = Degradation(Round(**{codec: Compression(0.1)}))
    with pytest.raises(UsageError, match=words):
        SRDataModule(channels=channels, depth=depth, **{use: degradation})
