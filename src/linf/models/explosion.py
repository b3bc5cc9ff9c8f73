"""Patches where the flow's inverse explodes (METHOD §4): they are shown at their mean, or at the bilinear image."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EXPLODED = 20.0
"""Ten times what a residual in [-1, 1] units can be: beyond it the flow's inverse has exploded (METHOD §4)."""


def tame(mean: Tensor, noise: Sequence[Tensor], highest: float, scales: Tensor | None = None) -> int:
    """Leave out noise that would explode, and a mean that does, in place.

    Args:
        mean: (D, N) residuals.
        noise: (D, N) each.
        highest: the temperature that the noise will be multiplied by.
        scales: (K, D, N) of the flow, which are set so that no other sample of an exploded mean has noise.

    Returns:
        How many patches of the noise, or of the mean where there is none, were set to 0.
    """
    # Unlike Python's, this maximum keeps NaN, whichever sample has it.
    strongest = torch.stack([n.abs().amax() for n in noise]).amax() if noise else torch.zeros(())
    if bool(mean.abs().amax() + highest * strongest <= EXPLODED):
        return 0
    exploded = 0
    for n in noise or [torch.zeros_like(mean)]:
        wild = ~(mean.abs() + highest * n.abs() <= EXPLODED).all(0)
        exploded += int(wild.sum())
        n[:, wild] = 0
    lost = ~(mean.abs() <= EXPLODED).all(0)
    mean[:, lost] = 0
    if scales is not None:
        scales[..., lost] = math.inf
    return exploded
