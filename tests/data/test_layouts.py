"""Given LR images in the layouts of the field: found and used, by the figures of a black LR image."""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.commands import Command, assert_in_words
from helpers.images import noise, write
from linf.data.cache import ImageCache
from linf.data.datamodule import SRDataModule
from linf.data.given import given_pairs
from linf.data.marks import read_marks
from linf.data.sources import benchmark, image_folder
from linf.errors import UsageError

# For a name and a scale: where HR and LR are, and whether the scale is said.
LAYOUTS = {
    "EDSR and LIIF": ("Set5/HR/{name}.png", "Set5/LR_bicubic/X{s:g}/{name}x{s:g}.png"),
    "below benchmark": ("benchmark/Set5/HR/{name}.png", "benchmark/Set5/LR_bicubic/X{s:g}/{name}x{s:g}.png"),
    "ArbSR": ("Set5/HR/{name}.png", "Set5/LR_bicubic/X{s:.2f}/{name}x{s:.2f}.png"),
    "ArbSR, both axes": ("Set5/HR/{name}.png", "Set5/LR_bicubic/X{s:.2f}_X{s:.2f}/{name}.png"),
    "x2": ("Set5/HR/{name}.png", "Set5/x{s:g}/{name}.png"),
    "LRx2": ("Set5/HR/{name}.png", "Set5/LRx{s:g}/{name}.png"),
    "lr_x2": ("Set5/hr/{name}.png", "Set5/lr_x{s:g}/{name}.png"),
    "BasicSR": ("Set5/GTmod12/{name}.png", "Set5/LRbicx{s:g}/{name}.png"),
    "KAIR": ("testsets/Set5/HR/{name}.png", "testsets/Set5/LR_bicubic/X{s:g}/{name}x{s:g}.png"),
    "SRGAN": ("Set5/original/{name}.png", "Set5/LRbicx{s:g}/{name}.png"),
    "scale first": ("Set5/X{s:g}/GT/{name}.png", "Set5/X{s:g}/LR/{name}.png"),
    "RCAN": ("HR/Set5/x{s:g}/{name}_HR_x{s:g}.png", "LR/LRBI/Set5/x{s:g}/{name}_LRBI_x{s:g}.png"),
    "IMDN": ("Set5/{name}.png", "Set5_LR/x{s:g}/{name}.png"),
    "SelfExSR": (
        "Set5/image_SRF_{s:g}/{name}_SRF_{s:g}_HR.png",
        "Set5/image_SRF_{s:g}/{name}_SRF_{s:g}_LR.png",
    ),
    "RealSR": ("Set5/Test/{name}_HR.png", "Set5/Test/{name}_LR{s:g}.png"),
    "RealSR in folders": ("Set5/x{s:g}/test_HR/{name}.png", "Set5/x{s:g}/test_LR/{name}.png"),
    "RealArbiSR": ("Set5/HR{dot}/{name}.png", "Set5/LR{dot}/{name}.png"),
    "REDS": ("Set5/train_sharp/000/{name}.png", "Set5/train_sharp_bicubic/X{s:g}/000/{name}.png"),
    "own pairs": ("Set5/HR/{name}.png", "Set5/LR/{name}.png"),
    "own pairs in one folder": ("Set5/{name}_HR.png", "Set5/{name}_LR.png"),
    "prefixes in one folder": ("Set5/hr_{name}.png", "Set5/lr_{name}.png"),
    "suffixes in one folder": ("Set5/{name}.png", "Set5/{name}_x{s:g}.png"),
    "unpacked twice": ("Set5/Set5/HR/{name}.png", "Set5/Set5/LR_bicubic/X{s:g}/{name}x{s:g}.png"),
}
NAMES = ("baby", "img_001")


def lay_out(root: Path, layout: str, *scales: float) -> None:
    """White HR images of 48 × 72 pixels and black LR images."""
    for s in scales:
        for name in NAMES:
            dot = f"{s:g}".replace(".", "dot")
            for pattern, shape, value in zip(
                LAYOUTS[layout], ((48, 72), (48 / s, 72 / s)), (255, 0), strict=True
            ):
                path = root / pattern.format(name=name, s=s, dot=dot)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((*map(int, shape), 3), value, np.uint8)).save(path)


