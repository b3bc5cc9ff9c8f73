"""Encoder box of the figure, for whole images: features tile by tile, as they are of the whole image."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from linf.models.arguments import is_whole
from linf.models.encoders.encoder import Encoder
from linf.models.threads import parallel

TILE = 256
"""LR pixels a side of a tile, where an image is larger than one; the receptive field comes on top."""

MARGIN = 2
"""LR pixels beyond its own that a query depends on after the encoder: its neighbour and the 3×3 of the maps."""

OVERLAP = 64
"""LR pixels around a tile of an encoder whose receptive field has no end: seams are then faint."""

WINDOW = 8
"""Its tiles begin at multiples of this, so that attention windows lie in a tile as they lie in the image."""


class Tile(NamedTuple):
    """The features of one tile of one image."""

    image: int
    rows: tuple[int, int]
    """LR rows (start, stop) whose queries the tile answers."""
    cols: tuple[int, int]
    origin: tuple[int, int]
    """LR pixel (y, x) of the whole image at which the features begin."""
    features: Tensor
    """(1,F,·,·): the tile and `MARGIN` around it, as far as the image goes."""


def tiles(length: int, tile: int) -> list[tuple[int, int]]:
    """Cut ``length`` pixels into nearly equal tiles of at most ``tile``: their (start, stop)."""
    cuts = [round(i * length / -(-length // tile)) for i in range(-(-length // tile) + 1)]
    return list(pairwise(cuts))


@torch.no_grad()
def encode(encoder: Encoder, lr: Tensor, *, peak: float = 1, tile: int | None = None) -> Iterator[Tile]:
    """The features of each image, tile by tile; kept as a list, they serve more than one pass or size.

    Each tile is encoded with the encoder's receptive field around it, so that its features are those of the whole
    image. Tiles are encoded in parallel where an image has several.

    Args:
        encoder: see `Encoder`.
        lr: (B,C,h,w), or (B,1,h,w) for grey, from 0 to ``peak``.
        peak: the value of white.
        tile: LR pixels a side; by default `TILE`, or whole images where the receptive field has no end. An encoder of
            that kind is given `OVERLAP` around a tile that is asked for.
    """
    if tile is not None and not is_whole(tile):
        raise ValueError(
            f"tile is {tile}: give a whole number of LR pixels a side, or None for the usual one"
        )
    height, width = lr.shape[-2:]
    tile = tile or (max(height, width) if encoder.receptive_field is None else TILE)
    places = [
        (image, rows, cols)
        for image in range(lr.shape[0])
        for rows in tiles(height, tile)
        for cols in tiles(width, tile)
    ]

    if len(places) == 1:
        yield encode_tile(encoder, lr, *places[0], peak=peak)  # With all intra-op threads.
    else:
        tasks = [partial(encode_tile, encoder, lr, *place, peak=peak) for place in places]
        yield from parallel(tasks, lr.device)


@torch.no_grad()
def encode_tile(
    encoder: Encoder,
    lr: Tensor,
    image: int,
    rows: tuple[int, int],
    cols: tuple[int, int],
    *,
    peak: float = 1,
) -> Tile:
    """The features of any rectangle of an image, as they are of the whole image.

    Args:
        encoder: see `Encoder`.
        lr: (B,C,h,w), or (B,1,h,w) for grey, from 0 to ``peak``.
        image: which of the batch.
        rows: LR rows (start, stop).
        cols: LR columns.
        peak: the value of white.
    """
    height, width = lr.shape[-2:]
    margin = OVERLAP if encoder.receptive_field is None else encoder.receptive_field
    (y0, y1), (x0, x1) = with_margin(rows, MARGIN, height), with_margin(cols, MARGIN, width)
    (top, bottom), (left, right) = (
        with_margin((y0, y1), margin, height),
        with_margin((x0, x1), margin, width),
    )
    if encoder.receptive_field is None:
        top, left = top // WINDOW * WINDOW, left // WINDOW * WINDOW
    part = lr[image : image + 1, :, top:bottom, left:right]
    # Without parameters, in single precision at least.
    dtype = next((p.dtype for p in encoder.parameters()), torch.promote_types(part.dtype, torch.float32))
    part = 2 / peak * part.to(dtype) - 1
    part = part.expand(-1, encoder.image_channels, -1, -1).contiguous(memory_format=torch.channels_last)
    inner = (..., slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    # Named, the features around the tile would be kept while it is decoded.
    features = encoder(part)[inner].contiguous(memory_format=torch.channels_last)
    return Tile(image, rows, cols, (y0, x0), features)


def checked_features(features: Sequence[Tile] | None, lr: Tensor) -> Sequence[Tile] | None:
    """Features that are given for LR images (B,C,h,w), or None where none are given.

    Raises:
        ValueError: they are not of all of these images.
    """
    pixels, (height, width) = [0] * len(lr), lr.shape[-2:]
    for tile in features or ():
        if tile.image >= len(lr) or tile.rows[1] > height or tile.cols[1] > width:
            break
        pixels[tile.image] += (tile.rows[1] - tile.rows[0]) * (tile.cols[1] - tile.cols[0])
    else:
        if not features or pixels == [height * width] * len(lr):
            return features or None
    raise ValueError(
        f"the features are not of LR images {tuple(lr.shape)}: give what encode made of the same"
    )


def clipped(tile: Tile, rows: slice, cols: slice) -> Tile | None:
    """What a tile has of some LR rows and columns of its image; None for nothing."""
    owns, kept, origin = [], list[slice](), []
    for own, side, start, n in zip(
        (tile.rows, tile.cols), (rows, cols), tile.origin, tile.features.shape[-2:], strict=True
    ):
        low, high = max(own[0], side.start), min(own[1], side.stop)
        if low >= high:
            return None
        first, last = with_margin((low - start, high - start), MARGIN, n)
        owns.append((low, high))
        kept.append(slice(first, last))
        origin.append(start + first)
    return Tile(tile.image, owns[0], owns[1], (origin[0], origin[1]), tile.features[..., kept[0], kept[1]])


def with_margin(part: tuple[int, int], margin: int, n: int) -> tuple[int, int]:
    """``part`` of ``n`` pixels and a margin on both sides, as far as there are pixels."""
    return max(part[0] - margin, 0), min(part[1] + margin, n)
