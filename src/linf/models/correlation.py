"""Latents that agree with their neighbours: a stationary Gaussian field in place of one drawn for each patch alone.

The method draws every patch's latent from N(0, I) independently, although the latents of real images are correlated
from patch to patch. Here white noise w on the patch grid is filtered (METHOD §12),

    z_p = Σ_δ G(δ) w_{p+δ},   |δ| ≤ reach,   Σ_δ G(δ) G(δ)ᵀ = I

so that the distribution of each patch by itself stays exactly N(0, I), and with it log-density, moments and PSNR at
every temperature. `linf.models.latent_statistics` estimates G.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from linf.coordinates import patch_grid
from linf.machine import free_memory
from linf.models.decoding import Latents
from linf.models.noise import LatentField, noise_threads, rows_kept
from linf.models.precision import exact_products
from linf.models.tiling import TILE

LatentChoice = Literal["independent", "correlated"]
"""How the latents of neighbouring patches are drawn."""


class LatentCorrelation(nn.Module):
    """The filter G of correlated latents, at several scales; between them it is interpolated, and beyond the lowest and
    highest it is theirs.

    Args:
        dim: D.
        scales: at which the filter is known, ascending.
        reach: patches from the middle of the filter to its border.

    Raises:
        ValueError: there is no scale, the scales do not ascend, or the reach is negative.
    """

    taps: Tensor
    """(S, 2·reach+1, 2·reach+1, D, D) for S scales: G(δ) at δ + reach."""
    knots: Tensor

    def __init__(self, dim: int, scales: Sequence[float], reach: int) -> None:
        super().__init__()
        if not scales or any(low >= high for low, high in pairwise(scales)):
            raise ValueError(f"scales {list(scales)} of correlated latents must be one or more, and ascend")
        if reach < 0:
            raise ValueError(f"reach {reach} is negative: give a whole number of patches")
        self.config = {"dim": dim, "scales": [float(s) for s in scales], "reach": reach}
        self.dim, self.reach = dim, reach
        taps = torch.zeros(len(scales), 2 * reach + 1, 2 * reach + 1, dim, dim)
        taps[:, reach, reach] = torch.eye(dim)
        self.register_buffer("taps", taps)
        self.register_buffer("knots", torch.tensor(self.config["scales"]), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Flat, since ``model.to(memory_format=torch.channels_last)`` fails on tensors of five axes."""
        return super()._apply(lambda t: fn(t.flatten()).view(t.shape), recurse)

    @torch.no_grad()
    def filters(self, scale: Tensor) -> Tensor:
        """The filter at each of B scales, (B,) → (B, 2·reach+1, 2·reach+1, D, D), without waiting for the device."""
        knots, taps = self.knots.to(torch.float32), self.taps.to(torch.float32)
        scale = scale.to(knots).clamp(knots[0], knots[-1])
        above = torch.searchsorted(knots, scale).clamp(1, max(len(knots) - 1, 1))
        low, high = knots[above - 1], knots[above.clamp(max=len(knots) - 1)]
        share = (scale - low) / (high - low).clamp_min(1e-6)
        taps = torch.lerp(
            taps[above - 1], taps[above.clamp(max=len(knots) - 1)], share[:, None, None, None, None]
        )
        # Interpolated or stored in half precision, its covariance L Lᵀ is only nearly I; L⁻¹ makes it I again.
        taps = taps.double()
        flat = taps.movedim(3, 1).flatten(2)
        lower = torch.linalg.cholesky_ex(flat @ flat.mT).L
        return torch.linalg.solve_triangular(lower[:, None, None], taps, upper=False).float()

    @torch.no_grad()
    def forward(self, white: Tensor, filters: Tensor) -> Tensor:
        """Filter white noise.

        Args:
            white: (B, D, gh + 2·reach, gw + 2·reach).
            filters: (B, 2·reach+1, 2·reach+1, D, D), as `filters` gives them.

        Returns:
            (B, D, gh, gw).
        """
        side = 2 * self.reach + 1
        rows, cols = (n - side + 1 for n in white.shape[2:])
        out = torch.zeros(len(white), self.dim, rows * cols, dtype=filters.dtype, device=white.device)
        with torch.autocast(white.device.type, enabled=False), exact_products():
            for dy in range(side):
                for dx in range(side):
                    part = white[:, :, dy : dy + rows, dx : dx + cols].reshape(len(white), self.dim, -1)
                    out.baddbmm_(filters[:, dy, dx], part.to(out.dtype))
        return out.view(len(white), self.dim, rows, cols)


