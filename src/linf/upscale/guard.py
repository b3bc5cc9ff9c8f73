"""A guard for noisy and compressed images: samples of them vary more, and unseen noise is taken for texture."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.errors import UsageError
from linf.images.photo import Photo, jpeg_quality
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
    model: SuperResolver, image: Photo, size: tuple[int, int], ask: Ask, *, keep: bool = False
) -> tuple[Ask, list[str]]:
    """Lower the temperature for a noisy or strongly compressed image.

    Noise that the model has not seen raises its predicted deviation; the temperature is lowered until the image gets as
    much noise as a usual one. Noise that a model removes takes detail with it, the more at a large scale, and the
    temperature of lowest LPIPS falls: about as 1 / √(removed · scale), as measured with Gaussian noise. JPEG adds its
    noise where there is detail, and hardly any to the quiet parts; what counts is the change of the whole image, as far
    as quantisation explains it: a step of q adds a noise of q / √12 at most.

    Args:
        model: any model; only a `LINF` that knows what is usual has an opinion.
        image: the image, uint8 or uint16.
        size: the output size (H, W).
        ask: what was asked for.
        keep: True to leave the temperature, and say only what is wrong with the image.

    Returns:
        What to ask for, and what to tell of the image: nothing where it is like the training's and has lost little.

    Raises:
        UsageError: the result is to be consistent with such an image.
    """
    lr, peak = as_tensor(image.pixels, ask.device), float(image.peak)
    lr = lr.expand(-1, model.output_channels(lr), -1, -1)
    excess = excess_deviation(model, lr, size, peak) if isinstance(model, LINF) else 0.0
    lowers = excess > 0 and ask.temperature > 0
    quiet, whole = removed_noise(model, lr, size, peak) if lowers or ask.consistency else (0.0, 0.0)
    compressed = min(whole, image.jpeg_step / math.sqrt(12))
    removed = max(quiet, compressed)
    scale = math.sqrt(size[0] / lr.shape[-2] * (size[1] / lr.shape[-1]))
    removal = math.sqrt(removed / REMOVED * min(scale, LARGE) / LARGE)
    if excess > TOLERATED:
        message = f"it is noisy, dithered or grainy unlike the model's data ({excess:.1f} times the usual)"
    elif removed > REMOVED if ask.consistency else removal > TOLERATED:
        kind = "noisy" if quiet == removed else f"a JPEG of quality {jpeg_quality(image.jpeg_step)} or so"
        message = f"it is {kind} (the model removes {removed:.1f} of 255 grey levels)"
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
def removed_noise(
    model: SuperResolver, lr: Tensor, size: tuple[int, int], peak: float = 1
) -> tuple[float, float]:
    """The change between an LR image and the model's mean reduced to its size.

    Args:
        model: any.
        lr: (1,C,h,w) from 0 to ``peak``; floats or whole numbers.
        size: the output size (H, W).
        peak: the value of white in ``lr``.

    Returns:
        What nine in ten parts exceed, 8 pixels a side, and that of all; root mean squares in grey levels of 255.
    """
    windows = windows_of(lr, peak)
    low = windows.shape[-2], windows.shape[-1]
    # A larger scale removes no other noise, and takes longer.
    y, x = (round(n * min(a / b, 2)) for n, a, b in zip(low, size, lr.shape[-2:], strict=True))
    change = (matlab_bicubic(model.sample(windows, (y, x), temperature=0), low) - windows).square().mean(1)
    parts = F.avg_pool2d(change, (min(8, low[0]), min(8, low[1]))).float()
    return 255 * float(torch.quantile(parts, QUIET_SHARE).sqrt()), 255 * float(parts.mean().sqrt())
