"""Conditioner box of the figure: features + coordinate + cell → the flow's condition.

The Fourier feature ensemble of Yao et al., arXiv 2303.05156, section 3.2 (METHOD §3). For each of the four LR
neighbours j of a query, at its way ``rel`` from it and with area weight ``w``:

    angle_j = freq_y ⊙ rel_y + freq_x ⊙ rel_x + phase(cell)
    basis_j = w_j · coef ⊙ [cos(π angle_j), sin(π angle_j)]

The four are concatenated, and one MLP makes them the condition. Lists of things are rows here, (N, width).
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.coordinates import Neighbourhood, neighbourhood
from linf.encoders.blocks import conv3x3
from linf.errors import UsageError


def chunk_size(device: torch.device) -> int:
    """Queries at a time: on a CPU what its cache holds, elsewhere what keeps the device busy."""
    return 1024 if device.type == "cpu" else 65536


class Scratch:
    """Buffers for one chunk of the ensemble, allocated once: fresh ones cost more than the arithmetic."""

    def __init__(self, maps: Tensor, size: int) -> None:
        width = maps.shape[1] // 2
        self.size = size
        self.rows = maps.new_empty(size, 2 * width)
        self.gradient = maps.new_empty(size, 2 * width)
        self.angle = maps.new_empty(size, width // 2)
        self.product = maps.new_empty(size, width // 2)


def _wave(
    maps: Tensor, phase: Tensor, near: Neighbourhood, j: int, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Coefficients and [cos, sin] of neighbour j for one chunk: two halves, (n, width) each, of `scratch.rows`."""
    n, width = phase.shape[0], maps.shape[1] // 2
    rows, angle = scratch.rows[:n], scratch.angle[:n]
    torch.index_select(maps, 0, near.pixel[j], out=rows)
    coef, freq_y, freq_x = rows.split((width, width // 2, width // 2), dim=1)
    torch.mul(freq_y, near.rel_y[j, :, None], out=angle)
    angle.addcmul_(freq_x, near.rel_x[j, :, None]).add_(phase).mul_(math.pi)
    torch.cos(angle, out=freq_y)
    torch.sin(angle, out=freq_x)
    return coef, rows[:, width:]


def ensemble_chunk(maps: Tensor, phase: Tensor, near: Neighbourhood, scratch: Scratch, out: Tensor) -> None:
    """The weighted basis of the four neighbours of one chunk of queries, written to ``out``.

    Args:
        maps: (M, 2·width) coefficients and frequencies of each LR pixel, no gradient.
        phase: (n, width / 2), n ≤ `scratch.size`.
        near: the neighbourhood of the n queries.
        scratch: buffers to work in.
        out: (n, 4·width).
    """
    for j, part in enumerate(out.chunk(4, dim=1)):
        coef, wave = _wave(maps, phase, near, j, scratch)
        coef.mul_(near.weight[j, :, None])
        torch.mul(coef, wave, out=part)


class FourierEnsemble(torch.autograd.Function):
    """`ensemble_chunk` over all queries, with its gradient worked out by hand.

    Nothing but the arguments is kept for the backward pass, which makes the waves anew: that costs less than
    storing them. Gradients reach maps and phase; coordinates are data.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, phase: Tensor, *near: Tensor) -> Tensor:
        """(M, 2·width), (N, width/2), the four fields of a `Neighbourhood` → (N, 4·width)."""
        ctx.save_for_backward(maps, phase, *near)
        scratch = Scratch(maps, chunk_size(maps.device))
        out = maps.new_empty(phase.shape[0], 2 * maps.shape[1])
        for start in range(0, phase.shape[0], scratch.size):
            part = slice(start, start + scratch.size)
            ensemble_chunk(maps, phase[part], Neighbourhood(*near).part(part), scratch, out[part])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of maps and phase."""
        maps, phase, *fields = ctx.saved_tensors
        scratch, width = Scratch(maps, chunk_size(maps.device)), maps.shape[1] // 2
        grad_maps = torch.zeros_like(maps)
        grad_phase = torch.zeros_like(phase, memory_format=torch.contiguous_format)
        for start in range(0, phase.shape[0], scratch.size):
            part = slice(start, start + scratch.size)
            near = Neighbourhood(*fields).part(part)
            n = near.pixel.shape[1]
            for j in range(4):
                coef, wave = _wave(maps, phase[part], near, j, scratch)
                d_coef, d_freq_y, d_freq_x = scratch.gradient[:n].split(
                    (width, width // 2, width // 2), dim=1
                )
                torch.mul(grad[part, j * width : (j + 1) * width], near.weight[j, :, None], out=d_coef)
                cosine, sine = wave.chunk(2, dim=1)
                coef.mul_(d_coef)
                d_angle = torch.mul(coef[:, width // 2 :], cosine, out=scratch.product[:n])
                d_angle.sub_(coef[:, : width // 2].mul_(sine)).mul_(math.pi)
                d_coef.mul_(wave)
                torch.mul(d_angle, near.rel_y[j, :, None], out=d_freq_y)
                torch.mul(d_angle, near.rel_x[j, :, None], out=d_freq_x)
                grad_phase[part] += d_angle
                grad_maps.index_add_(0, near.pixel[j], scratch.gradient[:n])
        return grad_maps, grad_phase, None, None, None, None


class FourierConditioner(nn.Module):
    """Fourier feature ensemble and its MLP.

    Args:
        in_channels: C, the encoder's `out_channels`.
        out_channels: K·2·D, the flow's `condition_dim`.
        width: of coefficients, frequencies and MLP layers; even.
        depth: hidden layers of the MLP.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise UsageError(f"conditioner width {width} is not a positive even number")
        if depth < 1:
            raise UsageError(f"conditioner depth {depth} is below 1: give the number of hidden layers")
        self.config = {"width": width, "depth": depth}
        self.coef = conv3x3(in_channels, width)
        self.freq = conv3x3(in_channels, width)
        self.phase = nn.Linear(2, width // 2, bias=False)
        self.mlp = nn.Sequential()
        for fan_in, fan_out in pairwise([4 * width] + [width] * depth):
            self.mlp.extend([nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)])
        self.mlp.append(nn.Linear(width, out_channels))

    @torch.no_grad()
    def start_near_zero(self) -> None:
        """Shrink the last layer, so that the flow starts as it does with no condition (METHOD §4)."""
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=1e-3 / math.sqrt(last.in_features))
        nn.init.zeros_(last.bias)

    def maps(self, features: Tensor) -> Tensor:
        """(B,C,h,w) → (B·h·w, 2·width): each LR pixel's coefficients, then y frequencies, then x frequencies."""
        weight = torch.cat([self.coef.weight, self.freq.weight])
        bias = torch.cat([self.coef.bias, self.freq.bias])  # type: ignore[list-item]
        maps = F.conv2d(features.contiguous(memory_format=torch.channels_last), weight, bias, padding=1)
        maps = maps.permute(0, 2, 3, 1).flatten(0, 2)
        # Angles need more digits than a half-precision autocast leaves.
        return maps.to(torch.promote_types(maps.dtype, torch.float32))

    def relative_phase(self, cell: Tensor, size: tuple[int, int]) -> Tensor:
        """(B,2) cells, LR size (h, w) → (B, width / 2), in half turns."""
        with torch.autocast(cell.device.type, enabled=False):
            return self.phase((cell * cell.new_tensor(size)).to(self.phase.weight.dtype))

    def forward(self, features: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The condition of each query.

        Args:
            features: (B,C,h,w).
            coord: (B,...,2) query coordinates, (y, x) in [-1, 1].
            cell: (B,2), the size of one HR pixel, (2/H, 2/W).

        Returns:
            (out_channels, N), a column for each of the N queries of the batch in row-major order.
        """
        batch, size = features.shape[0], (features.shape[-2], features.shape[-1])
        coord = coord.flatten(1, -2)
        near = neighbourhood(coord[..., 0].flatten(), coord[..., 1].flatten(), size)
        first = torch.arange(batch, device=coord.device) * (size[0] * size[1])
        near = near._replace(pixel=near.pixel + first.repeat_interleave(coord.shape[1]))
        phase = self.relative_phase(cell, size).repeat_interleave(coord.shape[1], dim=0)
        return self.mlp(FourierEnsemble.apply(self.maps(features), phase, *tuple(near))).T
