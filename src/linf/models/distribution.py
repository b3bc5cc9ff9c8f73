"""What only this model can say: the exact law of an image, from one encoding and one pass over its conditions.

Given the condition, the residual is exactly Gaussian, ``x = m(c) + A(c) z`` (METHOD §4). So at temperature τ an image
is ``mean + τ · texture``, each value has the deviation ``τ · deviation``, and before clamping

    E‖x(τ) − gt‖² = ‖m − gt‖² + τ² tr(A Aᵀ)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.images.luma import BENCHMARK_LUMA
from linf.models import decoding as inference
from linf.models.linf import LINF
from linf.models.prior import grid_patches


class Law(NamedTuple):
    """The law of B images in the units of [0, 1], not clamped."""

    mean: Tensor
    """(B,3,H,W)."""
    textures: Tensor
    """(S,B,3,H,W): ``A z`` of each sample."""
    deviation: Tensor | None = None
    """(B,4,H,W): standard deviation of R, G, B and Y at τ = 1, Y as `linf.images.luma.BENCHMARK_LUMA` weighs it."""
    latents: Tensor | None = None
    """(B,D,H//P,W//P): z of HR, in whole patches; standard Gaussian where the law is right."""
    log_prob: Tensor | None = None
    """(B,H//P,W//P): log-density of HR's residual in nats per patch."""

    def at(self, temperature: float) -> Tensor:
        """The samples at a temperature, (S,B,3,H,W); at 0 the mean alone, (1,B,3,H,W)."""
        return self.mean[None] if temperature == 0 else self.mean + temperature * self.textures


@torch.no_grad()
def law(
    model: LINF,
    lr: Tensor,
    size: tuple[int, int],
    *,
    samples: int = 1,
    highest: float = 1.0,
    generator: torch.Generator | None = None,
    deviation: bool = False,
    hr: Tensor | None = None,
    encoded: Sequence[inference.Encoded] | None = None,
) -> Law:
    """All that the flow says of an image, however many temperatures are then looked at.

    Args:
        model: any LINF.
        lr: (B,3,h,w) in [0, 1].
        size: (H, W).
        samples: S; the first is what `LINF.sample` draws with this generator.
        highest: temperature that will be asked of `Law.at`; see `LINF.decoded`.
        generator: of the latents.
        deviation: also work out the deviation, which costs D more decodes.
        hr: (B,3,H,W), for its latents and log-density.
        encoded: the features of ``lr``, from `LINF.encode`; by default they are made here.
    """
    size = inference.check_size(
        size, len(lr) * (4 * (10 + 6 * samples) + (0 if hr is None else 24)), lr.device
    )
    drawn = [model.draw(lr, size, generator) for _ in range(samples)]
    mean = F.interpolate(lr, size, mode="bilinear", align_corners=False)
    textures = mean.new_zeros(samples, *mean.shape)
    spread = mean.new_zeros(len(lr), 4, *size) if deviation else None
    latents = None if hr is None else grid_patches(2 * (hr - mean), model.patch_size)
    log_prob = None if latents is None else mean.new_zeros(len(lr), *latents.shape[2:])
    mix, inverses = torch.cat([torch.eye(3), torch.tensor([BENCHMARK_LUMA])]).to(lr), model.flow.inverses()
    for block, m, parts in model.decoded(model.blocks(lr, size, encoded=encoded), drawn, highest):
        region = block.of(mean)
        region += block.fold(m, region) / 2
        for texture, part in zip(textures, parts, strict=True):
            block.of(texture).copy_(block.fold(part, region) / 2)
        if spread is not None:
            variance = model.flow.variances(block.condition, mix, inverses)
            block.of(spread).copy_(block.fold(variance, region).sqrt() / 2)
        if latents is not None and log_prob is not None:
            x = latents[block.image, :, block.rows, block.cols]
            z, density = model.flow.latents_and_log_prob(x.flatten(1), block.condition)
            x.copy_(z.view_as(x))
            log_prob[block.image, block.rows, block.cols] = density.view(x.shape[1:])
    if latents is not None and log_prob is not None:
        whole = (..., slice(size[0] // model.patch_size), slice(size[1] // model.patch_size))
        latents, log_prob = latents[whole], log_prob[whole]
    return Law(mean, textures, spread, latents, log_prob)


def closed_form_psnr(error: float, variance: float, temperature: float) -> float:
    """PSNR in dB that samples at τ have before clamping: of the mean squared error of τ = 0 and the variance at 1."""
    total = error + temperature**2 * variance
    return -10 * math.log10(total) if total > 0 else math.inf


NOMINAL = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Probabilities of the central intervals that calibration looks at."""


def coverage(standardised: Tensor) -> list[float]:
    """The share of values within the central interval of a standard Gaussian, for each of `NOMINAL`."""
    bounds = math.sqrt(2) * torch.erfinv(torch.tensor(NOMINAL, dtype=torch.float64))
    values = standardised.abs()
    return [(values <= bound).double().mean().item() for bound in bounds.tolist()]
