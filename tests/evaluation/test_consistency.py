"""Evaluation of consistent images: by the map that made their LR, in a run beside the plain one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

import linf
from helpers.commands import Compose
from helpers.images import photograph
from linf.data.cache import ImageCache
from linf.data.degradation import Degradation
from linf.data.pairs import ScaledImages
from linf.data.rounds import Blur, Compression, Kernels, Noise, Round
from linf.errors import UsageError
from linf.evaluation.evaluation import Evaluation
from linf.evaluation.measure import check_consistency
from linf.evaluation.systems import systems
from linf.models.baselines import Bicubic
from linf.models.consistency import Projection
from linf.report import find_runs

BLURS = Blur(1.0, sigma=(0.3, 0.8), elongation=(1, 1.5))
LINEAR = Degradation(Round(BLURS, Kernels(bicubic=1, matlab=1, bilinear=1, area=1)), clean=0.2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("images")
    for n in range(4):
        Image.fromarray(photograph(60 + 3 * n, 71, seed=n)).save(folder / f"{n}.png")
    return ImageCache(sorted(folder.glob("*.png")), cache_dir=folder)


def made_by(cache: ImageCache, lr_from: str) -> ScaledImages:
    scales = [2, 3.3, [1.5, 4]]
    if lr_from == "degradation":
        return ScaledImages(cache, scales, degradation=LINEAR)
    return ScaledImages(cache, scales, resize=lr_from)  # type: ignore[arg-type]


@pytest.mark.parametrize("lr_from", ["pil", "matlab", "degradation"])
def test_hr_is_consistent_with_its_lr_but_for_rounding(cache: ImageCache, lr_from: str) -> None:
    pairs, kernels = made_by(cache, lr_from), set()
    for pair in pairs:
        assert pair.reduction is not None
        kernels.add(pair.reduction.kernel)
        lr_size, size = ((x.shape[-2], x.shape[-1]) for x in (pair.lr, pair.hr))
        moved = Projection(lr_size, size, 1, pair.reduction)(pair.hr, pair.lr) - pair.hr
        assert moved.abs().max() * 255 < 1.5, pair.reduction
        other = pair.reduction._replace(sigma=(6.0, 6.0), side=None)
        moved = Projection(lr_size, size, 1, other)(pair.hr, pair.lr) - pair.hr
        assert moved.abs().max() * 255 > 4
    assert len(kernels) == (4 if lr_from == "degradation" else 1)


def test_lr_with_noise_or_of_bicubic_is_refused(cache: ImageCache, checkpoint: Path) -> None:
    model = linf.load(checkpoint)
    for each in (Round(noise=Noise(0.5)), Round(jpeg=Compression(1.0, 80))):
        noisy = ScaledImages(cache, [2], name="Set5", degradation=Degradation(each))
        assert noisy[0].reduction is None
        with pytest.raises(
            UsageError, match=r"would put into every image what was done to LR of Set5 \(bicubic, "
        ):
            check_consistency(3, model, [noisy])
        check_consistency(0, model, [noisy])
    silent = Degradation(Round(BLURS, noise=Noise(1.0, 0.0)))
    check_consistency(3, model, [ScaledImages(cache, [2], degradation=silent), made_by(cache, "pil")])
    with pytest.raises(UsageError, match="bicubic stays as it is"):
        check_consistency(3, Bicubic(), [made_by(cache, "pil")])


def test_every_system_of_a_model_is_projected(checkpoint: Path) -> None:
    model, lr = linf.load(checkpoint), torch.rand(1, 3, 12, 10)
    size = (30, 25)
    project = Projection((12, 10), size)
    plain, made = (list(systems(model, lr, size, [0, 0.7], seed=0, projection=p)) for p in (None, project))
    assert torch.equal(plain[0].images, made[0].images), "bicubic"
    for before, after in zip(plain[1:], made[1:], strict=True):
        assert (before.name, before.temperature) == (after.name, after.temperature)
        torch.testing.assert_close(after.images, project(before.images, lr), rtol=0, atol=1e-5)


def evaluate(composed: Compose, model: Path, images: Path, folder: Path, *overrides: str) -> Evaluation:
    given = (
        f"ckpt_path={model}",
        "data=folder",
        f"data.root={images}",
        f"run_dir={folder}",
        "data.num_workers=0",
    )
    settings = ("data.test_scales=[3]", "data.test_resize=matlab", "metrics=fidelity", "temperatures=[0,0.8]")
    config = composed("eval", *given, *settings, "save_images=true", *overrides)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    trainer.test(task, data, verbose=False)
    return task


def test_a_consistent_run_stands_beside_the_plain_one(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    plain = evaluate(composed, checkpoint, photos, tmp_path / "plain")
    made = evaluate(composed, checkpoint, photos, tmp_path / "made", "consistency=3")
    before, after = (each.tables["metrics"].set_index("system") for each in (plain, made))
    assert before.loc["bicubic"].equals(after.loc["bicubic"])
    for system in ("τ=0", "τ=0.8"):
        assert after.loc[system, "lr_psnr"] > before.loc[system, "lr_psnr"] + 10
    for part in ("distribution", "calibration"):
        assert plain.tables[part].equals(made.tables[part]), "these are of the model itself"
    for path in photos.iterdir():
        kept = [tmp_path / run / "images" / photos.name / "x3" / path.stem for run in ("plain", "made")]
        lr = torch.from_numpy(np.array(Image.open(kept[0] / "LR.png"))).permute(2, 0, 1) / 255
        sr, found = (
            torch.from_numpy(np.array(Image.open(f / "τ=0.png"))).permute(2, 0, 1) / 255 for f in kept
        )
        lr_size, size = ((x.shape[-2], x.shape[-1]) for x in (lr, sr))
        assert (Projection(lr_size, size)(sr, lr).clamp(0, 1) - found).abs().max() < 2.5 / 255
    assert json.loads((tmp_path / "made" / "run.json").read_text())["consistency"] == 3
    runs = {run.label: run for run in find_runs([tmp_path])}
    assert list(runs) == ["LINF P=3, EDSR, consistent", "LINF P=3, EDSR"]
    assert not len(runs["LINF P=3, EDSR, consistent"].closed_form(photos.name, 3, [0, 0.8]))
    with pytest.raises(UsageError, match="consistency is None there and 3 here"):
        evaluate(composed, checkpoint, photos, tmp_path / "plain", "consistency=3")
    with pytest.raises(UsageError, match="consistency is -1: give a whole number of at least 0"):
        Evaluation(plain.model, [0], str(tmp_path), metrics={}, protocol=plain.protocol, consistency=-1)
