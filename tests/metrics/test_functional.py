"""Every figure against scikit-image, scipy, numpy and closed forms."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from linf.images.resize import matlab_bicubic, pil_bicubic
from linf.metrics.functional import (
    SSIM_BLOCK,
    bits_per_dimension,
    crop_border,
    detail_energy,
    diversity,
    lr_psnr,
    nonfinite,
    psnr,
    ssim,
)
from linf.models.flow import ConditionalFlow


def pair(height: int = 40, width: int = 53, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two noisy details (2,3,H,W) of a photograph, in [0, 1], and the details."""
    photograph = torch.from_numpy(astronaut()).permute(2, 0, 1).float() / 255
    hr = torch.stack([photograph[:, y : y + height, 150 : 150 + width] for y in (60, 300)])
    generator = torch.Generator().manual_seed(0)
    return (hr + noise * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


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


def theirs_of_ssim(sr: Tensor, hr: Tensor) -> float:
    """What scikit-image finds in (3,H,W)."""
    return structural_similarity(
        array(hr),
        array(sr),
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


@pytest.mark.parametrize("border", [0, 4])
def test_ssim_is_that_of_scikit_image(border: int) -> None:
    sr, hr = pair()
    values = ssim(sr, hr, border=border)
    assert values.shape == (2,)
    for i in range(2):
        expected = theirs_of_ssim(crop_border(sr[i], border), crop_border(hr[i], border))
        assert values[i].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "height", [11, SSIM_BLOCK + 9, SSIM_BLOCK + 10, SSIM_BLOCK + 11, 2 * SSIM_BLOCK + 11]
)
@pytest.mark.parametrize(
    "width", [12, SSIM_BLOCK - 1, SSIM_BLOCK, SSIM_BLOCK + 1, 2 * SSIM_BLOCK + 10, 2 * SSIM_BLOCK + 11]
)
def test_ssim_of_any_size_is_that_of_scikit_image(height: int, width: int) -> None:
    sr, hr = pair(height, width)
    for value, *images in zip(ssim(sr, hr), sr, hr, strict=True):
        assert value.item() == pytest.approx(theirs_of_ssim(*images), abs=1e-6)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.6), (1.0, 0.9), (0.002, 0.0)])
def test_ssim_of_flat_images_is_their_luminance(x: float, y: float) -> None:
    sr, hr = (torch.full((1, 3, 40, 50), value) for value in (x, y))
    expected = (2 * x * y + 0.01**2) / (x**2 + y**2 + 0.01**2)
    # Where there is no variance at all, float32 has these digits left.
    assert ssim(sr, hr).item() == pytest.approx(expected, abs=1e-5)


def test_products_of_reduced_precision_are_taken_in_double() -> None:
    sr, hr = pair()
    exact, lr = ssim(sr, hr), torch.nn.functional.avg_pool2d(hr, 4)[..., :13]
    of_lr = lr_psnr(sr[..., :52], lr)
    torch.set_float32_matmul_precision("medium")
    try:
        assert ssim(sr, hr).tolist() == pytest.approx(exact.tolist(), abs=1e-6)
        assert lr_psnr(sr[..., :52], lr).tolist() == pytest.approx(of_lr.tolist(), abs=1e-5)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_low_precision_does_not_reach_the_figures() -> None:
    """Under autocast matrix products are taken in bfloat16, and images may come in it."""
    sr, hr = pair()
    lr, rough = hr[..., ::2, ::2], sr.bfloat16()
    expected = [psnr(sr, hr, luma=True), ssim(sr, hr), lr_psnr(sr, lr)]
    expected += [psnr(rough.float(), hr), ssim(rough.float(), hr), lr_psnr(rough.float(), lr)]
    with torch.autocast("cpu", torch.bfloat16):
        values = [psnr(sr, hr, luma=True), ssim(sr, hr), lr_psnr(sr, lr)]
        values += [psnr(rough, hr), ssim(rough, hr), lr_psnr(rough, lr)]
    assert all(torch.equal(value, wanted) for value, wanted in zip(values, expected, strict=True))
    assert all(value.dtype == torch.float32 for value in values)


