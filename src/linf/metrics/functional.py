"""Metric box of the figure, as pure functions of images in [0, 1]; (B,3,H,W) → (B,).

Where HR is one image, (1,3,H,W), all B are held against it. An image with NaN in it scores NaN.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.images.resize import matlab_bicubic, product_dtype

LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)
"""Y of ITU-R BT.601 in [16, 235] from RGB in [0, 255], as super-resolution benchmarks take it (METHOD §7)."""

REACH = 10
"""Pixels that the 11-pixel windows of `ssim` take off a side."""

BLOCK = 32
"""Rows and columns of windows that are worked out together: what they need stays in a core's cache."""


def crop_border(image: Tensor, border: int) -> Tensor:
    """Without ``border`` pixels on each side, but at least one pixel of each."""
    trim_y, trim_x = (min(border, (n - 1) // 2) for n in image.shape[-2:])
    return image[..., trim_y : image.shape[-2] - trim_y, trim_x : image.shape[-1] - trim_x]


def psnr(sr: Tensor, hr: Tensor, *, border: int = 0, luma: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB, per image.

    Args:
        sr: (B,3,H,W), clamped to [0, 1] first.
        hr: (B or 1,3,H,W).
        border: pixels left out on each side.
        luma: on Y instead of RGB.
    """
    difference = _single(crop_border(sr, border)).clamp(0, 1) - crop_border(hr, border)
    if luma:
        red, green, blue = difference.unbind(1)
        difference = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]
    # Each row in the image's precision, rows in double: as exact as a copy of all in double, without the copy.
    error = difference.square().sum(-1).double().mean((1, 2)) / difference.shape[-1]
    return (-10 * error.log10()).float()


def lr_psnr(sr: Tensor, lr: Tensor) -> Tensor:
    """PSNR in dB on RGB of the whole LR image and the SR image that MATLAB's bicubic has shrunk to its size.

    Args:
        sr: (B,3,H,W), clamped to [0, 1] first; so is what the bicubic makes of it.
        lr: (B or 1,3,h,w).
    """
    height, width = lr.shape[-2:]
    return psnr(matlab_bicubic(_single(sr).clamp(0, 1), (height, width)), lr)


def ssim(sr: Tensor, hr: Tensor, *, border: int = 0) -> Tensor:
    """Structural similarity per image: Gaussian 11×11 of σ 1.5, valid region, mean of RGB.

    Where an image has fewer than 11 pixels a side there is no valid region: not a number.

    Args:
        sr: (B,3,H,W), clamped to [0, 1] first.
        hr: (B or 1,3,H,W).
        border: pixels left out on each side.
    """
    assert len(hr) in (1, len(sr))
    sr, hr = crop_border(sr, border), crop_border(hr, border)
    height, width = (n - REACH for n in hr.shape[-2:])
    if min(height, width) < 1:
        return torch.full((len(sr),), math.nan, device=sr.device)
    dtype = product_dtype(hr)
    window = _window(hr.device, dtype)
    total = torch.zeros(len(sr), dtype=torch.double, device=sr.device)
    with torch.autocast(sr.device.type, enabled=False):
        for top in range(0, height, BLOCK):
            rows = slice(top, top + BLOCK + REACH)
            targets = hr[..., rows, :].to(dtype)
            # Of what lies about zero, the difference of two squares keeps its digits.
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
    return (total / (3 * height * width)).float()


def diversity(samples: Tensor) -> Tensor:
    """How far samples of one LR image lie apart, in grey levels of the 8-bit image: (S,B,3,H,W) → (B,).

    The standard deviation of each 8-bit value over the S samples, that of the samples themselves (divided by S, not
    S - 1), and its mean over pixels and channels.
    """
    grey = _single(samples).clamp(0, 1).mul(255).round()
    return (grey - grey.mean(0)).square().mean(0).sqrt().flatten(1).mean(1)


def nonfinite(sr: Tensor) -> Tensor:
    """Values of each image that are infinite or not a number: (B,3,H,W) → (B,) integers."""
    if sr.sum().isfinite():  # As it nearly always is, and quick to see.
        return torch.zeros(len(sr), dtype=torch.long, device=sr.device)
    return (~sr.isfinite()).flatten(1).sum(1)


def bits_per_dimension(log_prob: Tensor, dim: int) -> Tensor:
    r"""What a value of an 8-bit image costs, in bits.

    .. math::
        -mean(log p) / (D log 2) + log_2 127.5

    A unit of the model's [-1, 1] is 127.5 grey levels, so this is the density per grey level, 0 to 255. The image
    is taken as it is, not dequantised: the figure is a density's, bounds no code length and may be negative.

    Args:
        log_prob: (B,gh,gw) nats per patch, as ``log_prob`` of a model gives them.
        dim: D, the values of a patch.

    Returns:
        (B,) in double precision.
    """
    return -log_prob.double().flatten(1).mean(1) / (dim * math.log(2)) + math.log2(127.5)


def _single(image: Tensor) -> Tensor:
    """In single precision at least."""
    return image.to(torch.promote_types(image.dtype, torch.float32))


def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The Gaussian window of one axis as a band (BLOCK + REACH, BLOCK): column i weighs inputs i to i + REACH."""
    offset = torch.arange(BLOCK + REACH)[:, None] - torch.arange(BLOCK)
    weight = torch.exp(-((offset - REACH / 2).double() ** 2) / (2 * 1.5**2))
    weight[(offset < 0) | (offset > REACH)] = 0
    return (weight / weight.sum(0)).to(device, dtype)


def _in_blocks(rows: Tensor) -> Tensor:
    """Rows of an image with zeros after them up to a whole number of blocks, and one more."""
    return F.pad(rows, (0, BLOCK + -rows.shape[-1] % BLOCK))


def _windowed(rows: Tensor, window: Tensor, width: int) -> Tensor:
    """Means of all windows that lie wholly inside `_in_blocks`' r rows: (...,r,·) → (...,r-REACH,width).

    Each axis is a matrix product with the band: most of it is zeros, and still `ssim` takes a sixth of the time that an
    11×11 convolution of each channel takes.
    """
    down = window[: rows.shape[-2], : rows.shape[-2] - REACH].T @ rows
    blocks = down.view(-1, BLOCK)
    across = blocks @ window[:BLOCK]
    across[:-1].addmm_(blocks[1:, :REACH], window[BLOCK:])  # A block's windows reach into the next.
    return across.view(down.shape)[..., :width]
