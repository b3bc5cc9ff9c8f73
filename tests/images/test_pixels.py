"""Images of any number of channels, of 8 to 16 bits, and of floats with a stated range, from real files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from helpers import bicubic as bicubic_in_numpy
from helpers.images import noise, write
from linf.errors import UsageError
from linf.images.photo import Photo
from linf.images.pixels import PixelFormat, ranged_photo, read_values, stored_photo
from linf.images.read import read_image
from linf.images.resize import bicubic, matlab_bicubic, pil_bicubic
from linf.images.tiff import write_layers
from linf.images.write import write_photo
from linf.models.baselines import Bicubic

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (7, 9, 5)).astype(np.uint16)


def tiff(path: Path, values: np.ndarray, **kwargs: Any) -> Path:
    tifffile.imwrite(path, values, **({"photometric": "minisblack"} | kwargs))
    return path


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("contig", {"planarconfig": "contig"}),
        ("planes", {"planarconfig": "separate"}),
        ("pages", {}),
        ("deflate", {"planarconfig": "contig", "compression": "zlib"}),
        ("big-endian", {"planarconfig": "contig", "byteorder": ">"}),
        ("BigTIFF", {"planarconfig": "contig", "bigtiff": True}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_five_channels_are_read_as_written(tmp_path: Path, name: str, layout: dict, dtype: type) -> None:
    values = (DEEP >> 8).astype(dtype) if dtype == np.uint8 else DEEP
    first = values if layout.get("planarconfig") == "contig" else values.transpose(2, 0, 1).copy()
    path = tiff(tmp_path / "a.tif", first, **layout)
    read = PixelFormat(5, 8 if dtype == np.uint8 else 16).read(path)
    assert read.dtype == dtype
    assert np.array_equal(read, values)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_grey_of_16_bits_keeps_every_level(tmp_path: Path, suffix: str) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(PixelFormat(1, 16).read(tmp_path / f"a.{suffix}")[..., 0], levels)
    rgb = PixelFormat(3, 16).read(tmp_path / f"a.{suffix}")
    assert np.array_equal(rgb, np.repeat(levels[..., None], 3, 2))
    twelve = PixelFormat(1, 12).read(tmp_path / f"a.{suffix}")[..., 0]
    assert np.array_equal(twelve, np.rint(levels * (4095 / 65535)))


def test_colour_of_16_bits_keeps_every_level(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", DEEP[..., :3], photometric="rgb")
    assert np.array_equal(PixelFormat(3, 16).read(path), DEEP[..., :3])


def test_8_bits_become_16_and_a_range_states_12_bits_in_16(tmp_path: Path) -> None:
    pixels = noise(6, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(PixelFormat(3, 16).read(tmp_path / "a.png"), pixels.astype(np.uint16) * 257)
    twelve = RNG.integers(0, 4096, (4, 6)).astype(np.uint16)
    path = tiff(tmp_path / "b.tif", twelve)
    assert np.array_equal(PixelFormat(1, 12, (0, 4095)).read(path)[..., 0], twelve)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_a_range_makes_levels_of_any_type(tmp_path: Path, dtype: type) -> None:
    hounsfield = RNG.integers(-1500, 4000, (8, 6)).astype(dtype)
    path = tiff(tmp_path / "ct.tif", hounsfield)
    read = PixelFormat(1, 16, (-1024, 3071)).read(path)
    expected = np.rint((hounsfield.clip(-1024, 3071).astype(float) + 1024) / 4095 * 65535)
    assert np.array_equal(read[..., 0], expected)
    inverted = PixelFormat(1, 8, (3071, -1024)).read(path)
    assert np.array_equal(
        inverted[..., 0], np.rint((3071 - hounsfield.clip(-1024, 3071).astype(float)) / 4095 * 255)
    )


def test_without_a_range_floats_are_refused_and_nan_always(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.zeros((4, 4, 5), np.float32), planarconfig="contig")
    with pytest.raises(
        UsageError, match=r"a.tif: its values are float32, whose white is not defined: .*value_range"
    ):
        PixelFormat(5).read(path)
    with pytest.raises(UsageError, match="32-bit floats, whose white is not defined"):
        PixelFormat(1).read(tiff(tmp_path / "grey.tif", np.zeros((4, 4), np.float32)))
    with pytest.raises(UsageError, match="not numbers"):
        PixelFormat(1, 16, (0, 1)).read(tiff(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32)))


def test_grey_and_colour_become_each_other(tmp_path: Path) -> None:
    pixels = noise(6, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = PixelFormat(1).read(tmp_path / "a.png")[..., 0].astype(int)
    assert abs(grey - np.asarray(Image.fromarray(pixels).convert("L")).astype(int)).max() <= 1
    assert np.array_equal(grey, np.rint(pixels @ np.array([0.299, 0.587, 0.114])))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    assert np.array_equal(PixelFormat(1).read(tmp_path / "b.png"), pixels[..., :1])


def test_alpha_is_a_channel_or_lies_over_white(tmp_path: Path) -> None:
    rgba = noise(4, 5, 4)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(PixelFormat(4).read(tmp_path / "a.png"), rgba)
    over = 255 + (rgba[..., :3].astype(float) - 255) * rgba[..., 3:] / 255
    deep = PixelFormat(3, 16).read(tmp_path / "a.png")
    assert abs(deep - over * 257).max() <= 0.5 + 1e-6
    assert abs(deep / 257 - read_image(tmp_path / "a.png").astype(float)).max() < 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_beside_a_range(tmp_path: Path, dtype: type, channels: int) -> None:
    values = RNG.integers(0, 200, (6, 7, channels + 1)).astype(dtype)
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    values[..., -1] = np.linspace(0, 1, 42).reshape(6, 7) * white
    kind = {"photometric": "rgb" if channels == 3 else "minisblack", "extrasamples": ["unassalpha"]}
    path = tiff(tmp_path / "a.tif", values, planarconfig="contig", **kind)
    opacity = values[..., -1:].astype(float) / white
    over = (200 + (values[..., :-1].astype(float) - 200) * opacity) / 200 * 255
    assert abs(PixelFormat(channels, 8, (0, 200)).read(path) - over).max() <= 0.51
    photo = read_values(path, channels, ranged=True)
    assert photo.alpha.dtype == (np.uint8 if dtype == np.uint8 else np.uint16)
    back = stored_photo(ranged_photo(photo, (0, 200)))
    with open(tmp_path / "b.tif", "w+b") as out:
        write_layers(out, back.pixels, "contig", back.alpha)
    written = tifffile.imread(tmp_path / "b.tif")
    assert written.dtype == dtype
    assert abs(written.astype(float) - values).max() <= (200 / 65535 if dtype == np.float32 else 0)


@pytest.mark.parametrize(("channels", "given"), [(3, 5), (1, 5), (5, 3), (2, 1)])
def test_another_number_of_channels_is_told(tmp_path: Path, channels: int, given: int) -> None:
    values = DEEP[..., :given] if given > 1 else DEEP[..., 0]
    path = tiff(tmp_path / "a.tif", values, photometric="rgb" if given == 3 else "minisblack")
    if given == 5:
        path = tiff(tmp_path / "a.tif", values, planarconfig="contig")
    words = f"a.tif: it has {given} channels?, and {channels} are asked for: set data.channels={given}"
    with pytest.raises(UsageError, match=words):
        PixelFormat(channels, 8).read(path)


def test_pages_that_are_not_the_channels_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "linf")
    path = tiff(tmp_path / "a.tif", DEEP.transpose(2, 0, 1).copy())
    with pytest.raises(UsageError, match="it has 5 pages, and 4 channels are wanted"):
        PixelFormat(4).read(path)
    assert np.array_equal(PixelFormat(1, 16).read(path)[..., 0], DEEP[..., 0]), (
        "the first frame, as of any image"
    )
    assert caplog.messages == [f"{path}: only the first of its frames or pages is taken"]
    PixelFormat(5, 16).read(path)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_layers_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    stored = DEEP.transpose(2, 0, 1).copy()
    tiff(tmp_path / "a.tif", stored, planarconfig="separate", extratags=[(274, 3, 1, orientation, True)])
    grey = Image.fromarray(DEEP[..., 2])
    grey.save(tmp_path / "b.png", exif=_oriented(orientation))
    assert np.array_equal(
        PixelFormat(5, 16).read(tmp_path / "a.tif")[..., 2],
        PixelFormat(1, 16).read(tmp_path / "b.png")[..., 0],
    )


def _oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_broken_and_missing_files_are_one_line(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", DEEP, planarconfig="contig")
    path.write_bytes(path.read_bytes()[:200])
    for file in (path, tmp_path / "missing.tif", write(tmp_path / "empty.tif").parent / "no.png"):
        with pytest.raises(UsageError, match=f"^{file}: "):
            PixelFormat(5, 16).read(file)


def test_the_default_is_what_it_was(tmp_path: Path) -> None:
    assert PixelFormat().settings == {}
    path = write(tmp_path / "a.png", 9, 7)
    assert np.array_equal(PixelFormat().read(path), read_image(path))
    assert PixelFormat().read(path).dtype == np.uint8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": 0}, "data.channels is 0"),
        ({"depth": 7}, "data.depth is 7: give 8 to 16 bits"),
        ({"value_range": (1, 1)}, "data.value_range is"),
        ({"value_range": (0, float("nan"))}, "data.value_range is"),
        ({"value_range": (1,)}, "data.value_range is"),
    ],
)
def test_settings_out_of_range_are_told(settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PixelFormat(**settings)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint16])
@pytest.mark.parametrize("layout", ["contig", "separate", "pages"])
def test_layers_are_written_as_they_were_read(tmp_path: Path, dtype: type, layout: str) -> None:
    values = RNG.integers(-1000 if dtype != np.uint16 else 0, 3000, (6, 7, 5)).astype(dtype)
    with open(tmp_path / "a.tif", "w+b") as out:
        write_layers(out, values, layout)
    photo = read_values(tmp_path / "a.tif", 5, ranged=True)
    assert photo.layout == layout
    assert np.array_equal(photo.pixels, values)
    assert tifffile.imread(tmp_path / "a.tif").shape == ((6, 7, 5) if layout == "contig" else (5, 6, 7))
    back = stored_photo(ranged_photo(photo, (-1000, 3000)))
    assert back.pixels.dtype == dtype
    assert abs(back.pixels.astype(float) - values).max() <= (0 if dtype != np.float32 else 4000 / 65535)


@pytest.mark.parametrize(("peak", "channels"), [(65535, 1), (4095, 5), (255, 1), (255, 5), (255, 4)])
def test_pillows_bicubic_of_every_depth(peak: int, channels: int) -> None:
    dtype = np.uint8 if peak == 255 else np.uint16
    # Away from black and white, where Pillow clips between the axes of 8 bits.
    rng = np.random.default_rng(peak + channels)
    image = rng.integers(peak // 4, 3 * peak // 4, (24, 30, channels)).astype(dtype)
    made = pil_bicubic(image, (10, 11), peak).astype(float)
    exact = bicubic_in_numpy.pillow(image, (10, 11), peak)
    assert made.dtype == float
    # Of 8 bits Pillow rounds after each axis.
    assert abs(made - exact).max() <= 1
    assert peak == 255 or (made == exact).mean() > 0.99


@pytest.mark.parametrize("peak", [4095, 65535])
@pytest.mark.parametrize("channels", [1, 5])
def test_matlabs_bicubic_rounds_to_the_levels_of_the_depth(peak: int, channels: int) -> None:
    image = RNG.integers(0, peak + 1, (9, 8, channels)).astype(np.int32)
    exact = bicubic_in_numpy.matlab(image, (27, 24), peak)
    lr = torch.from_numpy(image).permute(2, 0, 1)
    assert np.array_equal(matlab_bicubic(lr, (27, 24), peak=peak).permute(1, 2, 0), exact)
    row = bicubic((lr / peak)[None], (27, 24), peak)[0].permute(1, 2, 0)
    assert np.array_equal(row.mul(peak).round(), exact)
    assert (exact % ((peak + 1) // 256) != 0).mean() > 0.8, "these are no levels of 8 bits"
    strips = Bicubic(peak.bit_length()).sample((lr / peak)[None], (27, 24))[0].permute(1, 2, 0)
    assert np.array_equal(strips.mul(peak).round(), exact)


def test_more_pixels_than_tiff_can_count_are_written_as_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = np.repeat(DEEP[..., :1], 3, 2)
    for limit, big in ((2**31, False), (10, True)):
        for module in ("tiff", "write"):
            monkeypatch.setattr(f"linf.images.{module}.BIG_TIFF", limit)
        with open(tmp_path / "photo.tif", "wb") as out:
            write_photo(out, Photo(deep), "tiff", 95)
        with open(tmp_path / "layers.tif", "wb") as out:
            write_layers(out, DEEP, "contig")
        for name, values in (("photo.tif", deep), ("layers.tif", DEEP)):
            with tifffile.TiffFile(tmp_path / name) as file:
                assert file.is_bigtiff == big
                assert np.array_equal(file.asarray(), values)
