"""What `LINF.sample` holds for a whole image, the bilinear base and the latents, in any part that is asked for."""

import math

import torch
from torch import Tensor

from linf.models.linf import LINF


class Bilinear:
    """The bilinear image, any rectangle of it: ``F.interpolate(…, mode="bilinear", align_corners=False)``.

    Args:
        lr: (3,h,w) or (1,h,w), whole numbers.
        size: (H, W).
        peak: the value of white.
    """

    def __init__(self, lr: Tensor, size: tuple[int, int], peak: int) -> None:
        self.lr, self.size, self.peak = lr, size, peak
        self.axes = [
            (torch.arange(n, device=lr.device) + 0.5).mul(k / n).sub(0.5).clamp(min=0)
            for k, n in zip(lr.shape[1:], size, strict=True)
        ]

    def __call__(self, rows: slice, cols: slice) -> Tensor:
        """(3,y,x) in [0, 1]."""
        y, x = self.axes[0][rows], self.axes[1][cols]
        top, left = int(y[0]), int(x[0])
        part = self.lr[:, top : int(y[-1]) + 2, left : int(x[-1]) + 2].float() / self.peak
        values = _lerp(_lerp(part, x - left, 2), y - top, 1)
        return values.expand(3, -1, -1)


def _lerp(part: Tensor, at: Tensor, dim: int) -> Tensor:
    below = at.long().clamp(max=part.shape[dim] - 1)
    above = (below + 1).clamp(max=part.shape[dim] - 1)
    weight = (at - below).view(-1, *[1] * (2 - dim))
    return part.index_select(dim, below) * (1 - weight) + part.index_select(dim, above) * weight


class Latents:
    """`LINF.draw` for a CPU and a seed, whose rows are made when they are asked for and kept for a band only.

    Args:
        model: whose latents.
        size: (H, W) of the output.
        seed: of the generator.
        device: where they are wanted.
    """

    STEP = 16
    """PyTorch draws Gaussians in sixteens, and what is left of them from the end (ATen's ``normal_fill``)."""

    def __init__(self, model: LINF, size: tuple[int, int], seed: int, device: torch.device) -> None:
        rows, cols = (-(-n // model.patch_size) for n in size)
        self.row = (cols, model.flow.dim)
        self.device, self.generator = device, torch.Generator().manual_seed(seed)
        self.to_draw, self.ahead = rows * math.prod(self.row), torch.empty(0)
        self.first, self.kept = 0, torch.empty(0, *self.row)

    def next_band(self) -> None:
        """Forget all rows that have been drawn."""
        self.first, self.kept = self.first + len(self.kept), torch.empty(0, *self.row)

    def __getitem__(self, where: tuple[int, slice, slice]) -> Tensor:
        """The latents of a `inference.Block`, (rows, cols, D)."""
        _, rows, cols = where
        lacking = rows.stop - self.first - len(self.kept)
        if lacking > 0:
            self.kept = torch.cat([self.kept, self._draw(lacking)])
        return self.kept[rows.start - self.first : rows.stop - self.first, cols].to(self.device)

    def _draw(self, rows: int) -> Tensor:
        wanted = rows * math.prod(self.row)
        count = -(-(wanted - len(self.ahead)) // self.STEP) * self.STEP
        if self.to_draw - count < 2 * self.STEP:
            count = self.to_draw
        new = torch.randn(count, generator=self.generator)
        self.to_draw -= count
        drawn = torch.cat([self.ahead, new])
        self.ahead = drawn[wanted:].clone()
        return drawn[:wanted].view(rows, *self.row)
