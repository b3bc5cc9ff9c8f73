"""Resizes of the field, MATLAB's and Pillow's, and each of them as a linear map of one axis."""

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
        TypeError: the image is no tensor, or has another dtype.
    """
    if not isinstance(image, Tensor):
        raise TypeError(
            f"matlab_bicubic got a {type(image).__name__}: give a torch tensor whose last two axes are height and width"
        )
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
        (AxisResize(image.shape[dim], n_out, scale=scale), dim)
        for dim, n_out in zip((-2, -1), size, strict=True)
    ]
    white = peak or (255 if image.dtype == torch.uint8 else 65535)
    # As in MATLAB, the axis that shrinks most goes first.
    for resize, dim in sorted(axes, key=lambda axis: (axis[0].scale, axis[1])):
        if image.is_floating_point():
            image = resize(image, dim)
        else:  # MATLAB rounds halves up, torch to even.
            image = (resize(image.double(), dim) + 0.5).floor().clamp(0, white).to(image.dtype)
    return image


KERNELS = ("bicubic", "matlab", "bilinear", "area")
"""Reductions: Pillow's bicubic, MATLAB's, which mirrors the border, and Pillow's bilinear and box."""

BLOCK = 64
"""Output pixels of an axis that one matrix product makes: their input pixels lie close together."""


class AxisResize:
    """A resize of one axis: a linear map, of which any part can be applied, on any device and without waiting for it.

    Args:
        n_in: input pixels of the axis.
        n_out: output pixels.
        kernel: one of `KERNELS`; all are antialiased when they shrink.
        scale: output pixels per input pixel, for MATLAB's bicubic; by default ``n_out / n_in``.

    Raises:
        UsageError: there is no such kernel.
    """

    def __init__(self, n_in: int, n_out: int, kernel: str = "matlab", *, scale: float | None = None) -> None:
        if kernel not in KERNELS:
            raise UsageError(f"the kernel of a reduction is {kernel!r}: choose from {', '.join(KERNELS)}")
        self.n_in, self.n_out, self.kernel = n_in, n_out, kernel
        self.scale = scale or n_out / n_in
        self.shrink = min(self.scale, 1.0) if kernel == "matlab" else 1 / max(n_in / n_out, 1.0)
        self.radius = {"bilinear": 1.0, "area": 0.5}.get(kernel, 2.0) / self.shrink
        self._bands: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def support(self, start: int, stop: int) -> tuple[int, int]:
        """Input pixels (start, stop) that output pixels [start, stop) depend on."""
        first = math.floor((start + 0.5) / self.scale - 0.5 - self.radius)
        last = math.ceil((stop - 0.5) / self.scale - 0.5 + self.radius)
        if self.kernel == "matlab":  # What lies beyond the border is mirrored.
            first, last = min(first, 2 * self.n_in - 1 - last), max(last, -1 - first)
        return max(first, 0), min(last + 1, self.n_in)

    def __call__(
        self, part: Tensor, dim: int, outputs: tuple[int, int] | None = None, first: int = 0
    ) -> Tensor:
        """Resize an axis.

        Args:
            part: floats, along ``dim`` the input pixels from ``first`` on, all of `support`.
            dim: -2 or -1.
            outputs: the output pixels (start, stop) that are wanted; by default all.
            first: the first of the input pixels that ``part`` holds.

        Returns:
            The output pixels, neither rounded nor clamped, in the dtype of ``part``.
        """
        start, stop = outputs or (0, self.n_out)
        dtype, blocks = product_dtype(part), []
        with torch.autocast(part.device.type, enabled=False):
            for low in range(start, stop, BLOCK):
                high = min(low + BLOCK, stop)
                near, far = self.support(low, high)
                key = (low, high, part.device, dtype)
                if key not in self._bands:  # A projection uses each of them several times.
                    self._bands[key] = self._band((low, high), (near, far), part.device).to(dtype)
                band, inputs = self._bands[key], part.narrow(dim, near - first, far - near).to(dtype)
                blocks.append(inputs @ band if dim == -1 else band.T @ inputs)
        return torch.cat(blocks, dim).to(part.dtype)

    @torch.inference_mode(False)  # It is kept, and gradients may pass through it later.
    def _band(self, outputs: tuple[int, int], inputs: tuple[int, int], device: torch.device) -> Tensor:
        """The weights of input pixels in output pixels, (inputs, outputs), made on the device."""
        out = torch.arange(*outputs, dtype=torch.float64, device=device) + 0.5
        taps = torch.arange(math.ceil(2 * self.radius) + 2, device=device)[:, None]
        if self.kernel == "matlab":
            centre = out / self.scale - 0.5
            index = torch.floor(centre - self.radius) + taps
            weight = keys_cubic((centre - index) * self.shrink)
            index = torch.remainder(index.long(), 2 * self.n_in)
            index = torch.minimum(index, 2 * self.n_in - 1 - index)
        else:
            centre = out * (self.n_in / self.n_out)
            index = torch.floor(centre - self.radius) + taps - 1
            t = (index - centre + 0.5) * self.shrink  # In the order of Pillow, which decides ties of the box.
            shape = {"bicubic": keys_cubic, "bilinear": triangle, "area": box}[self.kernel]
            weight = torch.where((index >= 0) & (index < self.n_in), shape(t), 0.0)
            index = index.long()
        # Taps beyond the inputs have no weight.
        index = (index - inputs[0]).clamp(0, inputs[1] - inputs[0] - 1)
        band = weight.new_zeros(inputs[1] - inputs[0], len(out))
        return band.scatter_add_(0, index, weight / weight.sum(0))


