"""Geometric self-ensemble: the mean of a model's answers to the eight flips and turns of an image.

Lim et al., "Enhanced deep residual networks for single image super-resolution" (arXiv 1707.02921, section 3.4).
"""

import torch
from torch import Tensor

from linf.models.arguments import check_images, check_size
from linf.models.super_resolver import SuperResolver

FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes that are flipped, of the image and of its transpose."""


@torch.no_grad()
def self_ensemble(model: SuperResolver, lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Super-resolve eight orientations of an image, one after the other, and take the mean of the results turned back.

    Args:
        model: any model; of one that draws samples, the mean is taken (τ = 0).
        lr: (B,C,h,w) in [0, 1].
        size: (H, W).

    Returns:
        (B,C,H,W), not clamped.

    Raises:
        ValueError: the images, their channels or the size are not as described, or memory is too small.
    """
    check_images(lr)
    channels = model.output_channels(lr)
    size = check_size(size, 8 * channels * len(lr), lr.device)  # The sum, and one answer.
    total = lr.new_zeros(len(lr), channels, *size)
    for axes in FLIPS:
        total += model.sample(lr.flip(axes), size, temperature=0).flip(axes)
        turned = model.sample(lr.transpose(-2, -1).flip(axes), (size[1], size[0]), temperature=0)
        total += turned.flip(axes).transpose(-2, -1)
    return total / (2 * len(FLIPS))
