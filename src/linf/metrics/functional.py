"""Metric box of the figure: pure functions of images in [0, 1], (B,C,H,W) → (B,).

If there is one HR image, (1,C,H,W), all B images are compared with it. An image with NaN in it scores NaN. Images that
cannot be compared raise ValueError.

SSIM stays our own: kornia's holds 1e-5 against scikit-image, but not 1e-6, and takes 3.6 times as long on 512².
"""

import math

import torch
from kornia.color import rgb_to_grayscale
from torch import Tensor
from torch.nn import functional as F

from linf.images.luma import BENCHMARK_LUMA
from linf.images.resize import matlab_bicubic, product_dtype

SSIM_REACH = 10
"""The number of pixels by which the valid region of an 11-pixel window is smaller than the image."""

SSIM_BLOCK = 32
"""Rows and columns of windows that are computed together, so that their pixels stay in a core's cache."""


def check_comparable(sr: Tensor, hr: Tensor) -> None:
    """Raise ValueError unless SR images (B,C,H,W) are of the size of their HR images (B or 1,C,H,W), and all floats."""
    alike = sr.ndim == 4 and sr.shape[1:] == hr.shape[1:] and len(hr) in (1, len(sr))
    if not (alike and sr.is_floating_point() and hr.is_floating_point()):
        given = " and ".join(f"{tuple(image.shape)} of {image.dtype}" for image in (sr, hr))
        raise ValueError(f"{given} cannot be compared: give images (B,C,H,W) of one size, floats in [0, 1]")


