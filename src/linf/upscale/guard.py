"""A guard for images that are unlike what a model was trained on, whose noise it would take for texture."""

import numpy as np
import torch

from linf.models.deviation import excess_deviation
from linf.models.linf import LINF
from linf.models.super_resolver import SuperResolver
from linf.upscale.enlarge import Ask

TOLERATED = 1.2
"""How many times the usual limit an image's predicted deviation may be before anything is said."""


def tempered(
    model: SuperResolver, pixels: np.ndarray, size: tuple[int, int], ask: Ask, *, keep: bool = False
) -> tuple[Ask, list[str]]:
    """Lower the temperature for an image that is noisy to the model, to as much noise as usual images get.

    Args:
        model: any model; only a `LINF` that knows what is usual has an opinion.
        pixels: the image (h,w,C), or (h,w,1) for grey, uint8 or uint16.
        size: the output size (H, W).
        ask: what was asked for.
        keep: True to leave the temperature, and say only that the image is noisy.

    Returns:
        What to ask for, and what to tell of the image: nothing where it is like the training's.
    """
    if not isinstance(model, LINF) or not model.usual_deviation:
        return ask, []
    plane = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).permute(2, 0, 1)[None]
    lr = plane.expand(-1, model.output_channels(plane), -1, -1).to(ask.device)
    excess = excess_deviation(model, lr, size)
    if excess <= TOLERATED:
        return ask, []
    told = f"it is noisy, dithered or grainy unlike the model's data ({excess:.1f} times the usual)"
    if keep or not ask.temperature:
        return ask, [told]
    lowered = float(f"{ask.temperature / excess:.2g}")
    told += f", and gets temperature {lowered:g} in place of {ask.temperature:g}"
    return ask._replace(temperature=lowered), [told]