@pytest.mark.parametrize("scales", [(2,), (8,), (1.5,), (2, 4)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("find", [image_folder, lambda root: benchmark(root, "Set5")])
def test_given_lr_is_used_in_every_layout(
    tmp_path: Path, layout: str, scales: tuple[float, ...], find: Callable
) -> None:
    said = any(mark in LAYOUTS[layout][1] for mark in ("{s", "{dot"))
    scales = scales if said else scales[:1]
    lay_out(tmp_path, layout, *scales)
    data = SRDataModule(test=find(tmp_path), test_scales=[*scales, 3], cache_dir=str(tmp_path / "cache"))
    data.setup("test")
    (pairs,) = data.test_pairs
    assert pairs.lr_from == dict.fromkeys(map(float, scales), "given") | {3.0: "Pillow's bicubic"}
    assert len(pairs) == len(NAMES) * (len(scales) + 1)
    for image in pairs:
        assert float(image.hr.min()) == 1
        assert image.hr.shape == (3, 48, 72)
        assert image.lr.shape == (3, int(48 / image.scale), int(72 / image.scale))
        assert float(image.lr.max()) == (0 if image.scale in scales else 1)


def test_given_lr_with_a_scale_for_each_axis_is_used(tmp_path: Path) -> None:
    for name in NAMES:
        for folder, shape, value in (("HR", (48, 72), 255), ("LR_bicubic/X1.50_X4.00", (32, 18), 0)):
            path = tmp_path / "Set5" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(path)
    found = benchmark(tmp_path, "Set5")
    data = SRDataModule(test=found, test_scales=[2, [1.5, 4], [4, 1.5]], cache_dir=str(tmp_path / "cache"))
    data.setup("test")
    (pairs,) = data.test_pairs
    made = "Pillow's bicubic"
    assert {f"{s:g}": of for s, of in pairs.lr_from.items()} == {"2": made, "1.5x4": "given", "4x1.5": made}
    shapes = [(tuple(image.lr.shape), float(image.lr.max())) for image in pairs]
    assert shapes == [((3, 24, 36), 1), ((3, 24, 36), 1), *[((3, 32, 18), 0)] * 2, *[((3, 12, 48), 1)] * 2]


def psnr_y(sr: float, hr: np.ndarray) -> float:
    """PSNR on Y, in dB, of a uniform grey image, by the coefficients of BT.601."""
    luma = hr @ np.array([65.481, 128.553, 24.966]) / 255 + 16
    return -10 * math.log10(np.mean((luma - (16 + 219 * sr)) ** 2) / 255**2)


@pytest.mark.slow
def test_evaluation_says_where_lr_came_from(tmp_path: Path, command: Command) -> None:
    hr = noise(24, 24)
    for folder, pixels in (("HR", hr), ("LR_bicubic/X2.00", np.zeros((12, 12, 3), np.uint8))):
        (tmp_path / "Set5" / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "Set5" / folder / "a.png")
    for data in (("data=folder", "data.root=Set5"), ("data=benchmark", "data.root=.")):
        given = ("model=bicubic", *data, "data.test_scales=[2,3]", "data.num_workers=0", "metrics=fidelity")
        name = data[0].removeprefix("data=")
        done = command("eval", *given, f"hydra.run.dir={name}")
        assert done.status == 0, done.err
        assert "LR of Set5: given at ×2; made by Pillow's bicubic at ×3" in done.out
        table = pd.read_csv(tmp_path / name / "metrics.csv").set_index("scale")
        assert table["lr"].to_dict() == {2: "given", 3: "Pillow's bicubic"}
        assert table.loc[2, "psnr_y"] == pytest.approx(psnr_y(0, hr[2:-2, 2:-2]), abs=0.01)
        about = (tmp_path / name / "run.json").read_text()
        assert str(tmp_path / "Set5" / "LR_bicubic" / "X2.00") in about
    from linf.report import find_runs, write_report

    page = write_report(find_runs([tmp_path / "folder"]), tmp_path / "report").read_text()
    assert "LR of Set5: given at ×2; made by Pillow&#39;s bicubic at ×3" in page
    # Another source of LR is another evaluation.
    Image.new("RGB", (8, 8)).save(write(tmp_path / "Set5" / "LR_bicubic" / "X3" / "a.png"))
    again = command("eval", *given, "hydra.run.dir=benchmark")
    assert_in_words(
        again.status, again.out, again.err, "LR of Set5 at ×3 is from Pillow's bicubic there and given"
    )


def test_div2k_uses_bicubic_lr_and_names_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("bicubic/X4/{}x4", "unknown/X4/{}x4", "mild/{}x4m", "wild/{}x4w"):
        write(tmp_path / "Set5" / f"LR_{kind.format('a')}.png", 12, 18)
    write(tmp_path / "Set5" / "HR" / "a.png", 48, 72)
    assert "LR_bicubic" in str(benchmark(tmp_path, "Set5").lr[4])
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "LR_unknown" in line
    assert "data.test.degradation=" in line
    for kind in ("unknown", "mild", "wild"):
        assert f"LR_{kind}" in str(benchmark(tmp_path, "Set5", kind).lr[4])
    with pytest.raises(UsageError, match="'nearest': there are bicubic, mild, unknown, wild"):
        benchmark(tmp_path, "Set5", "nearest")


@pytest.mark.parametrize(
    ("beside", "word"),
    [
        ("Set5/LR_bicubic/X1.1_X1.5_X2/a.png", "more than two scales"),
        ("Set5/results/a.png", "passed over"),
        ("Set5/LR_unknown/X2/a.png", "degradation=unknown"),
    ],
)
def test_what_is_not_understood_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, beside: str, word: str
) -> None:
    lay_out(tmp_path, "EDSR and LIIF", 2)
    write(tmp_path / beside, 12, 12)
    for _ in range(2):
        found = benchmark(tmp_path, "Set5")
        assert (len(found), list(found.lr)) == (2, [2])
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert str(Path(beside).parts[1]) in line
    assert word in line


def test_lr_of_another_scale_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lay_out(tmp_path, "own pairs", 2)
    SRDataModule(test=image_folder(tmp_path), test_scales=[3], cache_dir=str(tmp_path / "cache")).setup(
        "test"
    )
    assert "is of ×2 and not of the scales [3]" in caplog.text
    assert re.search(r"given LR images of 1 scale$", caplog.text, re.MULTILINE)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ((16, 8), "is of ×1.5x3 and not of the scales [3]"),
        (
            (8, 8),
            "differs by image, from ×2.12 to ×3; put the images of each scale into a folder of their own",
        ),
    ],
)
def test_lr_of_scales_that_differ_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, second: tuple[int, int], words: str
) -> None:
    for name, size in (("a", (16, 8)), ("b", second)):
        write(tmp_path / "HR" / f"{name}.png", 24, 24)
        write(tmp_path / "LR" / f"{name}.png", *size)
    assert not given_pairs(image_folder(tmp_path), [3], lambda paths: ImageCache(paths, cache_dir=tmp_path))
    assert words in caplog.text


