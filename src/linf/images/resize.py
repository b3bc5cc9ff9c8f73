"""The two bicubics of the field: MATLAB's ``imresize`` for benchmarks and Pillow's for training pairs."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linf.errors import UsageError


def matlab_bicubic(
    image: Tensor, size: tuple[int, int] | None = None, scale: float | None = None, *, peak: int | None = None
) -> Tensor:
    """MATLAB's ``imresize(image, ..., 'bicubic')``: separable, a = -0.5, antialiased when it shrinks. The border is
    mirrored. Floats are neither rounded nor clamped, so they may overshoot; whole numbers are rounded after each axis,
    as MATLAB does with an image that was not converted first. No library has it: torch's antialiased bicubic differs at
    the border, kornia's everywhere.

    Args:
        image: (..., H, W), float32 or float64 of any range, uint8, or int32 that holds up to 16 bits.
        size: (H', W'), by default ``ceil(scale · H), ceil(scale · W)``.
        scale: output pixels per input pixel, on both axes; by default ``H'/H`` and ``W'/W``.
        peak: the value of white of whole numbers, to which they are clamped; by default 255 or 65535.

    Returns:
        (..., H', W') of the image's dtype.

    Raises:
        UsageError: neither size nor scale is given, or one is not positive.
        TypeError: the image has another dtype.
    """
    if image.dtype not in (torch.float32, torch.float64, torch.uint8, torch.int32):
        raise TypeError(
            f"matlab_bicubic got {image.dtype}: convert the image to float32, float64, uint8 or int32 first"
        )
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"scale is {scale}: give a positive number")
    if size is None:
        if scale is None:
            raise UsageError("neither size nor scale is given: give one of them, or both")
        # MATLAB's ceil(scale · n), except that 0.1 · 30 is 3 pixels, not 4.
        size = (math.ceil(image.shape[-2] * scale - 1e-9), math.ceil(image.shape[-1] * scale - 1e-9))
    if min(size) < 1:
        raise UsageError(f"size is {tuple(size)}: give at least one pixel a side")
    axes = [
        (scale or n_out / image.shape[dim], dim, n_out) for dim, n_out in zip((-2, -1), size, strict=True)
    ]
    for ratio, dim, n_out in sorted(axes):  # As in MATLAB, the axis that shrinks most goes first.
        image = _resize_axis(image, dim, n_out, ratio, peak or (255 if image.dtype == torch.uint8 else 65535))
    return image


BLOCK = 64
"""Output pixels of an axis that one matrix product makes: their input pixels lie close together."""


def _resize_axis(image: Tensor, dim: int, n_out: int, scale: float, peak: int) -> Tensor:
    if not image.is_floating_point():
        exact = _resize_axis(image.double(), dim, n_out, scale, peak)
        return (exact + 0.5).floor().clamp(0, peak).to(image.dtype)  # MATLAB rounds halves up, torch to even.
    dtype = product_dtype(image)
    index, weight = _taps(image.shape[dim], n_out, scale)
    parts = []
    with torch.autocast(image.device.type, enabled=False):
        for i, w in zip(index.split(BLOCK, 1), weight.split(BLOCK, 1), strict=True):
            first, count = int(i.min()), int(i.max() - i.min()) + 1
            band = w.new_zeros(count, i.shape[1]).scatter_add_(0, i - first, w).to(image.device, dtype)
            part = image.narrow(dim, first, count).to(dtype)
            parts.append(part @ band if dim == -1 else band.T @ part)
    return torch.cat(parts, dim).to(image.dtype)


def product_dtype(image: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of images is exact to float32 at least: double where torch trades digits of
    float32 for speed.
    """
    places: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
    exact = all(place.matmul.fp32_precision in ("ieee", "none") for place in places)
    return torch.promote_types(image.dtype, torch.float32 if exact else torch.float64)


def _taps(n_in: int, n_out: int, scale: float) -> tuple[Tensor, Tensor]:
    """Indices of the input pixels of each output pixel, and their weights, both (taps, n_out)."""
    shrink = min(scale, 1.0)
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - 2 / shrink)
    index = first + torch.arange(math.ceil(4 / shrink) + 2)[:, None]
    x = ((centre - index) * shrink).abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1  # Keys's cubic kernel with a = -0.5.
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weight = torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))
    index = torch.remainder(index.long(), 2 * n_in)
    return torch.minimum(index, 2 * n_in - 1 - index), weight / weight.sum(0)


def whole_numbers(image: Tensor, peak: int) -> Tensor:
    """Floats in [0, 1] as whole numbers from 0 to ``peak``: uint8, or int32 for more than 8 bits."""
    return image.mul(peak).round().to(torch.uint8 if peak <= 255 else torch.int32)


def bicubic(lr: Tensor, size: tuple[int, int], peak: int = 255) -> Tensor:
    """The bicubic row of every table: the image in whole numbers, enlarged by MATLAB's bicubic.

    Args:
        lr: (...,h,w) in [0, 1].
        size: (H, W).
        peak: the value of white of the whole numbers.

    Returns:
        (...,H,W) in [0, 1].
    """
    return matlab_bicubic(whole_numbers(lr, peak), size, peak=peak).to(lr.dtype) / peak


def pil_bicubic(image: np.ndarray, size: tuple[int, int], peak: int = 255) -> np.ndarray:
    """Pillow's antialiased bicubic, which makes the LR images of training.

    Args:
        image: (H,W,C), uint8 or uint16. Pillow rounds uint8 after each axis, and uint16 is rounded here at the end.
        size: (H', W').
        peak: the value of white, to which uint16 is clamped.

    Returns:
        (H',W',C) of the same dtype.
    """

    def resized(part: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(part).resize(size[::-1], Image.Resampling.BICUBIC))

    if image.dtype == np.uint8 and image.shape[2] == 3:
        return resized(image)
    # One by one: Pillow takes a second or a fourth channel for alpha, and resizes 16 bits as floats only.
    planes = image if image.dtype == np.uint8 else image.astype(np.float32)
    out = np.stack([resized(np.ascontiguousarray(plane)) for plane in np.moveaxis(planes, 2, 0)], axis=2)
    return out if image.dtype == np.uint8 else out.round().clip(0, peak).astype(image.dtype)
