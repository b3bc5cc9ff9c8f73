"""What only this model can tell: the exact distribution of an image, from one encoding and one decode.

Given the condition, the residual is exactly Gaussian, ``x = m(c) + A(c) z`` (METHOD §4). So at temperature τ an image
is ``mean + τ · noise``, each value has the deviation ``τ · deviation``, and before clamping

    E‖x(τ) − gt‖² = ‖m − gt‖² + τ² tr(A Aᵀ)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


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


NOMINAL = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Probabilities of the central intervals that calibration looks at."""


def coverage(standardised: Tensor) -> list[float]:
    """The share of values within the central interval of a standard Gaussian, for each of `NOMINAL`."""
    bounds = math.sqrt(2) * torch.erfinv(torch.tensor(NOMINAL, dtype=torch.float64))
    values = standardised.abs()
    return [(values <= bound).double().mean().item() for bound in bounds.tolist()]
