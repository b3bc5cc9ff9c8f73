"""Metric box of the figure, as pure functions of pictures in [0, 1]; (B,3,H,W) → (B,)."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)
"""Y of ITU-R BT.601 in [16, 235] from RGB in [0, 255], as super-resolution benchmarks take it (METHOD §7)."""


def shaved(picture: Tensor, border: int) -> Tensor:
    """Without ``border`` pixels on each side, but at least one pixel of each."""
    trim_y, trim_x = (min(border, (n - 1) // 2) for n in picture.shape[-2:])
    return picture[..., trim_y : picture.shape[-2] - trim_y, trim_x : picture.shape[-1] - trim_x]


def benchmark_border(scale: float) -> int:
    """Pixels the ``benchmark`` protocol leaves out on each side."""
    return math.ceil(scale)


def psnr(sr: Tensor, hr: Tensor, *, border: int = 0, luma: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB, per picture.

    Args:
        sr: (B,3,H,W), clamped to [0, 1] first.
        hr: (B,3,H,W).
        border: pixels left out on each side.
        luma: on Y instead of RGB.
    """
    difference = shaved(sr.clamp(0, 1) - hr, border).double()
    if luma:
        difference = torch.einsum("c,bchw->bhw", difference.new_tensor(LUMA), difference)
    return (-10 * difference.square().flatten(1).mean(1).log10()).float()


def ssim(sr: Tensor, hr: Tensor, *, border: int = 0) -> Tensor:
    """Structural similarity per picture: Gaussian 11×11 of σ 1.5, valid region, mean of RGB.

    Where a picture has fewer than 11 pixels a side there is no valid region: not a number.
    """
    sr, hr = shaved(sr.clamp(0, 1), border), shaved(hr, border)
    if min(hr.shape[-2:]) < 11:
        return torch.full((hr.shape[0],), math.nan, device=hr.device)
    _, full = structural_similarity_index_measure(
        sr.float(), hr.float(), data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    return full[..., 5:-5, 5:-5].flatten(1).mean(1)
