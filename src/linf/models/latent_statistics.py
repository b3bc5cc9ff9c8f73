"""What the latents of real images are like: covariance within a patch and between neighbours, and tails (METHOD §12).

    C(Δ) = E[z_p z_{p+Δ}ᵀ],   z = flow(HR − bilinear), cut off at ±4

From it follows the filter of `linf.models.correlation`: the covariance is whitened by ``C(0)^-½``, and the filter is
the Hermitian square root of its spectrum, cut to a window.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from linf.models.correlation import LatentCorrelation
from linf.models.linf import LINF
from linf.models.tails import Tails, fit_tails

CUT_OFF = 4.0
"""Where latents are cut off: what a model has not foreseen should not decide what it draws."""

REACH = 6
"""Pixels from the middle of a filter to its border, in whole patches."""


class LatentCovariance:
    """Sums over images of the products of latents at each offset of a window.

    Args:
        dim: D.
        window: patches from the middle to the border of the window.
    """

    def __init__(self, dim: int, window: int) -> None:
        self.window, side = window, 2 * window + 1
        self.sums = torch.zeros(side, side, dim, dim, dtype=torch.float64)
        self.counts = torch.zeros(side, side, dtype=torch.float64)

    def update(self, z: Tensor) -> None:
        """Add the latents (D, gh, gw) of an image."""
        z, n = z.float().clamp(-CUT_OFF, CUT_OFF), self.window
        rows, cols = z.shape[1:]
        for dy in range(min(n, rows - 1) + 1):
            for dx in range(-min(n, cols - 1), min(n, cols - 1) + 1):
                here = z[:, : rows - dy, max(0, -dx) : cols - max(0, dx)].flatten(1)
                there = z[:, dy:, max(0, dx) : cols + min(0, dx)].flatten(1)
                product = (here @ there.T).double().cpu()
                for sign, part in ((1, product), (-1, product.T)) if dy else ((1, product),):
                    self.sums[n + sign * dy, n + sign * dx] += part
                    self.counts[n + sign * dy, n + sign * dx] += here.shape[1]

    def compute(self) -> Tensor:
        """C(Δ) at Δ + window: (2·window+1, 2·window+1, D, D), float64.

        Raises:
            ValueError: no image was as large as the window.
        """
        if not self.counts.all():
            raise ValueError(
                f"no image has more than {self.window} patches a side: give larger images, or a smaller scale"
            )
        return self.sums / self.counts[..., None, None]


def filter_taps(covariance: Tensor, reach: int) -> Tensor:
    """The filter whose output is nearest to a stationary covariance, and white within a patch.

    Args:
        covariance: (2n+1, 2n+1, D, D), as `LatentCovariance.compute` gives it.
        reach: patches from the middle of the filter to its border.

    Returns:
        (2·reach+1, 2·reach+1, D, D), float64: G(δ) at δ + reach.
    """
    n = covariance.shape[0] // 2
    whitening = _root(covariance[n, n], inverse=True)
    side = 8 * max(n, reach, 1)
    around = torch.arange(-n, n + 1) % side
    field = covariance.new_zeros(side, side, *covariance.shape[2:])
    field[around[:, None], around] = whitening @ covariance @ whitening
    # Noise in the estimate makes it indefinite at some frequencies, which the root passes over.
    root = torch.fft.ifft2(_root(torch.fft.fft2(field, dim=(0, 1))), dim=(0, 1)).real
    middle = torch.arange(-reach, reach + 1) % side
    taps = root[middle[:, None], middle]
    return _root(torch.einsum("yxij,yxkj->ik", taps, taps), inverse=True) @ taps


def _root(matrix: Tensor, *, inverse: bool = False) -> Tensor:
    """The Hermitian square root of positive matrices (..., D, D), or its inverse."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mH) / 2)
    values = values.clamp_min(1e-9).rsqrt() if inverse else values.clamp_min(0).sqrt()
    return (vectors * values[..., None, :].to(vectors.dtype)) @ vectors.mH


class LatentStatistics(NamedTuple):
    """What is found of a model's latents."""

    correlation: LatentCorrelation
    """For `LINF.correlation`."""
    tails: dict[float, Tails]
    """For `LINF.tails`."""
    covariance: dict[float, Tensor]
    """By scale, (2n+1, 2n+1, D, D)."""


def latent_statistics(model: LINF, images: Iterable[tuple[float, Tensor, Tensor]]) -> LatentStatistics:
    """How the latents of a model are distributed, by images at one or more scales.

    Args:
        model: a LINF.
        images: scale, LR image (1,C,h,w) and HR image (1,C,H,W) in [0, 1], on the model's device.

    Raises:
        ValueError: there is no image, or all of a scale are too small.
    """
    reach = math.ceil(REACH / model.patch_size)
    sums: dict[float, LatentCovariance] = {}
    energies: dict[float, list[Tensor]] = {}
    for scale, lr, hr in images:
        known = model.distribution(lr, (hr.shape[-2], hr.shape[-1]), samples=0, hr=hr)
        assert known is not None
        assert known.latents is not None
        sums.setdefault(scale, LatentCovariance(model.dim, 2 * reach)).update(known.latents[0])
        energies.setdefault(scale, []).append(known.latents[0].square().sum(0).flatten().cpu())
    covariance = {scale: sums[scale].compute() for scale in sorted(sums)}
    correlation = LatentCorrelation(model.dim, list(covariance), reach)
    correlation.taps.copy_(torch.stack([filter_taps(each, reach) for each in covariance.values()]))
    tails = {scale: fit_tails(torch.cat(energies[scale]), model.dim) for scale in covariance}
    return LatentStatistics(correlation.to(model.flow.weight.device), tails, covariance)
