"""Arithmetic of the conditioner box: the Fourier features of four LR neighbours, forward and backward, in chunks.

Yao et al., arXiv 2303.05156, section 3.2 (METHOD §3). For each of the four LR neighbours j of a query, at its offset
``rel`` from it and with area weight ``w``:

    angle_j = freq_y ⊙ rel_y + freq_x ⊙ rel_x + phase(cell)
    basis_j = w_j · coef ⊙ [cos(π angle_j), sin(π angle_j)]

Lists of things are rows here, (N, width).
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linf.coordinates import Neighbourhood


def chunk_size(device: torch.device) -> int:
    """Queries at a time: on a CPU what its cache holds, elsewhere what keeps the device busy."""
    return 1024 if device.type == "cpu" else 65536


class Scratch:
    """Buffers for one chunk of the ensemble, allocated once: fresh ones cost more than the arithmetic."""

    def __init__(self, width: int, size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.size = size
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.rows, self.gradient = empty(size, 2 * width), empty(size, 2 * width)
        self.angle, self.product = empty(size, width // 2), empty(size, width // 2)


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


def ensemble_graph(maps: Tensor, phase: Tensor, near: Neighbourhood) -> Tensor:
    """`ensemble_chunk` of all queries for `torch.compile` and `torch.export`, which make the buffers by themselves."""
    width, parts = maps.shape[1] // 2, []
    for j in range(4):
        coef, freq_y, freq_x = maps[near.pixel[j]].split((width, width // 2, width // 2), dim=1)
        angle = freq_y * near.rel_y[j, :, None] + freq_x * near.rel_x[j, :, None] + phase
        wave = torch.cat([torch.cos(math.pi * angle), torch.sin(math.pi * angle)], dim=1)
        parts.append(coef * near.weight[j, :, None] * wave)
    return torch.cat(parts, dim=1)


class FourierEnsemble(torch.autograd.Function):
    """`ensemble_chunk` over all queries, with its gradient worked out by hand.

    Nothing but the arguments is kept for the backward pass, which makes the waves anew: that costs less than
    storing them. Gradients reach maps and phase; coordinates are data.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, phase: Tensor, *near: Tensor) -> Tensor:
        """(M, 2·width), (N, width/2), the four fields of a `Neighbourhood` → (N, 4·width)."""
        ctx.save_for_backward(maps, phase, *near)
        scratch = Scratch(maps.shape[1] // 2, chunk_size(maps.device), maps.device, maps.dtype)
        out = maps.new_empty(phase.shape[0], 2 * maps.shape[1])
        for start in range(0, phase.shape[0], scratch.size):
            part = slice(start, start + scratch.size)
            ensemble_chunk(maps, phase[part], Neighbourhood(*near).part(part), scratch, out[part])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of maps and phase."""
        maps, phase, *fields = ctx.saved_tensors
        width = maps.shape[1] // 2
        scratch = Scratch(width, chunk_size(maps.device), maps.device, maps.dtype)
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