@pytest.mark.parametrize("luma", [False, True])
def test_many_samples_are_compared_with_one_image(luma: bool) -> None:
    sr, hr = pair()
    one = hr[:1].expand(2, -1, -1, -1)
    assert torch.equal(psnr(sr, hr[:1], luma=luma, border=2), psnr(sr, one, luma=luma, border=2))
    assert torch.equal(ssim(sr, hr[:1], border=2), ssim(sr, one, border=2))
    assert torch.equal(lr_psnr(sr, hr[:1, :, ::2, ::2]), lr_psnr(sr, one[..., ::2, ::2]))


def test_ssim_uses_the_valid_region_only() -> None:
    """Written out: Gaussian windows that lie wholly inside the image, no padding."""
    sr, hr = pair(13, 17)
    window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    window = torch.outer(window, window) / window.sum() ** 2

    def mean(image: Tensor) -> Tensor:
        return torch.einsum("bcyxij,ij->bcyx", image.unfold(2, 11, 1).unfold(3, 11, 1), window)

    a, b = sr.double(), hr.double()
    covariance = mean(a * b) - mean(a) * mean(b)
    variances = mean(a**2) - mean(a) ** 2 + mean(b**2) - mean(b) ** 2
    luminance = (2 * mean(a) * mean(b) + 0.01**2) / (mean(a) ** 2 + mean(b) ** 2 + 0.01**2)
    expected = (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean((1, 2, 3))
    torch.testing.assert_close(ssim(sr, hr).double(), expected, rtol=0, atol=1e-5)


def test_a_perfect_image_scores_infinity_and_one() -> None:
    _, hr = pair()
    assert (psnr(hr, hr) == math.inf).all()
    assert (psnr(hr, hr, luma=True) == math.inf).all()
    torch.testing.assert_close(ssim(hr, hr), torch.ones(2), rtol=0, atol=1e-6)


def test_values_outside_the_image_are_clamped() -> None:
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


def test_crop_border_leaves_out_the_border_but_never_all() -> None:
    image = torch.arange(42.0).view(1, 1, 6, 7)
    assert torch.equal(crop_border(image, 0), image)
    assert torch.equal(crop_border(image, 2), image[..., 2:4, 2:5])
    assert torch.equal(crop_border(image, 9), image[..., 2:4, 3:4])
    assert crop_border(image[..., :1, :2], 4).shape == (1, 1, 1, 2)


def resizing(n: int, n_out: int) -> np.ndarray:
    """MATLAB's bicubic of one axis as a matrix (n_out, n), written out pixel by pixel."""
    matrix, scale = np.zeros((n_out, n)), n_out / n
    for i in range(n_out):
        for j in range(-2 * n, 3 * n):
            x = abs((i + 0.5) / scale - 0.5 - j) * min(scale, 1)
            near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            mirrored = j if 0 <= j < n else -1 - j if j < 0 else 2 * n - 1 - j
            if x < 2:
                matrix[i, mirrored] += near if x <= 1 else far
    return matrix / matrix.sum(1, keepdims=True)


def test_lr_psnr_is_psnr_of_matlabs_bicubic() -> None:
    (sr, _), (_, lr) = pair(40, 54), pair(13, 18)
    values = lr_psnr(3 * sr - 1, lr)
    assert values.shape == (2,)
    for i in range(2):
        clamped = array(3 * sr[i] - 1).clip(0, 1)
        small = np.einsum("yh,hwc,xw->yxc", resizing(40, 13), clamped, resizing(54, 18))
        assert small.min() < -0.005, "it overshoots"
        expected = peak_signal_noise_ratio(array(lr[i]), small.clip(0, 1), data_range=1)
        assert values[i].item() == pytest.approx(expected, abs=1e-4)


def test_lr_psnr_of_a_constant_difference_is_its_logarithm() -> None:
    lr = torch.full((1, 3, 5, 6), 0.5)
    assert lr_psnr(torch.full((1, 3, 17, 20), 0.6), lr).item() == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("scale", [2, 4])
def test_lr_psnr_of_hr_itself_is_what_8_bits_and_the_resize_leave(scale: int) -> None:
    """MATLAB's bicubic rounds each axis, for 57 to 59 dB; Pillow's differs from it at the border, which costs more."""
    hr = astronaut()[:240, :240].copy()
    size = (240 // scale, 240 // scale)
    given = torch.from_numpy(hr).permute(2, 0, 1)
    matlab, pillow = matlab_bicubic(given, size), torch.from_numpy(pil_bicubic(hr, size)).permute(2, 0, 1)
    of_matlab, of_pillow = (lr_psnr(given[None] / 255, lr[None] / 255).item() for lr in (matlab, pillow))
    assert 57 < of_matlab < 59
    assert 49 < of_pillow < of_matlab


def test_detail_is_the_energy_beyond_lr_relative_to_hrs() -> None:
    (sr, hr), (_, lr) = pair(40, 54), pair(13, 18)
    down, up = (resizing(40, 13), resizing(54, 18)), (resizing(13, 40), resizing(18, 54))

    def energy(image: Tensor) -> float:
        whole = array(image).clip(0, 1)
        small = np.einsum("yh,hwc,xw->yxc", down[0], whole, down[1])
        return np.square(whole - np.einsum("yh,hwc,xw->yxc", up[0], small, up[1])).sum()

    values = detail_energy(3 * sr - 1, hr, lr)
    assert values.shape == (2,)
    for i in range(2):
        expected = 100 * energy(3 * sr[i] - 1) / energy(hr[i])
        assert values[i].item() == pytest.approx(expected, rel=1e-4)
    assert torch.equal(detail_energy(hr, hr, lr), torch.full((2,), 100.0))
    assert detail_energy(hr, torch.full_like(hr, 0.3), lr).isnan().all()


def test_samples_of_the_right_distribution_have_hrs_detail_and_their_mean_has_not() -> None:
    """The law of total variance, for images that are a mean and noise of the same size."""
    generator = torch.Generator().manual_seed(0)
    mean = 0.5 + 0.05 * torch.randn(1, 3, 96, 96, generator=generator)
    hr, sample = (mean + 0.05 * torch.randn(1, 3, 96, 96, generator=generator) for _ in range(2))
    lr = torch.empty(1, 3, 24, 24)
    assert detail_energy(sample, hr, lr).item() == pytest.approx(100, abs=2)
    assert detail_energy(mean, hr, lr).item() == pytest.approx(50, abs=2)


def test_diversity_is_the_deviation_of_8_bit_samples() -> None:
    _, hr = pair()
    samples = hr + 0.2 * torch.randn(5, *hr.shape, generator=torch.Generator().manual_seed(1))
    values = diversity(samples)
    assert values.shape == (2,)
    for i in range(2):
        grey = np.round(samples[:, i].double().clip(0, 1).numpy() * 255).astype(np.uint8)
        assert values[i].item() == pytest.approx(grey.std(0).mean(), abs=1e-4)


@pytest.mark.parametrize(("samples", "share"), [(2, 0.564), (5, 0.841), (10, 0.923)])
def test_diversity_grows_with_the_number_of_samples(samples: int, share: float) -> None:
    """Divided by S rather than S - 1, to this share of a Gaussian's deviation, as docs/metrics.md says."""
    expected = math.sqrt(2 / samples) * math.exp(math.lgamma(samples / 2) - math.lgamma((samples - 1) / 2))
    assert share == pytest.approx(expected, abs=5e-4)
    noise = torch.randn(samples, 1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    assert diversity(0.5 + noise * 10 / 255, 65535).item() == pytest.approx(10 * share, rel=0.02)


def test_diversity_of_two_levels_is_half_their_distance() -> None:
    dark = torch.full((1, 3, 4, 5), 40 / 255)
    assert diversity(torch.stack([dark, dark + 10 / 255])).item() == pytest.approx(5, abs=1e-5)
    assert diversity(torch.stack([dark, dark + 0.4 / 255])).item() == 0
    assert diversity(torch.stack([dark - 1, dark - 2])).item() == 0


@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_equal_samples_have_no_diversity(samples: int) -> None:
    sr, _ = pair()
    assert torch.equal(diversity(sr.expand(samples, *sr.shape)), torch.zeros(2))


def test_nonfinite_values_are_counted() -> None:
    sr, _ = pair()
    sr[0, 0, :2, :3] = math.nan
    sr[0, 2, 5, 5] = math.inf
    sr[1, 1, 7, 7] = -math.inf
    assert nonfinite(sr).tolist() == [7, 1]
    assert nonfinite(torch.zeros(3, 3, 4, 4)).tolist() == [0, 0, 0]


def test_an_image_with_nan_scores_nan() -> None:
    sr, hr = pair()
    sr[1, 0, 20, 20] = math.nan
    lr = hr[..., ::2, ::2]
    figures = [psnr(sr, hr), psnr(sr, hr, luma=True), ssim(sr, hr), lr_psnr(sr, lr)]
    figures.append(diversity(torch.stack([sr, hr])))
    for values in figures:
        assert values.isnan().tolist() == [False, True]


def test_bits_per_dimension_are_those_of_the_gaussian_of_grey_levels() -> None:
    """The flow's own Gaussian, from its inverse alone, moved to 0–255, against scipy's density there."""
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size=3, steps=2).double()
    flow.whiten(0.1 * torch.randn(27, 500).double())
    condition = torch.randn(flow.condition_dim, 12, dtype=torch.double)
    x = 0.2 * torch.randn(27, 12, dtype=torch.double)
    bits = []
    for i in range(12):
        mean = flow.inverse(torch.zeros(27, 1).double(), condition[:, i : i + 1])
        factor = flow.inverse(torch.eye(27).double(), condition[:, i : i + 1].expand(-1, 27)) - mean
        law = multivariate_normal(127.5 * (mean[:, 0] + 1).detach(), 127.5**2 * (factor @ factor.T).detach())
        bits.append(-law.logpdf(127.5 * (x[:, i] + 1)) / (27 * math.log(2)))
    values = bits_per_dimension(flow.log_prob(x, condition).detach().view(2, 2, 3), 27)
    expected = torch.tensor(bits, dtype=torch.double).view(2, 6).mean(1)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)


def test_bits_of_a_uniform_image_are_nearly_eight() -> None:
    """Density 1/2 on [-1, 1] is 1/255 on 0–255."""
    assert bits_per_dimension(torch.full((1, 4, 4), 27 * math.log(0.5)), 27).item() == pytest.approx(
        math.log2(255), abs=1e-6
    )


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_figures_are_over_all_channels_there_are(channels: int) -> None:
    rng = np.random.default_rng(0)
    hr = rng.random((20, 24, channels))
    ours = (hr + rng.normal(0, 0.1, hr.shape)).clip(0, 1)
    sr, target = (torch.from_numpy(image).permute(2, 0, 1)[None] for image in (ours, hr))
    expected = -10 * np.log10(np.square(ours - hr)[2:-2, 2:-2].mean())
    assert psnr(sr, target, border=2).item() == pytest.approx(expected, abs=1e-5)
    assert psnr(sr, target, border=2, luma=True).item() == pytest.approx(expected, abs=1e-5)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    by_channel = [
        structural_similarity(ours[..., c], hr[..., c], full=True, **settings)[1] for c in range(channels)
    ]
    valid = np.mean([of[5:-5, 5:-5].mean() for of in by_channel])
    assert ssim(sr, target).item() == pytest.approx(valid, abs=1e-6)
    assert lr_psnr(target, target) == math.inf


def test_diversity_and_likelihood_are_of_the_depth() -> None:
    levels = torch.tensor([30000.0, 30010.0])[:, None, None, None, None]
    samples = (levels / 65535).expand(2, 1, 1, 3, 3)
    assert diversity(samples).item() == 0, "one level of 8 bits"
    assert diversity(samples, 65535).item() == pytest.approx(5 * 255 / 65535, rel=1e-6)
    log_prob = torch.zeros(1, 2, 2)
    assert bits_per_dimension(log_prob, 5, 65535).item() == pytest.approx(math.log2(65535 / 2))
    assert bits_per_dimension(log_prob, 5).item() == math.log2(127.5)


@pytest.mark.parametrize("metric", [psnr, ssim, partial(detail_energy, lr=torch.rand(1, 3, 5, 5))])
def test_images_that_cannot_be_compared_are_refused(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    sr, hr = pair()
    for wrong in (hr[..., :-1], hr[:, :1], hr[0], torch.cat([hr, hr]), (255 * hr).byte()):
        with pytest.raises(ValueError, match="cannot be compared: give images"):
            metric(sr, wrong)


@pytest.mark.parametrize(
    "metric", [partial(lr_psnr, lr=torch.rand(2, 3, 5, 5)), lambda sr: diversity(sr[:, None])]
)
def test_images_of_whole_numbers_are_refused(metric: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="such as image / 255"):
        metric((255 * pair()[0]).byte())
