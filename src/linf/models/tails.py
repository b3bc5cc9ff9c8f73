"""Heavier tails than a Gaussian's: the latents of each patch share a scale that is random (METHOD §13).

    z = s · u · √(ν / χ²_ν),   u ~ N(0, I)

is a multivariate Student distribution, under which what a model did not foresee is unlikely by a power of its size and
not by an exponential. By itself, every value of the patch is Student's t of its mean and deviation, so that likelihood
and intervals have closed forms. Samples are drawn without a random scale: with one they are worse at equal PSNR.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

TailChoice = Literal["gaussian", "student"]
"""What the latents of a patch are taken for where their likelihood is measured."""


class Tails(NamedTuple):
    """The distribution of the latents of a patch."""

    freedom: float
    """ν, degrees of freedom; many are a Gaussian's."""
    scale: float
    """s: of a Gaussian it would be the standard deviation."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of latents (D, ...) in nats per patch, (...)."""
        return self._log_prob(z.double().square().sum(0), len(z))

    def _log_prob(self, energy: Tensor, dim: int) -> Tensor:
        v, s = self
        constant = math.lgamma((v + dim) / 2) - math.lgamma(v / 2) - dim / 2 * math.log(math.pi * v * s**2)
        return constant - (v + dim) / 2 * torch.log1p(energy / (v * s**2))

    def gaussianise(self, z: Tensor) -> Tensor:
        """Make latents (D, ...) of this distribution standard Gaussian, float64; each patch's keep their direction."""
        dim, energy = len(z), z.double().square().sum(0).cpu().numpy()
        ratio = energy / (dim * self.scale**2)
        # From either side, so that neither tail is rounded away; what is beyond doubles stays finite.
        below, above = (f(dim, self.freedom, ratio) for f in (special.fdtr, special.fdtrc))
        above = np.maximum(above, np.finfo(float).tiny)
        wanted = np.where(
            below < 0.5, special.gammaincinv(dim / 2, below), special.gammainccinv(dim / 2, above)
        )
        factor = np.sqrt(2 * wanted / np.maximum(energy, 1e-30))
        return z.double() * torch.from_numpy(factor).to(z.device)

    def bounds(self, nominal: Tensor) -> Tensor:
        """How many deviations from the mean a value's central intervals reach, for each of some probabilities."""
        return torch.from_numpy(self.scale * special.stdtrit(self.freedom, (1 + nominal.numpy()) / 2))


def fit_tails(energy: Tensor, dim: int) -> Tails:
    """The tails under which the latents of some patches are most likely.

    Args:
        energy: (N,), the sum of squares of each patch's D latents.
        dim: D.
    """
    from scipy import optimize  # A quarter of a second, for those who fit.

    energy = energy.double().cpu()
    energy = energy[:: max(1, len(energy) // 50_000)]

    def loss(logarithms: np.ndarray) -> float:
        return -float(Tails(*np.exp(logarithms).tolist())._log_prob(energy, dim).mean())

    # Beyond a thousand degrees of freedom it is Gaussian.
    bounds = [(math.log(0.1), math.log(1000)), (math.log(1e-3), math.log(1000))]
    start = [math.log(8), math.log(max(float(energy.median()) / dim, 1e-5)) / 2]
    found = optimize.minimize(loss, start, method="Nelder-Mead", bounds=bounds)
    return Tails(*np.exp(found.x).tolist())


def tails_at(known: Mapping[float, Tails], scale: float) -> Tails:
    """The tails at a scale, interpolated between those that are known, and beyond them those of the nearest.

    Raises:
        ValueError: none are known.
    """
    if not known:
        raise ValueError(
            "the model does not know the tails of its latents: estimate them with `linf latents MODEL OUT --data DIR`, "
            "or take them for Gaussian"
        )
    scales, tails = zip(*sorted(known.items()), strict=True)
    return Tails(
        *(float(np.exp(np.interp(scale, scales, np.log(each)))) for each in zip(*tails, strict=True))
    )
