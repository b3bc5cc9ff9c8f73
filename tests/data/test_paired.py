"""Training crops of given LR–HR pairs: both sides of a sample show the same place, at whole and other ratios."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from helpers.images import one_line, write
from linf.data.cache import ImageCache
from linf.data.crops import SRBatch
from linf.data.datamodule import SRDataModule
from linf.data.degradation import Degradation, Round
from linf.data.paired import PairedCrops, TrainingPair, training_pairs
from linf.data.sources import div2k, image_folder
from linf.errors import UsageError
from linf.models.bilinear import bilinear_patches

CROP = 12


def area_weights(n_in: int, n_out: int) -> np.ndarray:
    """Reduction of one axis by area, (n_out, n_in): the share of each input pixel in each output pixel."""
    edges = np.arange(n_out + 1)[:, None] * n_in / n_out
    pixel = np.arange(n_in)
    shared = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return shared.clip(min=0) * n_out / n_in


def save_pair(
    root: Path, name: str, hr_size: tuple[int, int], lr_size: tuple[int, int], lr: str = "LR"
) -> None:
    """A pair whose red tells y and whose green tells x, both in HR pixels from 0; LR is made by area."""
    hr = np.zeros((*hr_size, 3))
    hr[..., 0], hr[..., 1] = np.arange(hr_size[0])[:, None], np.arange(hr_size[1])
    rows, cols = (area_weights(n, m) for n, m in zip(hr_size, lr_size, strict=True))
    small = np.einsum("ih,jw,hwc->ijc", rows, cols, hr)
    for folder, image in (("HR", hr), (lr, small)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image).astype(np.uint8)).save(root / folder / f"{name}.png")


def pairs_of(root: Path, **given: object) -> list[TrainingPair]:
    cached = partial(ImageCache, on_error="raise", cache_dir=root / "cache")
    return training_pairs(image_folder(root), cached, **({"crop": CROP, "scale": (1, 4)} | given))  # type: ignore[arg-type]


RATIOS = {
    "2.5": ((100, 150), (40, 60), None),
    "3": ((90, 120), (30, 40), None),
    "1": ((60, 50), (60, 50), None),
    "one that sizes alone say": ((101, 152), (40, 60), None),
    "one for each axis": ((60, 240), (40, 60), (1, 2)),
}


@pytest.mark.parametrize("patch_size", [1, 3])
@pytest.mark.parametrize("ratio", RATIOS)
def test_lr_and_hr_show_the_same_place(tmp_path: Path, ratio: str, patch_size: int) -> None:
    hr_size, lr_size, scale_y = RATIOS[ratio]
    save_pair(tmp_path, "a", hr_size, lr_size)
    ratios = [n / m for n, m in zip(hr_size, lr_size, strict=True)]
    pairs = pairs_of(tmp_path, scale_y=scale_y)
    crops = PairedCrops(pairs, crop=CROP, patch_size=patch_size, queries=64, repeat=60)
    seen = set()
    for i in range(60):
        lr, hr, coord, cell = crops[i]
        assert lr.shape == (3, CROP, CROP)
        positions = (255 * lr[:2]).numpy()  # Of y and x, in HR pixels.
        order = []
        for axis in range(2):
            along = np.moveaxis(
                positions, 1 + axis, 0
            )  # The values of the first and the last line of this axis.
            change = (along[-1] - along[0]).mean(-1)
            of = int(np.abs(change).argmax())
            order.append((of, int(np.sign(change[of]))))
        assert sorted(of for of, _ in order) == [0, 1]
        seen.add(tuple(order))
        middle = hr.reshape(3, patch_size**2, -1)[:, patch_size**2 // 2]
        for axis, (of, sign) in enumerate(order):
            r, extent = ratios[of], CROP * ratios[of]
            # An LR pixel's value is its middle less a half, to the rounding of a grey level and the steps of a ramp.
            starts = ((positions[of] + 0.5) / r - 0.5).min()
            start = round(starts)
            assert abs(starts - start) < 1.1 / r
            assert float(cell[axis]) == pytest.approx(2 / extent, rel=1e-6)
            pixel = np.rint(255 * middle[of].numpy())
            expected = sign * (2 * (pixel + 0.5 - start * r) / extent - 1)
            np.testing.assert_allclose(coord[..., axis].flatten(), expected, atol=2e-6)
            # Whole patches lie within the LR crop.
            reach = np.abs(coord[..., axis].numpy()).max() + patch_size * float(cell[axis]) / 2
            assert reach <= 1 + 1e-5
        # As the model enlarges it, LR tells the places of the HR pixels, patches in their order.
        told = 255 * bilinear_patches(lr[None], coord[None], cell[None], patch_size)[0]
        inside = (coord.abs() < 1 - 3 / CROP).all(-1)
        apart = (told - 255 * hr)[: 2 * patch_size**2, inside].abs()
        assert apart.numel() > 0
        assert float(apart.max()) < 1.1
    assert len(seen) == (8 if scale_y is None else 4), "a transpose would exchange the scales"


def test_positions_reach_all_of_the_image(tmp_path: Path) -> None:
    save_pair(tmp_path, "a", (50, 40), (20, 16))
    crops = PairedCrops(pairs_of(tmp_path), crop=CROP, queries=4000, repeat=80)
    found = np.concatenate([np.rint(255 * crops[i].hr[:2].numpy()).reshape(2, -1) for i in range(80)], axis=1)
    assert found.min(1).tolist() == [0, 0]
    assert found.max(1).tolist() == [49, 39]


@pytest.mark.parametrize("patch_size", [1, 3])
def test_a_window_is_contiguous_at_any_ratio(tmp_path: Path, patch_size: int) -> None:
    save_pair(tmp_path, "a", (100, 150), (40, 60))
    crops = PairedCrops(
        pairs_of(tmp_path), crop=CROP, patch_size=patch_size, queries=None, window=True, repeat=30
    )
    side = CROP // patch_size * patch_size
    for i in range(30):
        window = torch.nn.functional.pixel_shuffle(crops[i].hr[None], patch_size)[0, :2].mul(255).round()
        assert window.shape == (2, side, side)
        steps = [window.diff(dim=axis).abs().unique().tolist() for axis in (1, 2)]
        assert all(set(step) <= {0.0, 1.0} for step in steps)
        assert [float(of.max() - of.min()) for of in window] == [side - 1, side - 1]


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    for name, lr in (("a", (40, 60)), ("b", (50, 75))):  # A ratio of its own for each image.
        save_pair(tmp_path, name, (100, 150), lr)

    def digests(**given: object) -> list[bytes]:
        settings = {"batch_size": 2, "crop": CROP, "queries": 9, "batches_per_epoch": 4, "pairs": True}
        data = SRDataModule(image_folder(tmp_path), cache_dir=str(tmp_path / "cache"), **(settings | given))  # type: ignore[arg-type]
        data.setup("fit")
        assert isinstance(data.train_crops, PairedCrops)
        return [b"".join(t.numpy().tobytes() for t in batch) for batch in data.train_dataloader()]

    alone = digests()
    assert len(set(alone)) == 4
    assert digests(num_workers=2) == alone
    assert digests(seed=1) != alone
    crops = PairedCrops(pairs_of(tmp_path), crop=CROP, queries=9, repeat=2)
    assert len({crops[i].lr.numpy().tobytes() for i in range(3 * len(crops))}) == 12
    sizes = {round(2 / CROP / float(crops[i].cell[0]), 6) for i in range(12)}
    assert sizes == {2.5, 2.0}
    assert isinstance(default_collate([crops[0], crops[1]]), SRBatch)


def test_every_scale_in_the_range_is_used_and_hr_cropped_as_in_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for s in (2, 3, 8):
        write(tmp_path / "LR_bicubic" / f"X{s}" / "a.png", 96 // s, 120 // s)
    write(tmp_path / "LR_bicubic" / "X1.50_X3.00" / "a.png", 64, 40)
    write(tmp_path / "HR" / "a.png", 100, 121)  # LR was made of 96×120.
    pairs = pairs_of(tmp_path)
    assert [(pair.lr_size, pair.size) for pair in pairs] == [
        ((64, 40), (96, 120)),
        ((48, 60), (96, 120)),
        ((32, 40), (96, 120)),
    ]
    assert "1 whose ratio is none of data.scale=[1, 4]: " in caplog.text
    assert "X8/a.png (×8)" in caplog.text
    assert [pair.lr_size for pair in pairs_of(tmp_path, scale=(3, 4))] == [(32, 40)]


def test_small_pairs_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_pair(tmp_path, "a", (40, 60), (16, 24))
    save_pair(tmp_path, "small", (20, 60), (8, 24))
    assert [pair.name.stem for pair in pairs_of(tmp_path)] == ["a"]
    assert "left out of 2 LR–HR pairs" in caplog.text
    assert "LR/small.png" in caplog.text
    with pytest.raises(UsageError, match=r"none of 2 LR–HR pairs .* can be used: 2 with LR below 30 pixels"):
        pairs_of(tmp_path, crop=30)


def test_div2k_has_its_pairs(tmp_path: Path) -> None:
    write(tmp_path / "DIV2K_train_HR" / "0001.png", 48, 60)
    write(tmp_path / "DIV2K_train_LR_bicubic" / "X2" / "0001x2.png", 24, 30)
    cached = partial(ImageCache, cache_dir=tmp_path)
    (pair,) = training_pairs(div2k(tmp_path), cached, crop=CROP, scale=(1, 4))
    assert (pair.lr_size, pair.size) == ((24, 30), (48, 60))


def test_what_is_no_pair_is_refused_by_name(tmp_path: Path) -> None:
    def refused(root: Path, **given: object) -> str:
        with pytest.raises(UsageError) as error:
            pairs_of(root, **given)
        return one_line(error)

    save_pair(tmp_path / "aspect", "a", (100, 150), (40, 60))
    save_pair(tmp_path / "aspect", "crooked", (100, 150), (40, 64))
    said = refused(tmp_path / "aspect")
    assert "LR/crooked.png with 40×64 pixels (height × width) does not fit" in said
    assert "HR/crooked.png with 100×150" in said
    assert "data.scale_y" in said
    assert len(pairs_of(tmp_path / "aspect", scale_y=(2, 3))) == 2
    save_pair(tmp_path / "alone", "a", (100, 150), (40, 60))
    write(tmp_path / "alone" / "HR" / "lonely.png", 100, 150)
    assert "LR missing for lonely.png" in refused(tmp_path / "alone")
    save_pair(tmp_path / "named", "a", (100, 150), (40, 60), lr="LR_bicubic/X2")
    assert "at ×2 it covers 80×120" in refused(tmp_path / "named")
    write(tmp_path / "none" / "a.png")
    assert "none has no given LR images: put them beside the HR images" in refused(tmp_path / "none")
    assert "scale is [2, 1]" in refused(tmp_path / "aspect", scale=(2, 1))
    save_pair(tmp_path / "good", "a", (100, 150), (40, 60))
    said = refused(tmp_path / "good", scale=(3, 4))
    assert "1 whose ratio is none of data.scale=[3, 4]: " in said
    assert "LR/a.png (2.5×2.5)" in said


def test_settings_that_pairs_do_not_go_with_are_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, "a", (41, 61), (40, 60))
    pairs = pairs_of(tmp_path)
    with pytest.raises(
        UsageError, match=r"take 12 pixels a side, .*LR/a\.png may cover only 11 whole HR pixels"
    ) as error:
        PairedCrops(pairs, crop=CROP, queries=None, window=True)
    assert "lower queries" in one_line(error)
    PairedCrops(pairs, crop=CROP, queries=121, window=True)[0]
    for wrong in ({"patch_size": 2}, {"queries": 0}, {"repeat": 0}, {"seed": -1}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}.* (is|are)"):
            PairedCrops(pairs, crop=CROP, **wrong)
    with pytest.raises(
        UsageError, match=r"data\.pairs takes LR as it is given, .* set data/degradation=bicubic"
    ):
        SRDataModule(pairs=True, degradation=Degradation(Round()))
    SRDataModule(pairs=True, degradation=Degradation(Round(), clean=1))  # Which is none.
