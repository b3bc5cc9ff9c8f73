"""What only this model can tell: the exact distribution of an image, from one encoding and one decode.

Given the condition, the residual is exactly Gaussian, ``x = m(c) + A(c) z`` (METHOD §4). So at temperature τ an image
is ``mean + τ · noise``, each value has the deviation ``τ · deviation``, and before clamping

    E‖x(τ) − gt‖² = ‖m − gt‖² + τ² tr(A Aᵀ)
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from linf.models.decoding import Region


class Distribution(NamedTuple):
    """The distribution of B images in the units of [0, 1], not clamped."""

    mean: Tensor
    """(B,3,H,W)."""
    noise: Tensor
    """(S,B,3,H,W): ``A z`` of each sample."""
    deviation: Tensor | None = None
    """(B,M,H,W): standard deviation at τ = 1 of each mixture of colours that was asked for."""
    latents: Tensor | None = None
    """(B,D,H//P,W//P): z of HR, in whole patches; standard Gaussian where the distribution is right."""
    log_prob: Tensor | None = None
    """(B,H//P,W//P): log-density of HR's residual in nats per patch."""

    def at(self, temperature: float) -> Tensor:
        """The samples at a temperature, (S,B,3,H,W); at 0 the mean alone, (1,B,3,H,W)."""
        return self.mean[None] if temperature == 0 else self.mean + temperature * self.noise


def collect(
    regions: Iterable[Region],
    like: Tensor,
    patch_size: int,
    *,
    samples: int,
    mixtures: int = 0,
    dim: int = 0,
    advance: Callable[[int], object] = lambda pixels: None,
) -> Distribution:
    """Put the regions of whole images together.

    Args:
        regions: see `linf.models.super_resolver.SuperResolver.regions`.
        like: (B,3,H,W), whose shape, type and device the result has.
        patch_size: P.
        samples: S, the latents that the regions were decoded with.
        mixtures: M, the mixtures of colours whose deviation they have.
        dim: D where they have latents and densities, or else 0.
        advance: is called with the number of output pixels of each region.
    """
    mean = torch.empty_like(like)
    noise = like.new_empty(samples, *like.shape)
    batch, (height, width) = len(like), like.shape[-2:]
    deviation = like.new_empty(batch, mixtures, height, width) if mixtures else None
    grid = -(-height // patch_size), -(-width // patch_size)
    latents, log_prob = like.new_empty(batch, dim, *grid), like.new_empty(batch, *grid)
    for region in regions:
        place = (region.image, slice(None), region.rows, region.cols)
        mean[place] = region.mean
        for whole, part in zip(noise, region.noise, strict=True):
            whole[place] = part
        if deviation is not None:
            assert region.deviation is not None
            deviation[place] = region.deviation
        if dim:
            assert region.latents is not None
            assert region.log_prob is not None
            latents[region.image, :, *region.patches] = region.latents
            log_prob[region.image, *region.patches] = region.log_prob
        advance(region.mean.shape[-2] * region.mean.shape[-1])
    if not dim:
        return Distribution(mean, noise, deviation)
    whole_patches = (..., slice(height // patch_size), slice(width // patch_size))
    return Distribution(mean, noise, deviation, latents[whole_patches], log_prob[whole_patches])


NOMINAL = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Probabilities of the central intervals that calibration looks at."""


def coverage(standardised: Tensor) -> list[float]:
    """The share of values within the central interval of a standard Gaussian, for each of `NOMINAL`."""
    bounds = math.sqrt(2) * torch.erfinv(torch.tensor(NOMINAL, dtype=torch.float64))
    values = standardised.abs()
    return [(values <= bound).double().mean().item() for bound in bounds.tolist()]
