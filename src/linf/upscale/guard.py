"""A guard for noisy images: their samples vary more, and noise that a model has not seen it would take for texture."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from linf.errors import UsageError
from linf.images.resize import matlab_bicubic
from linf.models.deviation import QUIET_SHARE, excess_deviation, windows_of
from linf.models.linf import LINF
from linf.models.super_resolver import SuperResolver
from linf.upscale.enlarge import Ask, as_tensor

TOLERATED = 1.2
"""How many times too high an image's temperature may be before anything is said."""

REMOVED = 2.0
"""Grey levels of 255 by which a model may change the quiet parts of an LR image, before it counts as removing noise."""

LARGE = 4.0
"""The scale at which `REMOVED` is where the temperature begins to fall; beyond it none falls further."""


def tempered(
    model: SuperResolver, pixels: np.ndarray, size: tuple[int, int], ask: Ask, *, keep: bool = False
) -> tuple[Ask, list[str]]:
    """Lower the temperature for a noisy image.

    Noise that the model has not seen raises its predicted deviation; the temperature is lowered until the image gets as
    much noise as a usual one. Noise that a model removes takes detail with it, the more at a large scale, and the
    temperature of lowest LPIPS falls: about as 1 / √(removed · scale), as measured with Gaussian noise.

    Args:
        model: any model; only a `LINF` that knows what is usual has an opinion.
        pixels: the image (h,w,C), or (h,w,1) for grey, uint8 or uint16.
        size: the output size (H, W).
        ask: what was asked for.
        keep: True to leave the temperature, and say only that the image is noisy.

    Returns:
        What to ask for, and what to tell of the image: nothing where it is like the training's and has little noise.

    Raises:
        UsageError: the result is to be consistent with an image that is noisy.
    """
    lr, peak = as_tensor(pixels, ask.device), float(np.iinfo(pixels.dtype).max)
    lr = lr.expand(-1, model.output_channels(lr), -1, -1)
    excess = excess_deviation(model, lr, size, peak) if isinstance(model, LINF) else 0.0
    lowers = excess > 0 and ask.temperature > 0
    removed = removed_noise(model, lr, size, peak) if lowers or ask.consistency else 0.0
    scale = math.sqrt(size[0] / lr.shape[-2] * (size[1] / lr.shape[-1]))
    removal = math.sqrt(removed / REMOVED * min(scale, LARGE) / LARGE)
    if excess > TOLERATED:
        message = f"it is noisy, dithered or grainy unlike the model's data ({excess:.1f} times the usual)"
    elif removed > REMOVED if ask.consistency else removal > TOLERATED:
        message = f"it is noisy (the model removes {removed:.1f} of 255 grey levels)"
    else:
        return ask, []
    if ask.consistency:
        raise UsageError(f"{message}, which --consistent would put into the result: leave --consistent out")
    if keep or not ask.temperature:
        return ask, [message]
    lowered = float(f"{ask.temperature / max(excess, removal):.2g}")
    return ask._replace(temperature=lowered), [
        f"{message}, and gets temperature {lowered:g} in place of {ask.temperature:g}"
    ]


@torch.no_grad()
def removed_noise(model: SuperResolver, lr: Tensor, size: tuple[int, int], peak: float = 1) -> float:
    """The change that nine in ten parts of an LR image exceed, between it and the model's mean reduced to its size.

    Args:
        model: any.
        lr: (1,C,h,w) from 0 to ``peak``; floats or whole numbers.
        size: the output size (H, W).
        peak: the value of white in ``lr``.

    Returns:
        The root mean square of a part, 8 pixels a side, in grey levels of 255.
    """
    windows = windows_of(lr, peak)
    low = windows.shape[-2], windows.shape[-1]
    # A larger scale removes no other noise, and takes longer.
    y, x = (round(n * min(a / b, 2)) for n, a, b in zip(low, size, lr.shape[-2:], strict=True))
    change = (matlab_bicubic(model.sample(windows, (y, x), temperature=0), low) - windows).square().mean(1)
    parts = F.avg_pool2d(change, (min(8, low[0]), min(8, low[1])))
    return float(torch.quantile(parts.float(), QUIET_SHARE).sqrt()) * 255
