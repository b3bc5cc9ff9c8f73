"""The density of an image by a model whose latents are correlated, beside that of patches taken alone (METHOD §12).

The field of correlated latents is Gaussian. Its density is taken patch by patch in reading order, each latent given
those before it that are near,

    z_p | z_{p+Δ} ~ N(B z_near, I − B E[z_near z_pᵀ]),   B = E[z_p z_nearᵀ] E[z_near z_nearᵀ]⁻¹

where E is that of the field that is sampled. Every factor is normalised, so that this is the density of a Gaussian
field too: that one which forgets what is farther away. At an edge fewer are near.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

NEAR = 3
"""Pixels, in whole patches, within which latents before a patch count as near."""


def joint_gain(z: Tensor, filters: Tensor, near: int) -> Tensor:
    """How much higher the log-density of correlated latents is than of independent ones.

    Args:
        z: (D, gh, gw), latents of an image.
        filters: (n, n, D, D), of `linf.models.correlation.LatentCorrelation.filters` at one scale.
        near: patches on each side that are near, see `NEAR`.

    Returns:
        (gh, gw), nats per patch.
    """
    dim, rows, cols = z.shape
    z, filters = z.double(), filters.double()
    gain = z.new_empty(rows, cols)
    eye = torch.eye(dim).to(z)
    for (up, _), ys in _alike(rows, near, before_only=True):
        for (left, right), xs in _alike(cols, near):
            before = [(dy, dx) for dy in range(-up, 1) for dx in range(-left, right + 1) if (dy, dx) < (0, 0)]
            here = z[:, ys, xs].flatten(1)
            error, left_over = here, eye
            if before:
                shift = [
                    z[:, ys.start + dy : ys.stop + dy, xs.start + dx : xs.stop + dx] for dy, dx in before
                ]
                cross = torch.cat([covariance_at(filters, *each) for each in before], dim=1)
                among = torch.cat(
                    [
                        torch.cat([covariance_at(filters, b[0] - a[0], b[1] - a[1]) for b in before], dim=1)
                        for a in before
                    ]
                )
                weights = torch.linalg.solve(among, cross.T).T
                error = here - weights @ torch.cat(shift).flatten(1)
                left_over = eye - weights @ cross.T
            lower = torch.linalg.cholesky(left_over)
            white = torch.linalg.solve_triangular(lower, error, upper=False)
            change = here.square().sum(0) - white.square().sum(0)
            gain[ys, xs] = (change / 2 - lower.diagonal().log().sum()).view(gain[ys, xs].shape)
    return gain


def covariance_at(filters: Tensor, dy: int, dx: int) -> Tensor:
    """E[z_p z_{p+Δ}ᵀ] of white noise through a filter (n, n, D, D): (D, D)."""
    n = len(filters)
    if max(abs(dy), abs(dx)) >= n:
        return torch.zeros_like(filters[0, 0])
    # Both see the white noise at p + δ, which is at δ − Δ for the second.
    first = filters[max(0, dy) : n + min(0, dy), max(0, dx) : n + min(0, dx)]
    second = filters[max(0, -dy) : n + min(0, -dy), max(0, -dx) : n + min(0, -dx)]
    return torch.einsum("yxij,yxkj->ik", first, second)


def _alike(n: int, near: int, *, before_only: bool = False) -> Iterator[tuple[tuple[int, int], slice]]:
    """Ranges of n places that have as many neighbours within reach before and after them, with these numbers."""

    def around(place: int) -> tuple[int, int]:
        return min(place, near), 0 if before_only else min(n - 1 - place, near)

    for number, places in itertools.groupby(range(n), around):
        found = list(places)
        yield number, slice(found[0], found[-1] + 1)
