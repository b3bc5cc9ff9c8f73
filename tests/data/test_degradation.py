"""Degradation of training crops and of test images, by property."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch.utils.data import default_collate

from helpers.commands import Compose
from helpers.fake_cuda import GPU, can_fake_cuda, fake_cuda
from helpers.images import photograph
from helpers.paths import ROOT
from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops, SRBatch, UndegradedBatch
from linf.data.datamodule import SRDataModule
from linf.data.degradation import Degradation
from linf.data.layouts import ImageSet
from linf.data.pairs import ImagePair, ScaledImages
from linf.data.rounds import Compression, Kernels, Noise, Round
from linf.errors import UsageError

PRESETS = ("mild", "photo", "second_order")


def preset(name: str, *overrides: str) -> Degradation:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return instantiate(compose("train", [f"data/degradation={name}", *overrides]).data.degradation)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("images")
    for n, size in enumerate(((90, 120), (110, 97))):
        Image.fromarray(photograph(*size, seed=n)).save(folder / f"{n}.png")
    return ImageCache(sorted(folder.glob("*.png")), cache_dir=folder)


def batch_of(crops: RandomScaleCrops, indices: range) -> UndegradedBatch:
    batch = default_collate([crops[i] for i in indices])
    assert isinstance(batch, UndegradedBatch)
    return batch


@pytest.mark.parametrize("name", PRESETS)
def test_a_sample_is_degraded_alike_in_any_batch(images: ImageCache, name: str) -> None:
    degradation = preset(name)
    crops = RandomScaleCrops(images, crop=16, queries=9, repeat=8, degradation=degradation)
    together = batch_of(crops, range(8)).degraded(degradation)
    for i in (0, 3, 7):
        alone = batch_of(crops, range(i, i + 1)).degraded(degradation)
        assert torch.equal(alone.lr[0], together.lr[i])
    assert torch.equal(together.lr, (together.lr * 255).round() / 255)


@pytest.mark.parametrize("name", PRESETS)
def test_only_lr_differs_and_clean_samples_not_at_all(images: ImageCache, name: str) -> None:
    degradation = preset(name, "data.degradation.clean=0.5")
    options = {"crop": 16, "queries": 9, "repeat": 16, "seed": 3}
    clean = default_collate([RandomScaleCrops(images, **options)[i] for i in range(32)])
    batch = batch_of(RandomScaleCrops(images, **options, degradation=degradation), range(32))
    degraded = batch.degraded(degradation)
    for part in ("hr", "coord", "cell"):
        assert torch.equal(getattr(degraded, part), getattr(clean, part))
    same = torch.tensor([torch.equal(a, b) for a, b in zip(degraded.lr, clean.lr, strict=True)])
    assert (same | ~batch.draw.clean).all()
    assert 8 <= int(batch.draw.clean.sum()) <= 24
    assert (~same).sum() >= 4


def test_a_round_without_anything_is_the_bicubic_to_a_level(images: ImageCache) -> None:
    nothing = Degradation(Round())
    crops = RandomScaleCrops(images, crop=24, queries=9, repeat=8, degradation=nothing)
    batch = batch_of(crops, range(16))
    assert ((batch.degraded(nothing).lr - batch.batch.lr) * 255).abs().max() < 1.01


def test_noise_has_the_deviation_that_is_asked_for(images: ImageCache) -> None:
    nothing = Degradation(Round())
    image = images[0] // 2 + 60
    rng = np.random.default_rng(0)
    clean = nothing.degrade(image, (90, 120), np.random.default_rng(0)).astype(float)
    for grey in (0, 1):
        noisy = Degradation(Round(noise=Noise(1, 9, grey)))
        difference = noisy.degrade(image, (90, 120), rng) - clean
        assert difference.std() == pytest.approx(9, rel=0.03)
        correlation = np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]
        assert correlation == pytest.approx(grey, abs=0.05)


def test_settings_that_are_off_leave_the_others_draws(images: ImageCache) -> None:
    """A table over one setting compares the same noise throughout."""
    rounds = [Round(noise=Noise(1, 5), jpeg=Compression(p)) for p in (0, 1)]
    first, second = (each.draw(np.random.default_rng(7)) for each in rounds)
    assert first[:9] == second[:9]
    assert second[9] > 0 == first[9]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_do_not_change_the_samples(images: ImageCache, workers: int) -> None:
    degradation = preset("photo")

    def loaded(rank: int, ranks: int) -> list[SRBatch]:
        data = SRDataModule(
            ImageSet("some", images.paths),
            **{"crop": 16, "queries": 9, "batch_size": 8 // ranks, "batches_per_epoch": 2},
            num_workers=workers,
            degradation=degradation,
            cache_dir=str(images.paths[0].parent),
        )
        data._ranks = lambda: (rank, ranks)  # type: ignore[method-assign]
        data.setup("fit")
        return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]

    alone, (left, right) = loaded(0, 1), (loaded(0, 2), loaded(1, 2))
    assert len(alone) == 2
    for one, a, b in zip(alone, left, right, strict=True):
        for whole, x, y in zip(one, a, b, strict=True):
            assert torch.equal(whole, torch.cat((x, y)))


def test_initial_batches_are_degraded(images: ImageCache) -> None:
    def whitening(degradation: Degradation | None) -> SRBatch:
        data = SRDataModule(
            ImageSet("some", images.paths),
            crop=16,
            queries=9,
            repeat=8,
            batch_size=8,
            degradation=degradation,
        )
        (batch,) = data.initial_batches(1)
        return batch

    clean, degraded = whitening(None), whitening(preset("photo"))
    assert isinstance(degraded, SRBatch)
    assert torch.equal(clean.hr, degraded.hr)
    assert not torch.equal(clean.lr, degraded.lr)
    assert torch.equal(whitening(preset("bicubic")).lr, clean.lr)


def test_test_images_are_coded_as_files_are(images: ImageCache, tmp_path: Path) -> None:
    jpeg = Degradation(Round(jpeg=Compression(1, 30)))
    pairs, reduced = (
        ScaledImages(images, [2], name="some", degradation=each) for each in (jpeg, Degradation(Round()))
    )
    for i in range(2):
        file = tmp_path / f"{i}.jpg"
        lr = reduced[i].lr.mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(lr).save(file, quality=30, subsampling=2)
        truth = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        assert torch.equal(pairs[i].lr, truth)
    assert pairs.lr_from == {2.0: "bicubic, JPEG quality 30"}


def test_each_image_and_scale_has_noise_of_its_own(images: ImageCache) -> None:
    noise = Degradation(Round(noise=Noise(1, 5)))
    clean = ScaledImages(images, [2, 3], name="some")
    fields = [
        (ScaledImages(images, [2, 3], name="some", degradation=noise, seed=seed)[i].lr - clean[i].lr)[
            0, :20, :20
        ]
        for i in range(4)
        for seed in (0, 1)
    ]
    for n, field in enumerate(fields):
        assert field.std() * 255 == pytest.approx(5, rel=0.15)
        for other in fields[:n]:
            assert abs(np.corrcoef(field.ravel(), other.ravel())[0, 1]) < 0.2


def test_validation_images_are_degraded_if_asked_and_always_in_one_way(composed: Compose) -> None:
    def images(*given: str) -> list[ImagePair]:
        few = ("data.val_limit=1", "data.val_scales=[2]", "data.val_crop=96")
        data = instantiate(composed("train", *few, *given).data, _convert_="all")
        data.setup("validate")
        return [data.val_pairs[i] for i in range(len(data.val_pairs))]

    noise = ("data/degradation@data.val_degradation=severity", "data.val_degradation.first.noise.sigma=5")
    (clean,), (noisy,), (again,) = images(), images(*noise), images(*noise, "data/degradation=photo")
    assert torch.equal(noisy.hr, clean.hr)
    assert (noisy.lr - clean.lr).std() * 255 == pytest.approx(5, rel=0.15)
    assert torch.equal(noisy.lr, again.lr)


def test_presets_say_what_they_do() -> None:
    assert str(preset("bicubic")).endswith("100% clean")
    assert str(preset("photo")).startswith("bicubic/bilinear/area, blur σ 0.2–0.8 of 30%")
    assert ", then " in str(preset("second_order"))
    assert preset("second_order").severity() == {}
    five = preset("severity", "data.degradation.first.noise.sigma=5")
    assert five.severity() == {"blur σ": 0, "noise σ": 5}
    assert str(five) == "bicubic, noise σ 5"


@pytest.mark.parametrize(
    ("make", "wrong", "match"),
    [
        (Noise, {"probability": 2}, r"Noise.probability is 2: .* from 0 to 1"),
        (Noise, {"sigma": (5, 2)}, r"Noise.sigma is \(5, 2\)"),
        (Noise, {"sigma": "much"}, "Noise.sigma is much"),
        (Compression, {"quality": 0}, "Compression.quality is 0: .* from 1 to 100"),
        (Kernels, {"bicubic": 0}, "one above 0"),
        (Kernels, {"area": -1}, "area -1"),
        (Round, {"size": float("nan")}, "size is nan"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[..., object], wrong: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make(**wrong)


def test_the_last_round_ends_at_lr() -> None:
    with pytest.raises(UsageError, match="ends at the LR image's"):
        Degradation(Round(), Round(size=(1, 2)))
    with pytest.raises(UsageError, match="clean is 2"):
        Degradation(Round(), clean=2)


def test_jpeg_refuses_channels_that_it_cannot_hold() -> None:
    with pytest.raises(UsageError, match="1 or 3 channels, not 5"):
        Degradation(Round(jpeg=Compression(1))).degrade(
            np.zeros((20, 20, 5), np.uint8), (10, 10), np.random.default_rng(0)
        )


@pytest.mark.skipif(not can_fake_cuda(), reason="torch before 2.12 asks a driver for every GPU tensor")
@pytest.mark.parametrize("name", PRESETS)
def test_a_gpu_waits_for_nothing(images: ImageCache, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """WebP apart, which the host codes."""
    second = ["data.degradation.second.webp.probability=0"] * (name == "second_order")
    degradation = preset(name, *second)
    crops = RandomScaleCrops(images, crop=16, queries=9, repeat=8, degradation=degradation)
    data = SRDataModule(degradation=degradation)
    for cache in ("_DEFAULT_QT_CACHE", "_DCT8_CACHE"):  # No fake tensor stays there.
        monkeypatch.setattr(f"kornia.enhance.jpeg.{cache}", {})
    batch = batch_of(crops, range(4))
    with fake_cuda() as watch:
        here = data.transfer_batch_to_device(batch, GPU, 0)
        assert isinstance(data.on_after_batch_transfer(here, 0), SRBatch)
        assert watch.found == {}
        assert watch.kernels > 100
