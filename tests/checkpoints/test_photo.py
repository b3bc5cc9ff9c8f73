"""The model for photographs: what it gains over bicubic on images that it was not trained on, degraded as files are."""

import numpy as np
import pytest
import torch

import linf
from linf.data.degradation import Degradation
from linf.data.rounds import Blur, Compression, Noise, Round
from linf.data.sources import bundled
from linf.images.read import read_image
from linf.images.resize import bicubic
from linf.metrics.functional import psnr
from linf.models.linf import LINF

KINDS = {
    "clean": Round(),
    "noise 5": Round(noise=Noise(1.0, 5.0)),
    "noise 10": Round(noise=Noise(1.0, 10.0)),
    "JPEG 30": Round(jpeg=Compression(1.0, 30.0)),
    "blur": Round(blur=Blur(1.0, 1 / 3)),
}


def gain(model: LINF, kind: str, temperature: float = 0.0) -> float:
    """PSNR on Y at ×3 less bicubic's, a mean over details of two photographs, in dB."""
    gains = []
    for n, path in enumerate(bundled("heldout").hr):
        hr = read_image(path)[100:244, 150:294]
        lr = Degradation(KINDS[kind]).degrade(hr, (48, 48), np.random.default_rng(n))
        truth, small = (torch.tensor(image).permute(2, 0, 1)[None] / 255 for image in (hr, lr))
        images = model.sample(small, (144, 144), temperature=temperature, seed=0), bicubic(small, (144, 144))
        ours, theirs = (float(psnr(image.clamp(0, 1), truth, border=3, luma=True)) for image in images)
        gains.append(ours - theirs)
    return float(np.mean(gains))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_above_bicubic_on_what_people_have(kind: str) -> None:
    photo = linf.load("photo")
    assert isinstance(photo, LINF)
    assert gain(photo, kind) > 0.3


@pytest.mark.parametrize("kind", ["noise 5", "noise 10"])
def test_the_model_for_clean_lr_is_not_for_noise(kind: str) -> None:
    photo, default = linf.load("photo"), linf.load("default")
    assert isinstance(photo, LINF)
    assert isinstance(default, LINF)
    for temperature in (0.0, 0.5):
        assert gain(photo, kind, temperature) > gain(default, kind, temperature) + 0.3
