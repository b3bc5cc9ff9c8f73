"""Reading images and finding datasets' files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import noise, one_line, write
from linf.data.sources import benchmark, bundled, df2k, div2k, folder, read_image
from linf.errors import UsageError

# read_image


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_rgb_is_read_as_written(tmp_path: Path, suffix: str) -> None:
    pixels = noise(7, 9)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.tif")
    out = read_image(tmp_path / "a.tif")
    assert out.shape == (4, 5, 3)
    assert out.dtype == np.uint8
    assert out.min() >= 250


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[1, 2, 3]]]


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0, 0], [200, 0, 0, 255], [0, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[255] * 3, [200, 0, 0], [127] * 3]]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colour_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (read_image(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}")[0, :, 1].tolist() == [0, 1, 128, 255]


def test_grey_of_32_bit_integers_counts_as_16(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # White at the top left, black elsewhere.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=100, exif=exif)
    out = read_image(tmp_path / "a.jpg").astype(int)
    assert out.shape == upright.shape
    assert np.abs(out - upright).max() < 40


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_hide_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (4, 4, 3)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(tmp_path / "a.webp")[0, 0].tolist() == [255, 0, 0]


def test_unreadable_files_are_named_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole.jpg", 64, 64)
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    for name, reason in {
        "cut.jpg": "truncated",
        "text.png": "cannot identify",
        "empty.png": "cannot identify",
        "absent.png": "No such file",
        "float.tif": "32-bit floats",
    }.items():
        with pytest.raises(UsageError, match=reason) as error:
            read_image(tmp_path / name)
        assert name in one_line(error)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UsageError, match="exceeds limit"):
        read_image(tmp_path / "whole.jpg")


# Sources


def test_bundled_splits_are_colour_photographs_apart() -> None:
    train, heldout = bundled("train"), bundled("heldout")
    assert not set(train.hr) & set(heldout.hr)
    assert len(train) == 5
    assert [path.stem for path in heldout.hr] == ["astronaut", "coffee", "flower"]
    for path in train.hr + heldout.hr:
        pixels = read_image(path).astype(int)
        assert min(pixels.shape[:2]) >= 300
        assert np.abs(pixels[..., 0] - pixels[..., 2]).mean() > 2
    with pytest.raises(UsageError, match="heldout"):
        bundled("test")  # type: ignore[arg-type]


def test_folder_is_deep_sorted_and_blind_to_case(tmp_path: Path) -> None:
    for name in ("b/x.JPG", "a.png", "b/c/y.webp", "z.TIFF", "k.bmp"):
        write(tmp_path / name)
    write(tmp_path / "._a.png")
    (tmp_path / "notes.txt").touch()
    found = folder(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in found.hr] == [
        "a.png",
        "b/c/y.webp",
        "b/x.JPG",
        "k.bmp",
        "z.TIFF",
    ]
    assert (found.name, folder(tmp_path, "mine").name, len(found)) == (tmp_path.name, "mine", 5)


def test_folder_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        folder(tmp_path / "absent")
    with pytest.raises(UsageError, match="no image in"):
        folder(tmp_path)


@pytest.mark.parametrize("home", ["", "DIV2K"])
@pytest.mark.parametrize("lr", ["DIV2K_valid_LR_bicubic/X2", "DIV2K_valid_LR_bicubic_X2"])
def test_div2k(tmp_path: Path, home: str, lr: str) -> None:
    for name in ("0801", "0802"):
        write(tmp_path / home / "DIV2K_valid_HR" / f"{name}.png")
        write(tmp_path / home / lr / f"{name}x2.png", 6, 8)
    write(tmp_path / home / "DIV2K_train_HR" / "0001.png")
    valid = div2k(tmp_path, "valid")
    assert [p.name for p in valid.hr] == ["0801.png", "0802.png"]
    assert [p.name for p in valid.lr[2]] == ["0801x2.png", "0802x2.png"]
    assert list(valid.lr) == [2.0]
    assert [p.name for p in div2k(tmp_path).hr] == ["0001.png"]


def test_df2k_is_div2k_and_flickr2k(tmp_path: Path) -> None:
    write(tmp_path / "DIV2K_train_HR" / "0001.png")
    with pytest.raises(UsageError, match=r"Flickr2K: .*Flickr2K_HR.*unpack Flickr2K\.tar"):
        df2k(tmp_path)
    write(tmp_path / "Flickr2K" / "Flickr2K_HR" / "000001.png")
    assert [p.name for p in df2k(tmp_path).hr] == ["0001.png", "000001.png"]


@pytest.mark.parametrize("hr", ["Set5/HR", "Set5", "Set5/GTmod12", "benchmark/Set5/HR"])
@pytest.mark.parametrize("lr", ["{}/LR_bicubic/X3", "{}/LRbicx3", "{}_LR_bicubic/X3", "{}_LR_matlab/X3"])
@pytest.mark.parametrize("name", ["{}x3.png", "{}.png"])
def test_benchmark_layouts(tmp_path: Path, hr: str, lr: str, name: str) -> None:
    home = "benchmark/Set5" if "benchmark" in hr else "Set5"
    for stem in ("baby", "x3"):
        write(tmp_path / hr / f"{stem}.png")
        write(tmp_path / lr.format(home) / name.format(stem), 4, 5)
    if name == "{}.png":
        (tmp_path / hr / "x3.png").unlink()
        (tmp_path / lr.format(home) / "x3.png").unlink()
    found = benchmark(tmp_path, "Set5")
    assert [p.name for p in found.lr[3]] == [name.format(p.stem) for p in found.hr]


def test_mismatched_lr_are_named(tmp_path: Path) -> None:
    for stem in ("baby", "bird"):
        write(tmp_path / "Set5" / f"{stem}.png")
    for stem in ("babyx2", "strayx2"):
        write(tmp_path / "Set5" / "LR_bicubic" / "X2" / f"{stem}.png")
    with pytest.raises(UsageError, match=r"missing for bird\.png, no HR for strayx2\.png") as error:
        benchmark(tmp_path, "Set5")
    one_line(error)


@pytest.mark.parametrize(
    "find", [lambda root: benchmark(root, "Set5"), div2k, df2k, lambda root: div2k(root, "valid")]
)
def test_a_missing_dataset_says_where_it_was_looked_for_and_how_to_lay_it_out(tmp_path: Path, find) -> None:
    with pytest.raises(UsageError) as error:
        find(tmp_path)
    text = one_line(error)
    assert str(tmp_path) in text
    assert "unpack" in text or "put them in" in text
