"""What only this model can tell: the exact distribution of an image, from one encoding and one decode.

Given the condition, the residual is exactly Gaussian, ``x = m(c) + A(c) z`` (METHOD §4). So at temperature τ an image
is ``mean + τ · noise``, each value has the deviation ``τ · deviation``, and before clamping

    E‖x(τ) − gt‖² = ‖m − gt‖² + τ² tr(A Aᵀ)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from linf.models.tails import Tails


class Distribution(NamedTuple):
    """The distribution of B images in the units of [0, 1], not clamped."""

    mean: Tensor
    """(B,C,H,W)."""
    noise: Tensor
    """(S,B,C,H,W): ``A z`` of each sample."""
    deviation: Tensor | None = None
    """(B,M,H,W): standard deviation at τ = 1 of each mixture of colours that was asked for."""
    latents: Tensor | None = None
    """(B,D,H//P,W//P): z of HR, in whole patches; standard Gaussian where the distribution is right."""
    log_prob: Tensor | None = None
    """(B,H//P,W//P): log-density of HR's residual in nats per patch."""

    def at(self, temperature: float) -> Tensor:
        """The samples at a temperature, (S,B,C,H,W); at 0 the mean alone, (1,B,C,H,W)."""
        return self.mean[None] if temperature == 0 else self.mean + temperature * self.noise


def with_tails(known: Distribution, tails: Tails) -> Distribution:
    """A distribution whose latents have these tails: with HR's log-density under them, and HR's latents made Gaussian.

    Mean, noise and deviation stay those of the Gaussian.
    """
    assert known.latents is not None
    assert known.log_prob is not None
    z = known.latents.double().movedim(1, 0)
    gaussian = -0.5 * (z.square().sum(0) + len(z) * math.log(2 * math.pi))
    return known._replace(
        latents=tails.gaussianise(z).movedim(0, 1), log_prob=known.log_prob - gaussian + tails.log_prob(z)
    )


NOMINAL = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Probabilities of the central intervals that calibration looks at."""


def coverage(standardised: Tensor, tails: Tails | None = None) -> list[float]:
    """The share of values within the central interval of a standard Gaussian or of `Tails`, for each of `NOMINAL`."""
    nominal = torch.tensor(NOMINAL, dtype=torch.float64)
    bounds = math.sqrt(2) * torch.erfinv(nominal) if tails is None else tails.bounds(nominal)
    values = standardised.abs()
    return [(values <= bound).double().mean().item() for bound in bounds.tolist()]