def crop_border(image: Tensor, border: int) -> Tensor:
    """Remove ``border`` pixels on each side, leaving at least one pixel of each axis."""
    trim_y, trim_x = (min(border, (n - 1) // 2) for n in image.shape[-2:])
    return image[..., trim_y : image.shape[-2] - trim_y, trim_x : image.shape[-1] - trim_x]


def psnr(sr: Tensor, hr: Tensor, *, border: int = 0, luma: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB, per image.

    Args:
        sr: (B,C,H,W), clamped to [0, 1] first.
        hr: (B or 1,C,H,W).
        border: pixels left out on each side.
        luma: take it on Y instead of RGB. Grey is Y already, and images of other channels have none: it is then taken
            on all of them.
    """
    check_comparable(sr, hr)
    difference = at_least_single(crop_border(sr, border)).clamp(0, 1) - crop_border(hr, border)
    if luma and hr.shape[1] == 3:
        difference = rgb_to_grayscale(difference, difference.new_tensor(BENCHMARK_LUMA))
    # Each row in the image's precision, the rows in double: as exact as a double copy of the image, without the copy.
    error = difference.square().sum(-1).double().mean((1, 2)) / difference.shape[-1]
    return (-10 * error.log10()).float()


def lr_psnr(sr: Tensor, lr: Tensor) -> Tensor:
    """PSNR in dB on all channels between the LR image and the SR image shrunk to its size by MATLAB's bicubic.

    Args:
        sr: (B,C,H,W), clamped to [0, 1] before and after it is shrunk.
        lr: (B or 1,C,h,w).
    """
    height, width = lr.shape[-2:]
    return psnr(matlab_bicubic(at_least_single(sr).clamp(0, 1), (height, width)), lr)


def detail_energy(sr: Tensor, hr: Tensor, lr: Tensor) -> Tensor:
    r"""How much of an image LR cannot hold, in percent of HR's: the energy of what is lost when an image is shrunk to
    LR's size and enlarged again, both by MATLAB's bicubic.

    .. math::
        100 \, \lVert SR - up(down(SR)) \rVert^2 / \lVert HR - up(down(HR)) \rVert^2

    Means of a distribution have less detail than HR: by the law of total variance, images drawn from the right
    distribution have as much as HR, 100 in the mean, and their mean lacks what its variance adds.

    Args:
        sr: (B,C,H,W), clamped to [0, 1] first.
        hr: (B or 1,C,H,W).
        lr: (·,C,h,w), for its size alone.

    Returns:
        (B,); NaN where HR has no detail.
    """
    check_comparable(sr, hr)
    energy, of_hr = (_beyond(at_least_single(image).clamp(0, 1), lr) for image in (sr, hr))
    # Of a flat image nothing but rounding is left.
    return torch.where(of_hr > 1e-10, 100 * energy / of_hr, torch.nan).float()


def _beyond(image: Tensor, lr: Tensor) -> Tensor:
    (height, width), (h, w) = image.shape[-2:], lr.shape[-2:]
    lost = image - matlab_bicubic(matlab_bicubic(image, (h, w)), (height, width))
    return lost.square().mean(-1).double().mean((1, 2))


def ssim(sr: Tensor, hr: Tensor, *, border: int = 0) -> Tensor:
    """Structural similarity per image: 11×11 Gaussian of σ 1.5, valid region, mean of the channels. An image with fewer
    than 11 pixels a side has no valid region and scores NaN.

    Args:
        sr: (B,C,H,W), clamped to [0, 1] first.
        hr: (B or 1,C,H,W).
        border: pixels left out on each side.
    """
    check_comparable(sr, hr)
    sr, hr = crop_border(sr, border), crop_border(hr, border)
    height, width = (n - SSIM_REACH for n in hr.shape[-2:])
    if min(height, width) < 1:
        return torch.full((len(sr),), math.nan, device=sr.device)
    dtype = product_dtype(hr)
    window = _window(hr.device, dtype)
    total = torch.zeros(len(sr), dtype=torch.double, device=sr.device)
    with torch.autocast(sr.device.type, enabled=False):
        for top in range(0, height, SSIM_BLOCK):
            rows = slice(top, top + SSIM_BLOCK + SSIM_REACH)
            targets = hr[..., rows, :].to(dtype)
            # Centred on zero, the difference of two squares keeps its digits.
            centres = targets.mean((2, 3), keepdim=True)
            targets = _in_blocks(targets - centres)
            target_means = _windowed(targets, window, width)
            for i, image in enumerate(sr[..., rows, :]):
                centre, y, mean_y = (of[i % len(hr)] for of in (centres, targets, target_means))
                x = _in_blocks(image.to(dtype).clamp(0, 1) - centre)
                mean_x, covariance = _windowed(x, window, width), _windowed(x * y, window, width)
                # The two variances are only needed as their sum.
                variances = _windowed((x * x).addcmul_(y, y), window, width)
                covariance.addcmul_(mean_x, mean_y, value=-1)
                variances.addcmul_(mean_x, mean_x, value=-1).addcmul_(mean_y, mean_y, value=-1)
                mean_x, mean_y = mean_x + centre, mean_y + centre
                structure = covariance.mul_(2).add_(0.03**2).div_(variances.add_(0.03**2))
                luminance = (mean_x * mean_y).mul_(2).add_(0.01**2)
                luminance.div_(mean_x.square_().addcmul_(mean_y, mean_y).add_(0.01**2))
                total[i] += luminance.mul_(structure).sum(dtype=torch.double)
    return (total / (hr.shape[1] * height * width)).float()


def diversity(samples: Tensor, peak: int = 255) -> Tensor:
    """Standard deviation over the samples of an LR image, in 8-bit grey levels: (S,B,C,H,W) → (B,). The deviation of
    each value, rounded to whole numbers up to ``peak``, over the S samples (divided by S, not S - 1), averaged over
    pixels and channels.
    """
    grey = at_least_single(samples).clamp(0, 1).mul(peak).round()
    return (grey - grey.mean(0)).square().mean(0).sqrt().flatten(1).mean(1) * (255 / peak)


def nonfinite(sr: Tensor) -> Tensor:
    """The number of infinite and NaN values of each image: (B,C,H,W) → (B,) integers."""
    if sr.sum().isfinite():  # The usual case, and quick to check.
        return torch.zeros(len(sr), dtype=torch.long, device=sr.device)
    return (~sr.isfinite()).flatten(1).sum(1)


def bits_per_dimension(log_prob: Tensor, dim: int, peak: int = 255) -> Tensor:
    r"""Negative log-likelihood in bits per value of an image in whole numbers.

    .. math::
        -mean(log p) / (D log 2) + log_2 (peak / 2)

    A unit of the model's [-1, 1] is peak / 2 grey levels, so this is the density per grey level, 0 to peak. The image
    is not dequantised: the value is that of a density, is no bound on a code length, and may be negative.

    Args:
        log_prob: (B,gh,gw) nats per patch, as from a model's ``log_prob``.
        dim: D, the number of values of a patch.
        peak: the value of white, 255 for 8 bits.

    Returns:
        (B,) in double precision.
    """
    return -log_prob.double().flatten(1).mean(1) / (dim * math.log(2)) + math.log2(peak / 2)


def at_least_single(values: Tensor) -> Tensor:
    """Promote floats to single precision at least, for half leaves too few digits for differences; raise ValueError for
    whole numbers, whose white is not 1.
    """
    if not values.is_floating_point():
        raise ValueError(f"images are of {values.dtype}: give floats in [0, 1], such as image / 255")
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The Gaussian window of one axis as a band matrix; column i weighs inputs i to i + SSIM_REACH. Its shape is
    (SSIM_BLOCK + SSIM_REACH, SSIM_BLOCK).
    """
    offset = torch.arange(SSIM_BLOCK + SSIM_REACH)[:, None] - torch.arange(SSIM_BLOCK)
    weight = torch.exp(-((offset - SSIM_REACH / 2).double() ** 2) / (2 * 1.5**2))
    weight[(offset < 0) | (offset > SSIM_REACH)] = 0
    return (weight / weight.sum(0)).to(device, dtype)


def _in_blocks(rows: Tensor) -> Tensor:
    """Pad the rows of an image with zeros to a whole number of blocks, and one block more."""
    return F.pad(rows, (0, SSIM_BLOCK + -rows.shape[-1] % SSIM_BLOCK))


def _windowed(rows: Tensor, window: Tensor, width: int) -> Tensor:
    """Weighted means of all windows inside the r rows from `_in_blocks`: (...,r,·) → (...,r-SSIM_REACH,width). Each
    axis is a matrix product with the band. Most of the band is zeros, yet `ssim` takes a sixth of the time of an 11×11
    convolution of each channel.
    """
    down = window[: rows.shape[-2], : rows.shape[-2] - SSIM_REACH].T @ rows
    blocks = down.view(-1, SSIM_BLOCK)
    across = blocks @ window[:SSIM_BLOCK]
    across[:-1].addmm_(blocks[1:, :SSIM_REACH], window[SSIM_BLOCK:])  # A block's windows reach into the next.
    return across.view(down.shape)[..., :width]