def test_hr_alone_takes_the_lr_beside_it(tmp_path: Path) -> None:
    lay_out(tmp_path, "EDSR and LIIF", 2, 4)
    found = image_folder(tmp_path / "Set5" / "HR")
    assert (len(found), sorted(found.lr)) == (2, [2, 4])


def test_photographs_are_no_pairs(tmp_path: Path) -> None:
    """Names that only look like those of pairs: Lightroom's folder, an app's icons, an enlarged copy."""
    for path in ("LR/a.jpg", "icon.png", "b_HR.png", "x2/c.png", "lr_e.png", "plot_x2_x4.png", "x1_x2/g.png"):
        write(tmp_path / path, 20, 20)
    for path in ("photos/f.png", "photos_x2/f_x2.png"):
        write(tmp_path / path, 40 if "x2" in path else 20, 40 if "x2" in path else 20)
    found = image_folder(tmp_path)
    assert (len(found), found.lr, found.faults) == (9, {}, {})


def test_a_folder_called_lr_beside_pairs_elsewhere_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay_out(tmp_path, "own pairs", 2)
    write(tmp_path / "trip" / "LR" / "photo.jpg", 48, 72)
    assert [path.name for path in image_folder(tmp_path).hr] == ["baby.png", "img_001.png", "photo.jpg"]
    assert "trip/LR: counted as HR" in caplog.text


