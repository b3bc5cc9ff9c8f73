"""How much a model expects an image to vary, against the images that it was trained on.

Noise, dither or grain of a kind that a model has not seen reads as texture to it, and it predicts more of the same. Its
predicted deviation tells: of a clean image it is small in some parts at least, of a noisy one it is large everywhere.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from linf.coordinates import patch_centres
from linf.images.luma import PILLOW_GREY
from linf.models.linf import LINF

WINDOW_SIDE, MOST_WINDOWS, QUERIES = 32, 9, 400
"""LR pixels a side of what is looked at of an image, and how many of these; patches of each."""

OVERFLOW = 1e6
"""What stands for a standard deviation that is no finite number."""

QUIET_SHARE, USUAL_SHARE = 0.1, 0.98
"""The share of an image's patches that count as its quiet ones, and of the training's images that are usual."""


@torch.no_grad()
def quiet_deviation(model: LINF, lr: Tensor, size: Sequence[int], peak: float = 1) -> float:
    """The standard deviation at τ = 1, of luma or else over all channels, that nine in ten patches of an image exceed,
    in grey levels of 255.

    Args:
        model: a LINF.
        lr: (1,C,h,w) from 0 to ``peak``; floats or whole numbers.
        size: (H, W) of the output.
        peak: the value of white in ``lr``.
    """
    windows = windows_of(lr, peak)
    side = [n * high / low for n, high, low in zip(windows.shape[-2:], size, lr.shape[-2:], strict=True)]
    y, x = (patch_centres(max(round(n), 1), model.patch_size, device=lr.device) for n in side)
    y, x = (c[:: max(1, len(c) // math.isqrt(QUERIES))] for c in (y, x))
    coord = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).expand(len(windows), -1, -1, -1)
    cell = windows.new_tensor([[2 / n for n in side]]).expand(len(windows), -1)
    mix = torch.tensor([PILLOW_GREY]) if model.image_channels == 3 else torch.eye(model.image_channels)
    scale, _ = model.flow.scales_and_shifts(model.condition(windows, coord, cell))
    variances = model.flow.variances(scale, mix.to(windows), model.flow.inverses())
    # Where a flow overflows, the deviation is larger than any other; yet finite, since quantiles are interpolated.
    deviations = variances.mean(0).sqrt().float().nan_to_num(nan=OVERFLOW, posinf=OVERFLOW)
    return float(torch.quantile(deviations, QUIET_SHARE)) * 255 / 2


def windows_of(lr: Tensor, peak: float = 1) -> Tensor:
    """Windows in [0, 1] of an image (1,C,h,w) from 0 to ``peak``, floats or whole numbers, evenly spread:
    (N,C,WINDOW_SIDE,WINDOW_SIDE), smaller if the image is.
    """
    sides = [min(WINDOW_SIDE, n) for n in lr.shape[-2:]]
    across = [min(math.isqrt(MOST_WINDOWS), -(-n // WINDOW_SIDE)) for n in lr.shape[-2:]]
    ys, xs = (
        [round(k * (n - side) / max(count - 1, 1)) for k in range(count)]
        for n, side, count in zip(lr.shape[-2:], sides, across, strict=True)
    )
    windows = torch.stack([lr[0, :, y : y + sides[0], x : x + sides[1]] for y in ys for x in xs])
    return windows / peak


def usual_deviation(model: LINF, images: Iterable[tuple[Tensor, Sequence[int]]]) -> dict[float, float]:
    """The limit of `quiet_deviation` that hardly any image of the training exceeds, by scale.

    Args:
        model: a LINF.
        images: LR images (1,C,h,w) in [0, 1] as in training, each with the size (H, W) of the output.
    """
    found: dict[float, list[float]] = {}
    for lr, size in images:
        found.setdefault(round(size[0] / lr.shape[-2], 1), []).append(quiet_deviation(model, lr, size))
    return {scale: float(np.quantile(found[scale], USUAL_SHARE)) for scale in sorted(found)}


def excess_deviation(model: LINF, lr: Tensor, size: Sequence[int], peak: float = 1) -> float:
    """An image's `quiet_deviation` as a multiple of what is usual at its scale; 0 where that is not known."""
    if not model.usual_deviation:
        return 0.0
    scales, limits = zip(*sorted(model.usual_deviation.items()), strict=True)
    scale = math.sqrt(size[0] / lr.shape[-2] * (size[1] / lr.shape[-1]))
    return quiet_deviation(model, lr, size, peak) / float(np.interp(scale, scales, limits))
