"""Conditioner box of the figure: features + coordinate + cell → the flow's condition (METHOD §3).

Yao et al., arXiv 2303.05156, section 3.2: the features of four LR neighbours, as `fourier` makes them, go through
one MLP together (feature ensemble), or through it one by one and are averaged after it (local ensemble, as in LTE,
arXiv 2111.08918).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.coordinates import Neighbourhood, neighbourhood
from linf.models.encoders.encoder import conv3x3
from linf.models.fourier import FourierEnsemble, Scratch, ensemble_chunk, ensemble_graph

Decode = Callable[[Tensor, Tensor, Neighbourhood], Tensor]
"""Maps (M, ·), the cell's share (1, ·) and n ≤ chunk neighbourhoods → answers (out_channels, n), without gradient.
The answers may lie in a buffer: use them before the next call."""


class Conditioner(nn.Module, ABC):
    """Features, coordinates and cells → some numbers at each query: the flow's condition, or a colour.

    Attributes:
        config: what builds it again, but for its weights and channels: plain numbers and names.
    """

    config: dict[str, Any]

    @abstractmethod
    def maps(self, features: Tensor) -> Tensor:
        """(B,F,h,w) → (B·h·w, ·): what each LR pixel contributes, in row-major order."""

    @abstractmethod
    def of_cell(self, cell: Tensor, size: tuple[int, int]) -> Tensor:
        """(B,2) cells, LR size (h, w) → (B, ·): what the cell contributes."""

    @abstractmethod
    def decoder(self, chunk: int) -> Decode:
        """A function from maps to answers for up to ``chunk`` queries at a time, with buffers of its own."""

    @abstractmethod
    def forward(self, features: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The answer to each query, with gradient.

        Args:
            features: (B,F,h,w).
            coord: (B,...,2) query coordinates, (y, x) in [-1, 1].
            cell: (B,2), the size of one HR pixel, (2/H, 2/W).

        Returns:
            (out_channels, N), a column for each of the N queries of the batch in row-major order.
        """


def batch_neighbourhood(coord: Tensor, size: tuple[int, int]) -> Neighbourhood:
    """The neighbours of queries (B,...,2) in the LR pixels of a batch, all in row-major order."""
    batch, coord = coord.shape[0], coord.flatten(1, -2)
    near = neighbourhood(coord[..., 0].flatten(), coord[..., 1].flatten(), size)
    first = torch.arange(batch, device=coord.device)[:, None] * (size[0] * size[1])
    return near._replace(pixel=near.pixel + first.expand(-1, coord.shape[1]).flatten())