def keys_cubic(t: Tensor) -> Tensor:
    """Keys's cubic kernel with a = -0.5."""
    t = t.abs()
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t <= 2, far, 0.0))


def triangle(t: Tensor) -> Tensor:
    """The kernel of bilinear interpolation."""
    return (1 - t.abs()).clamp(min=0)


def box(t: Tensor) -> Tensor:
    """The kernel of a mean over areas; of two pixels on its edges it takes the second."""
    return ((t > -0.5) & (t <= 0.5)).double()


def product_dtype(image: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of images is exact to float32 at least: double where torch trades digits of
    float32 for speed.
    """
    places: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
    exact = all(place.matmul.fp32_precision in ("ieee", "none") for place in places)
    return torch.promote_types(image.dtype, torch.float32 if exact else torch.float64)


def whole_numbers(image: Tensor, peak: int) -> Tensor:
    """Floats, clamped to [0, 1], as whole numbers from 0 to ``peak``: uint8, or int32 for more than 8 bits."""
    exact = image.to(torch.promote_types(image.dtype, torch.float32))  # Half precision ends below 16 bits.
    return exact.mul(peak).round().clamp(0, peak).to(torch.uint8 if peak <= 255 else torch.int32)


def bicubic(lr: Tensor, size: tuple[int, int], peak: int = 255) -> Tensor:
    """The bicubic row of every table: the image in whole numbers, enlarged by MATLAB's bicubic.

    Args:
        lr: (...,h,w), clamped to [0, 1].
        size: (H, W).
        peak: the value of white of the whole numbers.

    Returns:
        (...,H,W) in [0, 1].

    Raises:
        TypeError: the image is of whole numbers.
    """
    if not lr.is_floating_point():
        raise TypeError(f"bicubic got {lr.dtype}: give floats in [0, 1], such as image / 255")
    exact = torch.promote_types(lr.dtype, torch.float32)
    return (matlab_bicubic(whole_numbers(lr, peak), size, peak=peak).to(exact) / peak).to(lr.dtype)


def pil_bicubic(image: np.ndarray, size: tuple[int, int], peak: int = 255) -> np.ndarray:
    """Pillow's antialiased bicubic, which makes the LR images of training.

    Args:
        image: (H,W,C), uint8 or uint16. Pillow rounds uint8 after each axis, and uint16 is rounded here at the end.
        size: (H', W').
        peak: the value of white, to which uint16 is clamped.

    Returns:
        (H',W',C) of the same dtype.

    Raises:
        TypeError: the image is no array.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"pil_bicubic got a {type(image).__name__}: give a numpy array of height, width and channels"
        )

    def resized(part: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(part).resize(size[::-1], Image.Resampling.BICUBIC))

    if image.dtype == np.uint8 and image.shape[2] == 3:
        return resized(image)
    # One by one: Pillow takes a second or a fourth channel for alpha, and resizes 16 bits as floats only.
    planes = image if image.dtype == np.uint8 else image.astype(np.float32)
    out = np.stack([resized(np.ascontiguousarray(plane)) for plane in np.moveaxis(planes, 2, 0)], axis=2)
    return out if image.dtype == np.uint8 else out.round().clip(0, peak).astype(image.dtype)


def resized_part(
    image: Image.Image,
    size: tuple[int, int],
    part: tuple[slice, slice],
    kernel: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Rows and columns of an image that Pillow resizes to (H, W)."""
    y, x = (n / m for n, m in zip(image.size[::-1], size, strict=True))
    rows, cols = part
    box = x * cols.start, y * rows.start, x * cols.stop, y * rows.stop
    return image.resize((cols.stop - cols.start, rows.stop - rows.start), kernel, box)