def test_training_takes_the_hr_of_pairs(tmp_path: Path) -> None:
    lay_out(tmp_path, "RealSR", 2)
    write(tmp_path / "more" / "photo.png", 48, 72)
    data = SRDataModule(image_folder(tmp_path), crop=8, batch_size=1, cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    assert data.train_crops is not None
    assert [path.name for path in data.train_crops.cache.paths] == [
        "baby_HR.png",
        "img_001_HR.png",
        "photo.png",
    ]


def test_canon_and_nikon_in_folders_of_scales(tmp_path: Path) -> None:
    for camera in ("Canon", "Nikon"):
        for s in (2, 4):
            for n in range(s):
                write(tmp_path / camera / "Test" / str(s) / f"{camera}_{n}_HR.png", 48, 72)
                write(tmp_path / camera / "Test" / str(s) / f"{camera}_{n}_LR{s}.png", 48 // s, 72 // s)
    found = image_folder(tmp_path)
    assert {s: len(lr) for s, lr in found.lr.items()} == {2: 4, 4: 8}
    data = SRDataModule(test=found, test_scales=[2, 4], cache_dir=str(tmp_path / "cache"))
    data.setup("test")
    assert len(data.test_pairs[0]) == 12
    for i, image in enumerate(data.test_pairs[0]):
        assert image.lr.shape == (3, 48 // image.scale, 72 // image.scale)
        assert data.test_pairs[0].key(i) == (tmp_path.name, image.name, image.scale)


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ([".", "sr"], "Set5"),
        (["gone", "~/sr"], "set5"),
        (".", "sr/Set5"),
        ("~", "sr/Set5/HR"),
        ("~/sr/Set5", "Set5"),
        ("sr/Set5/HR", "Set5"),
    ],
)
def test_roots_and_nested_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    lay_out(tmp_path / "sr", "EDSR and LIIF", 2)
    found = benchmark(root, name)
    assert (len(found), list(found.lr), found.name.lower()) == (2, [2], "set5")


def test_several_folders_are_one_set(tmp_path: Path) -> None:
    lay_out(tmp_path / "A", "own pairs", 2)
    lay_out(tmp_path / "B", "own pairs", 2)
    found = image_folder([tmp_path / "A", tmp_path / "B", tmp_path / "A" / "Set5"])
    assert (found.name, len(found), len(found.lr[None])) == ("A+B+Set5", 4, 4)
    with pytest.raises(UsageError, match=r"no folder .*/gone: set data\.root"):
        image_folder([tmp_path / "A", tmp_path / "gone"])
    with pytest.raises(UsageError, match=r"data\.root is \[\]"):
        image_folder([])


def test_a_missing_benchmark_names_itself_and_what_is_there(tmp_path: Path, command: Command) -> None:
    lay_out(tmp_path, "EDSR and LIIF", 2)
    done = command(
        "eval", "model=bicubic", "data=benchmark", "data.root=[.,gone]", "data.test.names=[Set5,B100]"
    )
    assert_in_words(done.status, done.out, done.err, "benchmark B100", "there are Set5")


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("data.test_scales=[2,2.0000001]", "test_scales"),
        ("data.test_scales=[2,2.0]", "given twice"),
        ("temperatures=[0.8,0.80000001]", "temperatures"),
        ("data.val_scales=[3.3,3.30000001]", "val_scales"),
    ],
)
def test_values_that_print_alike_are_refused(photos: Path, command: Command, setting: str, word: str) -> None:
    done = command("eval", "model=bicubic", "data=folder", f"data.root={photos}", setting)
    assert_in_words(done.status, done.out, done.err, word, "only once")


def test_a_name_is_read_as_it_is_written() -> None:
    assert read_marks("DIV2K_valid_LR_bicubic_X3.30") == ("LR", (3.3,), "bicubic", "DIV2K_valid")
    assert read_marks("X1.50_X2.00").scales == (1.5, 2.0)
    for name in ("GTA", "hrithik", "Galax2", "Set14", "2", "rabbi", "photos"):
        assert read_marks(name) == ("", (), "", name)
    assert read_marks("x3x3", file=True).rest == "x3"
    assert read_marks("x3", file=True).rest == "x3"
