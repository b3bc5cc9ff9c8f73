"""Finding the files of datasets."""

from pathlib import Path

import numpy as np
import pytest

from helpers.images import one_line, write
from linf.data.datamodule import SRDataModule
from linf.data.sources import benchmark, bundled, df2k, div2k, image_folder
from linf.errors import UsageError
from linf.images.read import read_image


def test_bundled_splits_are_colour_photographs_apart() -> None:
    train, heldout = bundled("train"), bundled("heldout")
    assert not set(train.hr) & set(heldout.hr)
    assert len(train) == 5
    assert [path.stem for path in heldout.hr] == ["astronaut", "coffee"]
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
    found = image_folder(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in found.hr] == [
        "a.png",
        "b/c/y.webp",
        "b/x.JPG",
        "k.bmp",
        "z.TIFF",
    ]
    assert (found.name, image_folder(tmp_path, "mine").name, len(found)) == (tmp_path.name, "mine", 5)


def test_folder_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        image_folder(tmp_path / "absent")
    with pytest.raises(UsageError, match="no image in"):
        image_folder(tmp_path)


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
    found = benchmark(tmp_path, "Set5")
    SRDataModule(test=found, test_scales=[3], cache_dir=str(tmp_path)).setup("test")
    with pytest.raises(UsageError, match=r"missing for bird\.png, no HR for strayx2\.png") as error:
        SRDataModule(test=found, test_scales=[2, 3], cache_dir=str(tmp_path)).setup("test")
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
