"""Any image at any scale: encode once, in tiles where it is large, and condition every query in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from linf.coordinates import neighbourhood, patch_centres
from linf.errors import UsageError
from linf.memory import free_memory
from linf.models.conditioner import Decode

TILE = 256
"""LR pixels a side of a tile, where an image is larger than one; the receptive_field comes on top."""

REACH = 2
"""LR pixels beyond its own that a query depends on after the encoder: its neighbour and the 3×3 of the maps."""


class Block(NamedTuple):
    """The condition of a rectangle of patches. The tensor is a buffer: use it before asking for the next."""

    image: int
    rows: slice
    """Rows of the patch grid."""
    cols: slice
    condition: Tensor
    """(out_channels, n), patches in row-major order."""
    patch_size: int

    def of(self, images: Tensor) -> Tensor:
        """The part of images (...,B,3,H,W) that the block covers, a view (...,3,y,x)."""
        rows, cols = (
            slice(s.start * self.patch_size, s.stop * self.patch_size) for s in (self.rows, self.cols)
        )
        return images[..., self.image, :, rows, cols]

    def fold(self, patches: Tensor, like: Tensor) -> Tensor:
        """Patches (M·P², n) as an image (M,y,x), cropped to what they cover of an image (...,y,x)."""
        p, rows, cols = self.patch_size, *(s.stop - s.start for s in (self.rows, self.cols))
        folded = patches.view(-1, p, p, rows, cols).permute(0, 3, 1, 4, 2).reshape(-1, rows * p, cols * p)
        return folded[:, : like.shape[-2], : like.shape[-1]]


class Encoded(NamedTuple):
    """The features of one tile of one image."""

    image: int
    rows: tuple[int, int]
    """LR rows (start, stop) whose queries the tile answers."""
    cols: tuple[int, int]
    origin: tuple[int, int]
    """LR pixel (y, x) of the whole image at which the features begin."""
    features: Tensor
    """(1,C,·,·): the tile and `REACH` around it, as far as the image goes."""


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
            "ask for a smaller scale, or for fewer samples or temperatures at once"
        )
    return size[0], size[1]


def tiles(length: int, tile: int) -> list[tuple[int, int]]:
    """Cut ``length`` pixels into nearly equal tiles of at most ``tile``: their (start, stop)."""
    cuts = [round(i * length / -(-length // tile)) for i in range(-(-length // tile) + 1)]
    return list(pairwise(cuts))


@torch.no_grad()
def encode(encoder: nn.Module, lr: Tensor, *, tile: int = TILE) -> Iterator[Encoded]:
    """The features of each image, tile by tile; kept as a list, they serve more than one pass or size.

    Each tile is encoded with `encoder.receptive_field` pixels around it, so that its features are those
    of the whole image.

    Args:
        encoder: LR → features, with `receptive_field`; where that is None, images are encoded whole.
        lr: (B,3,h,w) in [-1, 1].
        tile: LR pixels a side.
    """
    height, width = lr.shape[-2:]
    receptive_field = 0
    if encoder.receptive_field is None:
        tile = max(height, width)
    else:
        receptive_field = int(encoder.receptive_field)  # type: ignore[arg-type]
    for image in range(lr.shape[0]):
        for rows in tiles(height, tile):
            for cols in tiles(width, tile):
                (y0, y1), (x0, x1) = _around(rows, REACH, height), _around(cols, REACH, width)
                (top, bottom), (left, right) = (
                    _around((y0, y1), receptive_field, height),
                    _around((x0, x1), receptive_field, width),
                )
                part = lr[image : image + 1, :, top:bottom, left:right]
                features = encoder(part.contiguous(memory_format=torch.channels_last))
                kept = features[..., y0 - top : y1 - top, x0 - left : x1 - left]
                yield Encoded(image, rows, cols, (y0, x0), kept.contiguous(memory_format=torch.channels_last))


def _around(part: tuple[int, int], margin: int, n: int) -> tuple[int, int]:
    """``part`` of ``n`` pixels and a margin on both sides, as far as there are pixels."""
    return max(part[0] - margin, 0), min(part[1] + margin, n)


@torch.no_grad()
def conditions(
    encoder: nn.Module,
    conditioner: nn.Module,
    lr: Tensor,
    size: tuple[int, int],
    patch_size: int,
    *,
    tile: int = TILE,
    chunk: int | None = None,
    encoded: Iterable[Encoded] | None = None,
) -> Iterator[Block]:
    """The conditions of all patches that tile each image, block by block.

    Args:
        encoder: see `encode`.
        conditioner: features → condition, with `maps`, `of_cell` and `decoder`.
        lr: (B,3,h,w) in [-1, 1].
        size: (H, W) of the output.
        patch_size: P.
        tile: LR pixels a side.
        chunk: queries at a time; by default what suits the device.
        encoded: what `encode` gave for ``lr``, where a pass has come before; by default it is made here, tile by
            tile, and not kept.
    """
    height, width = lr.shape[-2:]
    cell = torch.tensor([[2 / size[0], 2 / size[1]]], device=lr.device)
    centres_y = patch_centres(size[0], patch_size, device=lr.device)
    centres_x = patch_centres(size[1], patch_size, device=lr.device)
    of_cell = conditioner.of_cell(cell, (height, width))  # type: ignore[operator]
    # At ×4 a block's rows use a few LR rows, which stay in the processor's cache.
    chunk = chunk or (2048 if lr.device.type == "cpu" else 65536)
    decode: Decode | None = None
    for part in encode(encoder, lr, tile=tile) if encoded is None else encoded:
        maps = conditioner.maps(part.features)  # type: ignore[operator]
        decode = decode or conditioner.decoder(maps, chunk)  # type: ignore[operator]
        rows, cols = _inside(centres_y, *part.rows, height), _inside(centres_x, *part.cols, width)
        for r, c in _rectangles(rows, cols, chunk):
            y = centres_y[r].repeat_interleave(c.stop - c.start)
            x = centres_x[c].repeat(r.stop - r.start)
            near = neighbourhood(y, x, (height, width), origin=part.origin, row=part.features.shape[-1])
            yield Block(part.image, r, c, decode(maps, of_cell, near), patch_size)
        del part, maps  # Before the next tile is encoded.


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
