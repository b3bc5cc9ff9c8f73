"""Training samples and evaluation pairs, by property."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops, SRBatch, UndegradedBatch, augment, smallest_crop
from linf.data.degradation import Degradation
from linf.data.pairs import ScaledImages, collate_pair
from linf.data.rounds import Noise, Round
from linf.errors import UsageError
from linf.images.resize import matlab_bicubic, pil_bicubic


def cache_of(root: Path, *shapes: tuple[int, int], channels: str = "noise", **kwargs: int) -> ImageCache:
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate(shapes):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        if channels == "position":  # Red tells y, green tells x.
            image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)
        paths.append(root / f"{i}_{height}x{width}_{channels}.png")
        Image.fromarray(image).save(paths[-1])
    return ImageCache(paths, cache_dir=root, **kwargs)


def pixel_index(coord: Tensor, n: int) -> np.ndarray:
    """The inverse of ``-1 + (2i + 1) / n``, exact or failing."""
    index = ((coord.double() + 1) * n - 1) / 2
    assert torch.allclose(index, index.round(), atol=1e-3)
    return index.round().long().numpy()


def whole_crop(dataset: RandomScaleCrops, i: int) -> np.ndarray:
    """The HR crop of sample i: (H, W, 3) uint8, by the same draws."""
    epoch, index = divmod(i, len(dataset))
    rng = np.random.default_rng((dataset.seed, epoch, index))
    return dataset._hr_crop(dataset.cache[index % len(dataset.cache)], rng)


def same(a: SRBatch, b: SRBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


CASES = [
    {"patch_size": 1, "queries": 100, "window": False},
    {"patch_size": 3, "queries": 30, "window": False},
    {"patch_size": 5, "queries": 2000, "window": False},
    {"patch_size": 1, "queries": 144, "window": True},
    {"patch_size": 3, "queries": 17, "window": True},
]


@pytest.mark.parametrize("case", CASES)
def test_sample_is_patches_of_a_crop_and_its_bicubic_lr(tmp_path: Path, case: dict) -> None:
    dataset = RandomScaleCrops(cache_of(tmp_path, (60, 70), (90, 55)), crop=12, **case)
    p = case["patch_size"]
    for i in range(12):
        sample, crop = dataset[i], whole_crop(dataset, i)
        n = len(crop)
        assert torch.equal(sample.cell, torch.tensor([2 / n, 2 / n]))
        lr = np.rint(sample.lr.numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
        assert np.array_equal(lr, pil_bicubic(crop, (12, 12)))
        d, *grid = sample.hr.shape
        assert d == 3 * p * p
        assert sample.coord.shape == (*grid, 2)
        y, x = (pixel_index(sample.coord[..., axis], n) for axis in (0, 1))
        assert min(y.min(), x.min()) >= p // 2
        assert max(y.max(), x.max()) < n - p // 2
        for c in range(3):
            for dy in range(p):
                for dx in range(p):
                    expected = crop[y + dy - p // 2, x + dx - p // 2, c].astype(np.float32) / 255
                    assert np.array_equal(sample.hr[c * p * p + dy * p + dx].numpy(), expected)
        assert all(t.dtype == torch.float32 for t in sample)


@pytest.mark.parametrize(("queries", "grid"), [(16, (4, 4)), (15, (1, 15)), (1, (1, 1))])
def test_queries_make_a_square_or_a_row(tmp_path: Path, queries: int, grid: tuple[int, int]) -> None:
    sample = RandomScaleCrops(cache_of(tmp_path, (40, 40)), crop=8, queries=queries)[0]
    assert sample.coord.shape == (*grid, 2)


def test_queries_are_distinct_where_there_are_enough(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (40, 40))
    coord = RandomScaleCrops(cache, crop=8, scale=(2, 2), queries=256)[0].coord
    assert len(torch.unique(coord.reshape(-1, 2), dim=0)) == 256
    coord = RandomScaleCrops(cache, crop=8, scale=(2, 2), queries=400)[0].coord
    assert coord.shape == (20, 20, 2)


def test_window_is_contiguous_whole_patches(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (80, 80), channels="position")
    dataset = RandomScaleCrops(cache, crop=12, scale=(1, 4), patch_size=3, queries=16, window=True, repeat=40)
    corners = set()
    for i in range(40):
        sample, crop = dataset[i], whole_crop(dataset, i)
        tiles = sample.hr.reshape(3, 3, 3, 4, 4).permute(3, 1, 4, 2, 0).reshape(12, 12, 3)
        y, x = (int(pixel_index(sample.coord[0, 0, axis], len(crop))) - 1 for axis in (0, 1))
        assert np.array_equal(np.rint(tiles.numpy() * 255), crop[y : y + 12, x : x + 12])
        corners.add((y, x))
    assert len(corners) > 20


def test_scale_is_uniform_in_range_and_all_eight_orientations_occur(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (100, 100), channels="position")
    dataset = RandomScaleCrops(cache, crop=16, scale=(1.5, 4), queries=1, repeat=400)
    sides, seen, tops = [], set(), []
    for i in range(400):
        crop = whole_crop(dataset, i).astype(int)
        sides.append(len(crop))
        down, right = (crop[-1, 0] - crop[0, 0])[:2], (crop[0, -1] - crop[0, 0])[:2]
        seen.add((*np.sign(down), *np.sign(right)))
        tops.append(crop[..., 0].min() / (100 - len(crop)))
        assert set(np.abs(np.concatenate([down, right]))) == {0, len(crop) - 1}
    assert (min(sides), max(sides)) == (24, 64)
    assert np.mean(sides) / 16 == pytest.approx(2.75, abs=0.15)
    assert len(seen) == 8
    assert min(tops) < 0.05
    assert max(tops) > 0.95


def test_each_axis_has_its_own_scale(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (150, 160), channels="position")
    given = {"crop": 16, "scale": (3, 4), "scale_y": (1.5, 2.5), "queries": 16, "repeat": 300}
    dataset, sizes, seen = RandomScaleCrops(cache, **given), [], set()
    for i in range(300):
        crop = whole_crop(dataset, i).astype(int)
        sizes.append(crop.shape[:2])
        down, right = (crop[-1, 0] - crop[0, 0])[:2], (crop[0, -1] - crop[0, 0])[:2]
        seen.add((*np.sign(down), *np.sign(right)))
        # Whichever axis of the image is upright in the sample, the sample's own axes have these scales.
        assert (np.abs(down).max(), np.abs(right).max()) == (crop.shape[0] - 1, crop.shape[1] - 1)
    high, wide = np.array(sizes).T
    assert (high.min(), high.max(), wide.min(), wide.max()) == (24, 40, 48, 64)
    assert abs(np.corrcoef(high, wide)[0, 1]) < 0.15
    assert len(seen) == 8
    for i in range(8):
        sample, crop = dataset[i], whole_crop(dataset, i)
        assert torch.equal(sample.cell, torch.tensor([2 / n for n in crop.shape[:2]]))
        lr = np.asarray(Image.fromarray(crop).resize((16, 16), Image.Resampling.BICUBIC))
        assert np.array_equal(np.rint(sample.lr.numpy() * 255), lr.transpose(2, 0, 1))
        y, x = (pixel_index(sample.coord[..., axis], n) for axis, n in enumerate(crop.shape[:2]))
        assert np.array_equal(np.rint(sample.hr.numpy() * 255), crop[y, x].transpose(2, 0, 1))
        assert same(sample, RandomScaleCrops(cache, **given)[i])


def test_a_window_and_a_degradation_fit_a_scale_for_each_axis(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (90, 100), channels="position")
    given = {"crop": 12, "scale": (1, 2), "scale_y": (2, 4), "patch_size": 3, "queries": None, "window": True}
    for i in range(20):
        dataset = RandomScaleCrops(cache, **given, repeat=20)
        sample, crop = dataset[i], whole_crop(dataset, i)
        tiles = sample.hr.reshape(3, 3, 3, 4, 4).permute(3, 1, 4, 2, 0).reshape(12, 12, 3)
        y, x = (int(pixel_index(sample.coord[0, 0, axis], n)) - 1 for axis, n in enumerate(crop.shape[:2]))
        assert np.array_equal(np.rint(tiles.numpy() * 255), crop[y : y + 12, x : x + 12])
        noisy = Degradation(Round(noise=Noise(1.0, 0.0)))
        degraded = RandomScaleCrops(cache, **given, repeat=20, degradation=noisy)[i]
        assert isinstance(degraded, UndegradedBatch)
        assert degraded.hr.shape == (3, 48, 48)
        made = default_collate([degraded]).degraded(noisy)
        assert (made.lr[0] - sample.lr).abs().max() < 0.02
    with pytest.raises(UsageError, match=r"take 9 pixels a side, .* round\(8 · 1\) = 8"):
        RandomScaleCrops(cache, crop=8, scale=(2, 4), scale_y=(1, 2), window=True, queries=81)
    with pytest.raises(UsageError, match=r"scale_y is \[0.5, 2\]"):
        RandomScaleCrops(cache, scale_y=(0.5, 2))
    with pytest.raises(UsageError, match="below the smallest crop, 144"):
        RandomScaleCrops(cache, scale=(1, 2), scale_y=(3, 4))


def test_fixed_scale(tmp_path: Path) -> None:
    dataset = RandomScaleCrops(cache_of(tmp_path, (50, 50)), crop=10, scale=(2.55, 2.55), queries=1, repeat=5)
    assert {len(whole_crop(dataset, i)) for i in range(5)} == {round(25.5)}


def test_augment_gives_eight_different_images() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({augment(image, i).tobytes() for i in range(8)}) == 8
    assert augment(np.zeros((2, 5, 3)), 4).shape == (5, 2, 3)


def test_sample_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (60, 60), (60, 60))
    dataset, again = (RandomScaleCrops(cache, crop=8, queries=9, repeat=3) for _ in range(2))
    assert len(dataset) == 6
    for i in (5, 0, 17):
        assert same(dataset[i], again[i])
    samples = [dataset[i] for i in range(18)] + [
        RandomScaleCrops(cache, crop=8, queries=9, repeat=3, seed=1)[0]
    ]
    assert not any(same(a, b) for i, a in enumerate(samples) for b in samples[:i])


def test_samples_collate_to_the_same_tuple(tmp_path: Path) -> None:
    dataset = RandomScaleCrops(cache_of(tmp_path, (60, 60)), crop=8, patch_size=3, queries=9, repeat=4)
    batch = default_collate([dataset[i] for i in range(4)])
    assert isinstance(batch, SRBatch)
    assert [tuple(t.shape) for t in batch] == [(4, 3, 8, 8), (4, 27, 3, 3), (4, 3, 3, 2), (4, 2)]


def test_small_images_limit_the_scale_or_are_dropped(tmp_path: Path) -> None:
    shapes = ((19, 40), (20, 90), (64, 64))
    smallest = smallest_crop(10, (2.0, 4.0))
    cache = cache_of(tmp_path, *shapes, min_side=smallest)
    assert cache.shapes == shapes[1:]
    dataset = RandomScaleCrops(cache, crop=10, scale=(2.0, 4.0), queries=4, repeat=30)
    assert {len(whole_crop(dataset, i)) for i in range(0, 60, 2)} == {20}
    assert max(len(whole_crop(dataset, i)) for i in range(1, 60, 2)) > 35
    with pytest.raises(UsageError, match="min_side=20"):
        RandomScaleCrops(cache_of(tmp_path, *shapes), crop=10, scale=(2.0, 4.0))


def test_rounding_down_the_smallest_crop_still_gives_samples(tmp_path: Path) -> None:
    dataset = RandomScaleCrops(cache_of(tmp_path, (3, 3)), crop=3, scale=(1.1, 4), queries=4)
    assert dataset[0].lr.shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"scale": (math.nan, 4)}, "scale is"),
        ({"scale": (0, 4)}, "scale is"),
        ({"scale": (0.5, 4)}, "scale is"),
        ({"scale": (-1, 4)}, "scale is"),
        ({"scale": (1, math.inf)}, "scale is"),
        ({"scale": (4, 1)}, "scale is"),
        ({"scale": (4,)}, "scale is"),
        ({"crop": 0}, "crop is 0"),
        ({"patch_size": 2}, "odd"),
        ({"patch_size": 0}, "odd"),
        ({"patch_size": -3}, "odd"),
        ({"queries": 0}, "queries"),
        ({"repeat": 0}, "repeat"),
        ({"seed": -1}, "seed"),
        ({"crop": 8, "window": True, "queries": 81}, "take 9 pixels a side, .* smallest crop"),
        ({"crop": 8, "window": True, "queries": 9, "patch_size": 3}, "take 9 pixels"),
        ({"crop": 2, "patch_size": 3}, "take 3 pixels"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        RandomScaleCrops(cache_of(tmp_path, (60, 60)), **wrong)
    assert "\n" not in str(error.value)


# Evaluation pairs


@pytest.mark.parametrize("s", [1, 2, 3, 3.3, 4, 7.25])
def test_pair_is_a_crop_and_its_bicubic_lr(tmp_path: Path, s: float) -> None:
    cache = cache_of(tmp_path, (50, 61))
    image = ScaledImages(cache, [s])[0]
    h, w = math.floor(50 / s), math.floor(61 / s)
    assert image.lr.shape == (3, h, w)
    assert image.hr.shape == (3, round(h * s), round(w * s))
    hr = cache[0][: round(h * s), : round(w * s)]
    assert np.array_equal(np.rint(image.hr.numpy() * 255), hr.transpose(2, 0, 1))
    lr = pil_bicubic(np.ascontiguousarray(hr), (h, w))
    assert np.array_equal(np.rint(image.lr.numpy() * 255), lr.transpose(2, 0, 1))
    assert (image.scale, image.name) == (s, "0_50x61_noise")


def test_pair_with_a_scale_for_each_axis(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (50, 61))
    pairs = ScaledImages(cache, [[1.5, 4], 2, [2, 2], [4, 1.5]])
    tall, both, same, wide = pairs
    assert [f"{image.scale:g}" for image in pairs] == ["1.5x4", "2", "2", "4x1.5"]
    assert (tall.lr.shape, tall.hr.shape) == ((3, 33, 15), (3, 50, 60))
    assert (wide.lr.shape, wide.hr.shape) == ((3, 12, 40), (3, 48, 60))
    hr = cache[0][:50, :60]
    assert np.array_equal(np.rint(tall.hr.numpy() * 255), hr.transpose(2, 0, 1))
    lr = np.asarray(Image.fromarray(hr).resize((15, 33), Image.Resampling.BICUBIC))
    assert np.array_equal(np.rint(tall.lr.numpy() * 255), lr.transpose(2, 0, 1))
    assert torch.equal(both.lr, same.lr)
    with pytest.raises(UsageError, match="50 pixels on a side, which scale 51x2 shrinks to none"):
        ScaledImages(cache, [[51, 2]])
    with pytest.raises(UsageError, match="scales are"):
        ScaledImages(cache, [[0.5, 2]])


def test_floor_survives_floating_point(tmp_path: Path) -> None:
    assert ScaledImages(cache_of(tmp_path, (33, 33)), [1.1])[0].lr.shape == (3, 30, 30)


def test_first_scale_first(tmp_path: Path) -> None:
    pairs = ScaledImages(cache_of(tmp_path, (20, 20), (30, 30)), [2, 3])
    assert [(p.scale, p.hr.shape[1]) for p in pairs] == [(2, 20), (2, 30), (3, 18), (3, 30)]
    assert len(pairs) == 4


@pytest.mark.parametrize(("hr", "cropped"), [((50, 61), (48, 60)), ((47, 60), (47, 60))])
def test_given_lr_is_used_and_decides_the_crop(
    tmp_path: Path, hr: tuple[int, int], cropped: tuple[int, int]
) -> None:
    lr = cache_of(tmp_path, (16, 20))
    pairs = ScaledImages(cache_of(tmp_path, hr), [2, 3], {3: lr})
    assert np.array_equal(np.rint(pairs[1].lr.numpy() * 255), lr[0].transpose(2, 0, 1))
    assert pairs[1].hr.shape == (3, *cropped)
    assert pairs[0].lr.shape == (3, hr[0] // 2, hr[1] // 2)


def test_a_degradation_makes_lr_where_it_is_given_too(tmp_path: Path) -> None:
    hr, lr = cache_of(tmp_path, (48, 60)), cache_of(tmp_path, (16, 20))
    noisy = Degradation(Round(noise=Noise(probability=1, sigma=(9, 9))))
    pairs, alone = (ScaledImages(hr, [3], of, degradation=noisy) for of in ({3: lr}, None))
    assert torch.equal(pairs[0].lr, alone[0].lr)
    assert pairs.lr_from == {3: str(noisy)}
    assert pairs.digest(0) == alone.digest(0)


def test_given_lr_of_more_than_hr_is_refused(tmp_path: Path) -> None:
    lr = cache_of(tmp_path, (20, 20))  # Of an image before it was cropped.
    with pytest.raises(UsageError, match=r"the given LR of .* with \(36, 40\) pixels at scale 2 is "):
        ScaledImages(cache_of(tmp_path, (36, 40)), [2], {2: lr})


@pytest.mark.parametrize("s", [2, 2.7, 4])
def test_lr_is_made_by_the_bicubic_that_is_asked_for(tmp_path: Path, s: float) -> None:
    cache = cache_of(tmp_path, (40, 44))
    pil, matlab = (ScaledImages(cache, [s], name="set", resize=whose)[0] for whose in ("pil", "matlab"))
    assert torch.equal(pil.hr, matlab.hr)
    expected = matlab_bicubic(pil.hr.mul(255).round().byte(), pil.lr.shape[-2:])
    assert torch.equal(matlab.lr.mul(255).round().byte(), expected)
    inside = (..., slice(3, -3), slice(3, -3))
    difference = (pil.lr - matlab.lr).mul(255).round().abs()
    assert difference[inside].max() <= 1
    assert difference.max() > 1, "they differ at the border"
    assert pil.dataset == "set"


def test_an_unknown_bicubic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose 'pil' or 'matlab'"):
        ScaledImages(cache_of(tmp_path, (20, 20)), [2], resize="kornia")  # type: ignore[arg-type]


def test_central_crop_comes_first_and_sets_given_lr_aside(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (50, 61), (10, 80))
    pairs = ScaledImages(cache, [3], {3: cache_of(tmp_path, (16, 20), (3, 26))}, crop=20)
    assert np.array_equal(np.rint(pairs[0].hr.numpy() * 255), cache[0][15:33, 20:38].transpose(2, 0, 1))
    assert (pairs[0].lr.shape, pairs[1].hr.shape) == ((3, 6, 6), (3, 9, 18))


def test_collate_adds_the_batch(tmp_path: Path) -> None:
    image = ScaledImages(cache_of(tmp_path, (20, 30)), [2])[0]
    batch = collate_pair([image])
    assert (batch.lr.shape, batch.hr.shape) == ((1, 3, 10, 15), (1, 3, 20, 30))
    assert (batch.scale, batch.name) == (2.0, image.name)


def test_evaluation_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, (5, 40))
    for scales in ([], [0], [math.nan], [0.5], [2, math.inf]):
        with pytest.raises(UsageError, match="scales are"):
            ScaledImages(cache, scales)
    with pytest.raises(UsageError, match=r"0_5x40_noise\.png has 5 pixels .* scale 6 .* at most 5") as error:
        ScaledImages(cache, [2, 6])
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="crop is 0"):
        ScaledImages(cache, [2], crop=0)
    with pytest.raises(UsageError, match="given LR of"):
        ScaledImages(cache_of(tmp_path, (50, 60)), [2], {2: cache_of(tmp_path, (50, 60))})
    with pytest.raises(UsageError, match="is nothing"):
        ScaledImages(cache_of(tmp_path, (8, 8), (8, 8)), [2], {2: cache_of(tmp_path, (4, 4))})