class FourierConditioner(Conditioner):
    """Fourier features and their MLP.

    Args:
        in_channels: F, the encoder's `out_channels`.
        out_channels: numbers per query; for LINF K·2·D, the flow's `condition_dim`.
        width: of coefficients, frequencies and MLP layers; even.
        depth: hidden layers of the MLP.
        ensemble: ``feature`` runs the MLP once for the four neighbours together; ``local`` once for each, averaging
            the answers with the area weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 256,
        depth: int = 3,
        ensemble: Literal["feature", "local"] = "feature",
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"conditioner width {width} is not a positive even number")
        if depth < 1:
            raise ValueError(f"conditioner depth {depth} is below 1: give the number of hidden layers")
        if ensemble not in ("feature", "local"):
            raise ValueError(f"conditioner ensemble {ensemble!r} is neither 'feature' nor 'local'")
        self.config = {"width": width, "depth": depth, "ensemble": ensemble}
        self.local = ensemble == "local"
        self.coef = conv3x3(in_channels, width)
        self.freq = conv3x3(in_channels, width)
        self.phase = nn.Linear(2, width // 2, bias=False)
        self.mlp = nn.Sequential()
        for fan_in, fan_out in pairwise([width if self.local else 4 * width] + [width] * depth):
            self.mlp.extend([nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)])
        self.mlp.append(nn.Linear(width, out_channels))

    @torch.no_grad()
    def zero_init(self) -> None:
        """Shrink the last layer, so that the flow starts as it does with no condition (METHOD §4)."""
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(1e-3)
        nn.init.zeros_(last.bias)

    def maps(self, features: Tensor) -> Tensor:
        """(B,F,h,w) → (B·h·w, 2·width): each LR pixel's coefficients, then y frequencies, then x frequencies."""
        weight = torch.cat([self.coef.weight, self.freq.weight])
        bias = torch.cat([self.coef.bias, self.freq.bias])  # type: ignore[list-item]
        maps = F.conv2d(features.contiguous(memory_format=torch.channels_last), weight, bias, padding=1)
        maps = maps.permute(0, 2, 3, 1).flatten(0, 2)
        # Angles need more digits than a half-precision autocast leaves.
        return maps.to(torch.promote_types(maps.dtype, torch.float32))

    def of_cell(self, cell: Tensor, size: tuple[int, int]) -> Tensor:
        """Phases: (B,2) cells, LR size (h, w) → (B, width / 2), in half turns."""
        with torch.autocast(cell.device.type, enabled=False):
            cell = torch.stack((cell[:, 0] * size[0], cell[:, 1] * size[1]), dim=1)
            return self.phase(cell.to(self.phase.weight.dtype))

    def forward(self, features: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The condition of each query: (B,F,h,w), (B,...,2), (B,2) → (out_channels, N)."""
        size = (features.shape[-2], features.shape[-1])
        near = batch_neighbourhood(coord, size)
        queries = near.pixel.shape[1] // features.shape[0]
        phase = self.of_cell(cell, size)[:, None].expand(-1, queries, -1).flatten(0, 1)
        weight = near.weight
        if self.local:
            near = near._replace(weight=torch.ones_like(weight))
        if torch.compiler.is_compiling():  # `torch.export` does, too.
            basis = ensemble_graph(self.maps(features), phase, near)
        else:
            basis = FourierEnsemble.apply(self.maps(features), phase, *tuple(near))
        if not self.local:
            return self.mlp(basis).T
        answers = self.mlp(basis.view(-1, basis.shape[1] // 4)).view(basis.shape[0], 4, -1)
        return torch.einsum("njo,jn->on", answers, weight.to(answers.dtype))

    def decoder(self, chunk: int) -> Decode:
        return _Decoder(self, chunk)


class _Decoder:
    """The ensemble and its MLP through buffers that are allocated once, without gradient; see `Decode`."""

    def __init__(self, conditioner: FourierConditioner, chunk: int) -> None:
        weight = conditioner.coef.weight
        device, angle_dtype = weight.device, torch.promote_types(weight.dtype, torch.float32)
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else angle_dtype
        self.local = conditioner.local
        self.layers = [
            (layer.weight.detach().to(dtype), layer.bias.detach().to(dtype))
            for layer in conditioner.mlp
            if isinstance(layer, nn.Linear)
        ]
        rows, width = 4 * chunk if self.local else chunk, len(weight)
        self.scratch = Scratch(width, chunk, device, angle_dtype)
        self.basis = torch.empty(chunk, 4 * width, device=device, dtype=angle_dtype)
        self.cast = self.basis if dtype == angle_dtype else self.basis.to(dtype)
        self.hidden = [self.cast.new_empty(rows, w.shape[0]) for w, _ in self.layers[:-1]]
        self.answer = self.cast.new_empty(self.layers[-1][0].shape[0], rows)

    def __call__(self, maps: Tensor, phase: Tensor, near: Neighbourhood) -> Tensor:
        n = near.pixel.shape[1]
        weight = near.weight
        if self.local:
            near = near._replace(weight=torch.ones_like(weight))
        ensemble_chunk(maps, phase.expand(n, -1), near, self.scratch, self.basis[:n])
        rows = self.cast[:n].copy_(self.basis[:n]) if self.cast is not self.basis else self.basis[:n]
        if self.local:
            rows = rows.view(4 * n, -1)
        *inner, (last, bias) = self.layers
        with torch.autocast(maps.device.type, enabled=False):
            for buffer, (w, b) in zip(self.hidden, inner, strict=True):
                rows = torch.addmm(b, rows, w.T, out=buffer[: len(rows)]).relu_()
            out = self.answer.flatten()[: last.shape[0] * len(rows)].view(last.shape[0], len(rows))
            torch.addmm(bias[:, None], last, rows.T, out=out)
            return torch.einsum("onj,jn->on", out.view(-1, n, 4), weight.to(out.dtype)) if self.local else out
