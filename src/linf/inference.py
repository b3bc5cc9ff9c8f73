"""Any picture at any scale: encode once, in tiles where it is large, and condition every query in bounded memory."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from linf.conditioner import FourierConditioner, Scratch, ensemble_chunk
from linf.coordinates import neighbourhood, patch_centres
from linf.errors import UsageError
from linf.memory import free_memory

TILE = 256
"""LR pixels a side of a tile, where a picture is larger than one; the halo comes on top."""

REACH = 2
"""LR pixels beyond its own that a query depends on after the encoder: its neighbour and the 3×3 of the maps."""


class Block(NamedTuple):
    """The condition of a rectangle of patches. The tensor is a buffer: use it before asking for the next."""

    picture: int
    rows: slice
    """Rows of the patch grid."""
    cols: slice
    condition: Tensor
    """(K·2·D, n), patches in row-major order."""


def check_size(size: Sequence[int], bytes_per_pixel: int, device: torch.device) -> tuple[int, int]:
    """The output size as (H, W), if it is one and can be held.

    Raises:
        UsageError: a side is not a positive whole number, or memory is too small.
    """
    if len(size) != 2 or not all(type(n) is int and n >= 1 for n in size):
        raise UsageError(f"output size {tuple(size)} is not two positive whole numbers (height, width)")
    need, free = size[0] * size[1] * bytes_per_pixel, free_memory(device)
    if need > free:
        raise UsageError(
            f"output size {size[0]}×{size[1]} needs {-(-need // 2**30)} GiB, {free / 2**30:.3g} GiB are free; "
            "ask for a smaller scale or fewer temperatures at once"
        )
    return size[0], size[1]


def tiles(length: int, tile: int) -> list[tuple[int, int]]:
    """Cut ``length`` pixels into nearly equal tiles of at most ``tile``: their (start, stop)."""
    cuts = [round(i * length / -(-length // tile)) for i in range(-(-length // tile) + 1)]
    return list(pairwise(cuts))


class Decoder:
    """The conditioner without gradient: one chunk of queries at a time through buffers allocated once."""

    def __init__(self, conditioner: FourierConditioner, maps: Tensor, chunk: int) -> None:
        device = maps.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else maps.dtype
        self.layers = [
            (layer.weight.detach().to(dtype), layer.bias.detach().to(dtype))
            for layer in conditioner.mlp
            if isinstance(layer, nn.Linear)
        ]
        self.scratch = Scratch(maps, chunk)
        self.basis = maps.new_empty(chunk, 2 * maps.shape[1])
        self.cast = self.basis if dtype == maps.dtype else self.basis.to(dtype)
        self.hidden = [maps.new_empty(chunk, weight.shape[0], dtype=dtype) for weight, _ in self.layers[:-1]]
        self.condition = maps.new_empty(self.layers[-1][0].shape[0], chunk, dtype=dtype)

    def __call__(self, maps: Tensor, phase: Tensor, y: Tensor, x: Tensor, **where: object) -> Tensor:
        """Condition of n ≤ chunk queries, (K·2·D, n); ``where`` goes to `neighbourhood`."""
        n = y.shape[0]
        ensemble_chunk(maps, phase.expand(n, -1), neighbourhood(y, x, **where), self.scratch, self.basis[:n])  # type: ignore[arg-type]
        rows = self.cast[:n].copy_(self.basis[:n]) if self.cast is not self.basis else self.basis[:n]
        *inner, (weight, bias) = self.layers
        with torch.autocast(maps.device.type, enabled=False):
            for buffer, (w, b) in zip(self.hidden, inner, strict=True):
                rows = torch.addmm(b, rows, w.T, out=buffer[:n]).relu_()
            out = self.condition.flatten()[: weight.shape[0] * n].view(weight.shape[0], n)
            return torch.addmm(bias[:, None], weight, rows.T, out=out)


@torch.no_grad()
def conditions(
    encoder: nn.Module,
    conditioner: FourierConditioner,
    lr: Tensor,
    size: tuple[int, int],
    patch_size: int,
    *,
    tile: int = TILE,
    chunk: int | None = None,
) -> Iterator[Block]:
    """The conditions of all patches that tile each picture, block by block.

    Each tile is encoded with `encoder.halo` pixels around it, so that its features are those of the whole picture.

    Args:
        encoder: image → features, with `halo`.
        conditioner: features → condition.
        lr: (B,3,h,w) in [-1, 1].
        size: (H, W) of the output.
        patch_size: P.
        tile: LR pixels a side.
        chunk: queries at a time; by default what suits the device.
    """
    height, width = lr.shape[-2:]
    cell = torch.tensor([[2 / size[0], 2 / size[1]]], device=lr.device)
    centres_y = patch_centres(size[0], patch_size, device=lr.device)
    centres_x = patch_centres(size[1], patch_size, device=lr.device)
    phase = conditioner.relative_phase(cell, (height, width))
    # At ×4 a block's rows use a few LR rows, which stay in the processor's cache.
    chunk = chunk or (2048 if lr.device.type == "cpu" else 65536)
    margin = int(encoder.halo) + REACH  # type: ignore[arg-type]
    decoder = None
    for picture in range(lr.shape[0]):
        for top, bottom in tiles(height, tile):
            for left, right in tiles(width, tile):
                y0, y1 = max(top - margin, 0), min(bottom + margin, height)
                x0, x1 = max(left - margin, 0), min(right + margin, width)
                maps_of = _encode(encoder, conditioner, lr[picture : picture + 1, :, y0:y1, x0:x1])
                decoder = decoder or Decoder(conditioner, maps_of, chunk)
                rows = _inside(centres_y, top, bottom, height)
                cols = _inside(centres_x, left, right, width)
                for r, c in _rectangles(rows, cols, chunk):
                    y = centres_y[r].repeat_interleave(c.stop - c.start)
                    x = centres_x[c].repeat(r.stop - r.start)
                    where = {"size": (height, width), "origin": (y0, x0), "row": x1 - x0}
                    yield Block(picture, r, c, decoder(maps_of, phase, y, x, **where))


def _encode(encoder: nn.Module, conditioner: FourierConditioner, image: Tensor) -> Tensor:
    return conditioner.maps(encoder(image.contiguous(memory_format=torch.channels_last)))


def _inside(centres: Tensor, start: int, stop: int, n: int) -> range:
    """Indices of the centres that fall on LR pixels [start, stop) of n; those beyond the edge on the last."""
    pixel = ((centres + 1) / 2 * n).floor().clamp(0, n - 1)
    inside = torch.nonzero((pixel >= start) & (pixel < stop)).flatten()
    return range(int(inside[0]), int(inside[-1]) + 1) if len(inside) else range(0)


def _rectangles(rows: range, cols: range, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a rectangle of patches into rectangles of at most ``most``."""
    if not rows or not cols:
        return
    wide = min(len(cols), most)
    high = max(most // wide, 1)
    for r in range(rows.start, rows.stop, high):
        for c in range(cols.start, cols.stop, wide):
            yield slice(r, min(r + high, rows.stop)), slice(c, min(c + wide, cols.stop))