class CorrelatedField:
    """Correlated latents of a patch grid: those of a patch are a function of the white noise within reach, so that they
    are the same in parts or whole.

    Args:
        white: noise on a grid larger by the reach on each side.
        correlation: filters it.
        scale: of the output.
    """

    def __init__(self, white: LatentField, correlation: LatentCorrelation, scale: float) -> None:
        self.white, self.correlation = white, correlation
        self.filters = correlation.filters(correlation.taps.new_tensor([scale]))

    def __getitem__(self, where: tuple[int, slice, slice]) -> Tensor:
        """``field[image, rows, cols]``: (rows, cols, D), float32 on the device of the filter."""
        image, *sides = where
        rows, cols = (slice(side.start, side.stop + 2 * self.correlation.reach) for side in sides)
        white = self.white[image, rows, cols].to(self.filters.device)
        return self.correlation(white.movedim(-1, 0)[None], self.filters)[0].movedim(0, -1)


def latent_fields(
    seeds: Sequence[int],
    lr: Tensor,
    size: Sequence[int],
    dim: int,
    patch_size: int,
    *,
    tile: int = TILE,
    correlation: LatentCorrelation | None = None,
) -> list[Latents]:
    """The latents of images for each seed, made when they are asked for.

    Args:
        seeds: of the first image of each sample.
        lr: (B,C,h,w), on the device of the latents.
        size: (H, W) of the output.
        dim: D.
        patch_size: P.
        tile: LR pixels a side that are encoded at once.
        correlation: between neighbours; None draws every patch's alone.
    """
    margin = 0 if correlation is None else correlation.reach
    # Neighbouring rectangles share the noise of their margins.
    kept, threads = rows_kept(lr, size, patch_size, tile) + 4 * margin, noise_threads(lr.device)
    cols = patch_grid(size, patch_size)[1] + 2 * margin
    # Where memory is too small for them, rows are made again.
    row = 4 * max(1, len(seeds) * cols * dim)
    kept = int(min(kept, free_memory(torch.device("cpu")) / 8 / row))
    fields = [LatentField(seed, cols, dim, kept=kept, threads=threads) for seed in seeds]
    if correlation is None:
        return [*fields]
    scale = math.sqrt(size[0] * size[1] / (lr.shape[-2] * lr.shape[-1]))
    return [CorrelatedField(field, correlation, scale) for field in fields]


def check_latents(latents: str) -> LatentChoice:
    """Return a choice of latents.

    Raises:
        ValueError: there is no such choice.
    """
    if latents not in get_args(LatentChoice):
        raise ValueError(f"latents are {latents!r}: give one of {', '.join(get_args(LatentChoice))}")
    return cast(LatentChoice, latents)


def chosen_correlation(
    correlation: LatentCorrelation | None, latents: LatentChoice
) -> LatentCorrelation | None:
    """The correlation that a choice of latents means, given that of the model.

    Raises:
        ValueError: the choice is unknown, or the model knows no correlation.
    """
    if check_latents(latents) == "correlated" and correlation is None:
        raise ValueError(
            "the model does not know how the latents of neighbouring patches are correlated: estimate it with "
            "`linf latents MODEL OUT --data DIR`, or ask for independent ones"
        )
    return correlation if latents == "correlated" else None
