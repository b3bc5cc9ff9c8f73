"""PSNR and SSIM against scikit-image and closed forms."""

import math

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from linf.metrics.functional import benchmark_border, psnr, shaved, ssim


def pair(height: int = 40, width: int = 53, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two noisy details (2,3,H,W) of a photograph, in [0, 1], and the details."""
    photograph = torch.from_numpy(astronaut()).permute(2, 0, 1).float() / 255
    hr = torch.stack([photograph[:, y : y + height, 150 : 150 + width] for y in (60, 300)])
    generator = torch.Generator().manual_seed(0)
    return (hr + noise * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def array(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("border", [0, 3])
def test_psnr_is_that_of_scikit_image(border: int) -> None:
    sr, hr = pair()
    values = psnr(sr, hr, border=border)
    assert values.shape == (2,)
    for i in range(2):
        ours, theirs = (
            array(p[i, :, border : p.shape[2] - border, border : p.shape[3] - border]) for p in (sr, hr)
        )
        expected = peak_signal_noise_ratio(theirs, ours, data_range=1)
        assert values[i].item() == pytest.approx(expected, abs=1e-5)


def test_psnr_of_a_constant_difference_is_its_logarithm() -> None:
    hr = torch.full((1, 3, 4, 4), 0.5)
    assert psnr(hr + 0.1, hr).item() == pytest.approx(20, abs=1e-5)
    assert psnr(hr - 0.01, hr).item() == pytest.approx(40, abs=1e-4)


@pytest.mark.parametrize(("channel", "weight"), [(0, 65.738 / 256), (1, 129.057 / 256), (2, 25.064 / 256)])
def test_luma_weighs_each_channel_as_benchmarks_do(channel: int, weight: float) -> None:
    hr = torch.full((1, 3, 4, 4), 0.25)
    sr = hr.clone()
    sr[:, channel] += 0.5
    assert psnr(sr, hr, luma=True).item() == pytest.approx(-20 * math.log10(0.5 * weight), abs=1e-5)


def test_luma_of_a_photograph_is_psnr_of_y() -> None:
    sr, hr = pair()
    weights = np.array([65.738, 129.057, 25.064]) / 256
    for i, value in enumerate(psnr(sr, hr, border=2, luma=True)):
        ours, theirs = (array(p[i])[2:-2, 2:-2] @ weights for p in (sr, hr))
        assert value.item() == pytest.approx(peak_signal_noise_ratio(theirs, ours, data_range=1), abs=1e-5)


@pytest.mark.parametrize("border", [0, 4])
def test_ssim_is_that_of_scikit_image(border: int) -> None:
    sr, hr = pair()
    values = ssim(sr, hr, border=border)
    assert values.shape == (2,)
    for i in range(2):
        ours, theirs = (array(shaved(p[i], border)) for p in (sr, hr))
        expected = structural_similarity(
            theirs,
            ours,
            data_range=1,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert values[i].item() == pytest.approx(expected, abs=1e-5)


def test_ssim_sees_the_valid_region_alone() -> None:
    """Written out: Gaussian windows that lie wholly inside the picture, no padding."""
    sr, hr = pair(13, 17)
    window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    window = torch.outer(window, window) / window.sum() ** 2

    def mean(picture: Tensor) -> Tensor:
        return torch.einsum("bcyxij,ij->bcyx", picture.unfold(2, 11, 1).unfold(3, 11, 1), window)

    a, b = sr.double(), hr.double()
    covariance = mean(a * b) - mean(a) * mean(b)
    variances = mean(a**2) - mean(a) ** 2 + mean(b**2) - mean(b) ** 2
    luminance = (2 * mean(a) * mean(b) + 0.01**2) / (mean(a) ** 2 + mean(b) ** 2 + 0.01**2)
    expected = (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean((1, 2, 3))
    torch.testing.assert_close(ssim(sr, hr).double(), expected, rtol=0, atol=1e-5)


def test_a_perfect_picture_scores_infinity_and_one() -> None:
    _, hr = pair()
    assert (psnr(hr, hr) == math.inf).all()
    assert (psnr(hr, hr, luma=True) == math.inf).all()
    torch.testing.assert_close(ssim(hr, hr), torch.ones(2), rtol=0, atol=1e-6)


def test_values_outside_the_picture_are_clamped() -> None:
    _, hr = pair()
    beyond = torch.where(hr > 0.5, hr + 2, hr - 2)
    assert torch.equal(psnr(beyond, hr), psnr((hr > 0.5).float(), hr))
    assert torch.equal(ssim(beyond, hr), ssim((hr > 0.5).float(), hr))


@pytest.mark.parametrize(
    ("height", "width", "border", "number"),
    [(11, 40, 0, True), (10, 40, 0, False), (40, 10, 0, False), (19, 19, 4, True), (18, 40, 4, False)],
)
def test_ssim_without_a_valid_region_is_not_a_number(
    height: int, width: int, border: int, number: bool
) -> None:
    values = ssim(*pair(height, width), border=border)
    assert values.shape == (2,)
    assert (~torch.isnan(values) == number).all()


def test_shaved_leaves_out_the_border_but_never_all() -> None:
    picture = torch.arange(42.0).view(1, 1, 6, 7)
    assert torch.equal(shaved(picture, 0), picture)
    assert torch.equal(shaved(picture, 2), picture[..., 2:4, 2:5])
    assert torch.equal(shaved(picture, 9), picture[..., 2:4, 3:4])
    assert shaved(picture[..., :1, :2], 4).shape == (1, 1, 1, 2)


@pytest.mark.parametrize(("scale", "border"), [(2, 2), (3.3, 4), (4.0, 4), (30, 30)])
def test_benchmarks_shave_the_scale_rounded_up(scale: float, border: int) -> None:
    assert benchmark_border(scale) == border
